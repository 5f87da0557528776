from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fence.support import Bank, Database, postgresql_database, sqlite_database


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database of the test's own, of each kind."""
    if request.param == "sqlite":
        with sqlite_database(tmp_path) as database:
            yield database
    else:
        with postgresql_database(request.getfixturevalue("postgres")) as database:
            yield database


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with sqlite_database(tmp_path) as database:
        yield database


@pytest.fixture
def postgresql(postgres: str) -> Iterator[Database]:
    with postgresql_database(postgres) as database:
        yield database


@pytest.fixture
def bank(database: Database) -> Bank:
    return Bank(database)
