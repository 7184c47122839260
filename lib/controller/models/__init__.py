"""Models: what the controllers work for. Each has a row in the controller database and a database of its own."""
