"""What knows nothing of rotation: back-off, atomic files, clocks, TLS contexts, log lines. Imports no other wing."""
