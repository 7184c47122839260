"""The only folder that knows Dqlite: the C library, its files on disk, its wire protocol.

Read in this order: native (C declarations), node (one running node), nodedir (its directory), wire (bytes to
messages and back), connection (one conversation), cluster (what the members' roles mean). Importing this
package loads nothing.
"""
