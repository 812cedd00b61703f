"""Discovery from the control plane: the delta protocol, its client, what resources mean here."""
