"""What prompt guards look for, how masks are put into texts, and the windows of streams; no I/O."""
