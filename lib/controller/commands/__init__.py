"""hactl's verbs: one module a group. What a verb prints comes from pure functions; cli.py registers them."""
