"""Messages of certificate services, generated from ../protos by `make protos`; never edited."""
