"""Mail, grpclib and SSH: the real clients, against servers of a few lines."""

from __future__ import annotations

import smtplib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any

import aiosmtplib
import grpclib.client
import grpclib.const
import grpclib.exceptions
import grpclib.server
import paramiko
import pytest

from temporal_saga.classification import classify
from temporal_saga.errors import FailureKind
from tests.libraries.calls import failure, wait_for
from tests.libraries.servers import refusing_port, reset, speaking

K = FailureKind
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

MAIL = EmailMessage()
MAIL["From"], MAIL["To"], MAIL["Subject"] = "a@a.example", "b@b.example, c@c.example", "x"


# --- mail ---


@contextmanager
def mail_server(**answers: str) -> Iterator[tuple[int, list[str]]]:
    """Run a mail server with its own answers to some commands. Gives what it has taken.

    `lost` and `reset` lose the connection, and `late` gives no answer.
    """
    taken: list[str] = []
    over = threading.Event()

    def talk(handler: Any) -> None:
        def say(line: str) -> bool:
            if line == "reset":
                reset(handler)
            if line == "late":
                over.wait(20)
            if line in ("lost", "reset", "late"):
                return False
            handler.wfile.write(f"{line}\r\n".encode())
            return not line.startswith("421")

        if not say(answers.get("banner", "220 hello")):
            return
        while line := handler.rfile.readline().decode().strip():
            word = line.split()[0].upper()
            if word == "DATA" and "DATA" not in answers:
                say("354 go on")
                while handler.rfile.readline() != b".\r\n":
                    pass
                answer = answers.get("END", "250 taken")
                if answer[0] in "2lr":
                    taken.append("mail")
                if not say(answer):
                    return
            elif not say(answers.get(word, "221 bye" if word == "QUIT" else "250 ok")):
                return

    try:
        with speaking(talk) as port:
            yield port, taken
            over.set()
    finally:
        over.set()


def send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=1) as smtp:
        smtp.send_message(MAIL)


def send_async(port: int) -> None:
    wait_for(lambda: aiosmtplib.send(MAIL, hostname="127.0.0.1", port=port, timeout=1, start_tls=False))


def log_in(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=1) as smtp:
        smtp.login("me", "x")


@pytest.mark.parametrize("send", [send, send_async], ids=["smtplib", "aiosmtplib"])
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"banner": "421 not now"}, K.NOT_SENT),
        ({"banner": "554 no"}, K.NOT_SENT),
        ({"MAIL": "550 not from you"}, K.REJECTED),
        ({"MAIL": "451 later"}, K.THROTTLED),
        ({"RCPT": "550 no such user"}, K.REJECTED),
        ({"RCPT": "450 greylisted"}, K.THROTTLED),
        ({"DATA": "554 no"}, K.REJECTED),
        ({"END": "552 too large"}, K.REJECTED),
        ({"END": "452 full"}, K.THROTTLED),
        ({"END": "lost"}, K.AMBIGUOUS),
        ({"END": "reset"}, K.AMBIGUOUS),
        ({"END": "late"}, K.AMBIGUOUS),
        ({"RCPT": "lost"}, K.AMBIGUOUS),
    ],
    ids=lambda value: " ".join(f"{name} {text}" for name, text in value.items()) if isinstance(value, dict) else "",
)
def test_mail(send: Callable[[int], None], answers: dict[str, str], expected: FailureKind) -> None:
    """A server that says no has not taken the mail; one that says nothing may have."""
    with mail_server(**answers) as (port, taken):
        kind = classify(failure(lambda: send(port)))
    assert kind is expected
    assert not taken or kind.effect == "unknown"


@pytest.mark.parametrize("send", [send, send_async], ids=["smtplib", "aiosmtplib"])
def test_mail_refused_and_stalled(send: Callable[[int], None]) -> None:
    with refusing_port() as port:
        assert classify(failure(lambda: send(port))) is K.NOT_SENT
    with speaking(lambda handler: handler.rfile.read()) as port:
        assert classify(failure(lambda: send(port))) in (K.AMBIGUOUS, K.NOT_SENT)  # before its greeting


def test_mail_wrong_password() -> None:
    with mail_server(EHLO="250-x\r\n250 AUTH PLAIN", AUTH="535 no") as (port, _):
        assert classify(failure(lambda: log_in(port))) is K.AUTH


# --- grpclib ---


class _Service:
    """Ends each call with a status, after its effect if that is not one that refuses."""

    def __mapping__(self) -> dict[str, Any]:
        async def call(stream: Any) -> None:
            request = await stream.recv_message()
            raise grpclib.exceptions.GRPCError(grpclib.const.Status[request.decode()])

        handler = grpclib.const.Handler(call, grpclib.const.Cardinality.UNARY_UNARY, bytes, bytes)
        return {"/x/call": handler}


class _Bytes:
    __content_subtype__ = "x"

    def encode(self, message: bytes, message_type: object) -> bytes:
        return message

    def decode(self, data: bytes, message_type: object) -> bytes:
        return data


