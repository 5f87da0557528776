"""Redis, MySQL and MongoDB: the real clients, with the answers that their protocols have."""

from __future__ import annotations

import functools
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pymongo
import pymongo.errors
import pymysql  # type: ignore[import-untyped, unused-ignore]
import pymysql.err  # type: ignore[import-untyped, unused-ignore]
import pytest
import redis
import valkey
from pymongo.helpers_shared import _check_command_response, _check_write_command_response
from pymongo.synchronous import client_session
from redis.backoff import NoBackoff
from redis.retry import Retry

from temporal_saga.classification._read import kind_of
from temporal_saga.errors import FailureKind
from tests.libraries.servers import Servers, refusing_port, serve

K = FailureKind


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with serve() as servers:
        yield servers


# --- Redis ---


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """Run a server that gives one answer to all; None: it closes."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while (line := self.rfile.readline()) and answer is not None:
                if line.startswith(b"*"):
                    for _ in range(int(line[1:])):
                        self.rfile.readline()
                        self.rfile.readline()
                    self.wfile.write(answer + b"\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


def redis_error(port: int, **options: Any) -> Exception:
    config = {"retry": Retry(NoBackoff(), 0), "protocol": 2, "driver_info": None, **options}
    with redis.Redis("127.0.0.1", port, **config) as client:
        with pytest.raises(redis.RedisError) as raised:
            client.incr("x")
        return raised.value


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"-READONLY You can't write against a read only replica.", K.CONFLICT),
        (b"-CLUSTERDOWN The cluster is down", K.CONFLICT),
        (b"-TRYAGAIN Multiple keys request during rehashing of slot", K.CONFLICT),
        (b"-MOVED 866 127.0.0.1:1", K.CONFLICT),
        (b"-OOM command not allowed when used memory > 'maxmemory'", K.THROTTLED),
        (b"-NOPERM this user has no permissions to run the command", K.AUTH),
        (b"-EXECABORT Transaction discarded because of previous errors.", K.REJECTED),
        (b"-NOSCRIPT No matching script. Please use EVAL.", K.REJECTED),
        (b"-LOADING Redis is loading the dataset in memory", K.AMBIGUOUS),
        (b"-ERR value is not an integer or out of range", K.BUG),
        (None, K.AMBIGUOUS),
    ],
    ids=[
        "readonly",
        "clusterdown",
        "tryagain",
        "moved",
        "oom",
        "noperm",
        "execabort",
        "noscript",
        "loading",
        "err",
        "closed",
    ],
)
def test_redis(answer: bytes | None, expected: FailureKind) -> None:
    with answering(answer) as port:
        assert kind_of(redis_error(port), (), {}) is expected


def test_redis_wrong_password() -> None:
    with answering(b"-WRONGPASS invalid username-password pair") as port:
        assert kind_of(redis_error(port, password="x"), (), {}) is K.AUTH


# redis-py connects, sends and tries again by itself: the last of its tries proves nothing.
def test_redis_refused_and_stalled(servers: Servers) -> None:
    assert kind_of(redis_error(servers.refusing), (), {}) is K.AMBIGUOUS
    assert kind_of(redis_error(servers.full, socket_connect_timeout=0.3), (), {}) is K.AMBIGUOUS


def test_redis_without_a_free_connection() -> None:
    with answering(b":1") as port:
        pool = redis.ConnectionPool(host="127.0.0.1", port=port, max_connections=1, protocol=2, driver_info=None)
        taken = pool.get_connection()
        with pytest.raises(redis.ConnectionError) as raised:
            pool.get_connection()
        pool.release(taken)
        pool.disconnect()
    assert kind_of(raised.value, (), {}) is K.NOT_SENT


def test_redis_watch() -> None:
    # The answer of an EXEC whose watched key has changed.
    with answering(b"*-1") as port, redis.Redis("127.0.0.1", port, protocol=2, driver_info=None) as client:
        pipe = client.pipeline(transaction=True)
        pipe.incr("x")
        with pytest.raises(redis.RedisError) as raised:
            pipe.execute()
        pipe.reset()
    assert kind_of(raised.value, (), {}) is K.CONFLICT


# valkey-py is redis-py's fork: what it raises means the same.
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"-READONLY You can't write against a read only replica.", K.CONFLICT),
        (b"-OOM command not allowed when used memory > 'maxmemory'", K.THROTTLED),
        (b"-NOPERM this user has no permissions to run the command", K.AUTH),
        (b"-EXECABORT Transaction discarded because of previous errors.", K.REJECTED),
        (b"-LOADING Valkey is loading the dataset in memory", K.AMBIGUOUS),
        (b"-ERR value is not an integer or out of range", K.BUG),
        (None, K.AMBIGUOUS),
    ],
    ids=["readonly", "oom", "noperm", "execabort", "loading", "err", "closed"],
)
def test_valkey(answer: bytes | None, expected: FailureKind) -> None:
    with answering(answer) as port:
        assert kind_of(valkey_error(port), (), {}) is expected


def test_valkey_wrong_password() -> None:
    with answering(b"-WRONGPASS invalid username-password pair") as port:
        assert kind_of(valkey_error(port, password="x"), (), {}) is K.AUTH


def test_valkey_refused_and_stalled(servers: Servers) -> None:
    assert kind_of(valkey_error(servers.refusing), (), {}) is K.AMBIGUOUS
    assert kind_of(valkey_error(servers.full, socket_connect_timeout=0.3), (), {}) is K.AMBIGUOUS


def valkey_error(port: int, **options: Any) -> Exception:
    with valkey.Valkey("127.0.0.1", port, **options) as client:
        with pytest.raises(valkey.ValkeyError) as raised:
            client.incr("x")
        return raised.value


# --- MySQL ---


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1040, K.NOT_SENT),  # too many connections
        (1044, K.AUTH),
        (1045, K.AUTH),
        (1048, K.REJECTED),  # not null
        (1062, K.REJECTED),  # duplicate key
        (1064, K.BUG),  # syntax
        (1142, K.AUTH),
        (1146, K.BUG),  # no such table
        (1203, K.NOT_SENT),  # too many connections of one user
        (1205, K.CONFLICT),  # lock wait timeout
        (1213, K.CONFLICT),  # deadlock
        (1226, K.THROTTLED),
        (1264, K.REJECTED),  # out of range
        (1452, K.REJECTED),  # foreign key
        (1698, K.AUTH),
        (2002, K.NOT_SENT),
        (2005, K.NOT_SENT),
        (2006, K.AMBIGUOUS),
        (2013, K.AMBIGUOUS),
        (4031, K.AMBIGUOUS),
    ],
)
def test_mysql(number: int, expected: FailureKind) -> None:
    packet = b"\xff" + struct.pack("<h", number) + b"#HY000no"
    with pytest.raises(pymysql.MySQLError) as raised:
        pymysql.err.raise_mysql_exception(packet)
    assert kind_of(cast("BaseException", raised.value), (), {}) is expected


def test_mysql_refused() -> None:
    with refusing_port() as port, pytest.raises(pymysql.MySQLError) as raised:
        pymysql.connect(host="127.0.0.1", port=port, user="x")
    assert kind_of(cast("BaseException", raised.value), (), {}) is K.NOT_SENT


# --- MongoDB ---


def mongo_error(answer: dict[str, Any]) -> Exception:
    check = (
        _check_write_command_response
        if answer["ok"]
        else functools.partial(_check_command_response, max_wire_version=None)
    )
    with pytest.raises(pymongo.errors.PyMongoError) as raised:
        check(answer)
    return raised.value


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"ok": 0, "code": 13, "errmsg": "not authorized"}, K.AUTH),
        ({"ok": 0, "code": 18, "errmsg": "authentication failed"}, K.AUTH),
        ({"ok": 0, "code": 112, "errmsg": "write conflict"}, K.CONFLICT),
        ({"ok": 0, "code": 251, "errmsg": "x", "errorLabels": ["TransientTransactionError"]}, K.CONFLICT),
        (
            {
                "ok": 0,
                "code": 91,
                "errmsg": "x",
                "errorLabels": ["UnknownTransactionCommitResult", "TransientTransactionError"],
            },
            K.AMBIGUOUS,
        ),
        ({"ok": 0, "code": 50, "errmsg": "exceeded time limit"}, K.AMBIGUOUS),
        ({"ok": 0, "code": 10107, "errmsg": "not primary"}, K.AMBIGUOUS),
        ({"ok": 1, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "duplicate key"}]}, K.REJECTED),
        ({"ok": 1, "writeErrors": [{"index": 0, "code": 121, "errmsg": "failed validation"}]}, K.REJECTED),
        ({"ok": 1, "writeConcernError": {"code": 64, "errmsg": "timed out"}}, K.AMBIGUOUS),
    ],
    ids=[
        *(
            "unauthorized",
            "authentication",
            "write-conflict",
            "transient",
            "unknown-commit",
            "time-limit",
            "not-primary",
        ),
        *("duplicate-key", "validation", "write-concern"),
    ],
)
def test_mongo(answer: dict[str, Any], expected: FailureKind) -> None:
    assert kind_of(mongo_error(answer), (), {}) is expected


def test_mongo_refused() -> None:
    with refusing_port() as port:
        client: pymongo.MongoClient[Any] = pymongo.MongoClient("127.0.0.1", port, serverSelectionTimeoutMS=300)
        with client, pytest.raises(pymongo.errors.PyMongoError) as raised:
            client.db.things.insert_one({})
    assert kind_of(raised.value, (), {}) is K.NOT_SENT


# As `with_transaction` tries it when its first commit was sent and not answered.
def test_mongo_a_second_try_of_a_commit_that_finds_no_server() -> None:
    with refusing_port() as port:
        client: pymongo.MongoClient[Any] = pymongo.MongoClient("127.0.0.1", port, serverSelectionTimeoutMS=300)
        with client, client.start_session() as session, session.start_transaction():
            session._transaction.state = client_session._TxnState.COMMITTED  # type: ignore[attr-defined]
            with pytest.raises(pymongo.errors.ServerSelectionTimeoutError) as raised:
                session.commit_transaction()
            session._transaction.state = client_session._TxnState.NONE  # type: ignore[attr-defined]
    assert raised.value.has_error_label("UnknownTransactionCommitResult")
    assert kind_of(raised.value, (), {}) is K.AMBIGUOUS


def test_mongo_a_full_pool() -> None:
    error = pymongo.errors.WaitQueueTimeoutError("full")
    assert kind_of(error, (), {}) is K.NOT_SENT
    error._add_error_label("UnknownTransactionCommitResult")
    assert kind_of(error, (), {}) is K.AMBIGUOUS


def test_mongo_part_of_a_bulk_write_may_be_done() -> None:
    error = pymongo.errors.BulkWriteError({"writeErrors": [], "nInserted": 1})
    assert kind_of(error, (), {}) is K.AMBIGUOUS
