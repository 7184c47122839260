"""Lets SQLite ask for the parts of a wal-index in any order, which libdqlite 1.18.2 and later do not survive.

SQLite keeps an index of the write-ahead log in shared memory, in parts of 32 KiB: the first is for 4,062 frames, each
other for 4,096 (walformat.html, 2.). A connection asks its VFS for a part when it needs it first, and a reader looks at
the newest frames first: with three parts, one that has the first asks for the third. libdqlite maps the parts of a
connection only one after the other, and aborts the process where one is left out (`vfsMainFileShmMap`).

So each connection of a node gets a table of file methods of its own, which differs in one function: it asks the
library's for all parts before the one that is wanted, which is quick where a connection has them. This is SQLite's own
way of putting something between it and a VFS (vfs.html, "VFS shims"), by documented interfaces only. The function is
called once for each part that a connection needs, never for a statement.

It runs on the node's own threads, which wait for Python's lock at its beginning: `sys.getswitchinterval()` where Python
is busy. What it calls in turn is quick and waits for nobody, so it keeps that lock (ctypes.PyDLL). Given up, the lock
would have to be waited for again each time.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from typing import Any, Final

import cffi

log = logging.getLogger(__name__)

_DECLARATIONS = """
typedef struct sqlite3_file sqlite3_file;
typedef struct {
    int iVersion;
    void *basic[12];
    int (*xShmMap)(sqlite3_file *, int part, int size, int extend, void **out);
    void *xShmLock;
    void *xShmBarrier;
    void *xShmUnmap;
} io_methods_2;
struct sqlite3_file { const io_methods_2 *pMethods; };

