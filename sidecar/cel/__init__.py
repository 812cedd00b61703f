"""Expressions in configuration: compiling and evaluating CEL, and the variables it sees."""
