"""A2A without I/O: methods in all bindings and eras, agent cards, outcomes, errors, webhooks."""
