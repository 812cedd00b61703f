"""From a configuration file to validated plain data, its problems, and the snapshot."""
