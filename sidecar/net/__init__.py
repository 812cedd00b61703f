"""The sockets: front doors, upstream connections, TLS, and the deadlines that watch over them."""
