"""Which SQL may be sent to a node at all: the check that every statement passes before its bytes leave (C15).

A client can kill a node: a row-returning write (`... RETURNING`) leaves a lock behind, and the next write on
that connection aborts the process that embeds the node. Dqlite also ignores surplus parameters, reads missing
ones as NULL, and cuts text at NUL, each without a word. So a statement is split into tokens here, and
anything doubtful is Refused.
"""

from __future__ import annotations

import enum
import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dbaccessor import errors

# SQLite's own limits (SQLITE_MAX_VARIABLE_NUMBER, SQLITE_MAX_SQL_LENGTH).
MAX_PARAMETERS = 32766
MAX_SQL_BYTES = 1_000_000
# A program sends the same statements over and over; those up to this length are split only once.
_LONGEST_KNOWN = 2000


class Kind(enum.Enum):
    READ = "read"  # Yields rows, changes nothing: it goes through query.
    WRITE = "write"  # Yields no rows: it goes through execute.
    CONTROL = "control"  # Begins or ends a transaction: only the transaction API sends it.


@dataclass(frozen=True)
class Statement:
    """What the tokens of a statement show."""

    verb: str
    kind: Kind
    parameters: int


_CONTROL = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"})
_READ = frozenset({"SELECT", "VALUES", "EXPLAIN", "PRAGMA"})
_WRITE = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "REINDEX", "ANALYZE", "VACUUM"})
# Some pragmas change how a node stores or locks; only these, which tell something, are let through.
_PRAGMAS_OF_A_NAME = frozenset(
    {
        "FOREIGN_KEY_CHECK",
        "FOREIGN_KEY_LIST",
        "INDEX_INFO",
        "INDEX_LIST",
        "INDEX_XINFO",
        "TABLE_INFO",
        "TABLE_LIST",
    }
    | {"TABLE_XINFO", "INTEGRITY_CHECK", "QUICK_CHECK"}
)
_PRAGMAS_ALONE = frozenset(
    {
        "COMPILE_OPTIONS",
        "DATABASE_LIST",
        "ENCODING",
        "FOREIGN_KEYS",
        "FREELIST_COUNT",
        "PAGE_COUNT",
        "PAGE_SIZE",
    }
    | {"SCHEMA_VERSION", "USER_VERSION"}
)
_AFTER_WITH = frozenset({"SELECT", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE"})

# The pieces of SQLite's grammar of tokens that matter here. A quote inside quotes is doubled; an unterminated
# comment ends with the text, an unterminated quote is an error.
_TOKEN: Final = re.compile(
    r"""
      (?P<space>   [\ \t\r\n\f]+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<quoted>  '(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] )
    | (?P<open>    ['"`\[] )
    | (?P<number>  (?:\d|\.\d)[\w.]* )
    | (?P<word>    [^\W\d][\w$]* )
    | (?P<named>   [:@\#$][\w:$]* )
    | (?P<mark>    \?\d* )
    | (?P<end>     ; )
    | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)


def check(sql: str, params: Sequence[object] = ()) -> Statement:
    """Return what the statement is, or raise Refused with the reason. Nothing is sent.

    Refused are: RETURNING outside quotes and comments; several statements; an empty one; NUL or lone
    surrogates in text; parameters that are not written as a plain `?`, or whose number or type is wrong;
    unknown verbs.
    """
    statement = _read_known(sql) if len(sql) <= _LONGEST_KNOWN else _read(sql)
    if len(params) != statement.parameters:
        raise errors.Refused(f"the statement has {statement.parameters} parameters, and {len(params)} values are given")
    for position, value in enumerate(params, 1):
        problem = _value_problem(value)
        if problem:
            raise errors.Refused(f"value {position}: {problem}")
    return statement


@functools.lru_cache(maxsize=256)
def _read_known(sql: str) -> Statement:
    return _read(sql)


def _read(sql: str) -> Statement:
    problem = _text_problem(sql)
    if problem:
        raise errors.Refused(f"the statement {problem}")
    if len(sql) > MAX_SQL_BYTES or len(sql.encode()) > MAX_SQL_BYTES:
        raise errors.Refused(f"the statement is longer than {MAX_SQL_BYTES} bytes")
    words: list[tuple[str, int]] = []
    depth = parameters = others = 0
    ended = False
    for token in _TOKEN.finditer(sql):
        kind, text = token.lastgroup, token[0]
        if kind == "space":
            continue
        if ended and kind != "end":
            raise errors.Refused("several statements in one text; send them one by one")
        match kind:
            case "open":
                raise errors.Refused(f"the statement ends inside {text} quotes")
            case "end":
                # Inside CREATE TRIGGER ... BEGIN ... END semicolons separate the trigger's own statements.
                ended = not _inside_trigger(words)
            case "mark":
                if text != "?":
                    raise errors.Refused(f"the parameter {text} is numbered; write a plain ? for each value")
                parameters += 1
            case "named":
                raise errors.Refused(f"the parameter {text} is named; write a plain ? for each value")
            case "word":
                words.append((text.upper(), depth))
            case "other":
                others += 1
                depth += (text == "(") - (text == ")")
            case _:
                pass
    if not words:
        raise errors.Refused("the statement is empty")
    if parameters > MAX_PARAMETERS:
        raise errors.Refused(f"the statement has {parameters} parameters; more than {MAX_PARAMETERS} are not possible")
    if any(word == "RETURNING" for word, _ in words):
        raise errors.Refused(
            "RETURNING is not possible: a node can be killed by it; query in the same transaction instead "
            '(a column of that name must be quoted: "returning")'
        )
    verb = _verb(words)
    if verb == "PRAGMA":
        _check_pragma(words, alone=others == 0)
    return Statement(verb, _kind(verb), parameters)


def _verb(words: Sequence[tuple[str, int]]) -> str:
    """Return the word that says what is done: behind WITH it is the first one outside parentheses."""
    first = words[0][0]
    if first != "WITH":
        return first
    for word, depth in words[1:]:
        if depth == 0 and word in _AFTER_WITH:
            return word
    raise errors.Refused("a statement that begins with WITH and does nothing")


def _kind(verb: str) -> Kind:
    if verb in _READ:
        return Kind.READ
    if verb in _WRITE:
        return Kind.WRITE
    if verb in _CONTROL:
        return Kind.CONTROL
    raise errors.Refused(f"{verb} is not a statement that can be sent")


def _check_pragma(words: Sequence[tuple[str, int]], *, alone: bool) -> None:
    name = words[1][0] if len(words) > 1 else "without a name"
    if name not in _PRAGMAS_OF_A_NAME and not (name in _PRAGMAS_ALONE and alone):
        raise errors.Refused(f"PRAGMA {name.lower()} is not possible here, or not with a value")


def _inside_trigger(words: Sequence[tuple[str, int]]) -> bool:
    """True between the BEGIN and the END of CREATE TRIGGER. CASE has an END of its own."""
    plain = [word for word, _ in words]
    if plain[:1] != ["CREATE"] or "TRIGGER" not in plain[:3] or "BEGIN" not in plain:
        return False
    body = plain[plain.index("BEGIN") + 1 :]
    return body.count("END") <= body.count("CASE")


def _text_problem(text: str) -> str | None:
    if "\0" in text:
        return "contains NUL, at which the text would be cut silently"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return None


def _value_problem(value: object) -> str | None:
    match value:
        case None | bytes():
            return None
        case int():
            return None if -(2**63) <= value < 2**63 else f"{value} does not fit into 64 bits"
        case float():
            return "NaN would be stored as NULL" if math.isnan(value) else None
        case str():
            problem = _text_problem(value)
            return f"the text {problem}" if problem else None
        case _:
            return f"a {type(value).__name__} cannot be stored; give int, float, str, bytes or None"
