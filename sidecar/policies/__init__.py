"""One file for each policy a configuration may name, the order they run in and how levels merge."""
