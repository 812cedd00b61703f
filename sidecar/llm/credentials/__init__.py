"""What the gateway shows to providers and clouds: keys, signatures and tokens, fetched in time."""
