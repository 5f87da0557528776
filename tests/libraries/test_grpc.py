"""gRPC against a server of generic handlers: each code, from the server and from the library."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import grpc  # type: ignore[import-untyped, unused-ignore]
import grpc.aio  # type: ignore[import-untyped, unused-ignore]
import pytest
from google.protobuf.any_pb2 import Any as Any_
from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import GrpcStatus
from temporalio.client import Client
from temporalio.service import RetryConfig, RPCError, RPCStatusCode

from temporal_saga.classification._read import code_of, headers_of, kind_of, retry_hint, status_of
from temporal_saga.errors import FailureKind
from tests.libraries.calls import failure, wait_for
from tests.libraries.servers import refusing_port, reset, speaking

K = FailureKind
LIMIT = [("grpc.max_receive_message_length", 1000), ("grpc.max_send_message_length", 1000)]

CODES = {
    "CANCELLED": K.AMBIGUOUS,
    "UNKNOWN": K.AMBIGUOUS,
    "INVALID_ARGUMENT": K.REJECTED,
    "DEADLINE_EXCEEDED": K.AMBIGUOUS,
    "NOT_FOUND": K.REJECTED,
    "ALREADY_EXISTS": K.REJECTED,
    "PERMISSION_DENIED": K.AUTH,
    "RESOURCE_EXHAUSTED": K.THROTTLED,
    "FAILED_PRECONDITION": K.REJECTED,
    "ABORTED": K.CONFLICT,
    "OUT_OF_RANGE": K.REJECTED,
    "UNIMPLEMENTED": K.REJECTED,
    "INTERNAL": K.AMBIGUOUS,
    "UNAVAILABLE": K.AMBIGUOUS,
    "DATA_LOSS": K.AMBIGUOUS,
    "UNAUTHENTICATED": K.AUTH,
}


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    def __init__(self) -> None:
        self.over = threading.Event()
        self.seen: list[str] = []

    def service(self, handler_call_details: Any) -> Any:
        what = handler_call_details.method.rpartition("/")[2]

        def handle(request: bytes, context: Any) -> bytes:
            if what in CODES:
                context.abort(grpc.StatusCode[what], request.decode())
            if what.startswith("then-"):
                first, then = what.split("-")[1:3]
                self.seen.append(what)
                context.abort(grpc.StatusCode[first if self.seen.count(what) == 1 else then], "no")
            if what == "stall":
                self.over.wait(60)
            if what == "raise":
                raise ValueError("a bug of the server's")
            if what.startswith("pushback"):
                context.set_trailing_metadata((("grpc-retry-pushback-ms", what.removeprefix("pushback")),))
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "later")
            if what == "details":
                context.set_trailing_metadata((("grpc-status-details-bin", request),))
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "later")
            return b"x" * 2000 if what == "large" else b""

        return grpc.unary_unary_rpc_method_handler(handle)


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    handler = _Handler()
    server = grpc.server(ThreadPoolExecutor(4), handlers=(handler,), options=LIMIT[:1])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    handler.over.set()
    server.stop(None).wait()


Call = Callable[..., Any]


def call(target: str, what: str, request: bytes = b"", *, timeout: float = 20, limit: bool = False) -> Any:
    with grpc.insecure_channel(target, options=LIMIT if limit else None) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(f"/tests/{what}")(request, timeout=timeout)
        return raised.value


def call_async(target: str, what: str, request: bytes = b"", *, timeout: float = 20, limit: bool = False) -> Any:
    async def run() -> Any:
        async with grpc.aio.insecure_channel(target, options=LIMIT if limit else None) as channel:
            with pytest.raises(grpc.RpcError) as raised:
                await channel.unary_unary(f"/tests/{what}")(request, timeout=timeout)
            return raised.value

    return wait_for(run)


both = pytest.mark.parametrize("call", [call, call_async], ids=["sync", "async"])


@both
def test_codes(call: Call, target: str) -> None:
    errors = {code: call(target, code) for code in CODES}
    assert {code: kind_of(error, (), {}) for code, error in errors.items()} == CODES
    for error in errors.values():
        assert (status_of(error), code_of(error), headers_of(error), retry_hint(error)) == (None, None, {}, None)


def test_every_code_is_in_the_table() -> None:
    assert {code.name for code in grpc.StatusCode} == {*CODES, "OK"}
    assert {code.name for code in RPCStatusCode} <= {*CODES, "OK"}


@both
def test_a_deadline(call: Call, target: str) -> None:
    assert kind_of(call(target, "stall", timeout=0.3), (), {}) is K.AMBIGUOUS


@both
def test_a_bug_of_the_server(call: Call, target: str) -> None:
    assert kind_of(call(target, "raise"), (), {}) is K.AMBIGUOUS


# No proof, though nothing was sent: a server that hands on the failure of a call of its own gives the same error.
@both
def test_a_refused_connection_cannot_be_told_from_one_that_the_server_tells_of(call: Call, target: str) -> None:
    with refusing_port() as port:
        refused = call(f"127.0.0.1:{port}", "any")
    told = call(target, "UNAVAILABLE", refused.details().encode())
    assert refused.details().startswith("failed to connect to all addresses")
    assert (refused.code(), refused.details()) == (told.code(), told.details())
    assert kind_of(refused, (), {}) is kind_of(told, (), {}) is K.AMBIGUOUS


@both
@pytest.mark.parametrize(
    ("what", "request_", "limit"),
    [("large", b"", True), ("any", b"x" * 2000, False), ("any", b"x" * 2000, True)],
    ids=["reply", "request-at-the-server", "request-here"],
)
def test_a_message_that_is_too_large_may_be_the_reply(
    call: Call, what: str, request_: bytes, limit: bool, target: str
) -> None:
    error = call(target, what, request_, limit=limit)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert kind_of(error, (), {}) is K.AMBIGUOUS


def _frame(type: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([type, flags]) + stream.to_bytes(4, "big") + payload


class _Resetting(StreamRequestHandler):
    """HTTP/2 as far as it takes to answer a whole request with RST_STREAM."""

    code: int

    def handle(self) -> None:
        self.wfile.write(_frame(4, 0, 0, b""))  # SETTINGS
        self.rfile.read(24)  # the client's preface
        while head := self.rfile.read(9):
            type, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            payload = self.rfile.read(int.from_bytes(head[:3], "big"))
            if type in (4, 6) and not flags & 1:  # SETTINGS, PING: acknowledged
                self.wfile.write(_frame(type, 1, 0, payload if type == 6 else b""))
            if type == 0 and flags & 1:  # the end of the request
                self.wfile.write(_frame(3, 0, stream, self.code.to_bytes(4, "big")))


# grpc's own codes for them say RESOURCE_EXHAUSTED of 11, and PERMISSION_DENIED of 12.
@both
@pytest.mark.parametrize("code", [2, 8, 11, 12])
def test_a_stream_that_is_reset_after_the_request(call: Call, code: int) -> None:
    handler = type("Handler", (_Resetting,), {"code": code})
    with ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        error = call(f"127.0.0.1:{server.server_address[1]}", "any")
        server.shutdown()
        thread.join()
    assert kind_of(error, (), {}) is K.AMBIGUOUS


@both
@pytest.mark.parametrize(
    ("what", "expected"),
    [("pushback250", timedelta(milliseconds=250)), ("pushback-1", None), ("pushbackx", None)],
    ids=["later", "never", "garbage"],
)
def test_pushback(call: Call, what: str, expected: timedelta | None, target: str) -> None:
    error = call(target, what)
    assert kind_of(error, (), {}) is K.THROTTLED
    assert retry_hint(error) == expected


def test_futures(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        future = channel.unary_unary("/tests/stall").future(b"", timeout=20)
        with pytest.raises(grpc.FutureTimeoutError) as timed_out:
            future.result(timeout=0.1)
        future.cancel()
        with pytest.raises(grpc.FutureCancelledError) as cancelled:
            future.result()
    assert kind_of(timed_out.value, (), {}) is K.AMBIGUOUS
    assert kind_of(cancelled.value, (), {}) is K.CANCELLED


# --- a retry policy, and Temporal's own client ---


RETRIES = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 2,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.01s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


def test_a_retry_policy_does_not_show_and_the_user_has_to_say_it(target: str) -> None:
    """Neither the error nor its traceback says that the answer is that to a second request."""
    with (
        grpc.insecure_channel(target, options=[("grpc.service_config", RETRIES)]) as channel,
        pytest.raises(grpc.RpcError) as raised,
    ):
        channel.unary_unary("/tests/then-UNAVAILABLE-NOT_FOUND-policy")(b"", timeout=20)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert kind_of(raised.value, (), {}, client_retries=True).effect == "unknown"
    assert kind_of(raised.value, (), {}) is K.REJECTED


class _Temporal(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    """A frontend that gives these answers to signals; each signal has its effect if it is not refused."""

    def __init__(self, *told: str) -> None:
        self.told = list(told)
        self.effects = 0
        self.over = threading.Event()

    def service(self, handler_call_details: Any) -> Any:
        what = handler_call_details.method.rpartition("/")[2]

        def handle(request: bytes, context: Any) -> bytes:
            if what != "GetSystemInfo":
                told = self.told.pop(0) if len(self.told) > 1 else self.told[0]
                self.effects += CODES.get(told, K.AMBIGUOUS) is K.AMBIGUOUS
                if told == "stall":
                    self.over.wait(20)
                else:
                    context.abort(grpc.StatusCode[told], "no")
            return b""

        return grpc.unary_unary_rpc_method_handler(handle)


def signal(port: int, retries: int | None = None) -> Exception:
    retry = None if retries is None else RetryConfig(max_retries=retries)

    async def run() -> None:
        client = await Client.connect(f"127.0.0.1:{port}", lazy=True, retry_config=retry)
        await client.get_workflow_handle("x").signal("s", rpc_timeout=timedelta(seconds=1))

    return failure(wait_for, run)


_HEAD = b"\x88\x0f\x10\x10application/grpc"  # `:status` 200, `content-type`
_TAIL = b"\x00\x0bgrpc-status\x010"


def reset_after_a_request(handler: Any) -> None:
    """HTTP/2 as far as it takes to take a whole request, after one that asks what the server can do."""
    handler.wfile.write(_frame(4, 0, 0, b""))  # SETTINGS
    handler.rfile.read(24)  # the client's preface
    requests = 0
    while head := handler.rfile.read(9):
        handler.rfile.read(int.from_bytes(head[:3], "big"))
        if head[3] == 4 and not head[4] & 1:
            handler.wfile.write(_frame(4, 1, 0, b""))
        if head[3] == 0 and head[4] & 1:  # the end of a request
            requests += 1
            if requests == 2:
                reset(handler)
                return
            stream = int.from_bytes(head[5:], "big")
            handler.wfile.write(_frame(1, 4, stream, _HEAD) + _frame(0, 0, stream, bytes(5)))  # an empty message
            handler.wfile.write(_frame(1, 5, stream, _TAIL))


@contextmanager
def frontend(*told: str) -> Iterator[tuple[int, _Temporal]]:
    handler = _Temporal(*told)
    server = grpc.server(ThreadPoolExecutor(2), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port, handler
    handler.over.set()
    server.stop(None).wait()


def test_temporals_own_client_refused() -> None:
    with refusing_port() as port:
        assert kind_of(signal(port), (), {}).effect == "unknown"


@pytest.mark.parametrize("what", ["stall", "reset", "UNAVAILABLE"])
def test_temporals_own_client_gets_no_answer(what: str) -> None:
    if what == "reset":
        with speaking(reset_after_a_request) as port:
            error = signal(port, 1)
    else:
        with frontend(what) as (port, handler):
            error = signal(port, 1)
        assert handler.effects == 1  # its switch: one try
    assert kind_of(error, (), {}) is kind_of(error, (), {}, client_retries=False) is K.AMBIGUOUS


def test_codes_of_temporals_own_client() -> None:
    refusals = ("INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED")
    for code in refusals:
        with frontend(code) as (port, _):
            error = signal(port, 1)
        assert isinstance(error, RPCError)
        assert kind_of(error, (), {}).effect == "unknown"
        assert kind_of(error, (), {}, client_retries=False) is CODES[code]


def test_a_second_try_of_temporals_own_client() -> None:
    with frontend("UNAVAILABLE", "NOT_FOUND") as (port, handler):
        error = signal(port)
    assert handler.effects == 1
    assert isinstance(error, RPCError)
    assert error.status is RPCStatusCode.NOT_FOUND
    assert kind_of(error, (), {}).effect == "unknown"


def details(seconds: int, nanos: int = 0, kind: str = "RetryInfo") -> bytes:
    """A `google.rpc.Status` with a detail before its `google.rpc.RetryInfo`."""
    delay = Duration(seconds=seconds, nanos=nanos).SerializeToString()
    info = Any_(type_url=f"type.googleapis.com/google.rpc.{kind}", value=bytes([10, len(delay)]) + delay)
    help = Any_(type_url="type.googleapis.com/google.rpc.Help", value=b"\n\x00")
    return GrpcStatus(code=8, message="later", details=[help, info]).SerializeToString()


@both
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (details(3, 500_000_000), timedelta(seconds=3.5)),
        (details(10**9), timedelta(seconds=10**9)),
        (details(0), None),
        (details(7, kind="QuotaFailure"), None),
        (b"", None),
        (b"\xff\xff", None),
    ],
    ids=["wait", "long", "none", "another", "empty", "garbage"],
)
def test_retry_info_in_the_trailing_metadata(
    call: Call, status: bytes, expected: timedelta | None, target: str
) -> None:
    """Google's APIs say so how long to wait, in the answer that refuses."""
    error = call(target, "details", status)
    assert kind_of(error, (), {}) is K.THROTTLED
    assert retry_hint(error) == expected
    of_temporal = RPCError("later", RPCStatusCode.RESOURCE_EXHAUSTED, status)
    assert retry_hint(of_temporal) == expected


