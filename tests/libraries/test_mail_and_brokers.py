"""Mail, brokers, SSH and the other protocols that are not HTTP: the real clients, against servers of a few lines."""

from __future__ import annotations

import asyncio
import smtplib
import socketserver
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any

import aiosmtplib
import grpclib.client
import grpclib.const
import grpclib.exceptions
import grpclib.server
import nats
import nats.errors
import nats.js.errors
import paramiko
import pika
import pika.exceptions
import pytest

from temporal_saga.classification import classify
from temporal_saga.errors import FailureKind
from tests.libraries.servers import refusing_port

K = FailureKind
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

MAIL = EmailMessage()
MAIL["From"], MAIL["To"], MAIL["Subject"] = "a@a.example", "b@b.example, c@c.example", "x"


@contextmanager
def speaking(talk: Callable[[Any], None]) -> Iterator[int]:
    """Run a server that talks with each client as the function says."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            talk(self)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that turned away

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


# --- mail ---


@contextmanager
def mail_server(**answers: str) -> Iterator[tuple[int, list[str]]]:
    """Run a mail server with its own answers to some commands; `lost` loses the connection. Gives what it has taken."""
    taken: list[str] = []

    def talk(handler: Any) -> None:
        def say(line: str) -> bool:
            if line == "lost":
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
                if answer[0] in "2l":
                    taken.append("mail")
                if not say(answer):
                    return
            elif not say(answers.get(word, "221 bye" if word == "QUIT" else "250 ok")):
                return

    with speaking(talk) as port:
        yield port, taken


def send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=1) as smtp:
        smtp.send_message(MAIL)


def send_async(port: int) -> None:
    _run(lambda: aiosmtplib.send(MAIL, hostname="127.0.0.1", port=port, timeout=1, start_tls=False))


def log_in(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=1) as smtp:
        smtp.login("me", "x")


def _run(call: Callable[[], Awaitable[object]]) -> object:
    loop = asyncio.new_event_loop()  # not `asyncio.run`, which would take the loop of the async tests away
    try:
        return loop.run_until_complete(call())
    finally:
        loop.close()


def failure(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011  # which one is what the tables know
        call()
    return raised.value


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

    _run(run)
    assert seen == expected


def test_grpclib_refused() -> None:
    async def call(port: int) -> None:
        channel = grpclib.client.Channel("127.0.0.1", port, codec=_Bytes())  # type: ignore[arg-type]
        try:
            await grpclib.client.UnaryUnaryMethod(channel, "/x/call", bytes, bytes)(b"", timeout=5)
        finally:
            channel.close()

    with refusing_port() as port:
        assert classify(failure(lambda: _run(lambda: call(port)))) is K.NOT_SENT


# --- brokers ---


def _publish(port: int) -> None:
    parameters = pika.ConnectionParameters("127.0.0.1", port, socket_timeout=1, blocked_connection_timeout=1)
    with pika.BlockingConnection(parameters) as connection:
        connection.channel().basic_publish("", "q", b"x")


def test_pika_refused_and_lost() -> None:
    with refusing_port() as port:
        assert classify(failure(lambda: _publish(port))) is K.NOT_SENT
    with speaking(lambda handler: handler.rfile.read(8)) as port:  # lost in the handshake
        assert classify(failure(lambda: _publish(port))).effect in ("none", "unknown")


# Constructed: these come from a broker's frames, which a server of a few lines does not speak.
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (pika.exceptions.StreamLostError("lost"), K.AMBIGUOUS),
        (pika.exceptions.ConnectionClosedByBroker(320, "shutdown"), K.AMBIGUOUS),
        (pika.exceptions.ChannelClosedByBroker(403, "refused"), K.AMBIGUOUS),
        (pika.exceptions.AMQPHeartbeatTimeout(), K.AMBIGUOUS),
        (pika.exceptions.NackError([]), K.AMBIGUOUS),
        (pika.exceptions.UnroutableError([]), K.REJECTED),
        (pika.exceptions.ProbableAuthenticationError(), K.AUTH),
        (nats.errors.TimeoutError(), K.AMBIGUOUS),
        (nats.errors.ConnectionClosedError(), K.AMBIGUOUS),
        (nats.errors.NoRespondersError(), K.NOT_SENT),
        (nats.errors.MaxPayloadError(), K.REJECTED),
        (nats.js.errors.BadRequestError(code=400), K.REJECTED),
        (nats.js.errors.ServerError(code=500), K.AMBIGUOUS),
        (nats.js.errors.ServiceUnavailableError(code=503), K.AMBIGUOUS),
        (paramiko.SSHException("lost"), K.AMBIGUOUS),
        (paramiko.AuthenticationException(), K.AUTH),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_brokers_and_ssh(error: Exception, expected: FailureKind) -> None:
    assert classify(error) is expected


def test_nats_refused() -> None:
    async def connect(port: int) -> None:
        async def silent(_: Exception) -> None:
            pass

        await nats.connect(f"nats://127.0.0.1:{port}", max_reconnect_attempts=1, reconnect_time_wait=0, error_cb=silent)

    with refusing_port() as port:
        assert classify(failure(lambda: _run(lambda: connect(port)))) is K.NOT_SENT


def test_paramiko_refused() -> None:
    with paramiko.SSHClient() as ssh, refusing_port() as port:
        assert classify(failure(lambda: ssh.connect("127.0.0.1", port, username="x", password="x"))) is K.NOT_SENT


def test_kafka_batches_prove_nothing() -> None:
    """Its producers send a batch again by themselves; the error of a broker is that of the last time."""
    kafka = pytest.importorskip("kafka.errors")
    for name in ("TopicAuthorizationFailedError", "MessageSizeTooLargeError", "KafkaTimeoutError"):
        assert classify(getattr(kafka, name)()).effect == "unknown", name
