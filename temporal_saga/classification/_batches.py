"""Reads from an exception of a database whether a part of its call may stand.

In autocommit mode each statement commits by itself. If a call runs several statements (`executemany`, a flush of
SQLAlchemy's session) and the third one fails, the first two stand. A procedure may also commit inside.

A proof needs a connection that is seen to be outside autocommit mode. The traceback shows the connection if the driver
is written in Python. What is not seen proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import FrameType
from typing import Any

from ._libraries import LIBRARIES, Batches, Frame, Library

__all__ = ["Passed", "may_be_done_in_part"]

Passed = tuple[str, str, FrameType]
"""A function that an exception has come through: its module, its name, and its frame."""

# What can commit a part of its work: a procedure, a block of PL/SQL or PL/pgSQL.
_PROCEDURE = re.compile(
    r"(?:^|[;{])\s*(?:call|do|exec|execute)\b|^;?\s*(?:begin|declare)\b.*;", re.IGNORECASE | re.DOTALL
)
_COMMIT = re.compile(r"\bcommit\b", re.IGNORECASE)
# PostgreSQL's END is a COMMIT, but for the END of a body in dollar quotes.
_END = re.compile(r"(?:^|;)\s*(?:end|prepare\s+transaction)\b", re.IGNORECASE)
_DOLLARS = re.compile(r"\$\w*\$")
# On MySQL these commit what came before, in any transaction.
_COMMITS_BEFORE = re.compile(
    r"(?:^|;)\s*(?:alter|analyze|begin|create|drop|flush|grant|install|load|lock|optimize|rename|repair|reset|revoke|set"
    r"|start|truncate|unlock|xa)\b",
    re.IGNORECASE,
)
# SQLite then keeps the rows that came before the one that fails.
_OR_FAIL = re.compile(r"\bor\s+fail\b", re.IGNORECASE)
_COMMENT = re.compile(r"/\*(?:.*?\*/|.*)|--[^\n]*", re.DOTALL)
# sqlite3 begins a transaction by itself before these, and only before these.
_BEGINS_BY_ITSELF = re.compile(r"\s*(?:insert|update|delete|replace)\b", re.IGNORECASE)

_CALLS = frozenset(
    [
        "callproc",
        "commit",
        "copy_expert",
        "copy_from",
        "execute",
        "execute_batch",
        "execute_values",
        "executemany",
        "executescript",
    ]
)
_SET_THE_MODE = {"autocommit", "set_autocommit", "set_isolation_level", "set_session"}
_HOLDERS = ("self", "connection", "cursor", "cur")
_STATEMENTS = ("query", "statement", "operation", "sql", "command")


def may_be_done_in_part(exception: BaseException, library: Library, frames: Sequence[Passed]) -> bool:
    """Tell whether an effect of the call may stand although the call has failed.

    Args:
        exception: The exception that the call raised.
        library: The library that the exception comes from.
        frames: The functions that the exception has come through.
    """
    batches = library.batches
    if batches is None:
        return False
    mark = getattr(exception, batches.mark, None) if batches.mark else None
    if mark is not None and mark != "SQLITE_CANTOPEN" and not any(_calls_a_database(each) for each in frames):
        return True  # the traceback was cut off, or lost between processes
    if not frames:
        return False
    is_batch = is_procedure = False
    statements: list[object] = [getattr(getattr(exception, "cursor", None), "query", None)]  # psycopg2
    for module, function, frame in frames:
        if not _is_of_a_database(module):
            is_batch = is_batch or not batches.named.isdisjoint(frame.f_code.co_names)
            continue
        if function == "wrapped_f":  # oracledb's wrapper around each method
            function, statement = _wrapped(frame)
            statements.append(statement)
        is_batch = is_batch or (module, function) in _SEVERAL
        is_procedure = is_procedure or (module, function) in _PROCEDURES
        statements += _statements_in(frame, module)
    texts = [_COMMENT.sub(" ", _text_of(each)).strip() for each in statements if _is_text(each)]
    scripts = [text for text in texts if ";" in text.rstrip("; \n")]
    if any(_COMMIT.search(text) or _END.search("".join(_DOLLARS.split(text)[::2])) for text in scripts):
        return True
    if batches.procedures_commit and any(_COMMITS_BEFORE.search(text) for text in scripts):
        return True
    if batches.begins_by_itself:
        is_batch = is_batch or any(_OR_FAIL.search(text) for text in (*texts, *_constants(frames)))
    is_procedure = is_procedure or any(_PROCEDURE.search(text) for text in texts)
    if is_procedure and batches.procedures_commit:
        return True
    if not (is_batch or is_procedure):
        return False
    if batches.begins_by_itself and not all(_BEGINS_BY_ITSELF.match(text) for text in texts):
        return True
    return {*_modes(exception, frames)} != {False}


def _wrapped(frame: FrameType) -> tuple[str, object]:
    local = frame.f_locals
    arguments: Any = local.get("args") or (None,)
    named: Any = local.get("kwargs") or {}
    return getattr(local.get("f"), "__name__", ""), arguments[0] or named.get("statement")


def _statements_in(frame: FrameType, module: str) -> Iterator[object]:
    names = frame.f_code.co_varnames
    for name in _STATEMENTS:
        if name in names:
            yield frame.f_locals.get(name)
    if module == "asyncpg.prepared_stmt":
        yield getattr(frame.f_locals.get("self"), "_query", None)
    if frame.f_code.co_name in ("nextset", "_nextset"):
        yield getattr(frame.f_locals.get("self"), "_executed", None)


def _constants(frames: Sequence[Passed]) -> Iterator[str]:
    """Yield the texts in the functions that call sqlite3, which is not written in Python."""
    for module, _, frame in frames:
        if not _is_of_a_database(module):
            yield from (each for each in frame.f_code.co_consts if isinstance(each, str))


def _calls_a_database(passed: Passed) -> bool:
    module, _, frame = passed
    return _is_of_a_database(module) or not _CALLS.isdisjoint(frame.f_code.co_names)


def _modes(exception: BaseException, frames: Sequence[Passed]) -> Iterator[bool]:
    """Yield whether the connections that an exception shows are in autocommit mode."""
    holders: list[object] = [getattr(exception, "cursor", None)]  # psycopg2
    for module, _, frame in frames:
        if _is_of_a_database(module):
            holders += (frame.f_locals.get(name) for name in _HOLDERS)
        elif not _SET_THE_MODE.isdisjoint(frame.f_code.co_names):
            yield True  # perhaps only for this call: afterwards it does not show
    for holder in holders:
        mode = None if holder is None else _is_in_autocommit(holder)
        if mode is not None:
            yield mode


def _is_text(statement: object) -> bool:
    return statement is not None and _package_of(statement) != "sqlalchemy"


def _text_of(statement: object) -> str:
    if isinstance(statement, str):
        return statement
    if isinstance(statement, (bytes, bytearray)):
        return statement.decode(errors="replace")
    # The `repr` of a statement that psycopg composes, or of a template, has the texts of its parts in quotes.
    return repr(statement).replace("'", ";").replace('"', ";")


def _is_in_autocommit(holder: object) -> bool | None:
    """Read the mode from a connection or a cursor; None if the object does not show it. Sends nothing."""
    package = _package_of(holder)
    try:
        if package == "sqlalchemy":
            return _is_in_autocommit_of_sqlalchemy(holder)
        # Only these: the property of another driver may ask the server, or connect.
        connection: Any = holder if package not in _DRIVERS else getattr(holder, "connection", holder)
        package = _package_of(connection)
        if package == "sqlite3":
            return _is_in_autocommit_of_sqlite3(connection)
        if package == "mysql":  # its `autocommit` asks the server
            return not connection.in_transaction
        if package in ("pymysql", "MySQLdb"):
            return bool(connection.get_autocommit())
        mode: object = connection.autocommit if package in _DRIVERS else None
    except AttributeError:  # another kind of object
        return None
    except Exception:  # a closed connection does not show it any more
        return True if package in _DRIVERS else None
    return mode if isinstance(mode, bool) else None


_DRIVERS = {"MySQLdb", "oracledb", "psycopg", "psycopg2", "pymysql", "sqlite3"}


def _is_in_autocommit_of_sqlalchemy(holder: Any) -> bool | None:
    # The driver's connection does not show it any more: SQLAlchemy sets it back.
    if not (hasattr(holder, "get_execution_options") and hasattr(holder, "dialect")):
        return None
    level = holder.get_execution_options().get("isolation_level")
    return "AUTOCOMMIT" in (level, getattr(holder.dialect, "_on_connect_isolation_level", None))


def _is_in_autocommit_of_sqlite3(connection: Any) -> bool:
    mode = getattr(connection, "autocommit", -1)  # Python 3.12; -1 is the mode before that
    return mode if isinstance(mode, bool) else connection.isolation_level is None


@lru_cache(maxsize=2048)
def _is_of_a_database(module: str) -> bool:
    return module.partition(".")[0] in _PACKAGES


def _package_of(value: object) -> str:
    return str(type(value).__module__).partition(".")[0]


def _named(frames: Iterable[Frame]) -> Iterator[tuple[str, str]]:
    for frame in frames:
        for module in frame.modules.split():
            for function in frame.functions.split():
                yield module, function


_ROWS: Mapping[str, Batches] = {
    package: library.batches
    for library in LIBRARIES
    if library.batches is not None
    for package in library.packages.split()
}
_PACKAGES = frozenset(package.partition(".")[0] for package in _ROWS)
_SEVERAL = frozenset(each for batches in _ROWS.values() for each in _named(batches.several))
_PROCEDURES = frozenset(each for batches in _ROWS.values() for each in _named(batches.procedures))
