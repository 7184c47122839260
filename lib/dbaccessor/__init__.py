"""An embedded, replicated, self-healing SQLite: Dqlite with the judgement of when to bootstrap, join and
reconfigure.

Importing this package loads nothing heavy: the charm and the agents' side import single modules of it.
"""
