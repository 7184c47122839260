"""Flow 3: from the addresses that each controller has to the one that an agent or a client dials."""
