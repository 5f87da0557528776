"""Django's errors over a driver's, and the drivers that say little: psycopg2, asyncpg, MySQL's numbers, oracledb."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import django.conf
import django.db
import oracledb
import psycopg2
import psycopg2.errors
import pymysql.err  # type: ignore[import-untyped, unused-ignore]
import pytest
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.db.utils import ConnectionHandler

from temporal_saga.classification import Profile, Rule, classify
from temporal_saga.errors import FailureKind
from tests.libraries.calls import failure
from tests.libraries.servers import Servers, listening_once, refusing_port, serve

K = FailureKind
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with serve() as servers:
        yield servers


# --- Django ---


@pytest.fixture
def connection() -> Iterator[DatabaseWrapper]:
    if not django.conf.settings.configured:
        django.conf.settings.configure()
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    connection = cast("DatabaseWrapper", ConnectionHandler({"default": database})["default"])
    yield connection
    connection.close()


def test_django_wraps_the_error_of_one_statement(connection: DatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        cursor.execute("INSERT INTO t VALUES (1)")
        error = failure(cursor.execute, "INSERT INTO t VALUES (1)")
        assert isinstance(error, django.db.IntegrityError)
        assert classify(error) is K.REJECTED
        assert classify(error, profile=Profile([Rule("sqlite3", "IntegrityError", K.CONFLICT)])) is K.CONFLICT
        assert classify(failure(cursor.execute, "no such statement")) is K.BUG


def test_django_over_psycopg2(servers: Servers) -> None:
    from django.db.backends.postgresql.base import DatabaseWrapper as Postgres

    with refusing_port() as port:
        postgres = Postgres({**django.db.connections.databases["default"], **_postgres(port)})
        error = failure(postgres.ensure_connection)
    assert isinstance(error, django.db.OperationalError)
    assert classify(error) is K.NOT_SENT


def _postgres(port: int) -> dict[str, Any]:
    return {"NAME": "x", "USER": "x", "PASSWORD": "x", "HOST": "127.0.0.1", "PORT": port, "OPTIONS": {}}


def test_django_by_itself_says_nothing() -> None:
    assert classify(django.db.DatabaseError("no")) is K.BUG
    assert classify(django.db.transaction.TransactionManagementError("no")) is K.BUG


# --- PostgreSQL; the states themselves are test_postgres.py's ---


def test_psycopg2_says_by_its_text_that_it_was_connecting(servers: Servers) -> None:
    with refusing_port() as port:
        assert classify(failure(psycopg2.connect, host="127.0.0.1", port=port, user="x")) is K.NOT_SENT
    name = failure(psycopg2.connect, host="name.invalid", user="x")
    assert classify(name) is K.NOT_SENT
    # What libpq says of a connection that is lost, at COMMIT as well; and that of a server's own.
    assert classify(psycopg2.OperationalError("server closed the connection unexpectedly")) is K.AMBIGUOUS
    assert classify(psycopg2.OperationalError("SSL connection has been closed unexpectedly")) is K.AMBIGUOUS


def test_asyncpg() -> None:
    async def connect(port: int) -> None:
        await asyncpg.connect(host="127.0.0.1", port=port, user="x", timeout=1, ssl=False)

    loop = asyncio.new_event_loop()
    with refusing_port() as port:
        assert classify(failure(loop.run_until_complete, connect(port))) is K.NOT_SENT
    loop.close()
    # Constructed: test_postgres.py has the states from a real server, with psycopg.
    for of, expected in {
        asyncpg.UniqueViolationError: K.REJECTED,
        asyncpg.DeadlockDetectedError: K.CONFLICT,
        asyncpg.TooManyConnectionsError: K.NOT_SENT,
        asyncpg.ConnectionDoesNotExistError: K.AMBIGUOUS,
        asyncpg.InvalidPasswordError: K.AUTH,
    }.items():
        assert classify(of("no")) is expected, of


# --- MySQL ---


@pytest.mark.parametrize(
    ("number", "text", "expected"),
    [
        (1290, "running with the --read-only option", K.CONFLICT),
        (1290, "running with the --secure-file-priv option", K.REJECTED),
        (1644, "raised by a trigger", K.REJECTED),
        (1836, "read-only mode", K.CONFLICT),
        (3101, "rolled back during commit", K.CONFLICT),
        (3572, "NOWAIT", K.CONFLICT),
        (3819, "a CHECK constraint", K.REJECTED),
        (4025, "a CONSTRAINT of MariaDB's", K.REJECTED),
    ],
)
def test_mysqls_numbers(number: int, text: str, expected: FailureKind) -> None:
    assert classify(pymysql.err.OperationalError(number, text)) is expected


# --- Oracle. No server is at hand: the driver's own exceptions, with what it puts into them. ---


def test_oracle_refused() -> None:
    with refusing_port() as port:
        error = failure(oracledb.connect, user="x", password="x", host="127.0.0.1", port=port, service_name="x")
    assert classify(error) is K.NOT_SENT


def test_oracle_lost_while_it_connects(servers: Servers) -> None:
    connect = {"user": "x", "password": "x", "host": "127.0.0.1", "service_name": "x", "tcp_connect_timeout": 0.3}
    assert classify(failure(oracledb.connect, port=servers.full, **connect)) is K.NOT_SENT
    with listening_once() as url:
        port = int(url.rpartition(":")[2].strip("/"))
        assert classify(failure(oracledb.connect, port=port, **connect)) in (K.NOT_SENT, K.AMBIGUOUS)


@pytest.mark.parametrize(
    ("of", "code", "full_code", "expected"),
    [
        (oracledb.IntegrityError, 1, "ORA-00001", K.REJECTED),
        (oracledb.IntegrityError, 2291, "ORA-02291", K.REJECTED),
        (oracledb.DatabaseError, 54, "ORA-00054", K.CONFLICT),
        (oracledb.DatabaseError, 60, "ORA-00060", K.CONFLICT),
        (oracledb.OperationalError, 8177, "ORA-08177", K.CONFLICT),
        (oracledb.DatabaseError, 20001, "ORA-20001", K.REJECTED),
        (oracledb.DatabaseError, 1017, "ORA-01017", K.AUTH),
        (oracledb.DatabaseError, 3113, "ORA-03113", K.AMBIGUOUS),
        (oracledb.OperationalError, 0, "DPY-4011", K.AMBIGUOUS),
        (oracledb.OperationalError, 0, "DPY-6005", K.NOT_SENT),
        (oracledb.InterfaceError, 0, "DPY-1001", K.BUG),
    ],
)
def test_oracles_codes(of: Any, code: int, full_code: str, expected: FailureKind) -> None:
    assert classify(of(SimpleNamespace(code=code, full_code=full_code))) is expected