def test_grpclib() -> None:
    expected = {
        "ABORTED": K.CONFLICT,
        "ALREADY_EXISTS": K.REJECTED,
        "DEADLINE_EXCEEDED": K.AMBIGUOUS,
        "NOT_FOUND": K.REJECTED,
        "PERMISSION_DENIED": K.AUTH,
        "RESOURCE_EXHAUSTED": K.THROTTLED,
        "UNAVAILABLE": K.AMBIGUOUS,
        "UNKNOWN": K.AMBIGUOUS,
    }
    seen = {}

    async def run() -> None:
        server = grpclib.server.Server([_Service()], codec=_Bytes())  # type: ignore[arg-type]
        await server.start("127.0.0.1", 0)
        port = server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        channel = grpclib.client.Channel("127.0.0.1", port, codec=_Bytes())  # type: ignore[arg-type]
        method = grpclib.client.UnaryUnaryMethod(channel, "/x/call", bytes, bytes)
        for name in expected:
            try:
                await method(name.encode(), timeout=5)
            except grpclib.exceptions.GRPCError as error:
                seen[name] = classify(error)
        channel.close()
        server.close()
        await server.wait_closed()

    wait_for(run)
    assert seen == expected


def test_grpclib_refused() -> None:
    async def call(port: int) -> None:
        channel = grpclib.client.Channel("127.0.0.1", port, codec=_Bytes())  # type: ignore[arg-type]
        try:
            await grpclib.client.UnaryUnaryMethod(channel, "/x/call", bytes, bytes)(b"", timeout=5)
        finally:
            channel.close()

    with refusing_port() as port:
        assert classify(failure(lambda: wait_for(lambda: call(port)))) is K.NOT_SENT


@pytest.mark.parametrize("what", ["late", "reset"])
def test_grpclib_gets_no_answer(what: str) -> None:
    """HTTP/2 as far as it takes to take a whole request."""
    taken: list[bytes] = []
    over = threading.Event()

    def talk(handler: Any) -> None:
        handler.wfile.write(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))  # SETTINGS
        handler.rfile.read(24)  # the client's preface
        while head := handler.rfile.read(9):
            body = handler.rfile.read(int.from_bytes(head[:3], "big"))
            if head[3] == 0 and head[4] & 1:  # the end of the request
                taken.append(body)
                if what == "reset":
                    reset(handler)
                    return
                over.wait(20)

    async def call(port: int) -> None:
        channel = grpclib.client.Channel("127.0.0.1", port, codec=_Bytes())  # type: ignore[arg-type]
        try:
            await grpclib.client.UnaryUnaryMethod(channel, "/x/call", bytes, bytes)(b"", timeout=0.5)
        finally:
            channel.close()

    with speaking(talk) as port:
        error = failure(lambda: wait_for(lambda: call(port)))
        over.set()
    assert taken
    assert classify(error) is K.AMBIGUOUS


# --- SSH ---


class _Login(paramiko.ServerInterface):  # type: ignore[misc, unused-ignore]
    """Lets someone in who knows the password, and runs commands, each of which has an effect."""

    def __init__(self, effects: list[bytes]) -> None:
        self.effects = effects
        self.ran = threading.Event()

    def check_auth_password(self, username: str, password: str) -> int:
        return int(paramiko.AUTH_SUCCESSFUL if password == "right" else paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_exec_request(self, channel: object, command: bytes) -> bool:
        self.effects.append(command)
        self.ran.set()
        return command != b"refused"


@contextmanager
def ssh_server(what: str) -> Iterator[tuple[int, list[bytes]]]:
    """Run a server that runs a command and is `late` with its output, or is lost; or is `silent` from the beginning."""
    effects: list[bytes] = []
    over = threading.Event()
    key = paramiko.ECDSAKey.generate()

    def talk(handler: Any) -> None:
        if what == "silent":
            over.wait(20)
            return
        transport = paramiko.Transport(handler.connection)
        transport.add_server_key(key)
        login = _Login(effects)
        transport.start_server(server=login)
        if what == "reset":
            login.ran.wait(20)
            reset(handler)
        else:
            over.wait(20)
        transport.close()

    try:
        with speaking(talk) as port:
            yield port, effects
            over.set()
    finally:
        over.set()


def execute(port: int, *, password: str = "right", command: str = "pay") -> None:
    with paramiko.SSHClient() as ssh:
        ssh.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        ssh.connect(
            "127.0.0.1",
            port,
            username="x",
            password=password,
            banner_timeout=0.5,
            timeout=5,
            allow_agent=False,
            look_for_keys=False,
        )
        _, output, _ = ssh.exec_command(command, timeout=0.5)
        output.read()
        if output.channel.recv_exit_status() == -1:
            raise EOFError  # paramiko has no error for it


def test_paramiko_refused() -> None:
    with refusing_port() as port:
        assert classify(failure(lambda: execute(port))) is K.NOT_SENT
    with ssh_server("") as (port, effects):
        assert classify(failure(lambda: execute(port, password="wrong"))) is K.AUTH
    assert not effects


@pytest.mark.parametrize("what", ["silent", "late", "reset"])
def test_paramiko_gets_no_answer(what: str) -> None:
    with ssh_server(what) as (port, effects):
        error = failure(lambda: execute(port))
    assert bool(effects) is (what != "silent")
    assert classify(error) is K.AMBIGUOUS


def test_paramiko_a_command_that_the_server_does_not_take() -> None:
    with ssh_server("") as (port, _):
        assert classify(failure(lambda: execute(port, command="refused"))).effect == "unknown"
