"""What `classify_errors` costs an activity, and `classify` an exception."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import psycopg
from temporalio import activity
from temporalio.testing import ActivityEnvironment

from temporal_saga.classification import classify, classify_errors


@activity.defn
def plain(text: str) -> str:
    return text.upper()


@activity.defn
@classify_errors
def classified(text: str) -> str:
    return text.upper()


def timed(*calls: Callable[[], Any], count: int = 200, rounds: int = 20) -> list[float]:
    """Return the least seconds of each call; they take turns."""
    least = [float("inf")] * len(calls)
    for _ in range(rounds):
        for number, call in enumerate(calls):
            began = time.perf_counter()
            for _ in range(count):
                call()
            least[number] = min(least[number], (time.perf_counter() - began) / count)
    return least


def response(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://provider.example")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, request=request))


EXCEPTIONS = {
    "httpx.ReadTimeout": httpx.ReadTimeout(""),
    "httpx.HTTPStatusError, 429": response(429),
    "psycopg.errors.DeadlockDetected": psycopg.errors.DeadlockDetected(),
    "ValueError, which no rule knows": ValueError(),
}


def report(_: float) -> None:
    """Print the lines."""
    run = ActivityEnvironment().run
    base, guarded = timed(lambda: run(plain, "x"), lambda: run(classified, "x"))
    print("an activity that does nothing, in ActivityEnvironment: without and with classify_errors")
    print(f"{base * 1e6:>34.1f} us {guarded * 1e6:>8.1f} us, ratio {guarded / base:.2f}")
    print("\nclassify, microseconds a call")
    for name, exception in EXCEPTIONS.items():
        (spent,) = timed(partial(classify, exception))
        print(f"{name:>34} {spent * 1e6:.1f}")
