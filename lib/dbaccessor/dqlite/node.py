"""One Dqlite node in this process, and what can be done to a directory while no node runs on it.

All calls here block; an asyncio caller uses to_thread. A node is not thread safe: its owner makes one call at
a time.

The connect function is called on foreign threads, at any time between start and stop, and also for questions
that the library's role management asks of every member, this node included. One failed call is enough to
demote a voter.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from dbaccessor import errors
from dbaccessor.dqlite import native, nodedir, wire
from dbaccessor.dqlite.nodedir import LastEntry

log = logging.getLogger(__name__)

# A node with one of these ids founds a cluster inside the library whenever its directory is empty.
BOOTSTRAP_ID: Final = 1
_FOUNDING_IDS: Final = frozenset({BOOTSTRAP_ID, 0x2DC171858C3155BE})
_LARGEST_ID: Final = 2**63 - 1

_LOCK_FILE = "dqlite-lock"
# The library makes a file of this size in the directory before it reads anything there.
_PROBE_BYTES = 4096
# Why the library failed to make a node in this process. It leaves its memory in a state in which making further ones
# ends the process with SIGSEGV now and then (seen: three of twelve, after five failures; never without).
_failures: list[str] = []
_BOOTSTRAP_SECONDS = 10.0
_POLL_SECONDS = 0.005


def new_id() -> int:
    """Return a random id for a node: a positive 64-bit number that never founds a cluster."""
    while True:
        candidate = secrets.randbelow(_LARGEST_ID) + 1
        if candidate not in _FOUNDING_IDS:
            return candidate


def is_founding_id(dqlite_id: int) -> bool:
    """True when a node of this id founds a cluster by itself if its directory is empty."""
    return dqlite_id in _FOUNDING_IDS


class Node:
    """One running node. `start` and `stop` may alternate; the C object lives from one to the other."""

    def __init__(
        self,
        dqlite_id: int,
        name: str,
        directory: Path,
        *,
        bind_address: str,
        connect: Callable[[str], int],
        latency_ms: int = 10,
        voters: int = 3,
        standbys: int = 3,
        roles: bool = True,
        busy_timeout_ms: int = 1000,
    ) -> None:
        """Describe the node; nothing is started.

        `name` is the raft address that the other members dial. `bind_address` is "@name" (an abstract socket
        that only this process can connect to) or "IP:port". `connect` turns a name into a connected, blocking
        file descriptor, which the library then owns; whatever it raises is a failed attempt.
        """
        self.dqlite_id = dqlite_id
        self.name = name
        self.directory = directory
        self.bind_address = bind_address
        self._connect = connect
        self._latency_ms = latency_ms
        self._voters = voters
        self._standbys = standbys
        self._roles = roles
        self._busy_timeout_ms = busy_timeout_ms
        self._library = native.load()
        self._handle: Any = None
        self._callback: Any = None

    @property
    def running(self) -> bool:
        return self._handle is not None

    def start(self) -> None:
        """Start the node; when this returns it accepts connections.

        Raises NotReady if another process uses the directory or the address, or if the disk takes nothing; Refused
        if the library cannot start on what lies there (the message says why). Auto-recovery is off: the library
        would drop a corrupt segment and vote with a shortened log.
        """
        if self._handle is not None:
            raise errors.Refused(f"node {self.name} is running already")
        with _locked(self.directory):
            pass  # Asked first, because a start that fails inside the library leaks its listening socket.
        library, c = self._library, self._library.c
        handle = _create(library, self.dqlite_id, self.name, self.directory)
        # From here on nobody else can write there, and this node does not yet.
        self.stored_term = nodedir.stored_term(self.directory)
        bound = False
        try:
            code = c.dqlite_node_set_bind_address(handle, self.bind_address.encode())
            _check(library, handle, f"binding {self.name} to {self.bind_address}", code, passes=True)
            bound = True
            for operation, code in self._configure(handle):
                _check(library, handle, f"{operation} of {self.name}", code)
            _check(library, handle, f"start of {self.name}", c.dqlite_node_start(handle))
        except BaseException:
            c.dqlite_node_destroy(handle)
            self._callback = None
            if bound:
                _close_leaked_listener(self.bind_address)
            raise
        self._handle = handle

    def _configure(self, handle: Any) -> Iterator[tuple[str, int]]:
        """Set everything that must be set before the start; yield what was set and the library's return code."""
        c = self._library.c
        self._callback = self._make_callback()
        connect_code = c.dqlite_node_set_connect_func(handle, self._callback, self._library.ffi.NULL)
        yield "setting the connect function", connect_code
        yield "setting the latency", c.dqlite_node_set_network_latency_ms(handle, self._latency_ms)
        if self._library.has("dqlite_node_set_busy_timeout"):
            yield "setting the busy timeout", c.dqlite_node_set_busy_timeout(handle, self._busy_timeout_ms)
        if self._roles:
            yield "setting the voters", c.dqlite_node_set_target_voters(handle, self._voters)
            yield "setting the stand-bys", c.dqlite_node_set_target_standbys(handle, self._standbys)
            yield "enabling role management", c.dqlite_node_enable_role_management(handle)

    def stop(self) -> None:
        """Stop the node and wait until its threads are gone. Does nothing if it does not run."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        code = self._library.c.dqlite_node_stop(handle)
        if code != 0:
            log.warning("stop of %s returned %d: %s", self.name, code, _message(self._library, handle))
        self._library.c.dqlite_node_destroy(handle)
        self._callback = None

    def aim_for(self, voters: int, standbys: int) -> None:
        """Change how many voters and stand-bys this node, when it leads, aims at; also while it runs.

        It takes effect within a second or two. The library has no lock for this: it reads two plain integers.
        """
        self._voters, self._standbys = voters, standbys
        if self._handle is not None:
            c = self._library.c
            _check(
                self._library, self._handle, "setting the voters", c.dqlite_node_set_target_voters(self._handle, voters)
            )
            code = c.dqlite_node_set_target_standbys(self._handle, standbys)
            _check(self._library, self._handle, "setting the stand-bys", code)

    def handover(self) -> bool:
        """Give leadership and voting right to others, before a stop. True when all was handed over.

        False is harmless: the last member has nobody to hand over to. A node that handed over must be
        stopped: its role management does not run again until the next start.
        """
        if self._handle is None:
            return False
        return int(self._library.c.dqlite_node_handover(self._handle)) == 0

    def _make_callback(self) -> Any:
        ffi = self._library.ffi

        def connect(_argument: Any, address: Any, fd: Any) -> int:
            # On a thread of libuv's pool. Nothing may be raised from here into C.
            try:
                fd[0] = self._connect(ffi.string(address).decode("utf-8", "replace"))
            except OSError as error:
                log.debug("%s cannot connect: %s", self.name, error)
                return 1
            except BaseException:
                log.exception("%s: the connect function failed in an unexpected way", self.name)
                return 1
            return 0

        return ffi.callback("int(void *, const char *, int *)", connect, error=1)


def recover(directory: Path, dqlite_id: int, name: str) -> None:
    """Make this node the only member, a voter, of the cluster in `directory`. No node may run on it.

    Raises NotReady if another process uses the directory or the disk is full, Refused if its content cannot be read;
    after the latter the directory stays locked by this process. The entry this appends has term 1 whatever the log's
    last term was, so the terms of two directories must not be compared across a recovery.
    """
    library = native.load()
    with _locked(directory):
        pass
    handle = _create(library, dqlite_id, name, directory)
    try:
        address = library.ffi.new("char[]", name.encode())
        infos = library.ffi.new("dqlite_node_info_ext[1]")
        infos[0].size = library.ffi.sizeof("dqlite_node_info_ext")
        infos[0].id = dqlite_id
        infos[0].address = int(library.ffi.cast("uintptr_t", address))
        infos[0].dqlite_role = 0  # A voter.
        _check(library, handle, f"recovery of {name}", library.c.dqlite_node_recover_ext(handle, infos, 1))
    finally:
        library.c.dqlite_node_destroy(handle)


def last_entry(directory: Path, dqlite_id: int, name: str) -> LastEntry:
    """Return the newest entry of the log in `directory`, index 0 if there is none. No node may run on it.

    This may close segment files that a crash left open; the log's content stays the same.
    """
    library = native.load()
    with _locked(directory):
        handle = _create(library, dqlite_id, name, directory)
        try:
            index, term = library.ffi.new("uint64_t *"), library.ffi.new("uint64_t *")
            code = library.c.dqlite_node_describe_last_entry(handle, index, term)
            _check(library, handle, f"reading the last entry of {name}", code)
            return LastEntry(term=int(term[0]), index=int(index[0]))
        finally:
            library.c.dqlite_node_destroy(handle)


def bootstrap(directory: Path, dqlite_id: int, name: str) -> None:
    """Found a cluster whose only member is this node, under its random id, in an empty directory.

    The library founds clusters only under two fixed ids, and would do so again whenever such a node finds its
    directory empty. So one of them is used once, for a moment, and replaced. If this is killed before it
    returns, the directory is worth nothing (it may even belong to the fixed id): the caller deletes it and
    begins again.
    """
    if is_founding_id(dqlite_id):
        raise errors.Refused(f"{dqlite_id} would found another cluster whenever its directory is empty")
    socket_name = f"ha-controller-bootstrap-{secrets.token_hex(8)}"
    founder = Node(BOOTSTRAP_ID, name, directory, bind_address="@" + socket_name, connect=_connect_nobody, roles=False)
    founder.start()
    try:
        _wait_until_leading("\0" + socket_name, name)
    finally:
        founder.stop()
    recover(directory, dqlite_id, name)


def _connect_nobody(name: str) -> int:
    raise ConnectionRefusedError(f"a founder connects to nobody, not to {name}")


def _wait_until_leading(path: str, name: str) -> None:
    deadline = time.monotonic() + _BOOTSTRAP_SECONDS
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(_BOOTSTRAP_SECONDS)
        stream.connect(path)
        stream.sendall(wire.HELLO)
        decoder = wire.Decoder()
        while time.monotonic() < deadline:
            stream.sendall(wire.encode(wire.Request(wire.RequestType.LEADER, (0,))))
            while (answer := decoder.next()) is None:
                data = stream.recv(4096)
                if not data:
                    raise errors.NotReady(f"the founding node {name} closed the connection")
                decoder.feed(data)
            if isinstance(answer, wire.Server) and answer.dqlite_id == BOOTSTRAP_ID:
                return
            time.sleep(_POLL_SECONDS)
    raise errors.NotReady(f"the founding node {name} did not lead within {_BOOTSTRAP_SECONDS:g} s")


def _create(library: native.Library, dqlite_id: int, name: str, directory: Path) -> Any:
    """Return a new handle, with auto-recovery off. The caller destroys it.

    Raises NotReady, whatever fails: no data was read yet, so it says nothing of that. Raises RuntimeError where only a
    new process can go on.
    """
    if not 0 < dqlite_id <= _LARGEST_ID:
        raise errors.Refused(f"{dqlite_id} is no node id")
    if _failures:
        raise RuntimeError(f"a new process has to go on, since in this one the library failed: {_failures[0]}")
    _ask_for_room(directory)
    out = library.ffi.new("dqlite_node **")
    code = library.c.dqlite_node_create(dqlite_id, name.encode(), os.fsencode(directory), out)
    handle = out[0]
    try:
        if code != 0:
            _failures.append(_message(library, handle))
        _check(library, handle, f"creation of {name} in {directory}", code, passes=True)
        if library.has("dqlite_node_set_auto_recovery"):
            code = library.c.dqlite_node_set_auto_recovery(handle, False)
            _check(library, handle, f"auto-recovery off for {name}", code)
    except BaseException:
        library.c.dqlite_node_destroy(handle)
        raise
    return handle


def _ask_for_room(directory: Path) -> None:
    """Raise NotReady where no file can be made. Asked before the library is, which fails only once in a process."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            os.posix_fallocate(file.fileno(), 0, _PROBE_BYTES)
    except OSError as error:
        raise errors.NotReady(f"no file can be made in {directory}: {error.strerror or error}") from error


