"""sqlite3: a real database, locked, full, read-only, and in the way of its constraints; and SQLAlchemy around it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy import orm

from temporal_saga.classification._read import kind_of
from temporal_saga.errors import FailureKind

K = FailureKind


@pytest.fixture(params=["by-name", "by-text"])
def without_name(request: pytest.FixtureRequest) -> bool:
    """Whether to look at errors as Python 3.10 has them."""
    return bool(request.param == "by-text")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE t (x INTEGER PRIMARY KEY CHECK (x >= 0), y TEXT) STRICT")
    return path


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as db:
        yield db


@pytest.fixture
def other(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        yield other


def kind(db: sqlite3.Connection, statement: str, without_name: bool) -> FailureKind:
    with pytest.raises(sqlite3.Error) as raised:
        db.execute(statement)
    if without_name and hasattr(raised.value, "sqlite_errorname"):
        del raised.value.sqlite_errorname
    return kind_of(raised.value, (), {})


def test_locked(db: sqlite3.Connection, other: sqlite3.Connection, without_name: bool) -> None:
    other.execute("BEGIN EXCLUSIVE")
    assert kind(db, "INSERT INTO t VALUES (1, '')", without_name) is K.CONFLICT


def test_locked_as_it_commits(db: sqlite3.Connection, other: sqlite3.Connection, without_name: bool) -> None:
    other.execute("BEGIN")
    other.execute("SELECT * FROM t").fetchall()  # a reader, which a COMMIT waits for
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO t VALUES (1, '')")
    assert kind(db, "COMMIT", without_name) is K.CONFLICT


def test_a_snapshot_that_is_too_old(db: sqlite3.Connection, other: sqlite3.Connection, without_name: bool) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("BEGIN")
    db.execute("SELECT * FROM t").fetchall()
    other.execute("INSERT INTO t VALUES (1, '')")
    assert kind(db, "INSERT INTO t VALUES (2, '')", without_name) is K.CONFLICT


def test_locked_by_its_own_cursor(db: sqlite3.Connection, without_name: bool) -> None:
    db.executemany("INSERT INTO t VALUES (?, '')", [[1], [2]])
    reading = db.execute("SELECT * FROM t")
    reading.fetchone()
    assert kind(db, "DROP TABLE t", without_name) is K.CONFLICT
    reading.close()


def test_full(db: sqlite3.Connection, without_name: bool) -> None:
    db.execute("PRAGMA max_page_count = 3")
    assert kind(db, f"INSERT INTO t VALUES (1, '{'y' * 100_000}')", without_name) is K.THROTTLED


@pytest.mark.parametrize("values", ["(1, '')", "(-1, '')"], ids=["unique", "check"])
def test_constraints(db: sqlite3.Connection, values: str, without_name: bool) -> None:
    db.execute("INSERT INTO t VALUES (1, '')")
    assert kind(db, f"INSERT INTO t VALUES {values}", without_name) is K.REJECTED


def test_a_value_of_the_wrong_type(db: sqlite3.Connection, without_name: bool) -> None:
    assert kind(db, "INSERT INTO t VALUES ('one', '')", without_name) is K.REJECTED


def test_a_value_that_is_too_big(db: sqlite3.Connection, without_name: bool) -> None:
    assert kind(db, "SELECT zeroblob(2000000000)", without_name) is K.REJECTED


def test_read_only(path: Path, without_name: bool) -> None:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        assert kind(db, "INSERT INTO t VALUES (1, '')", without_name) is K.AUTH


def test_not_authorized(db: sqlite3.Connection, without_name: bool) -> None:
    db.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    assert kind(db, "INSERT INTO t VALUES (1, '')", without_name) is K.AUTH


def test_interrupted(db: sqlite3.Connection, without_name: bool) -> None:
    db.set_progress_handler(lambda: 1, 10)
    forever = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT count(*) FROM n"
    assert kind(db, forever, without_name) is K.CONFLICT


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.Error) as raised:
        sqlite3.connect(tmp_path / "nowhere" / "db")
    assert kind_of(raised.value, (), {}) is K.NOT_SENT


@pytest.mark.parametrize("statement", ["SELECT", "SELECT * FROM nowhere"])
def test_a_statement_that_is_wrong(db: sqlite3.Connection, statement: str, without_name: bool) -> None:
    assert kind(db, statement, without_name) is K.BUG


def test_no_database(tmp_path: Path, without_name: bool) -> None:
    (tmp_path / "text").write_text("no database" * 100)
    with closing(sqlite3.connect(tmp_path / "text")) as db:
        assert kind(db, "SELECT * FROM t", without_name) is K.BUG


def test_a_wrong_use(db: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.ProgrammingError) as raised:
        db.execute("SELECT ?")
    assert kind_of(raised.value, (), {}) is K.BUG


# --- around it ---


async def test_aiosqlite(path: Path, other: sqlite3.Connection) -> None:
    other.execute("BEGIN EXCLUSIVE")
    async with aiosqlite.connect(path, timeout=0) as db:
        with pytest.raises(sqlite3.OperationalError) as raised:
            await db.execute("INSERT INTO t VALUES (1, '')")
    assert kind_of(raised.value, (), {}) is K.CONFLICT


@pytest.fixture
def engine(path: Path) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": 0},
        poolclass=sqlalchemy.QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=0.1,
    )
    yield engine
    engine.dispose()


def test_sqlalchemy_locked(engine: sqlalchemy.Engine, other: sqlite3.Connection) -> None:
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlalchemy.exc.OperationalError) as raised, engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1, '')"))
    assert kind_of(raised.value, (), {}) is K.CONFLICT


def test_sqlalchemy_constraint(engine: sqlalchemy.Engine) -> None:
    with pytest.raises(sqlalchemy.exc.IntegrityError) as raised, engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (-1, '')"))
    assert kind_of(raised.value, (), {}) is K.REJECTED


def test_sqlalchemy_a_parameter_that_is_wrong(engine: sqlalchemy.Engine) -> None:
    with pytest.raises(sqlalchemy.exc.StatementError) as raised, engine.begin() as connection:
        connection.execute(sqlalchemy.text("SELECT :x"))
    assert kind_of(raised.value, (), {}) is K.BUG


def test_sqlalchemy_a_pool_without_a_free_connection(engine: sqlalchemy.Engine) -> None:
    with engine.connect(), pytest.raises(sqlalchemy.exc.TimeoutError) as raised:
        engine.connect()
    assert kind_of(raised.value, (), {}) is K.NOT_SENT


@pytest.mark.parametrize(("level", "expected"), [("SERIALIZABLE", K.CONFLICT), ("AUTOCOMMIT", K.AMBIGUOUS)])
def test_sqlalchemy_a_version_that_someone_else_wrote(
    level: str, expected: FailureKind, engine: sqlalchemy.Engine, other: sqlite3.Connection
) -> None:
    """In autocommit mode the other statements of the flush stand."""

    class Base(orm.DeclarativeBase):
        pass

    class Row(Base):
        __tablename__ = "t"
        x: orm.Mapped[int] = orm.mapped_column(primary_key=True)
        y: orm.Mapped[str] = orm.mapped_column()
        __mapper_args__ = {  # noqa: RUF012
            "version_id_col": y,
            "version_id_generator": lambda old: f"{old or ''}+",
        }

    other.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    with orm.Session(engine.execution_options(isolation_level=level), expire_on_commit=False) as session:
        row = session.get_one(Row, 1)
        session.commit()
        other.execute("UPDATE t SET y = 'c' WHERE x = 1")
        session.delete(row)
        with pytest.raises(orm.exc.StaleDataError) as raised:
            session.flush()
    assert kind_of(raised.value, (), {}) is expected
