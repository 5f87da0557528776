"""Clients of MySQL and Oracle, against servers that speak enough of their protocols, and count the effects."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, cast

import mysql.connector
import oracledb
import pymysql  # type: ignore[import-untyped, unused-ignore]
import pytest
from pymysql.constants import CLIENT  # type: ignore[import-untyped, unused-ignore]

from temporal_saga.classification import Profile, classify
from temporal_saga.errors import FailureKind
from tests.libraries.calls import failure
from tests.libraries.servers import CERTIFICATE, refusing_port, reset, speaking

K = FailureKind
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

ONE = Profile(client_retries=False)
Outcome = int | str
"""An error's number, or `ok`; or `stall`, `reset` or `close` after the effect."""


class Database:
    """What a server does with the statements that write, one outcome for each; the last one holds for all that follow.

    Attributes:
        effects: How many statements have had their effect.
        port: Where it listens.
    """

    def __init__(self, told: tuple[Outcome, ...]) -> None:
        self._told = list(told)
        self._over = threading.Event()
        self.effects = 0
        self.port = 0

    def act(self) -> Outcome:
        outcome = self._told.pop(0) if len(self._told) > 1 else self._told[0]
        self.effects += not isinstance(outcome, int)
        return outcome

    def ends(self, handler: Any, outcome: Outcome) -> bool:
        """Tell whether the connection gets no answer."""
        if outcome == "stall":
            self._over.wait(20)
        elif outcome == "reset":
            reset(handler)
        return outcome in ("stall", "reset", "close")

    @contextmanager
    def run(self, talk: Callable[[Any], None]) -> Iterator[Database]:
        try:
            with speaking(talk) as self.port:
                yield self
                self._over.set()
        finally:
            self._over.set()


# --- MySQL ---

_OF_A_SERVER = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x10000 | 0x20000 | 0x80000
_HELLO = (
    b"\x0a8.4.0\0\1\0\0\0saltsalt\0"
    + struct.pack("<HBHHB", _OF_A_SERVER & 0xFFFF, 255, 2, _OF_A_SERVER >> 16, 21)
    + bytes(10)
    + b"saltsaltsalt\0mysql_native_password\0"
)


_SQLSTATES = {1045: b"28000", 1062: b"23000", 1213: b"40001", 1644: b"45000"}


@contextmanager
def mysql_server(*told: Outcome) -> Iterator[Database]:
    database = Database(told)

    def talk(handler: Any) -> None:
        number = 0
        mode = 2  # autocommit

        def say(payload: bytes) -> None:
            nonlocal number
            handler.wfile.write(struct.pack("<i", len(payload))[:3] + bytes([number % 256]) + payload)
            number += 1

        def read() -> bytes:
            nonlocal number
            head = handler.rfile.read(4)
            if not head:
                return b""
            number = head[3] + 1
            return bytes(handler.rfile.read(int.from_bytes(head[:3], "little")))

        say(_HELLO)
        read()
        say(b"\0\0\0" + struct.pack("<HH", mode, 0))
        while packet := read():
            text = packet[1:].decode(errors="replace") if packet[0] == 3 else ""
            if packet[0] == 1:  # quit
                return
            if text.startswith("SET") and "autocommit" in text.lower():
                mode = 2 if text.endswith(("1", "ON")) else 0
            statements = [each for each in text.split(";") if each] if re.match("(?i)insert|call", text) else []
            for left, _ in reversed(list(enumerate(reversed(statements)))):
                outcome = database.act()
                if isinstance(outcome, int):
                    say(b"\xff" + struct.pack("<H", outcome) + b"#" + _SQLSTATES[outcome] + b"no")
                    break
                if database.ends(handler, outcome):
                    return
                in_transaction = not mode
                say(b"\0\1\0" + struct.pack("<HH", mode | in_transaction | (8 if left else 0), 0))
            else:
                if not statements:
                    say(b"\0\0\0" + struct.pack("<HH", mode, 0))

    with database.run(talk):
        yield database


