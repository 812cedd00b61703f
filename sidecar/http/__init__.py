"""HTTP as values: messages and the protocols' parsers and encoders, without any I/O."""
