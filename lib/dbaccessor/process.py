"""What a process that holds a node does well to set, once it has imported what it needs. Nothing here has to be called.

The node's threads and the proxy's wait for Python's lock now and then, and the others hear of each other through them.
"""

from __future__ import annotations

import gc
import sys

# Python's own, 5 ms, is a third of the time in which a follower is to hear of its leader.
_SWITCH_SECONDS = 0.001


def prepare() -> None:
    """Let other threads have Python's lock within a millisecond, and spare what is imported from garbage collection.

    A full collection holds the lock from its beginning to its end, and goes through everything that lives: longer than
    from one heartbeat to the next where as much is imported as in controllerd. What is frozen (gc.freeze) is left out.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