@contextmanager
def by_pymysql(port: int, **options: Any) -> Iterator[Any]:
    multi = CLIENT.MULTI_STATEMENTS
    with closing(
        pymysql.connect(host="127.0.0.1", port=port, user="x", read_timeout=1, client_flag=multi, **options)
    ) as db:
        yield db


@contextmanager
def by_connector(port: int, **options: Any) -> Iterator[Any]:
    # It would ask the server for the mode, and try TLS.
    options |= {"use_pure": True, "sql_mode": "ANSI", "ssl_disabled": True}
    with closing(mysql.connector.connect(host="127.0.0.1", port=port, user="x", connection_timeout=1, **options)) as db:
        yield db


Connect = Callable[..., AbstractContextManager[Any]]
INSERT = "INSERT INTO t VALUES (%s)"


@pytest.fixture(params=[by_pymysql, by_connector], ids=["pymysql", "connector"])
def connect(request: pytest.FixtureRequest) -> Connect:
    return cast("Connect", request.param)


def mysql_one(connect: Connect, port: int, **options: Any) -> None:
    with connect(port, **options) as db:
        db.cursor().execute(INSERT, (1,))
        db.commit()


def mysql_many(connect: Connect, port: int, **options: Any) -> None:
    """Several statements, each of which commits by itself."""
    with connect(port, **options) as db:
        cursor = db.cursor()
        if connect is by_pymysql:  # a bulk insert is split by its length
            cursor.max_stmt_length = 30
            cursor.executemany(INSERT, [("x" * 20,), ("y" * 20,)])
        else:  # only a plain INSERT becomes one statement
            cursor.executemany(INSERT.replace("INSERT", "INSERT DELAYED"), [("x",), ("y",)])
        db.commit()


def mysql_script(connect: Connect, port: int, **options: Any) -> None:
    with connect(port, **options) as db:
        cursor = db.cursor()
        cursor.execute(f"{INSERT};{INSERT}", (1, 2))
        cursor.nextset()
        db.commit()


def mysql_call(connect: Connect, port: int, **options: Any) -> None:
    with connect(port, **options) as db:
        db.cursor().callproc("pay", ())


def mysql_call_statement(connect: Connect, port: int, **options: Any) -> None:
    with connect(port, **options) as db:
        db.cursor().execute("CALL pay()")


def test_mysql_refused(connect: Connect) -> None:
    with refusing_port() as port:
        assert classify(failure(mysql_one, connect, port)) is K.NOT_SENT


@pytest.mark.parametrize("outcome", ["stall", "reset", "close"])
def test_mysql_gives_no_answer(connect: Connect, outcome: str) -> None:
    with mysql_server(outcome) as server:
        error = failure(mysql_one, connect, server.port)
    assert server.effects == 1
    assert classify(error) is K.AMBIGUOUS


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
def test_mysql_errors(connect: Connect, autocommit: bool) -> None:
    """Each of one statement; the numbers are in test_other_databases.py."""
    for number, expected in {1062: K.REJECTED, 1213: K.CONFLICT, 1045: K.AUTH, 1644: K.REJECTED}.items():
        with mysql_server(number) as server:
            error = failure(mysql_one, connect, server.port, autocommit=autocommit)
        assert server.effects == 0
        assert classify(error) is expected


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
@pytest.mark.parametrize("call", [mysql_many, mysql_script])
def test_mysql_the_first_of_two_statements_stands(
    connect: Connect, call: Callable[..., None], autocommit: bool
) -> None:
    with mysql_server("ok", 1062) as server:
        error = failure(call, connect, server.port, autocommit=autocommit)
    assert server.effects == 1  # of a transaction, it is rolled back
    for profile in (None, ONE):
        assert classify(error, profile=profile).effect == ("unknown" if autocommit else "none")