def _check(library: native.Library, handle: Any, operation: str, code: int, *, passes: bool = False) -> None:
    if code != 0:
        raise errors.from_library(operation, int(code), _message(library, handle), passes=passes)


def _message(library: native.Library, handle: Any) -> str:
    text: bytes = library.ffi.string(library.c.dqlite_node_errmsg(handle))
    return text.decode("utf-8", "replace")


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the library's own lock on the directory. Raises NotReady when it cannot be had, as by another node."""
    try:
        fd = os.open(directory / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.NotReady(f"{directory} cannot be used as a data directory: {error}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.NotReady(f"another node uses {directory}") from error
        yield
    finally:
        os.close(fd)


def _close_leaked_listener(bind_address: str) -> None:
    """Close the listening socket that a failed start left open; nobody else knows its descriptor.

    Without this the address stays taken until the process ends, and no later start on it can succeed.
    """
    for entry in Path("/proc/self/fd").iterdir():
        fd = int(entry.name)
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.socket(fileno=os.dup(fd)) as copy:
                if _address_text(copy) != bind_address:
                    continue
                # An accepted connection has the same local address; it is somebody's, and it is connected.
                with contextlib.suppress(OSError):
                    copy.getpeername()
                    continue
        except OSError:
            continue
        os.close(fd)


def _address_text(stream: socket.socket) -> str:
    if stream.family == socket.AF_UNIX:
        path = stream.getsockname()
        return "@" + path[1:].decode("utf-8", "replace") if isinstance(path, bytes) else ""
    if stream.family == socket.AF_INET:
        host, port = stream.getsockname()
        return f"{host}:{port}"
    return ""
