"""What a caller can do about it: the errors of this package, named after the answer to that question.

| class | what happened | what the caller can do |
|---|---|---|
| NotReady | nothing was done, for a reason that passes | wait, then ask again |
| NotLeader | nothing was done, another node leads | go to the leader |
| Indefinite | it may have been done | look before doing it again |
| Refused | nothing was done, and asking again changes nothing | correct the request |

Codes of the C library and of the wire are translated here and nowhere else.
"""

from __future__ import annotations

from typing import Final


class DbAccessorError(Exception):
    """Base of all errors of this package. `code` is the engine's (0: none), `address` a node's name ("": none)."""

    def __init__(self, message: str, *, code: int = 0, address: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.address = address


class NotReady(DbAccessorError):
    """Nothing was done, and it may succeed later: no leader yet, the database is busy, a deadline passed."""


class NotLeader(DbAccessorError):
    """Nothing was done: the node that was asked does not lead. `address` is the leader, where known."""


class Indefinite(DbAccessorError):
    """It may have been done: leadership was lost, or the connection ended, before the answer came."""


class Refused(DbAccessorError):
    """Nothing was done: the request itself is wrong, or a rule of the database forbids it."""


class LibraryTooOld(DbAccessorError):
    """libdqlite is missing, or lacks what this package needs. The message names the version needed."""


# SQLite's primary result codes (the low byte of an extended one) and what Dqlite adds to them.
ERROR: Final = 1
BUSY: Final = 5
INTERRUPT: Final = 9
IOERR: Final = 10
NOT_FOUND: Final = 12
RANGE: Final = 25
NOT_LEADER: Final = IOERR | 40 << 8
LEADERSHIP_LOST: Final = IOERR | 41 << 8

# Libraries before 1.18 used this number, which SQLite has given to another error since (SQLITE_IOERR_DATA): there the
# words decide. Their number for "leadership lost" needs no care: like every code not listed here it leaves doubt.
_OLD_NOT_LEADER = IOERR | 32 << 8

# What libdqlite says of a query that a loss of leadership overtook, under the code of an ordinary mistake: the first
# from 1.18.2 on, of a barrier that fails behind the parsing, the second before. Several statements in one, which is
# what the first one says, never reach a node.
_LOST_MEANWHILE = frozenset({"nonempty statement tail", "barrier error"})

# Primary codes with which SQLite says that it did not carry the statement out. Everything else is not trusted so far.
_PLAIN = frozenset({0, 1, 2, 3, 4, 6, 7, 8, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26})
# Dqlite's own: "I could not read this request".
_PROTOCOL = range(1001, 1006)


def is_plain(code: int) -> bool:
    """True when this failure says that the statement or request itself was wrong."""
    return code in _PROTOCOL or code & 0xFF in _PLAIN


def spoils_connection(code: int) -> bool:
    """True when the connection that got this failure must not be used again: what it holds open is not known."""
    harmless = is_plain(code) or code & 0xFF == BUSY or code == NOT_LEADER
    return not harmless or code in (NOT_FOUND, INTERRUPT)


def from_failure(code: int, text: str, *, changes: bool, address: str = "") -> DbAccessorError:
    """Translate a failure that a node answered. `changes` says whether the request could have changed anything."""
    message = f"{text} (code {code})"
    if code == NOT_LEADER or (code == _OLD_NOT_LEADER and "not leader" in text):
        return NotLeader(message, code=code, address=address)
    if code & 0xFF == BUSY or code in (NOT_FOUND, INTERRUPT):
        # NOT_FOUND: the connection's database was closed under it, by a change of leader. INTERRUPT: Dqlite gives up
        # what a connection that it closes has under way, and can hit the next statement with it (seen once, on BEGIN).
        return NotReady(message, code=code, address=address)
    if code == ERROR and text in _LOST_MEANWHILE and not changes:
        return NotReady(message, code=code, address=address)
    if is_plain(code):
        return Refused(message, code=code, address=address)
    return (Indefinite if changes else NotReady)(message, code=code, address=address)


def from_ended(what: str, *, changes: bool, address: str = "") -> DbAccessorError:
    """Translate an answer that never came: the connection ended, went silent, or spoke nonsense."""
    return (Indefinite if changes else NotReady)(what, address=address)


_C_CODES = {1: "error", 2: "misuse of the library", 3: "out of memory"}


def from_library(operation: str, code: int, text: str, *, passes: bool = False) -> DbAccessorError:
    """Translate a return code of libdqlite. `text` is what dqlite_node_errmsg said ("": nothing).

    `passes`: the operation depends on what may change by itself alone, as room on the disk or a free address do.
    """
    reason = text or _C_CODES.get(code, "unknown error")
    message = f"{operation} failed: {reason} (code {code})"
    if "couldn't lock" in text:
        return NotReady(f"{message}; another process uses this directory", code=code)
    return (NotReady if passes else Refused)(message, code=code)
