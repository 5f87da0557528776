"""The databases that the money transfer's ledger can be in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote
from uuid import uuid4

import psycopg


@contextmanager
def schema_on(server: str, **settings: str) -> Iterator[str]:
    """A schema of its own on a PostgreSQL, as the URL of a database that looks empty; it has these settings."""
    name = f"bank_{uuid4().hex}"
    options = " ".join(f"-c{key}={value}" for key, value in {"search_path": name, **settings}.items())
    with psycopg.connect(server, autocommit=True) as db:
        db.execute(f"CREATE SCHEMA {name}")
        try:
            yield f"{server}{'&' if '?' in server else '?'}options={quote(options)}"
        finally:
            db.execute(f"DROP SCHEMA {name} CASCADE")
