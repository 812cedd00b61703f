"""HBONE without I/O: octets, the time and calls come in; octets and events go out."""
