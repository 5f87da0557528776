"""Reads from an exception of a database whether a part of its call may stand.

In autocommit mode each statement commits by itself. If a call runs several statements (`executemany`, a flush of
SQLAlchemy's session) and the third one fails, the first two stand. A procedure may also commit inside.

A proof needs a connection that is seen to be outside autocommit mode. The traceback shows the connection if the driver
is written in Python. What is not seen proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, cast

from ._libraries import LIBRARIES, Batches, Frame, Library

__all__ = ["may_be_done_in_part"]

# What can commit a part of its work: a procedure, a block of PL/SQL or PL/pgSQL.
_PROCEDURE = re.compile(
    r"(?:^|[;{])\s*(?:call|do|exec|execute)\b|^;?\s*(?:begin|declare)\b.*;", re.IGNORECASE | re.DOTALL
)
_COMMITS_AMONG_OTHERS = re.compile(r"\bcommit\b.*;\s*[^\s;]|;\s*commit\b", re.IGNORECASE | re.DOTALL)
_COMMENT = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)
# sqlite3 begins a transaction by itself before these, and only before these.
_BEGINS_BY_ITSELF = re.compile(r"\s*(?:insert|update|delete|replace)\b", re.IGNORECASE)

_HOLDERS = ("self", "cursor", "cur")
_STATEMENTS = ("query", "statement", "operation", "sql", "command")


def may_be_done_in_part(exception: BaseException, library: Library, frames: Iterable[FrameType]) -> bool:
    """Tell whether an effect of the call may stand although the call has failed.

    Args:
        exception: The exception that the call raised.
        library: The library that the exception comes from.
        frames: The frames of the exception's traceback.
    """
    batches = library.batches
    if batches is None:
        return False
    call = _Call(batches)
    cursor: object = getattr(exception, "cursor", None)  # psycopg2
    call.look_at(cursor)
    call.read(getattr(cursor, "query", None))
    for frame in frames:
        call.follow(frame)
    if call.commits or (call.is_procedure and batches.procedures_commit):
        return True
    return (call.is_batch or call.is_procedure) and call.modes != {False}


class _Call:
    """What a traceback shows of a call.

    Attributes:
        modes: Whether the connections that were seen are in autocommit mode.
        is_batch: Whether the call may run several statements.
        is_procedure: Whether a statement may run a procedure.
        commits: Whether a statement commits among others.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.modes: set[bool] = set()
        self.is_batch = self.is_procedure = self.commits = False

    def follow(self, frame: FrameType) -> None:
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in _PACKAGES:
            names = frame.f_code.co_names
            if any(name in names for name in self._batches.named):
                self.is_batch = True
            if "autocommit" in names or "set_isolation_level" in names:
                self.modes.add(True)  # perhaps only for this call: afterwards it does not show
            return
        function, local = frame.f_code.co_name, frame.f_locals
        if function == "wrapped_f":  # oracledb's wrapper around each method
            function = getattr(local.get("f"), "__name__", "")
            self.read(next(iter(local.get("args", ())), None) or local.get("kwargs", {}).get("statement"))
        if module == "asyncpg.prepared_stmt":
            self.read(getattr(local.get("self"), "_query", None))
        if (module, function) in _SEVERAL:
            self.is_batch = True
        if (module, function) in _PROCEDURES:
            self.is_procedure = True
        for name in _STATEMENTS:
            self.read(local.get(name))
        for name in _HOLDERS:
            self.look_at(local.get(name))

    def read(self, statement: object) -> None:
        if statement is None or _package_of(statement) == "sqlalchemy":
            return
        text = _COMMENT.sub(" ", _text_of(statement)).strip()
        self.is_procedure = self.is_procedure or _PROCEDURE.search(text) is not None
        self.commits = self.commits or _COMMITS_AMONG_OTHERS.search(text) is not None
        if self._batches.begins_by_itself and not _BEGINS_BY_ITSELF.match(text):
            self.modes.add(True)

    def look_at(self, holder: object) -> None:
        mode = None if holder is None else _is_in_autocommit(holder)
        if mode is not None:
            self.modes.add(mode)


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
        if package in ("pymysql", "MySQLdb"):
            return bool(connection.get_autocommit())
        mode: object = connection.autocommit if package in _DRIVERS else None
    except Exception:  # a closed connection, or another kind of object
        return None
    return mode if isinstance(mode, bool) else None


_DRIVERS = {"MySQLdb", "oracledb", "psycopg", "psycopg2", "pymysql", "sqlite3"}


def _is_in_autocommit_of_sqlalchemy(holder: Any) -> bool | None:
    # The driver's connection shows it too, but only until it goes back to the pool.
    if not hasattr(type(holder), "get_execution_options"):
        return None
    levels = {
        holder.get_execution_options().get("isolation_level"),
        getattr(getattr(holder, "dialect", None), "_on_connect_isolation_level", None),
    }
    return True if "AUTOCOMMIT" in levels else None


def _is_in_autocommit_of_sqlite3(connection: Any) -> bool:
    mode = getattr(connection, "autocommit", -1)  # Python 3.12; -1 is the mode before that
    return mode if isinstance(mode, bool) else connection.isolation_level is None


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
_PACKAGES = frozenset(cast("str", package).partition(".")[0] for package in _ROWS)
_SEVERAL = frozenset(each for batches in _ROWS.values() for each in _named(batches.several))
_PROCEDURES = frozenset(each for batches in _ROWS.values() for each in _named(batches.procedures))