int sqlite3_auto_extension(int (*entry)(void *db, const char **error, const void *api));
int sqlite3_file_control(void *db, const char *name, int op, void *arg);
"""
_ENTRY: Final = "int (*)(void *, const char **, const void *)"
_SHM_MAP: Final = "int (*)(sqlite3_file *, int, int, int, void **)"
_LINKER = """
typedef struct { const char *dli_fname; void *dli_fbase; const char *dli_sname; void *dli_saddr; } Dl_info;
int dladdr(const void *address, Dl_info *info);
"""

# Each of these is taken apart here and now: the first use of one takes a lock, and a process forked from this one while
# another thread has it would wait for ever when it opens its first connection.
_SQLITE_TYPES: Final = ("uintptr_t", "io_methods_2 *", _ENTRY, _SHM_MAP)

_OK: Final = 0
_IOERR_SHMMAP: Final = 5386
_FCNTL_FILE_POINTER: Final = 7


def install(c: Any, ffi: Any, path: str) -> bool:
    """Guard every connection that the library `c` opens from now on. Call it once in a process.

    False where SQLite cannot be reached through this library (one that has it built in, say): then nothing is
    changed. `ffi` is the one `c` comes from, `path` what it was loaded as.
    """
    sqlite = cffi.FFI()
    sqlite.cdef(_DECLARATIONS)
    for each in _SQLITE_TYPES:
        sqlite.typeof(each)
    # Through the library, not by SQLite's own name: whichever SQLite it uses is the one that counts.
    functions: Any = sqlite.dlopen(path, os.RTLD_NOW | os.RTLD_NODELETE)
    held = ctypes.PyDLL(path)
    linker = cffi.FFI()
    linker.cdef(_LINKER)
    for each in ("Dl_info *", "void *", "uintptr_t"):
        linker.typeof(each)
    try:
        file_control, auto_extension = held.sqlite3_file_control, functions.sqlite3_auto_extension
        c_library: Any = linker.dlopen(None)
        locate = c_library.dladdr
    except (AttributeError, OSError) as error:
        log.warning("SQLite cannot be reached through %s, long write-ahead logs are not guarded: %s", path, error)
        return False

    def base(address: int) -> int:
        """Return where the shared object begins that this address lies in, 0 if there is none."""
        info: Any = linker.new("Dl_info *")
        found = locate(linker.cast("void *", address), info)
        return int(linker.cast("uintptr_t", info.dli_fbase)) if found else 0

    file_control.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p)
    ours = base(int(ffi.cast("uintptr_t", c.dqlite_node_create)))
    # By the address of the library's own table, None for those of others.
    tables: dict[int, Any] = {}

    def opened(db: Any, _error: Any, _api: Any) -> int:
        # For every connection of this process, Python's own among them, before its first statement.
        out = ctypes.c_void_p()
        code = file_control(int(sqlite.cast("uintptr_t", db)), None, _FCNTL_FILE_POINTER, ctypes.byref(out))
        if code != _OK or not out.value:
            return _OK
        file: Any = sqlite.cast("sqlite3_file *", out.value)
        address = int(sqlite.cast("uintptr_t", file.pMethods))
        if address and address not in tables:
            mappable = file.pMethods.iVersion >= 2 and file.pMethods.xShmMap != sqlite.NULL
            tables[address] = _in_order(sqlite, file.pMethods) if mappable and base(address) == ours else None
        if tables.get(address) is not None:
            file.pMethods = tables[address]
        return _OK

    entry = sqlite.callback(_ENTRY, opened, error=_OK, onerror=_raise_later)
    _keep_for_ever(entry)
    return ours != 0 and auto_extension(entry) == _OK


def _in_order(sqlite: Any, methods: Any) -> Any:
    """Return a copy of the methods whose xShmMap takes parts in any order."""
    c_types = ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p
    original = ctypes.PYFUNCTYPE(*c_types)(int(sqlite.cast("uintptr_t", methods.xShmMap)))

    def shm_map(file: Any, part: int, size: int, extend: int, out: Any) -> int:
        where, found = int(sqlite.cast("uintptr_t", file)), int(sqlite.cast("uintptr_t", out))
        for each in range(part + 1):
            code: int = original(where, each, size, extend, found)
            # One that is not there, and not to be made, is no error; those after it are not there either.
            if code != _OK or out[0] == sqlite.NULL:
                return code
        return _OK

    callback = sqlite.callback(_SHM_MAP, shm_map, error=_IOERR_SHMMAP)
    copy = sqlite.new("io_methods_2 *", methods[0])
    # Those of version 3 are for mapped database files, which this is not.
    copy.iVersion = 2
    copy.xShmMap = callback
    _keep_for_ever(callback, copy)
    return copy


class _MainThread:
    """Turns the kind of an exception into the thread that it shall be raised in: the main one, or none."""

    @staticmethod
    def from_param(_kind: type[BaseException]) -> ctypes.c_ulong:
        main = threading.main_thread().ident or 0
        return ctypes.c_ulong(main if threading.get_ident() == main else 0)


class _Again:
    """Turns an exception into a class whose only instance it is: what is raised later is made by calling a class."""

    @staticmethod
    def from_param(error: BaseException) -> Any:
        kind = type(error)
        if threading.current_thread() is not threading.main_thread():
            log.error("a connection is not guarded against long write-ahead logs", exc_info=error)
        return ctypes.py_object(type(kind.__name__, (kind,), {"__new__": lambda _class: error}))


class _Unused:
    @staticmethod
    def from_param(_traceback: object) -> ctypes.c_void_p:
        return ctypes.c_void_p(None)


# Lets an exception of a signal's handler reach the main thread, which no exception can do through C. Signals are
# handled wherever the main thread is, in our callback too when it opens a connection of its own: without this a
# KeyboardInterrupt, or a handler's SystemExit, would be printed and forgotten. It is one C function and not a Python
# one, which would have the exception raised in itself, and lose it.
_raise_later: Final[Any] = ctypes.PYFUNCTYPE(None, _MainThread, _Again, _Unused)(  # type: ignore[arg-type]
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)


def _keep_for_ever(*called_by_c: Any) -> None:
    """Never free these, also not when the interpreter ends: a node that nobody stopped may open connections then."""
    for each in called_by_c:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
