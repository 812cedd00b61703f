"""Which listener, route, backend and endpoint a request goes to: pure functions over a snapshot."""
