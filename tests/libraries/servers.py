"""A small HTTP server that fails in each way that a client can see, at addresses of its own."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import responses
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

CERTIFICATE = Path(__file__).with_name("self_signed.pem")  # with its key, which guards nothing


class _Handler(StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline().decode()
        length = 0
        while (header := self.rfile.readline().strip().lower()) != b"":
            if header.startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        self.rfile.read(length)
        if not line:
            return
        method, target, _ = line.split()
        if method == "CONNECT":
            self._reply(502, {})
            return
        url = urlsplit(target)
        what, *rest = url.path.strip("/").split("/")
        getattr(self, f"do_{what}")(*rest, headers=dict(parse_qsl(url.query)))

    def _reply(self, status: int, headers: Mapping[str, str], body: bytes = b"{}") -> None:
        lines = [f"HTTP/1.1 {status} {responses.get(status, 'Unheard Of')}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        self.wfile.write("\r\n".join(lines).encode() + body)

    def do_status(self, status: str, headers: dict[str, str]) -> None:
        self._reply(int(status), headers)

    def do_then(self, first: str, second: str, headers: dict[str, str]) -> None:
        """Answer a first request with one status, and the next one of the same key with another."""
        seen: set[str] = self.server.seen  # type: ignore[attr-defined]
        key = headers.pop("key")
        status = second if key in seen else first
        seen.add(key)
        getattr(self, f"do_{status}", lambda headers: self._reply(int(status), headers))(headers=headers)

    def do_says(self, status: str, code: str, headers: dict[str, str]) -> None:
        self._reply(int(status), headers, b'{"errorCode": "%s"}' % code.encode())

    def do_json(self, status: str, body: str, headers: dict[str, str]) -> None:
        self._reply(int(status), headers, bytes.fromhex(body))

    def do_stall(self, headers: dict[str, str]) -> None:
        self.server.over.wait(60)  # type: ignore[attr-defined]

    def do_reset(self, headers: dict[str, str]) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def do_close(self, headers: dict[str, str]) -> None:
        pass

    def do_half(self, headers: dict[str, str]) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")

    def do_chunk(self, headers: dict[str, str]) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf of it")

    def do_gzip(self, headers: dict[str, str]) -> None:
        self._reply(200, {"Content-Encoding": "gzip"}, b"not gzip")

    def do_garbage(self, headers: dict[str, str]) -> None:
        self.wfile.write(b"\x00\x01 what?\r\n\r\n")

    def do_redirect(self, status: str, headers: dict[str, str]) -> None:
        self._reply(303, {"Location": f"/status/{status}"})

    def do_moved(self, headers: dict[str, str]) -> None:
        self._reply(303, headers)

    def do_loop(self, headers: dict[str, str]) -> None:
        self._reply(303, {"Location": "/loop"})

    def do_text(self, headers: dict[str, str]) -> None:
        self._reply(200, {}, b"no json")


class _Server(ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.over = threading.Event()
        self.seen: set[str] = set()
        self.context = context
        super().__init__(("127.0.0.1", 0), _Handler)

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        with self.context.wrap_socket(request, server_side=True) if self.context else request as connection:
            super().finish_request(connection, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that turned away, as it is meant to

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@dataclass(frozen=True)
class Servers:
    """Where to find what.

    Attributes:
        url: A server that does what the path says: `/status/<status>?<header>=<value>`, `/stall`, `/reset` and so on.
        untrusted: The same behind a certificate that no one has signed.
        refusing: A port that no one listens on.
        full: A port whose listener takes no more connections: they get no answer.
    """

    url: str
    untrusted: str
    refusing: int
    full: int


@contextmanager
def _serve(server: _Server) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.port
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def refusing_port() -> Iterator[int]:
    with socket.socket() as bound:  # bound, so that no one else gets the port, and not listening
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@contextmanager
def listening_once() -> Iterator[str]:
    """A server that takes one request, and is gone without an answer: the next connection is refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)

        def serve() -> None:
            with listener.accept()[0] as connection:
                listener.close()
                connection.recv(10_000)

        thread = threading.Thread(target=serve)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.start()
        yield url
        thread.join(10)


def reset(handler: Any) -> None:
    """End a connection with a RST."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


@contextmanager
def speaking(talk: Callable[[Any], None]) -> Iterator[int]:
    """Run a server that talks with each client as the function says."""

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            talk(self)

    class Server(ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that turned away

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _full_port() -> Iterator[int]:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):  # more than its queue holds
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


@contextmanager
def serve() -> Iterator[Servers]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with (
        _serve(_Server()) as plain,
        _serve(_Server(context)) as secure,
        refusing_port() as no_one,
        _full_port() as full,
    ):
        yield Servers(f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{secure}", no_one, full)
