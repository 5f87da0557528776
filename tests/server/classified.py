"""A purchase whose charge calls an API over HTTP that answers as its tests want.

The charge's activity exists as each kind that Temporal knows, bare and decorated, always under the name ``charge``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import CancelledError

from temporal_saga import Saga, current_step
from temporal_saga.errors import Throttled

with workflow.unsafe.imports_passed_through():
    import httpx

    from temporal_saga.classification import classify_errors

CLIENT_TIMEOUT = 0.5
HANG = 4.0


@dataclass(frozen=True)
class Order:
    """What to buy, and what comes of each attempt to charge for it.

    Attributes:
        api: Where the API is.
        tries: What each attempt does, as words. ``ok``, ``402``, ``429``, ``stall`` are calls of the API,
            ``402-later`` stalls first, ``refused`` finds nobody there; ``beat`` sends a heartbeat with details,
            ``pulse`` one without, ``hang`` outlasts start-to-close, ``wait`` waits to be cancelled, ``bug`` is an
            exception that no rule knows, ``by-hand`` is a `Throttled` of the activity's own, for a minute.
        seconds: Start-to-close of the charge.
        interval: Between the attempts.
        overall: Schedule-to-close of the charge.
        heartbeat: Its heartbeat timeout.
        never_again: Types that are not retried.
    """

    api: str
    tries: list[str]
    seconds: float = 15
    interval: float = 0.05
    overall: float | None = None
    heartbeat: float | None = None
    never_again: list[str] = field(default_factory=list)


@workflow.defn
class Buys:
    """Reserves, then charges."""

    @workflow.run
    async def run(self, order: Order) -> str:
        once: workflow.ActivityConfig = {"start_to_close_timeout": timedelta(seconds=10)}
        async with Saga(activity_options=once, compensation_options=once) as saga:
            await saga.execute_activity("reserve", order, compensation="release")
            await saga.execute_activity(
                "charge",
                order,
                compensation="refund",
                start_to_close_timeout=timedelta(seconds=order.seconds),
                schedule_to_close_timeout=None if order.overall is None else timedelta(seconds=order.overall),
                heartbeat_timeout=None if order.heartbeat is None else timedelta(seconds=order.heartbeat),
                retry_policy=RetryPolicy(
                    initial_interval=timedelta(seconds=order.interval),
                    backoff_coefficient=1,
                    maximum_attempts=len(order.tries),
                    non_retryable_error_types=order.never_again,
                ),
            )
        return "bought"


@dataclass(frozen=True)
class Call:
    """One call of the API."""

    path: str
    key: str
    at: float


class Api:
    """An API that charges, on a port of this machine.

    Attributes:
        calls: What was asked of it.
        applied: The keys of the charges that stand.
        seen: The heartbeat details that each attempt began with, by key.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.applied: set[str] = set()
        self.seen: dict[str, list[Any]] = {}
        self._closing = threading.Event()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                api.answer(self, body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        url = urlparse(request.path)
        key = request.headers["Idempotency-Key"]
        path = url.path
        if path == "/402-later":
            path = "/402" if key in self.applied else "/stall"
        self.calls.append(Call(path, key, time.monotonic()))
        if path == "/seen":
            self.seen.setdefault(key, []).append(body.decode())
        elif path == "/undo":
            self.applied.discard(key)
        elif path in ("/ok", "/stall"):
            self.applied.add(key)
        if path == "/stall":
            self._closing.wait(CLIENT_TIMEOUT * 4)
            return
        request.send_response(int(path[1:]) if path[1:].isdigit() else 200)
        for name, values in parse_qs(url.query).items():
            request.send_header(name, values[0])
        request.send_header("Content-Length", "0")
        request.end_headers()

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _requests(order: Order) -> tuple[list[str], str, str]:
    info = activity.info()
    key = current_step().key
    return order.tries[info.attempt - 1].split(), key, repr(list(info.heartbeat_details))


def _url(order: Order, word: str) -> str:
    # Port 9 ("discard") is nobody's.
    return "http://127.0.0.1:9" if word == "refused" else f"{order.api}/{word}"


@activity.defn
async def reserve(order: Order) -> None:
    await _post(f"{order.api}/ok", current_step().key)


@activity.defn
async def release(order: Order) -> None:
    await _post(f"{order.api}/undo", current_step().forward_key or "")


@activity.defn
async def refund(order: Order) -> None:
    await _post(f"{order.api}/undo", current_step().forward_key or "")


async def _post(url: str, key: str, content: str = "") -> None:
    async with httpx.AsyncClient(timeout=CLIENT_TIMEOUT) as client:
        (await client.post(url, headers={"Idempotency-Key": key}, content=content)).raise_for_status()


async def charge_async(order: Order) -> None:
    words, key, details = _requests(order)
    await _post(f"{order.api}/seen", key, details)
    for word in words:
        if word == "beat":
            activity.heartbeat("page", activity.info().attempt)
        elif word == "pulse":
            activity.heartbeat()
        elif word == "hang":
            await asyncio.sleep(HANG)
        elif word == "wait":
            while True:
                activity.heartbeat()
                await asyncio.sleep(0.05)
        elif word == "bug":
            raise ValueError(order.api)
        elif word == "by-hand":
            raise Throttled(retry_after=timedelta(minutes=1))
        else:
            await _post(_url(order, word), key)


def charge_sync(order: Order) -> None:
    words, key, details = _requests(order)
    with httpx.Client(timeout=CLIENT_TIMEOUT, headers={"Idempotency-Key": key}) as client:
        client.post(f"{order.api}/seen", content=details)
        for word in words:
            if word == "beat":
                activity.heartbeat("page", activity.info().attempt)
            elif word == "pulse":
                activity.heartbeat()
            elif word == "hang":
                time.sleep(HANG)
            elif word == "wait":
                while not activity.is_cancelled():  # in a thread this is where the cancel is raised
                    activity.heartbeat()
                    time.sleep(0.05)
                raise CancelledError
            elif word == "bug":
                raise ValueError(order.api)
            elif word == "by-hand":
                raise Throttled(retry_after=timedelta(minutes=1))
            else:
                client.post(_url(order, word)).raise_for_status()


class Till:
    """The same as methods."""

    @activity.defn(name="charge")
    @classify_errors
    async def charge_async(self, order: Order) -> None:
        await charge_async(order)

    @classify_errors
    @activity.defn(name="charge")
    def charge_sync(self, order: Order) -> None:
        charge_sync(order)


@activity.defn(name="charge")
def bare_sync(order: Order) -> None:
    charge_sync(order)


@activity.defn(name="charge")
async def bare_async(order: Order) -> None:
    await charge_async(order)
