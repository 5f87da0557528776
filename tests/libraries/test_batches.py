"""Several effects in one call of a database: what stands when a later one fails, and what the error may say of it.

Each test looks at what stands in the real database. An error may say "no effect" only if nothing does.
"""

from __future__ import annotations

import pickle
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import aiosqlite
import asyncpg
import django
import django.conf
import django.db
import django.db.models
import django.db.transaction
import httpx
import psycopg
import psycopg2
import psycopg2.extras
import pytest
import sqlalchemy
from django.db.utils import ConnectionHandler
from psycopg import sql
from sqlalchemy import orm

from temporal_saga.classification import Profile, classify
from temporal_saga.errors import FailureKind
from tests.libraries.calls import failure, wait_for

K = FailureKind
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

ONE = Profile(client_retries=False)
"""What the user says of the client has nothing to do with it."""

ROWS = [(1,), (2,), (1,)]  # the third one is refused
INSERT = "INSERT INTO t VALUES (%s)"


def proves(error: Exception) -> bool:
    """Tell whether an error says "no effect", to a user who says that the client never repeats a request."""
    kinds = {classify(error), classify(error, profile=ONE)}
    assert len(kinds) == 1
    return kinds.pop().effect == "none"


# --- sqlite3 ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")
    return tmp_path / "db"


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM t").fetchone()[0])


SCRIPT = "INSERT INTO t VALUES (1); INSERT INTO t VALUES (1)"


def many(db: Any) -> None:
    with db:
        db.executemany("INSERT INTO t VALUES (?)", ROWS)


def many_by_a_cursor(db: Any) -> None:
    with db:
        db.cursor().executemany("INSERT INTO t VALUES (?)", ROWS)


def script(db: Any) -> None:
    with db:
        db.executescript(SCRIPT)


def helped(db: Any) -> None:
    def write(call: Any) -> None:
        call("INSERT INTO t VALUES (?)", ROWS)

    write(db.executemany)


def one(db: Any) -> None:
    with db:
        db.execute("INSERT INTO t VALUES (1), (2), (1)")


MODES: dict[str, dict[str, Any]] = {"default": {}, "isolation_level=None": {"isolation_level": None}}
if sys.version_info >= (3, 12):
    MODES |= {f"autocommit={on}": {"autocommit": on} for on in (True, False)}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
@pytest.mark.parametrize("call", [many, many_by_a_cursor, script, helped, one])
def test_sqlite3(call: Callable[[Any], None], options: dict[str, Any], path: Path) -> None:
    with closing(sqlite3.connect(path, **options)) as db:
        error = failure(call, db)
    stands = rows(path)
    assert not (stands and proves(error))
    assert proves(error) is (call is one)  # what sqlite3 calls is not seen, nor is its connection


FAIL = "CREATE TRIGGER g BEFORE INSERT ON t WHEN NEW.x = 3 BEGIN SELECT RAISE(FAIL, 'no'); END"


def or_fail(db: Any) -> None:
    db.execute("INSERT OR FAIL INTO t VALUES (1), (2), (1)")


def by_a_trigger(db: Any) -> None:
    db.execute("INSERT INTO t VALUES (1), (2), (3)")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not show which constraint refuses")