@pytest.mark.parametrize("between", ["CREATE TABLE u (x int)", "START TRANSACTION", "/* ! */ lock tables t write"])
def test_mysql_a_statement_between_may_commit_what_came_before(connect: Connect, between: str) -> None:
    with mysql_server("ok", "ok", 1062) as server, connect(server.port, autocommit=False) as db:
        cursor = db.cursor()

        def write() -> None:
            cursor.execute(f"{INSERT};{between};{INSERT}", (1, 2))
            while cursor.nextset():
                pass

        error = failure(write)
    for profile in (None, ONE):
        assert classify(error, profile=profile).effect == "unknown"


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
@pytest.mark.parametrize("call", [mysql_call, mysql_call_statement])
def test_mysql_a_procedure_may_have_committed(connect: Connect, call: Callable[..., None], autocommit: bool) -> None:
    """Also in a transaction of its caller's."""
    with mysql_server(1062) as server:
        error = failure(call, connect, server.port, autocommit=autocommit)
    assert classify(error).effect == classify(error, profile=ONE).effect == "unknown"


# --- Oracle ---


def _ub(number: int) -> bytes:
    """An integer as Oracle's protocol has it: its length, and its bytes."""
    length = (number.bit_length() + 7) // 8
    return bytes([length]) + number.to_bytes(length, "big")


def _text(text: str) -> bytes:
    return _ub(len(text)) + (bytes([len(text)]) + text.encode() if text else b"")


def _answer_of_a_call(number: int) -> bytes:
    text = f"ORA-{number:05}: no"
    zeros = bytes(6) + _ub(1) + bytes(21) + _ub(number) + _ub(0 if number else 1)
    return b"\x04" + zeros + (bytes([len(text)]) + text.encode() if number else b"")


_PROTOCOL = (
    b"\x01\x06\0Oracle\0"
    + struct.pack("<HBH", 873, 1, 0)  # AL32UTF8
    + struct.pack(">H", 11)
    + bytes(9)
    + struct.pack(">H", 2000)  # AL16UTF16
    + bytes([64, *bytes(7), 10, *bytes(56)])  # its version of the protocol: 18c
    + bytes([12, *bytes(12)])
)
_SESSION = {
    "AUTH_SESSION_ID": "1",
    "AUTH_SERIAL_NUM": "1",
    "AUTH_VERSION_NO": str(18 << 24),
    "AUTH_DBNAME": "x",
    "AUTH_SC_DBUNIQUE_NAME": "x",
    "AUTH_SC_SERVICE_NAME": "x",
    "AUTH_SC_DB_DOMAIN": "",
    "AUTH_INSTANCENAME": "x",
    "AUTH_SC_SERVER_HOST": "x",
    "AUTH_MAX_OPEN_CURSORS": "10",
    "AUTH_MAX_IDEN_LENGTH": "128",
    "AUTH_SC_INSTANCE_NAME": "x",
    "AUTH_SC_INSTANCE_ID": "1",
}
_AUTHENTICATED = b"\x08" + _ub(len(_SESSION)) + b"".join(_text(k) + _text(v) + b"\0" for k, v in _SESSION.items())
_AUTHENTICATED = _AUTHENTICATED + b"\x09" + _ub(1) + _ub(1)
_DATA, _MARKER = 6, 12


@contextmanager
def oracle(*told: Outcome) -> Iterator[Database]:
    """Run a server whose listener takes a token in place of a password, so that it has nothing to encrypt."""
    database = Database(told)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)

    def talk(handler: Any) -> None:
        with context.wrap_socket(handler.connection, server_side=True) as connection:
            stream = connection.makefile("rb")

            def say(payload: bytes, kind: int = _DATA) -> None:
                payload = (b"\0\0" if kind == _DATA else b"") + payload
                head = struct.pack(">IBBH" if kind == _DATA else ">HxxBBH", len(payload) + 8, kind, 0, 0)
                connection.sendall(head + payload)

            head = stream.read(8)
            connect = stream.read(struct.unpack(">H", head[:2])[0] - 8)
            if struct.unpack(">H", connect[16:18])[0] > len(connect) - 66:  # its text comes in a packet of its own
                stream.read(struct.unpack(">H", stream.read(8)[:2])[0] - 8)
            if b"SERVICE_NAME=nowhere" in connect:
                text = b"(ERR=12514)"
                say(b"\0\0" + struct.pack(">H", len(text)) + text, kind=4)
                return
            say(struct.pack(">HH10xB9xI", 315, 0, 0, 8192), kind=2)
            while head := stream.read(8):
                payload = stream.read(struct.unpack(">I", head[:4])[0] - 8)
                if head[4] != _DATA or payload[1] & 0x40:
                    return
                payload = payload[2:]
                if payload[:1] == b"\x01":
                    say(_PROTOCOL)
                elif payload[:1] == b"\x02":
                    say(b"\x02\0\0")
                elif payload[1] == 115:
                    say(_AUTHENTICATED)
                elif payload[1] in (4, 78, 94):  # executes
                    outcome = database.act()
                    if outcome in ("stall", "close"):
                        database.ends(handler, outcome)
                        return
                    if outcome == "reset":
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return
                    say(_answer_of_a_call(outcome if isinstance(outcome, int) else 0))
                else:  # commits, logs off
                    say(b"\x09" + _ub(1) + _ub(1))

    with database.run(talk):
        yield database


