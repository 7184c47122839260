"""Which SQL may be sent to a node at all: the check that every statement passes before its bytes leave (C15).

A client can kill a node, and libdqlite 1.18.7 does not defend itself (docs/decisions/10-what-a-client-may-not-ask.md):

| statement | what happens |
|---|---|
| a row-returning write (`... RETURNING`) through Exec | its lock stays; the next write, or closing, aborts |
| reading a text from a column declared BOOLEAN, a number or blob from a DATE | aborts, at each reader anew |

Besides, Dqlite ignores surplus parameters, reads missing ones as NULL, and cuts text at NUL, each without a word.
So a statement is split into tokens here, and anything doubtful is Refused.
"""

from __future__ import annotations

import enum
import functools
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    changes: bool = field(default=False, compare=False)
    """Whether a page of the database surely differs once this has reported a row affected.

    Not so for UPDATE, REPLACE and upserts: SQLite leaves a page alone when a row gets the values that it has.
    """


_CONTROL = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"})
_READ = frozenset({"SELECT", "VALUES", "EXPLAIN", "PRAGMA"})
_WRITE = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "REINDEX", "ANALYZE", "VACUUM"})
# Some pragmas change how a node stores or locks; only these, which tell something, are let through.
_PRAGMAS_OF_A_NAME = frozenset(
    {
        "DEFER_FOREIGN_KEYS",  # Of one transaction: it is off again after it.
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
# Of what SQLite knows, as tables only.
_LISTS = frozenset({"COLLATION_LIST", "FUNCTION_LIST", "MODULE_LIST", "PRAGMA_LIST"})
_PRAGMA_TABLE: Final = re.compile("pragma_(.*)", re.IGNORECASE | re.DOTALL)
# Dqlite reports values of columns declared so in a form of their own, and asserts that they have the one type.
_DEADLY_TYPES = frozenset({"BOOLEAN", "DATE", "DATETIME", "TIMESTAMP"})
# Of the names of an answer's columns: they must fit into one page of it, beside its head and a row.
_MAX_NAMES_BYTES = 3600
_AFTER_COLUMNS = frozenset(
    {"FROM", "WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "UNION", "EXCEPT", "INTERSECT"}
)
_AFTER_WITH = frozenset({"SELECT", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE"})

# The pieces of SQLite's grammar of tokens that matter here. A quote inside quotes is doubled; an unterminated
# comment ends with the text, an unterminated quote is an error. Every character beyond ASCII belongs to a name, letter
# or not, but a byte order mark before a token is space; a vertical tab is space behind another one only.
_TOKEN: Final = re.compile(
    r"""
      (?P<space>   [\ \t\r\n\f][\ \t\r\n\f\v]* | \ufeff | --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<quoted>  '(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] )
    | (?P<open>    ['"`\[] )
    | (?P<number>  (?:[0-9]|\.[0-9])[A-Za-z0-9_.$\x80-\U0010ffff]* )
    | (?P<word>    [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]* )
    | (?P<named>   [:@\#$][A-Za-z0-9_:$\x80-\U0010ffff]* )
    | (?P<mark>    \?[0-9]* )
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
        problem = value_problem(value)
        if problem:
            raise errors.Refused(f"value {position}: {problem}")
    return statement


def fails_in_part(sql: str) -> bool:
    """Whether a failure of this (checked) statement may leave rows changed: OR FAIL keeps what was done before it."""
    words = [token.text for token in _split(sql) if token.kind == "word"]
    return ("OR", "FAIL") in itertools.pairwise(words)


def limited(sql: str, rows: int) -> str | None:
    """Return this (checked) SELECT so that it yields at most so many rows, and the names of its columns are the same.

    None where a LIMIT cannot be put at its end: it has one that is no plain number, or ends with VALUES.
    """
    tokens = _split(sql)
    words = {token.text: i for i, token in enumerate(tokens) if token.kind == "word" and token.depth == 0}
    if "VALUES" in words:
        return None
    end = tokens[-1].end
    if "LIMIT" not in words:
        return f"{sql[:end]}\nLIMIT {rows}"
    match tokens[words["LIMIT"] + 1 :]:
        case [_Token("number") as most] | [_Token("number") as most, _Token("word", "OFFSET"), *_]:
            pass
        case [_, _Token("other", ","), _Token("number") as most]:
            pass
        case _:
            return None
    if not most.text.isdecimal():
        return None
    return f"{sql[: most.start]}{min(int(most.text), rows)}{sql[most.end : end]}"


def dropped_table(sql: str) -> str | None:
    """Return the name of the table that this (checked) statement drops; None for any other statement."""
    tokens = _split(sql)
    if len(tokens) < 3 or [token.text for token in tokens[:2]] != ["DROP", "TABLE"]:
        return None
    last = tokens[-1]
    if last.kind == "word":
        return sql[last.start : last.end]
    quote = sql[last.start]  # Doubled inside, but for a bracket, which has no way to be.
    return last.text if quote == "[" else last.text.replace(quote * 2, quote)


@functools.lru_cache(maxsize=256)
def _read_known(sql: str) -> Statement:
    return _read(sql)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    """Words in capitals, quoted names without their quotes, everything else as it stands."""
    depth: int
    """How many parentheses are open around it."""
    start: int
    end: int


def _read(sql: str) -> Statement:
    problem = _text_problem(sql)
    if problem:
        raise errors.Refused(f"the statement {problem}")
    if len(sql.encode()) > MAX_SQL_BYTES:
        raise errors.Refused(f"the statement is longer than {MAX_SQL_BYTES} bytes")
    tokens = _split(sql)
    words = [token for token in tokens if token.kind == "word"]
    if not words:
        raise errors.Refused("the statement is empty")
    if tokens[0].kind != "word":
        raise errors.Refused(f"a statement begins with a word that says what is done, not with {tokens[0].text}")
    if any(token.text == "RETURNING" for token in words):
        raise errors.Refused(
            "RETURNING is not possible: a node can be killed by it; query in the same transaction instead "
            '(a column of that name must be quoted: "returning")'
        )
    verb = _verb(words)
    if verb in ("SELECT", "VALUES"):
        _check_names(sql, verb, tokens)
    if verb == "PRAGMA":
        _check_pragma(tokens, alone=len(words) == len(tokens))
    if verb == "EXPLAIN" and re.match("EXPLAIN (QUERY PLAN )?PRAGMA", " ".join(word.text for word in words[:4])):
        raise errors.Refused("EXPLAIN PRAGMA is not possible: SQLite carries many of them out while it compiles them")
    _check_hidden_writes(tokens)
    if verb in ("CREATE", "ALTER"):
        _check_columns(tokens)
    if verb == "CREATE":
        _check_place(tokens)
    parameters = sum(token.kind == "mark" for token in tokens)
    if parameters > MAX_PARAMETERS:
        raise errors.Refused(f"{parameters} parameters are more than the {MAX_PARAMETERS} that are possible")
    return Statement(verb, _kind(verb), parameters, _changes(verb, tokens))


def _split(sql: str) -> list[_Token]:
    """Return the tokens of the only statement in `sql`, without spaces, comments and its closing semicolon."""
    tokens: list[_Token] = []
    depth = 0
    ended = False
    for match in _TOKEN.finditer(sql):
        kind, text = match.lastgroup or "", match[0]
        if kind == "space":
            continue
        if kind == "end":
            # Inside CREATE TRIGGER ... BEGIN ... END semicolons separate the trigger's own statements.
            ended = not _inside_trigger(tokens)
            continue
        if ended:
            raise errors.Refused("several statements in one text; send them one by one")
        if kind == "open":
            raise errors.Refused(f"the statement ends inside {text} quotes")
        if kind == "named" or (kind == "mark" and text != "?"):
            raise errors.Refused(f"the parameter {text} has a name or a number; write a plain ? for each value")
        if kind == "word":
            text = text.upper()
        elif kind == "quoted":
            text = text[1:-1]
        depth += (text == "(") - (text == ")") if kind == "other" else 0
        tokens.append(_Token(kind, text, depth, match.start(), match.end()))
    return tokens


def _verb(words: Sequence[_Token]) -> str:
    """Return the word that says what is done: behind WITH it is the first one outside parentheses."""
    first = words[0].text
    if first != "WITH":
        return first
    for word in words[1:]:
        if word.depth == 0 and word.text in _AFTER_WITH:
            return word.text
    raise errors.Refused("a statement that begins with WITH and does nothing")


def _kind(verb: str) -> Kind:
    if verb in _READ:
        return Kind.READ
    if verb in _WRITE:
        return Kind.WRITE
    if verb in _CONTROL:
        return Kind.CONTROL
    raise errors.Refused(f"{verb} is not a statement that can be sent")


def _check_names(sql: str, verb: str, tokens: Sequence[_Token]) -> None:
    """Refuse result columns whose names do not fit into a page of an answer: a node would send them for ever, with
    whatever the connection's transaction holds locked.

    Without AS the name is the text of the expression itself. What `*` stands for is not known here.
    """
    size = 0
    for column in _result_columns(verb, tokens):
        if verb == "VALUES":
            name = "column0000"
        elif len(column) > 2 and column[-2].text == "AS":
            name = column[-1].text
        else:
            name = sql[column[0].start : column[-1].end] if column else ""
        size += len(name.encode()) // 8 * 8 + 8
    if size > _MAX_NAMES_BYTES:
        raise errors.Refused(
            f"the names of the columns take {size} bytes of the {_MAX_NAMES_BYTES} that are possible; use AS"
        )


def _result_columns(verb: str, tokens: Sequence[_Token]) -> list[list[_Token]]:
    """Return the tokens of each result column of the outermost SELECT, or of the first row of VALUES."""
    begin = next(i for i, t in enumerate(tokens) if t.kind == "word" and t.text == verb and t.depth == 0)
    depth = 0 if verb == "SELECT" else 1
    columns: list[list[_Token]] = [[]]
    before = tokens[begin]
    for token in tokens[begin + 1 :]:
        if token.depth < depth or (
            token.depth == 0 and token.kind == "word" and token.text in _AFTER_COLUMNS and before.text != "DISTINCT"
        ):
            break
        if token.text == "," and token.depth == depth and token.kind == "other":
            columns.append([])
        else:
            columns[-1].append(token)
        before = token
    return columns


def _changes(verb: str, tokens: Sequence[_Token]) -> bool:
    if verb == "DELETE":
        return True
    if verb != "INSERT" or any(t.kind == "word" and t.text in ("REPLACE", "CONFLICT") for t in tokens):
        return False
    # INSERT INTO x(x) may be a command to a full-text table, which counts a row and need not change any.
    names = [t.text.upper() for t in tokens]
    into = names.index("INTO") if "INTO" in names else 0
    return len(names) > into + 3 and not (names[into + 2] == "(" and names[into + 1] == names[into + 3])


def _check_place(tokens: Sequence[_Token]) -> None:
    """Refuse temporary tables: they belong to one connection, which is shared, and vanish with the leader."""
    names = [t.text.upper() for t in tokens]
    if names[1] in ("TEMP", "TEMPORARY") or any(a == "TEMP" and b == "." for a, b in itertools.pairwise(names)):
        raise errors.Refused("temporary tables are not possible: connections are shared, and change with the leader")


def _check_pragma(tokens: Sequence[_Token], *, alone: bool) -> None:
    name = tokens[1].text if len(tokens) > 1 and tokens[1].kind == "word" else "without a plain name"
    if name not in _PRAGMAS_OF_A_NAME and not (name in _PRAGMAS_ALONE and alone):
        raise errors.Refused(f"PRAGMA {name.lower()} is not possible here, or not with a value")


def _check_hidden_writes(tokens: Sequence[_Token]) -> None:
    """Refuse pragmas in the form of a table but for those that tell something, and what else writes in a SELECT.

    A node takes a SELECT for a statement that writes nothing, and would neither replicate nor lock: pragma_optimize
    makes tables, and optimize() of FTS3 rewrites one.
    """
    for token, after in itertools.zip_longest(tokens, tokens[1:]):
        if token.kind not in ("word", "quoted"):
            continue
        pragma = _PRAGMA_TABLE.fullmatch(token.text)
        if (pragma and pragma[1].upper() not in _PRAGMAS_OF_A_NAME | _PRAGMAS_ALONE | _LISTS) or (
            token.text.upper() == "OPTIMIZE" and after is not None and after.text == "("
        ):
            raise errors.Refused(f"{token.text.lower()} is not possible here; as a text it can be given as a value")


def _check_columns(tokens: Sequence[_Token]) -> None:
    """Refuse column types on which a node aborts as soon as a value of another type is read from the column.

    The type is the second name of a column's definition, which stands behind "(", ",", ADD or COLUMN.
    """
    if not {"TABLE", "ALTER"} & {token.text for token in tokens[:3] if token.kind == "word"}:
        return
    for before, column, declared in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if (
            before.text in ("(", ",", "ADD", "COLUMN")
            and column.kind in ("word", "quoted")
            and declared.kind in ("word", "quoted")
            and declared.text.upper() in _DEADLY_TYPES
        ):
            raise errors.Refused(
                f"column {column.text.lower()}: the type {declared.text.upper()} is not possible: a node is killed by "
                "reading a value of another type from it, and tells NULL as 0 or ''; declare INTEGER or TEXT"
            )


def _inside_trigger(tokens: Sequence[_Token]) -> bool:
    """True between the BEGIN and the END of CREATE TRIGGER. CASE has an END of its own."""
    if not tokens or tokens[0].text != "CREATE":
        return False
    words = [token.text for token in tokens if token.kind == "word"]
    if "TRIGGER" not in words[:3] or "BEGIN" not in words:
        return False
    body = words[words.index("BEGIN") + 1 :]
    return body.count("END") <= body.count("CASE")


def _text_problem(text: str) -> str | None:
    if "\0" in text:
        return "contains NUL, at which the text would be cut silently"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return None


def value_problem(value: object) -> str | None:
    """Say why this value cannot be stored, or return None."""
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
