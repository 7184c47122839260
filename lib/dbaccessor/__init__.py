"""An embedded, replicated, self-healing SQLite: one Dqlite node in this process, owned by one worker.

Start reading at `decide` (the whole policy, pure), then `worker` (which carries it out). docs/flows/1-bind-address.md
walks through every hop. Nothing here imports the C library before a node or `dqlite.native` is used.
"""