def connected_to_oracle(port: int, service: str = "x", *, autocommit: bool = False) -> Any:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    token = ".".join(base64.b64encode(json.dumps(each).encode()).decode() for each in ({}, {"exp": 4 * 10**9}, {}))
    db = oracledb.connect(
        access_token=token,
        protocol="tcps",
        host="127.0.0.1",
        port=port,
        service_name=service,
        ssl_context=trusting,
        ssl_server_dn_match=False,
    )
    db.call_timeout = 500
    db.autocommit = autocommit
    return db


def oracle_one(port: int, *, autocommit: bool = False) -> None:
    with connected_to_oracle(port, autocommit=autocommit) as db:
        db.cursor().execute("INSERT INTO t VALUES (1)")
        db.commit()


def oracle_many(port: int, *, autocommit: bool = False) -> None:
    db = connected_to_oracle(port, autocommit=autocommit)
    db.cursor().executemany("INSERT INTO t VALUES (:1)", [("1",), ("2",)], batch_size=1)


def oracle_call(port: int, *, autocommit: bool = False) -> None:
    db = connected_to_oracle(port, autocommit=autocommit)
    db.cursor().callproc("pay")


def oracle_block(port: int, *, autocommit: bool = False) -> None:
    db = connected_to_oracle(port, autocommit=autocommit)
    db.cursor().execute("begin pay(); end;")


def test_oracle_refused() -> None:
    with refusing_port() as port:
        assert classify(failure(oracle_one, port)) is K.NOT_SENT
    with oracle("ok") as server:
        assert classify(failure(connected_to_oracle, server.port, "nowhere")) is K.NOT_SENT


@pytest.mark.parametrize("outcome", ["stall", "reset", "close"])
def test_oracle_gives_no_answer(outcome: str) -> None:
    with oracle(outcome) as server:
        error = failure(oracle_one, server.port)
    assert server.effects == 1
    assert classify(error) is K.AMBIGUOUS


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
def test_oracle_errors(autocommit: bool) -> None:
    """Each of one statement; the other codes are in test_sql_wrappers.py."""
    expected = {1: K.REJECTED, 54: K.CONFLICT, 1031: K.AUTH, 20001: K.REJECTED, 3113: K.AMBIGUOUS}
    for number, kind in expected.items():
        with oracle(number) as server:
            error = failure(oracle_one, server.port, autocommit=autocommit)
        assert server.effects == 0
        assert classify(error) is kind, number


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
def test_oracle_the_first_of_two_batches_stands(autocommit: bool) -> None:
    with oracle("ok", 1) as server:
        error = failure(oracle_many, server.port, autocommit=autocommit)
        assert server.effects == 1
        for profile in (None, ONE):
            assert classify(error, profile=profile).effect == ("unknown" if autocommit else "none")


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
@pytest.mark.parametrize("call", [oracle_call, oracle_block])
def test_oracle_a_procedure_may_have_committed(call: Callable[..., None], autocommit: bool) -> None:
    with oracle(20001) as server:
        error = failure(call, server.port, autocommit=autocommit)
        assert classify(error).effect == classify(error, profile=ONE).effect == "unknown"
