"""The C boundary: the only module that declares libdqlite's functions (shmorder.py: SQLite's).
Only node.py imports it.

cffi in ABI mode: no compiler is needed where this is installed, and every call releases the GIL. Functions
that are younger than the oldest library we accept are probed once, by `Library.has`.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import cffi

from dbaccessor import errors
from dbaccessor.dqlite import shmorder

OLDEST = (1, 18, 0)
# Versions on which the functional suite has passed, by the library's own word: Debian 13's package 1.18.1 calls itself
# 1.18.0 (scripts/debian13 runs the suite on it). Another one may work; the status then calls it unproven.
PROVEN = frozenset({"1.18.0", "1.18.4", "1.18.7"})

LIBRARY_VARIABLE = "HA_CONTROLLER_LIBDQLITE"
_SONAME = "libdqlite.so.0"

# One frozen peer keeps threads of libuv's pool busy for seconds, and with its default of 4 writes stall
# behind them: 3 to 4 s each, instead of 3 ms. libuv reads this when the pool is first used.
_POOL_VARIABLE = "UV_THREADPOOL_SIZE"
_POOL_SIZE = "64"

# Python closes the library when it ends, and libuv's threads would find no code any more to run.
_NEVER_UNLOAD = os.RTLD_NOW | os.RTLD_NODELETE

_DECLARATIONS = """
typedef unsigned long long dqlite_node_id;
typedef struct dqlite_node dqlite_node;
typedef struct { uint64_t size; uint64_t id; uint64_t address; uint64_t dqlite_role; } dqlite_node_info_ext;

int dqlite_version_number(void);

int dqlite_node_create(dqlite_node_id id, const char *address, const char *data_dir, dqlite_node **n);
void dqlite_node_destroy(dqlite_node *n);
const char *dqlite_node_errmsg(dqlite_node *n);

int dqlite_node_set_bind_address(dqlite_node *n, const char *address);
int dqlite_node_set_connect_func(dqlite_node *n, int (*f)(void *arg, const char *address, int *fd), void
*arg); int dqlite_node_set_network_latency_ms(dqlite_node *n, unsigned milliseconds); int
dqlite_node_set_target_voters(dqlite_node *n, int voters); int dqlite_node_set_target_standbys(dqlite_node *n,
int standbys); int dqlite_node_enable_role_management(dqlite_node *n); int
dqlite_node_set_busy_timeout(dqlite_node *n, unsigned msecs); int dqlite_node_set_auto_recovery(dqlite_node
*n, bool enabled);

int dqlite_node_start(dqlite_node *n);
int dqlite_node_handover(dqlite_node *n);
int dqlite_node_stop(dqlite_node *n);

int dqlite_node_recover_ext(dqlite_node *n, dqlite_node_info_ext infos[], int n_info);
int dqlite_node_describe_last_entry(dqlite_node *n, uint64_t *last_entry_index, uint64_t *last_entry_term);
"""

_REQUIRED = (
    "dqlite_node_set_network_latency_ms",
    "dqlite_node_enable_role_management",
    "dqlite_node_set_target_voters",
    "dqlite_node_set_target_standbys",
    "dqlite_node_handover",
    "dqlite_node_recover_ext",
    "dqlite_node_describe_last_entry",
)


class Library:
    """The loaded library. `ffi` and `c` are cffi's own objects; nothing above node.py may touch them."""

    def __init__(self, ffi: Any, c: Any, path: str) -> None:
        self.ffi = ffi
        self.c = c
        self.path = path
        number = int(c.dqlite_version_number())
        self.version_info = (number // 10000, number // 100 % 100, number % 100)
        self.version = ".".join(map(str, self.version_info))
        # Whether a write-ahead log may have any length (shmorder.py); `load` says so.
        self.guarded = False

    @property
    def proven(self) -> bool:
        """True when the functional suite of this project has passed on this version, guarded as here."""
        return self.guarded and self.version in PROVEN

    def has(self, symbol: str) -> bool:
        """Say whether the library has this function."""
        try:
            getattr(self.c, symbol)
        except AttributeError:
            return False
        return True


@functools.cache
def load() -> Library:
    """Load libdqlite once for this process. Raises LibraryTooOld, which names the version needed."""
    os.environ.setdefault(_POOL_VARIABLE, _POOL_SIZE)
    path = os.environ.get(LIBRARY_VARIABLE) or _SONAME
    needed = f"libdqlite >= {'.'.join(map(str, OLDEST))} is needed"
    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    try:
        library = Library(ffi, ffi.dlopen(path, _NEVER_UNLOAD), path)
    except OSError as error:
        raise errors.LibraryTooOld(f"{needed}, and {path} cannot be loaded: {error}") from error
    except AttributeError as error:
        raise errors.LibraryTooOld(f"{needed}, and {path} does not even tell its version: {error}") from error
    if library.version_info < OLDEST:
        raise errors.LibraryTooOld(f"{needed}, and {path} is {library.version}")
    missing = [symbol for symbol in _REQUIRED if not library.has(symbol)]
    if missing:
        raise errors.LibraryTooOld(f"{needed}, and {path} ({library.version}) lacks {', '.join(missing)}")
    library.guarded = shmorder.install(library.c, ffi, path)
    return library
