"""A client of the controllers: what it remembers between two commands, and how it gets in."""
