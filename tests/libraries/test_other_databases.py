"""Redis, MySQL and MongoDB: the real clients, with the answers that their protocols have."""

from __future__ import annotations

import importlib
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import bson
import pymongo
import pymongo.collection
import pymongo.errors
import pymysql  # type: ignore[import-untyped, unused-ignore]
import pymysql.err  # type: ignore[import-untyped, unused-ignore]
import pytest
import redis
import valkey
from pymongo.synchronous import client_session
from redis.backoff import NoBackoff
from redis.retry import Retry

from temporal_saga.classification._read import kind_of
from temporal_saga.errors import FailureKind
from tests.libraries.servers import Servers, refusing_port, reset, serve, speaking

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
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


@contextmanager
def losing_the_first(answer: bytes) -> Iterator[tuple[int, list[bool]]]:
    """Run a Redis that takes the first command, and is lost before its answer; the next one gets an answer."""
    applied: list[bool] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                words = [self.rfile.readline() and self.rfile.readline().strip() for _ in range(int(line[1:]))]
                if words[0] != b"INCRBY" and words[0] != b"INCR":
                    self.wfile.write(b"+OK\r\n")
                elif applied:
                    self.wfile.write(answer + b"\r\n")
                else:
                    applied.append(True)
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield int(server.server_address[1]), applied
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
    """redis-py counts it as a failure of the connection, which it tries again."""
    with answering(b"-WRONGPASS invalid username-password pair") as port:
        error = redis_error(port, password="x")
    assert kind_of(error, (), {}).effect == "unknown"
    assert kind_of(error, (), {}, client_retries=False) is K.AUTH


REFUSALS = [
    b"-READONLY You can't write against a read only replica.",
    b"-OOM command not allowed when used memory > 'maxmemory'",
    b"-NOPERM this user has no permissions to run the command",
    b"-MASTERDOWN Link with MASTER is down",
]


@pytest.mark.parametrize("library", [redis, valkey], ids=["redis", "valkey"])
@pytest.mark.parametrize("refusal", REFUSALS, ids=["readonly", "oom", "noperm", "masterdown"])
def test_redis_a_refusal_of_a_second_try(refusal: bytes, library: Any) -> None:
    """The first one was counted, and then the connection was lost."""
    retry: Any = importlib.import_module(f"{library.__name__}.retry")
    backoff: Any = importlib.import_module(f"{library.__name__}.backoff")
    with losing_the_first(refusal) as (port, applied):
        config = {"retry": retry.Retry(backoff.NoBackoff(), 3), "protocol": 2}
        with library.Redis("127.0.0.1", port, **config) as client, pytest.raises(Exception) as raised:  # noqa: PT011
            client.incr("x")
    assert applied == [True]
    assert kind_of(raised.value, (), {}).effect == "unknown"


def test_redis_one_of_several_commands_that_a_pipeline_sends() -> None:
    with answering(REFUSALS[1]) as port, redis.Redis("127.0.0.1", port, protocol=2, driver_info=None) as client:
        pipe = client.pipeline(transaction=False)
        pipe.incr("x")
        pipe.incr("y")
        with pytest.raises(redis.RedisError) as raised:
            pipe.execute()
    assert kind_of(raised.value, (), {}, client_retries=False).effect == "unknown"


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


@pytest.mark.parametrize("library", [redis, valkey], ids=["redis", "valkey"])
@pytest.mark.parametrize("what", ["late", "reset"])
def test_redis_gives_no_answer(what: str, library: Any) -> None:
    taken: list[bytes] = []

    def talk(handler: Any) -> None:
        while data := handler.connection.recv(1000):
            if b"INCRBY" in data:
                taken.append(data)
                if what == "reset":
                    reset(handler)
                    return
            else:
                handler.wfile.write(b"+OK\r\n" * data.count(b"CLIENT"))

    retry = Retry(NoBackoff(), 0) if library is redis else None
    with speaking(talk) as port:
        client: Any = library.Redis("127.0.0.1", port, protocol=2, socket_timeout=0.3, retry=retry)
        with client, pytest.raises(Exception) as raised:  # noqa: PT011
            client.incr("x")
    assert len(taken) == 1  # the switch works
    assert kind_of(raised.value, (), {}) is kind_of(raised.value, (), {}, client_retries=False) is K.AMBIGUOUS


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


class _Mongo(socketserver.StreamRequestHandler):
    """As much of MongoDB's protocol as it takes to answer commands (OP_MSG)."""

    def handle(self) -> None:
        while head := self.rfile.read(16):
            length, number, _, code = struct.unpack("<iiii", head)
            body = self.rfile.read(length - 16)
            # The first section of OP_MSG follows its flags and a byte; of the older OP_QUERY it follows 4 fields.
            command = bson.decode(body[5 : 5 + struct.unpack_from("<i", body, 5)[0]]) if code == 2013 else {"hello": 1}
            answer = self.server.answer(command)  # type: ignore[attr-defined]
            if answer is None:
                return
            reply = b"\0\0\0\0\0" + bson.encode(answer)
            if code != 2013:
                reply = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(answer)
            self.wfile.write(struct.pack("<iiii", 16 + len(reply), 1, number, 2013 if code == 2013 else 1) + reply)


