"""Flow 3: always know where to go. The API server, the two lists of addresses, and those who use them."""
