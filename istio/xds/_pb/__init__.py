"""Messages of xDS, generated from ../protos by `make protos`; never edited."""