HELLO = {
    "ok": 1,
    "isWritablePrimary": True,
    "setName": "rs",
    "hosts": ["127.0.0.1"],
    "logicalSessionTimeoutMinutes": 30,
    "maxWireVersion": 21,
    "minWireVersion": 0,
    "maxBsonObjectSize": 16_000_000,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 1000,
    "helloOk": True,
}


LATE: dict[str, Any] = {}


class Mongo(socketserver.ThreadingTCPServer):
    """Answers the writes one after another; None loses the connection in place of an answer, and `LATE` gives none.

    Attributes:
        writes: The commands that wrote, each of which is taken to have had its effect.
    """

    daemon_threads = True

    def __init__(self, answers: list[dict[str, Any] | None]) -> None:
        self.answers = answers
        self.writes: list[str] = []
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), _Mongo)

    def answer(self, command: dict[str, Any]) -> dict[str, Any] | None:
        name = next(iter(command))
        if name in ("hello", "ismaster", "isMaster"):
            return {
                **HELLO,
                "hosts": [f"127.0.0.1:{self.server_address[1]}"],
                "me": f"127.0.0.1:{self.server_address[1]}",
            }
        if name == "endSessions":
            return {"ok": 1}
        self.writes.append(name)
        answer = self.answers.pop(0)
        if answer is LATE:
            self.over.wait(20)
        return answer


Collection = pymongo.collection.Collection[Any]


def mongo_error(write: Callable[[Collection], object], *answers: dict[str, Any] | None, **options: Any) -> Exception:
    """Return what a write raises to which the server gives these answers."""
    with Mongo(list(answers)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        client: pymongo.MongoClient[Any] = pymongo.MongoClient(
            "127.0.0.1", server.server_address[1], replicaSet="rs", serverMonitoringMode="poll", **options
        )
        with client, pytest.raises(pymongo.errors.PyMongoError) as raised:
            write(client.db.things)
        server.over.set()
        server.shutdown()
        thread.join()
    assert len(server.writes) == len(answers)
    return raised.value


def insert_one(things: Collection) -> object:
    return things.insert_one({"_id": 1})


def update_many(things: Collection) -> object:
    return things.update_many({}, {"$inc": {"n": 1}})


DUPLICATE = {"ok": 1, "n": 0, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "duplicate key"}]}
UNAUTHORIZED = {"ok": 0, "code": 13, "errmsg": "not authorized"}
WRITE_CONFLICT = {"ok": 0, "code": 112, "errmsg": "write conflict"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (UNAUTHORIZED, K.AUTH),
        ({"ok": 0, "code": 18, "errmsg": "authentication failed"}, K.AUTH),
        (WRITE_CONFLICT, K.CONFLICT),
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
        (DUPLICATE, K.REJECTED),
        ({"ok": 1, "writeErrors": [{"index": 0, "code": 121, "errmsg": "failed validation"}]}, K.REJECTED),
        ({"ok": 1, "writeConcernError": {"code": 64, "errmsg": "timed out"}}, K.AMBIGUOUS),
    ],
    ids=[
        *("unauthorized", "authentication", "write-conflict", "transient", "unknown-commit", "time-limit"),
        *("duplicate-key", "validation", "write-concern"),
    ],
)
def test_mongo(answer: dict[str, Any], expected: FailureKind) -> None:
    assert kind_of(mongo_error(insert_one, answer), (), {}) is expected


@pytest.mark.parametrize("answer", [UNAUTHORIZED, DUPLICATE], ids=["unauthorized", "duplicate"])
def test_mongo_an_answer_to_a_retryable_write_that_was_sent_before(answer: dict[str, Any]) -> None:
    """The first write took effect, and the connection was lost before its answer."""
    error = mongo_error(insert_one, None, answer)
    assert kind_of(error, (), {}).effect == "unknown"


@pytest.mark.parametrize("answer", [DUPLICATE, WRITE_CONFLICT], ids=["duplicate", "conflict"])
@pytest.mark.parametrize(
    "write",
    [update_many, lambda things: things.delete_many({}), lambda things: things.database.command({"update": "things"})],
    ids=["update_many", "delete_many", "command"],
)
def test_mongo_a_write_of_many_documents_may_be_done_in_part(
    write: Callable[[Collection], object], answer: dict[str, Any]
) -> None:
    """Some documents stay changed when one fails."""
    if write.__name__ == "<lambda>" and answer is DUPLICATE:
        answer = {"ok": 0, "code": 11000, "errmsg": "duplicate key"}
    error = mongo_error(write, answer)
    assert kind_of(error, (), {}, client_retries=False).effect == "unknown"


@pytest.mark.parametrize("answer", [None, LATE], ids=["lost", "late"])
def test_mongo_gives_no_answer(answer: dict[str, Any] | None) -> None:
    error = mongo_error(insert_one, answer, retryWrites=False, socketTimeoutMS=500)
    assert kind_of(error, (), {}) is kind_of(error, (), {}, client_retries=False) is K.AMBIGUOUS


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
    assert kind_of(error, (), {}) is K.AMBIGUOUS  # without its traceback: it may be that of a second try
    assert kind_of(error, (), {}, client_retries=False) is K.NOT_SENT
    error._add_error_label("UnknownTransactionCommitResult")
    assert kind_of(error, (), {}) is K.AMBIGUOUS


def test_mongo_part_of_a_bulk_write_may_be_done() -> None:
    error = pymongo.errors.BulkWriteError({"writeErrors": [], "nInserted": 1})
    assert kind_of(error, (), {}) is K.AMBIGUOUS
