"""Where the ledger is: in a SQLite file, or on PostgreSQL. All that differs between them is here."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

Connection: TypeAlias = Any  # sqlite3's or psycopg's: no type of theirs is wide enough for both

# Seconds to wait for a lock or a connection. Less than an attempt has (5 in `presets.fast` and
# `presets.conflict`): the driver's error says what happened, an attempt that has run out of time
# does not.
_PATIENCE = 3


class SQLite:
    """A file, made if it is missing. Safe to share between threads and processes."""

    serial = "INTEGER PRIMARY KEY"

    def __init__(self, path: str | Path) -> None:
        """Keeps the path."""
        self.name = str(path)

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection, None, None]:
        """Commits at the end, rolls back on an exception.

        On a connection of its own: activities run in threads, and sqlite3's are bound to theirs.
        """
        with closing(sqlite3.connect(self.name, timeout=_PATIENCE, isolation_level=None)) as db, db:
            db.execute("PRAGMA foreign_keys = ON")
            # IMMEDIATE: one that first reads and then writes would fail if another wrote meanwhile.
            db.execute("BEGIN IMMEDIATE")
            yield db


class PostgreSQL:
    """A database on a server. Safe to share between threads and processes."""

    serial = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"

    def __init__(self, url: str) -> None:
        """Looks whether it answers.

        Raises:
            ValueError: It does not, or there is no driver for it.
        """
        try:
            import psycopg
        except ImportError:
            raise ValueError("PostgreSQL needs a driver: pip install 'psycopg[binary]'") from None
        self._connect = partial(psycopg.connect, url, connect_timeout=_PATIENCE)
        try:
            with self._connect() as db:
                self.name = db.info.dsn  # without the password
        except psycopg.Error as error:
            raise ValueError(f"no ledger on PostgreSQL: {error}") from error

    def transaction(self) -> AbstractContextManager[Connection]:
        """The same, on a connection of its own; where there is more to do, take one from a pool."""
        return self._connect()


def open_database(where: str | Path) -> SQLite | PostgreSQL:
    """Opens a file, or the server of a `postgresql://` URL."""
    scheme, is_url, _ = str(where).partition("://")
    if not is_url:
        return SQLite(where)
    if scheme in ("postgresql", "postgres"):
        return PostgreSQL(str(where))
    raise ValueError(f"the ledger is a file or postgresql://..., not {scheme}://...")


def run(db: Connection, statement: str, *values: str | int) -> Any:
    """Runs a statement, in which `?` stands for a value, and returns the cursor."""
    mark = "?" if isinstance(db, sqlite3.Connection) else "%s"
    return db.execute(statement.replace("?", mark), values)
