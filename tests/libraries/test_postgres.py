"""psycopg against a real PostgreSQL: what rolls back, what may have been committed, and what never began."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import django.conf
import psycopg
import psycopg2
import pytest
import sqlalchemy
import sqlalchemy.exc
from django.db.utils import ConnectionHandler
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from temporal_saga.classification._read import kind_of
from temporal_saga.errors import FailureKind
from tests.libraries.servers import Servers, refusing_port, reset, serve, speaking
from tests.postgres import server

K = FailureKind


@pytest.fixture(scope="module")
def url(postgres: str) -> Iterator[str]:
    """The database, with a schema of our own as the search path."""
    schema = f"libraries_{uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute(f"CREATE SCHEMA {schema}")
        yield make_conninfo(postgres, options=f"-c search_path={schema}")
        db.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
def open_db(url: str) -> Iterator[Callable[[], psycopg.Connection[Any]]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closed_without_commit(url))


@contextmanager
def closed_without_commit(url: str) -> Iterator[psycopg.Connection[Any]]:
    db = psycopg.connect(url)
    try:
        yield db
    finally:
        db.close()


Open = Callable[[], psycopg.Connection[Any]]


@pytest.fixture
def db(open_db: Open) -> psycopg.Connection[Any]:
    """A connection; its database has the rows 1 and 2."""
    db = open_db()
    db.execute("DROP TABLE IF EXISTS t CASCADE")
    db.execute("CREATE TABLE t (x int PRIMARY KEY CHECK (x > 0), y int NOT NULL DEFAULT 0)")
    db.execute("INSERT INTO t VALUES (1), (2)")
    db.commit()
    return db


def kind(db: psycopg.Connection[Any], statement: Any, *, sqlstate: str | None) -> FailureKind:
    with pytest.raises(psycopg.Error) as raised:
        db.execute(statement)
    assert raised.value.sqlstate == sqlstate
    return kind_of(raised.value, (), {})


def kill(open_db: Open, victim: psycopg.Connection[Any]) -> None:
    pid = victim.info.backend_pid
    killer = open_db()
    killer.autocommit = True
    killer.execute("SELECT pg_terminate_backend(%s)", [pid])
    while killer.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone():
        time.sleep(0.01)


def wait_until(open_db: Open, condition: str, arguments: list[object]) -> None:
    with open_db() as db:
        db.autocommit = True
        while db.execute(f"SELECT 1 FROM pg_stat_activity WHERE {condition}", arguments).fetchone() is None:
            time.sleep(0.01)


# --- rolled back ---


def test_deadlock(db: psycopg.Connection[Any], open_db: Open) -> None:
    other = open_db()
    both_hold = threading.Barrier(2)

    def update(db: psycopg.Connection[Any], *rows: int) -> BaseException | None:
        try:
            db.execute("UPDATE t SET y = 1 WHERE x = %s", [rows[0]])
            both_hold.wait(30)
            db.execute("UPDATE t SET y = 1 WHERE x = %s", [rows[1]])
            db.commit()
        except psycopg.Error as error:
            db.rollback()
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(update, [db, other], [1, 2], [2, 1]))
    (error,) = [end for end in ends if end is not None]
    assert isinstance(error, psycopg.errors.DeadlockDetected)
    assert kind_of(error, (), {}) is K.CONFLICT


def test_serialization_failure(db: psycopg.Connection[Any], open_db: Open) -> None:
    other = open_db()
    db.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    db.execute("SELECT * FROM t")
    other.execute("UPDATE t SET y = 1 WHERE x = 1")
    other.commit()
    assert kind(db, "UPDATE t SET y = 2 WHERE x = 1", sqlstate="40001") is K.CONFLICT


def test_serialization_failure_as_it_commits(db: psycopg.Connection[Any], open_db: Open) -> None:
    other = open_db()
    for each, row in (db, 1), (other, 2):
        each.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        each.execute("SELECT sum(y) FROM t")
        each.execute("UPDATE t SET y = 1 WHERE x = %s", [row])
    other.commit()
    with pytest.raises(psycopg.errors.SerializationFailure) as raised:
        db.commit()
    assert kind_of(raised.value, (), {}) is K.CONFLICT


def test_lock_timeout(db: psycopg.Connection[Any], open_db: Open) -> None:
    open_db().execute("UPDATE t SET y = 1 WHERE x = 1")
    db.execute("SET LOCAL lock_timeout = '50ms'")
    assert kind(db, "UPDATE t SET y = 2 WHERE x = 1", sqlstate="55P03") is K.CONFLICT


def test_lock_not_available(db: psycopg.Connection[Any], open_db: Open) -> None:
    open_db().execute("UPDATE t SET y = 1 WHERE x = 1")
    assert kind(db, "SELECT * FROM t FOR UPDATE NOWAIT", sqlstate="55P03") is K.CONFLICT


def test_statement_timeout(db: psycopg.Connection[Any]) -> None:
    db.execute("SET LOCAL statement_timeout = '50ms'")
    assert kind(db, "SELECT pg_sleep(60)", sqlstate="57014") is K.CONFLICT


def test_idle_in_transaction(db: psycopg.Connection[Any], open_db: Open) -> None:
    db.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
    with open_db() as other:
        while other.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [db.info.backend_pid]).fetchone():
            other.rollback()
            time.sleep(0.01)
    assert kind(db, "SELECT 1", sqlstate="25P03") is K.CONFLICT


def test_a_read_only_server(db: psycopg.Connection[Any]) -> None:
    db.execute("SET TRANSACTION READ ONLY")
    assert kind(db, "INSERT INTO t VALUES (3)", sqlstate="25006") is K.CONFLICT


# --- refused ---


@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("INSERT INTO t VALUES (1)", "23505"),
        ("INSERT INTO t VALUES (0)", "23514"),
        ("INSERT INTO t VALUES (3, NULL)", "23502"),
        ("INSERT INTO t VALUES (3, 99999999999)", "22003"),
        ("SELECT 1 / 0", "22012"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELEC", "42601"),
        ("DO $$ BEGIN RAISE 'no'; END $$", "P0001"),
    ],
)
def test_rejected(db: psycopg.Connection[Any], statement: str, sqlstate: str) -> None:
    assert kind(db, statement, sqlstate=sqlstate) is K.REJECTED


def test_not_allowed(db: psycopg.Connection[Any]) -> None:
    role = f"libraries_{uuid4().hex}"
    db.execute(f"CREATE ROLE {role}")
    db.execute(f"SET ROLE {role}")
    assert kind(db, "CREATE ROLE x", sqlstate="42501") is K.AUTH


def test_a_transaction_that_has_failed(db: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error):
        db.execute("SELECT 1 / 0")
    assert kind(db, "SELECT 1", sqlstate="25P02") is K.BUG


def test_what_psycopg_itself_refuses(db: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.ProgrammingError) as raised:
        db.execute("SELECT %s", [object()])
    assert kind_of(raised.value, (), {}) is K.BUG


# States that a server has only in trouble; here a function raises them.
@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("08001", K.NOT_SENT),
        ("08003", K.AMBIGUOUS),
        ("08004", K.NOT_SENT),
        ("08006", K.AMBIGUOUS),
        ("08007", K.AMBIGUOUS),
        ("0A000", K.REJECTED),
        ("21000", K.REJECTED),
        ("28P01", K.AUTH),
        ("40002", K.CONFLICT),
        ("40003", K.AMBIGUOUS),
        ("44000", K.REJECTED),
        ("53100", K.THROTTLED),
        ("53200", K.THROTTLED),
        ("53300", K.NOT_SENT),
        ("54000", K.REJECTED),
        ("55000", K.BUG),
        ("55006", K.CONFLICT),
        ("57P02", K.AMBIGUOUS),
        ("57P03", K.NOT_SENT),
        ("57P05", K.NOT_SENT),
        ("58030", K.AMBIGUOUS),
        ("XX000", K.AMBIGUOUS),
        ("ZZ999", K.BUG),
    ],
)
def test_states(db: psycopg.Connection[Any], sqlstate: str, expected: FailureKind) -> None:
    statement = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $$"
    assert kind(db, statement, sqlstate=sqlstate) is expected


# --- lost ---


def test_killed_earlier_in_a_transaction_cannot_be_told_from_the_commit(
    db: psycopg.Connection[Any], open_db: Open
) -> None:
    db.execute("INSERT INTO t VALUES (3)")
    kill(open_db, db)
    assert kind(db, "INSERT INTO t VALUES (4)", sqlstate="57P01") is K.AMBIGUOUS
    assert kind(db, "INSERT INTO t VALUES (5)", sqlstate=None) is K.AMBIGUOUS  # "the connection is closed"


def slow_commit(db: psycopg.Connection[Any], seconds: float) -> None:
    """Insert row 3, in a transaction whose COMMIT takes that long."""
    db.execute(
        "CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql "
        f"AS 'BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END'"
    )
    db.execute(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    db.commit()
    db.execute("INSERT INTO t VALUES (3)")


def commit_while(db: psycopg.Connection[Any], open_db: Open, act: Callable[[], None]) -> psycopg.Error:
    """Commit, act when the server is in the middle of it, and return how the commit fails."""
    pid = db.info.backend_pid

    def act_as_it_commits() -> None:
        wait_until(open_db, "pid = %s AND query ILIKE 'commit' AND wait_event = 'PgSleep'", [pid])
        act()

    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(act_as_it_commits)
        with pytest.raises(psycopg.Error) as raised:
            db.commit()
        acting.result()
    return raised.value


def test_killed_in_the_middle_of_commit(db: psycopg.Connection[Any], open_db: Open) -> None:
    slow_commit(db, 60)
    error = commit_while(db, open_db, lambda: kill(open_db, db))
    assert error.sqlstate == "57P01"
    assert kind_of(error, (), {}) is K.AMBIGUOUS
    assert open_db().execute("SELECT 1 FROM t WHERE x = 3").fetchone() is None


def test_a_commit_whose_answer_is_lost_may_have_committed(db: psycopg.Connection[Any], open_db: Open) -> None:
    slow_commit(db, 1)

    def cut() -> None:
        with socket.socket(fileno=os.dup(db.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)

    error = commit_while(db, open_db, cut)
    assert error.sqlstate is None
    assert kind_of(error, (), {}) is K.AMBIGUOUS
    wait_until(open_db, "EXISTS (SELECT 1 FROM t WHERE x = 3)", [])  # it did


# --- never made ---


def connecting(conninfo: str, **options: Any) -> FailureKind:
    with pytest.raises(psycopg.Error) as raised:
        psycopg.connect(conninfo, **options).close()
    assert raised.value.sqlstate is None
    return kind_of(raised.value, (), {})


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with serve() as servers:
        yield servers


def test_a_refused_connection() -> None:
    with refusing_port() as port:
        assert connecting(f"host=127.0.0.1 port={port} user=x dbname=x") is K.NOT_SENT


def test_a_server_that_does_not_answer(servers: Servers) -> None:
    assert connecting(f"host=127.0.0.1 port={servers.full} user=x dbname=x connect_timeout=2") is K.NOT_SENT


# A server of its own: one that lets everyone in, as that of the other tests does, knows no wrong password.
def test_a_wrong_password() -> None:
    with server() as url:
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("CREATE ROLE someone LOGIN PASSWORD 'right'")
            (path,) = db.execute("SHOW hba_file").fetchone() or ()
            rules = Path(path).read_text()
            Path(path).write_text(f"local all someone scram-sha-256\nhost all someone all scram-sha-256\n{rules}")
            db.execute("SELECT pg_reload_conf()")
            while db.execute("SELECT 1 FROM pg_hba_file_rules WHERE 'someone' = ANY(user_name)").fetchone() is None:
                time.sleep(0.01)
        assert connecting(url, user="someone", password="wrong") is K.AUTH


def test_no_such_database(url: str) -> None:
    assert connecting(url, dbname="nowhere") is K.NOT_SENT


def test_too_many_connections(url: str, db: psycopg.Connection[Any]) -> None:
    role = f"libraries_{uuid4().hex}"
    db.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'right' CONNECTION LIMIT 0")
    db.commit()
    try:
        assert connecting(url, user=role, password="right") is K.NOT_SENT
    finally:
        db.execute(f"DROP ROLE {role}")
        db.commit()


# --- pools, SQLAlchemy ---


def test_a_pool_without_a_free_connection(url: str) -> None:
    with ConnectionPool(url, min_size=1, max_size=1, timeout=30, max_waiting=1, open=True) as pool:
        with ThreadPoolExecutor(1) as threads:
            with pool.connection():
                waiting = threads.submit(pool.getconn)
                while not pool.get_stats().get("requests_waiting"):
                    time.sleep(0.01)
                with pytest.raises(TooManyRequests) as refused:
                    pool.getconn()
            taken = waiting.result()
        with pytest.raises(PoolTimeout) as timed_out:
            pool.getconn(timeout=0.1)
        pool.putconn(taken)
    with pytest.raises(PoolClosed) as closed:
        pool.getconn()
    assert kind_of(timed_out.value, (), {}) is K.NOT_SENT
    assert kind_of(refused.value, (), {}) is K.NOT_SENT
    assert kind_of(closed.value, (), {}) is K.BUG


def test_a_pool_that_cannot_connect() -> None:
    with refusing_port() as port:
        pool = ConnectionPool(f"host=127.0.0.1 port={port}", min_size=1, open=True, timeout=0.3, reconnect_timeout=0)
        with pool, pytest.raises(PoolTimeout) as raised, pool.connection():
            pass
    assert kind_of(raised.value, (), {}) is K.NOT_SENT


@pytest.fixture
def engine(url: str) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    yield engine
    engine.dispose()


def test_sqlalchemy_unique(db: psycopg.Connection[Any], engine: sqlalchemy.Engine) -> None:
    with pytest.raises(sqlalchemy.exc.IntegrityError) as raised, engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
    assert kind_of(raised.value, (), {}) is K.REJECTED


def test_sqlalchemy_killed(db: psycopg.Connection[Any], engine: sqlalchemy.Engine, open_db: Open) -> None:
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (3)"))
        kill(open_db, connection.connection.driver_connection)  # type: ignore[arg-type]
        with pytest.raises(sqlalchemy.exc.OperationalError) as raised:
            connection.execute(sqlalchemy.text("INSERT INTO t VALUES (4)"))
        assert raised.value.connection_invalidated
        connection.invalidate()
    assert kind_of(raised.value, (), {}) is K.AMBIGUOUS


def test_sqlalchemy_a_refused_connection() -> None:
    with refusing_port() as port:
        engine = sqlalchemy.create_engine(f"postgresql+psycopg://x@127.0.0.1:{port}/x")
        with pytest.raises(sqlalchemy.exc.OperationalError) as raised:
            engine.connect()
    assert kind_of(raised.value, (), {}) is K.NOT_SENT


# --- the other drivers, and what is around them: an INSERT that commits, whose answer does not arrive ---


@contextmanager
def between(url: str, *, resets: bool) -> Iterator[dict[str, Any]]:
    """Stand between a client and the database, and keep the answer to an INSERT back. Gives how to connect."""
    target = psycopg.conninfo.conninfo_to_dict(url)
    over = threading.Event()

    def reach() -> socket.socket:
        host, port = str(target["host"]), int(target.get("port") or 5432)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        made = socket.socket(socket.AF_UNIX)
        made.connect(f"{host}/.s.PGSQL.{port}")
        return made

    def talk(handler: Any) -> None:
        with reach() as upstream:
            has_sent, is_answered = threading.Event(), threading.Event()

            def answer() -> None:
                with suppress(OSError):
                    while data := upstream.recv(65536):
                        if has_sent.is_set():
                            is_answered.set()
                            return
                        handler.connection.sendall(data)

            thread = threading.Thread(target=answer)
            thread.start()
            handler.connection.settimeout(0.05)  # to look at the event now and then
            with suppress(OSError):
                while not is_answered.is_set():
                    try:
                        data = handler.connection.recv(65536)
                    except TimeoutError:
                        continue
                    if not data:
                        break
                    if b"INSERT INTO t VALUES (9)" in data:
                        has_sent.set()
                    upstream.sendall(data)
            if is_answered.is_set():
                reset(handler) if resets else over.wait(10)
            upstream.shutdown(socket.SHUT_RDWR)
            thread.join(10)

    with speaking(talk) as port:
        options = {"host": "127.0.0.1", "port": port, "user": target["user"], "password": target.get("password")}
        yield {key: value for key, value in options.items() if value} | {"dbname": target["dbname"]}
        over.set()


INSERT = "INSERT INTO t VALUES (9)"


def _with_psycopg(path: str, **options: Any) -> None:
    with psycopg.connect(autocommit=True, options=path, **options) as db:
        db.execute(INSERT)


def _with_a_pool(path: str, **options: Any) -> None:
    kwargs = {"autocommit": True, "options": path, **options}
    with ConnectionPool(kwargs=kwargs, min_size=1, open=True) as pool, pool.connection() as db:
        db.execute(INSERT)


def _with_psycopg2(path: str, **options: Any) -> None:
    db = psycopg2.connect(options=path, **options)
    db.autocommit = True
    db.cursor().execute(INSERT)


def _with_sqlalchemy(path: str, **options: Any) -> None:
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(options=path, **options))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sqlalchemy.text(INSERT))


def _with_django(path: str, **options: Any) -> None:
    if not django.conf.settings.configured:
        django.conf.settings.configure()
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    database = {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"options": path}}
    database |= {names[key]: value for key, value in options.items()}
    connection = ConnectionHandler({"default": database})["default"]
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(INSERT)


def _with_asyncpg(path: str, **options: Any) -> None:
    settings = {"search_path": path.partition("=")[2]}

    async def insert() -> None:
        database = options.pop("dbname")
        db = await asyncpg.connect(database=database, server_settings=settings, ssl=False, **options)
        try:
            await db.execute(INSERT, timeout=1)
        finally:
            db.terminate()

    loop = asyncio.new_event_loop()  # not `asyncio.run`, which would take the loop of the async tests away
    try:
        loop.run_until_complete(insert())
    finally:
        loop.close()


DRIVERS: dict[str, Callable[..., None]] = {
    "psycopg": _with_psycopg,
    "psycopg_pool": _with_a_pool,
    "psycopg2": _with_psycopg2,
    "sqlalchemy": _with_sqlalchemy,
    "django": _with_django,
    "asyncpg": _with_asyncpg,
}


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize(("driver", "resets"), [*((each, True) for each in DRIVERS), ("asyncpg", False)])
def test_an_insert_whose_answer_does_not_arrive(
    driver: str, resets: bool, url: str, db: psycopg.Connection[Any]
) -> None:
    """It is there. Only asyncpg waits no longer than it is told: the others have no timeout of their own."""
    path = psycopg.conninfo.conninfo_to_dict(url)["options"]
    with between(url, resets=resets) as options, pytest.raises(Exception) as raised:  # noqa: PT011
        DRIVERS[driver](path, **options)
    assert kind_of(raised.value, (), {}) is K.AMBIGUOUS
    assert db.execute("SELECT 1 FROM t WHERE x = 9").fetchone()
    db.commit()
