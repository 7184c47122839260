"""The stand-in for Juju: N units of a real charm on one machine, each a host of its own.

Development and trial only; it is not shipped in the charm. The way through it, from the command typed to a hook run:
cli -> client -> daemon -> model (what is wanted) -> agent (one a unit) -> events (which hook is next) -> hookrun
(one process a hook) -> toolclient -> hooktools (the hook's questions) -> hookcontext (its writes, applied on exit 0).
Below: watcher -> init -> daemon make the run's namespaces; host -> hostinit -> supervisor make one unit's.
"""