@pytest.mark.parametrize("call", [or_fail, by_a_trigger])
def test_sqlites_fail_keeps_the_rows_before(call: Callable[[Any], None], path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(FAIL)
        error = failure(call, db)
    assert rows(path) == 2
    assert not proves(error)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not mark its own errors")
def test_a_traceback_of_sqlite3_that_was_lost(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        error = failure(many, db).with_traceback(None)

    def raise_again() -> None:
        raise error

    assert rows(path) == 2
    assert not proves(failure(raise_again))


@pytest.mark.parametrize("call", ["executemany", "executescript"])
def test_aiosqlite(call: str, path: Path) -> None:
    async def write() -> None:
        async with aiosqlite.connect(path, isolation_level=None) as db:
            if call == "executemany":
                await db.executemany("INSERT INTO t VALUES (?)", ROWS)
            else:
                await db.executescript(SCRIPT)

    error = failure(lambda: wait_for(write))
    assert rows(path)
    assert not proves(error)


# --- SQLAlchemy ---


class Base(orm.DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "t"
    x: orm.Mapped[int] = orm.mapped_column(primary_key=True)


def insert_many(engine: sqlalchemy.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (:x)"), [{"x": x} for (x,) in ROWS])


def insert_pages(engine: sqlalchemy.Engine) -> None:
    """SQLAlchemy sends an `execute` for each page."""
    statement = sqlalchemy.insert(Thing).returning(Thing.x)
    with engine.connect().execution_options(insertmanyvalues_page_size=1) as connection, connection.begin():
        connection.execute(statement, [{"x": x} for (x,) in ROWS])


class Deferred(Base):
    __tablename__ = "u"
    x: orm.Mapped[int] = orm.mapped_column(primary_key=True)


def save_in_bulk(engine: sqlalchemy.Engine) -> None:
    """An INSERT for each kind of thing."""
    with orm.Session(engine) as session:
        session.bulk_save_objects([Thing(x=1), Deferred(x=1), Thing(x=1)])
        session.commit()


def insert_one(engine: sqlalchemy.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1), (1)"))


def flush(engine: sqlalchemy.Engine) -> None:
    with orm.Session(engine) as session, session.begin():
        session.add_all([Thing(x=x) for (x,) in ROWS[:2]])
        session.flush()
        session.execute(sqlalchemy.text("INSERT INTO t VALUES (5)"))
        session.add(Thing(x=7))
        session.add(Thing(x=5))


CALLS = [insert_many, insert_pages, flush, insert_one]


@pytest.mark.parametrize("level", [None, "AUTOCOMMIT"])
@pytest.mark.parametrize("call", CALLS)
def test_sqlalchemy_over_sqlite3(call: Callable[[Any], None], level: str | None, path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", **({"isolation_level": level} if level else {}))
    error = failure(call, engine)
    assert bool(rows(path)) is (level is not None and call is not insert_one)
    assert proves(error) is (not rows(path))
    engine.dispose()


@pytest.mark.parametrize("where", ["engine", "connection"])
def test_sqlalchemy_gives_a_connection_back_in_its_old_mode(where: str, path: Path) -> None:
    """When the error is looked at, the driver's connection says that it is not in autocommit mode."""
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    options: Any = {"isolation_level": "AUTOCOMMIT"}
    if where == "engine":
        error = failure(insert_many, engine.execution_options(**options))
    else:

        def insert() -> None:
            with engine.connect().execution_options(**options) as connection:
                connection.execute(sqlalchemy.text("INSERT INTO t VALUES (:x)"), [{"x": x} for (x,) in ROWS])

        error = failure(insert)
    engine.dispose()
    assert rows(path) == 2
    assert not proves(error)


def test_sqlalchemy_over_a_connection_that_is_closed_when_its_error_is_read(path: Path) -> None:
    """The mode is the driver's. SQLAlchemy does not know it, and a closed connection does not show it."""
    options: Any = {"connect_args": {"isolation_level": None}, "poolclass": sqlalchemy.NullPool}
    error = failure(insert_many, sqlalchemy.create_engine(f"sqlite:///{path}", **options))
    assert rows(path) == 2
    assert not proves(error)


def test_sqlalchemy_saves_in_bulk(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE u (x INTEGER PRIMARY KEY)")
    for level in (None, "AUTOCOMMIT"):
        engine = sqlalchemy.create_engine(f"sqlite:///{path}", **({"isolation_level": level} if level else {}))
        error = failure(save_in_bulk, engine)
        assert bool(rows(path)) is (level is not None)
        assert proves(error) is (level is None)
        engine.dispose()


# --- Django ---


def test_django(path: Path) -> None:
    if not django.conf.settings.configured:
        django.conf.settings.configure()
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}
    with closing(ConnectionHandler({"default": database})["default"]) as connection, connection.cursor() as cursor:
        error = failure(cursor.executemany, INSERT, ROWS)
        assert rows(path) == 2
        assert not proves(error)
        assert proves(failure(cursor.execute, "INSERT INTO t VALUES (1)"))


# --- PostgreSQL ---


@pytest.fixture(scope="module")
def url(postgres: str) -> Iterator[str]:
    schema = f"batches_{uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute(f"CREATE SCHEMA {schema}")
        db.execute(f"CREATE TABLE {schema}.t (x int PRIMARY KEY)")
        db.execute(
            f"CREATE PROCEDURE {schema}.p() LANGUAGE plpgsql AS "
            "'BEGIN INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (1); END'"
        )
        db.execute(f"CREATE PROCEDURE {schema}.q() LANGUAGE sql AS 'INSERT INTO {schema}.t VALUES (1), (1)'")
        db.execute(
            f"CREATE FUNCTION {schema}.f() RETURNS int LANGUAGE plpgsql AS "
            "'BEGIN INSERT INTO t VALUES (1); INSERT INTO t VALUES (1); RETURN 1; END'"
        )
        yield psycopg.conninfo.make_conninfo(postgres, options=f"-c search_path={schema}")
        db.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
def count(url: str) -> Callable[[], int]:
    """How many rows stand."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("TRUNCATE t")

    def count() -> int:
        with psycopg.connect(url) as db:
            return int((db.execute("SELECT count(*) FROM t").fetchone() or [0])[0])

    return count


STATEMENTS = {
    # Whether a part stands, and whether the error proves that none does: in autocommit mode, and in a transaction.
    "one": ("INSERT INTO t VALUES (1), (1)", (False, False), (True, True)),
    "two": ("INSERT INTO t VALUES (1); INSERT INTO t VALUES (1)", (False, False), (True, True)),
    "function": ("SELECT f()", (False, False), (True, True)),
    "procedure": ("CALL q()", (False, False), (False, True)),
    "that commits": ("/* pays */ call p() -- now", (True, False), (False, False)),  # it may not, in a transaction
    "block": ("DO $$ BEGIN INSERT INTO t VALUES (1), (1); END $$", (False, False), (False, True)),
    "ends": ("INSERT INTO t VALUES (1); END; INSERT INTO t VALUES (1)", (True, True), (False, False)),  # a COMMIT
    "commits": ("INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (1)", (True, True), (False, False)),
}


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "sqlalchemy", "asyncpg"])
def test_statements_on_postgresql(driver: str, autocommit: bool, url: str, count: Callable[[], int]) -> None:
    for name, (statement, stands, expected) in STATEMENTS.items():
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("TRUNCATE t")
        error = failure(_EXECUTE[driver], url, autocommit, statement)
        assert bool(count()) is stands[not autocommit], name
        if driver == "asyncpg":  # it does not show a transaction
            expected = (expected[0],) * 2
        assert proves(error) is expected[not autocommit], name


def _psycopg(url: str, autocommit: bool, statement: str) -> None:
    with psycopg.connect(url, autocommit=autocommit) as db:
        db.execute(cast("Any", statement))


def _connect_psycopg2(url: str, autocommit: bool) -> Any:
    db = psycopg2.connect(url)
    db.autocommit = autocommit
    return db


def _psycopg2(url: str, autocommit: bool, statement: str) -> None:
    with closing(_connect_psycopg2(url, autocommit)) as db:
        db.cursor().execute(statement)


def _sqlalchemy(url: str, autocommit: bool, statement: str) -> None:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(url),
        poolclass=sqlalchemy.NullPool,
        isolation_level="AUTOCOMMIT" if autocommit else None,
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


async def _connected(url: str) -> Any:
    options = psycopg.conninfo.conninfo_to_dict(url)
    return await asyncpg.connect(
        host=options["host"],
        user=options["user"],
        database=options["dbname"],
        password=options.get("password"),
        port=options.get("port"),
        server_settings={"search_path": str(options["options"]).partition("=")[2]},
    )


def _asyncpg(url: str, autocommit: bool, statement: str) -> None:
    async def execute() -> None:
        db = await _connected(url)
        try:
            if autocommit:
                await db.execute(statement)
            else:
                async with db.transaction():
                    await db.execute(statement)
        finally:
            await db.close()

    wait_for(execute)


_EXECUTE: dict[str, Callable[[str, bool, str], None]] = {
    "psycopg": _psycopg,
    "psycopg2": _psycopg2,
    "sqlalchemy": _sqlalchemy,
    "asyncpg": _asyncpg,
}


def test_a_statement_that_psycopg_composes(url: str, count: Callable[[], int]) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        error = failure(db.execute, sql.SQL("CALL {}()").format(sql.Identifier("p")))
    assert count() == 1
    assert not proves(error)


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
def test_executemany_of_psycopg(autocommit: bool, url: str, count: Callable[[], int]) -> None:
    async def asynchronous() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=autocommit) as db:
            await db.cursor().executemany(INSERT, ROWS)

    with psycopg.connect(url, autocommit=autocommit) as db:
        error = failure(db.cursor().executemany, INSERT, ROWS)
    for each in (error, failure(lambda: wait_for(asynchronous))):
        assert not count()  # it sends all of them at once, which is one transaction; an older libpq does not
        assert proves(each) is not autocommit


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
@pytest.mark.parametrize(
    "call",
    [
        lambda cursor: cursor.executemany(INSERT, ROWS),
        lambda cursor: psycopg2.extras.execute_batch(cursor, INSERT, ROWS, page_size=1),
        lambda cursor: psycopg2.extras.execute_values(cursor, "INSERT INTO t VALUES %s", ROWS, page_size=1),
    ],
    ids=["executemany", "execute_batch", "execute_values"],
)
def test_executemany_of_psycopg2(call: Any, autocommit: bool, url: str, count: Callable[[], int]) -> None:
    with closing(_connect_psycopg2(url, autocommit)) as db:
        error = failure(call, db.cursor())
    assert count() == (2 if autocommit else 0)
    assert proves(error) is not autocommit


def test_a_connection_that_is_in_autocommit_mode_only_for_the_call(url: str, count: Callable[[], int]) -> None:
    def write(db: Any, cursor: Any) -> None:
        db.autocommit = True
        try:
            cursor.executemany(INSERT, ROWS)
        finally:
            db.autocommit = False

    with closing(psycopg2.connect(url)) as db:
        error = failure(write, db, db.cursor())
    assert count() == 2
    assert not proves(error)


def test_executemany_of_asyncpg_is_one_transaction(url: str, count: Callable[[], int]) -> None:
    async def write() -> None:
        db = await _connected(url)
        try:
            await db.executemany("INSERT INTO t VALUES ($1)", ROWS)
        finally:
            await db.close()

    error = failure(lambda: wait_for(write))
    assert not count()
    assert proves(error)


def test_copy_is_one_statement(url: str, count: Callable[[], int]) -> None:
    def copy() -> None:
        with psycopg.connect(url, autocommit=True) as db, db.cursor().copy("COPY t FROM STDIN") as copy:
            for row in ROWS:
                copy.write_row(row)

    error = failure(copy)
    assert not count()
    assert proves(error)


@pytest.mark.parametrize("level", [None, "AUTOCOMMIT"])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("call", CALLS)
def test_sqlalchemy_over_postgresql(
    call: Callable[[Any], None], driver: str, level: str | None, url: str, count: Callable[[], int]
) -> None:
    connect = psycopg.connect if driver == "psycopg" else psycopg2.connect
    engine = sqlalchemy.create_engine(
        f"postgresql+{driver}://", creator=lambda: connect(url), **({"isolation_level": level} if level else {})
    )
    error = failure(call, engine)
    engine.dispose()
    standing = count()
    assert not (standing and proves(error))
    assert proves(error) is (level is None or call is insert_one)


async def _set_asynchronously(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url) as db:
        await db.set_autocommit(True)
        try:
            await db.execute("CALL p()")
        finally:
            await db.set_autocommit(False)


def _set_the_session(url: str) -> None:
    with closing(psycopg2.connect(url)) as db:
        db.set_session(autocommit=True)
        try:
            db.cursor().execute("CALL p()")
        finally:
            db.set_session(autocommit=False)


@pytest.mark.parametrize(
    "call",
    [lambda url: wait_for(lambda: _set_asynchronously(url)), _set_the_session],
    ids=["set_autocommit", "set_session"],
)
def test_other_ways_to_set_the_mode_for_a_call(call: Any, url: str, count: Callable[[], int]) -> None:
    error = failure(call, url)
    assert count() == 1
    assert not proves(error)


@pytest.mark.parametrize("commit", ["sync", "transactions"])
@pytest.mark.parametrize("fetch", [False, True], ids=["", "fetch"])
def test_a_pipeline_of_psycopg_may_have_committed_before(
    commit: str, fetch: bool, url: str, count: Callable[[], int]
) -> None:
    """The error of one statement shows in the call of another, or at the end of the pipeline."""

    def write() -> None:
        with psycopg.connect(url, autocommit=True) as db, db.pipeline() as pipeline:
            for _ in range(2):
                if commit == "transactions":
                    with db.transaction():
                        cursor = db.execute("INSERT INTO t VALUES (1) RETURNING x")
                else:
                    cursor = db.execute("INSERT INTO t VALUES (1) RETURNING x")
                if commit == "sync":
                    pipeline.sync()
                if fetch:
                    cursor.fetchall()

    error = failure(write)
    assert count() == 1
    assert not proves(error)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
@pytest.mark.parametrize(
    "cut",
    [lambda error: error.with_traceback(None), lambda error: pickle.loads(pickle.dumps(error))],
    ids=["cut", "pickled"],
)
def test_a_traceback_that_was_lost_shows_no_call(cut: Any, driver: str, url: str, count: Callable[[], int]) -> None:
    """The call may have been one that commits by itself. Between two processes, an error has no traceback."""
    error = cut(failure(_EXECUTE[driver], url, True, "CALL p()"))
    assert count() == 1
    assert not proves(error)

    def raise_again() -> None:
        raise error

    assert not proves(failure(raise_again))


def test_an_error_that_was_made_by_hand_says_what_its_class_says() -> None:
    """As in a fake of the database."""
    for error in (psycopg.errors.UniqueViolation("x"), sqlite3.IntegrityError()):

        def raise_it(error: Exception = error) -> None:
            raise error

        assert proves(failure(raise_it))


# --- the user's code after a commit ---


def _refused(*_: Any, **__: Any) -> None:
    httpx.post("http://127.0.0.1:1/", trust_env=False)


@pytest.mark.parametrize("hook", ["on_commit", "post_save"])
@pytest.mark.parametrize("writes", [False, True], ids=["client", "database"])
def test_djangos_hooks_after_a_commit(hook: str, writes: bool, path: Path) -> None:
    """The hook's error comes out of the call that has committed."""
    if not django.conf.settings.configured:
        django.conf.settings.configure()
    django.setup()
    model = _model()
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}
    with closing(ConnectionHandler({"default": database})["default"]) as connection:
        connection.alias = "hooks"
        django.db.connections["hooks"] = connection

        def act(*_: Any, **__: Any) -> None:
            if not writes:
                _refused()
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO t VALUES (1)")

        def write() -> None:
            if hook == "post_save":
                model(x=1).save(using="hooks", force_insert=True)
                return
            with django.db.transaction.atomic(using="hooks"):
                model(x=1).save(using="hooks", force_insert=True)
                django.db.transaction.on_commit(act, using="hooks")

        if hook == "post_save":
            django.db.models.signals.post_save.connect(act, sender=model)
        try:
            error = failure(write)
        finally:
            django.db.models.signals.post_save.disconnect(act, sender=model)
            del django.db.connections["hooks"]
    assert rows(path) == 1
    assert not proves(error)


@cache
def _model() -> Any:
    meta = type("Meta", (), {"app_label": "tests", "db_table": "t"})
    of = {"__module__": __name__, "Meta": meta, "x": django.db.models.IntegerField(primary_key=True)}
    return type("Row", (django.db.models.Model,), of)


@pytest.mark.parametrize("writes", [False, True], ids=["client", "database"])
def test_sqlalchemys_hooks_after_a_commit(writes: bool, path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with orm.Session(engine) as session:
        sqlalchemy.event.listen(session, "after_commit", lambda _: insert_one(engine) if writes else _refused())
        session.add(Thing(x=1))
        error = failure(session.commit)
    engine.dispose()
    assert rows(path) == 1
    assert not proves(error)


def test_a_session_of_two_databases_commits_one_after_the_other(url: str, count: Callable[[], int]) -> None:
    """In no fixed order: so this one is repeated until the first commit is the one that stands."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE TABLE IF NOT EXISTS u (x int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    engines = [sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url)) for _ in "12"]

    def write() -> None:
        with orm.Session(binds={Thing: engines[0], Deferred: engines[1]}) as session:
            session.execute(sqlalchemy.insert(Thing).values(x=1))
            session.execute(sqlalchemy.insert(Deferred).values([{"x": 1}, {"x": 1}]))
            session.commit()

    for _ in range(40):
        error = failure(write)
        assert not proves(error)
        if count():
            break
    for engine in engines:
        engine.dispose()
    assert count() == 1


@pytest.mark.parametrize("text", ["/*" * 20_000, "commit " * 20_000 + "x", "; " * 50_000, "begin " * 20_000])
def test_a_long_statement_is_read_at_once(text: str, url: str) -> None:
    with psycopg.connect(url) as db:
        error = failure(db.execute, f"SELECT nothing_of_that_name {text}")
    began = time.process_time()
    classify(error)
    assert time.process_time() - began < 1