def test_retry_info_is_the_message_of_googles_own_library() -> None:
    error_details = pytest.importorskip("google.rpc.error_details_pb2")
    info = error_details.RetryInfo(retry_delay=Duration(seconds=3, nanos=500_000_000))
    wrapped = Any_()
    wrapped.Pack(info)
    own = GrpcStatus.FromString(details(3, 500_000_000)).details[1]
    assert (own.type_url, own.value) == (wrapped.type_url, wrapped.value)


# --- Google's clients over gRPC ---


def google_call(target: str, what: str, *, again: bool = False, timeout: float = 20) -> Exception:
    from google.api_core import exceptions, gapic_v1, retry

    policy = retry.Retry(retry.if_exception_type(exceptions.ServiceUnavailable), initial=0.001) if again else None
    with grpc.insecure_channel(target) as channel:
        wrap: Any = gapic_v1.method.wrap_method
        method = wrap(channel.unary_unary(f"/tests/{what}"), default_retry=policy)
        with pytest.raises(exceptions.GoogleAPICallError) as raised:
            method(b"", timeout=timeout)
        return raised.value


@pytest.mark.filterwarnings("ignore")  # theirs
def test_googles_codes(target: str) -> None:
    errors = {code: google_call(target, code) for code in CODES}
    assert {code: kind_of(error, (), {}, client_retries=False) for code, error in errors.items()} == CODES
    assert {kind_of(error, (), {}).effect for error in errors.values()} == {"unknown"}  # by its row alone
    assert kind_of(google_call(target, "NOT_FOUND", again=True), (), {}) is K.REJECTED  # the traceback shows one try


@pytest.mark.filterwarnings("ignore")
def test_a_second_try_of_googles_own(target: str) -> None:
    error = google_call(target, "then-UNAVAILABLE-ALREADY_EXISTS", again=True)
    assert kind_of(error, (), {}).effect == "unknown"
    assert kind_of(error, (), {}, client_retries=False).effect == "unknown"


@pytest.mark.filterwarnings("ignore")
def test_googles_get_no_answer(target: str) -> None:
    with refusing_port() as port:
        refused = google_call(f"127.0.0.1:{port}", "any")
    late = google_call(target, "stall", timeout=0.3)
    for error in (refused, late):
        assert kind_of(error, (), {}) is kind_of(error, (), {}, client_retries=False) is K.AMBIGUOUS
