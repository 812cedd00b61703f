"""State that all processes of a gateway share: which tables there are, and how long they live."""
