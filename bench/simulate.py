"""How many runs of a saga of five steps the simulator makes in a second, and how many the dev server does."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time

from temporalio.client import Client
from temporalio.worker import Worker

from bench.workflows import WithSaga, undo, work
from examples.dev_server import dev_server
from temporal_saga.plugin import SagaPlugin
from temporal_saga.testing import simulate

STEPS = 5
EXPECTED = sum(range(STEPS))
AT_ONCE = (1, 20)  # more than these do not make the server faster on two cores, which it shares with its worker


def simulated(seconds: float) -> float:
    """Return the runs a second of the simulator."""
    began = time.perf_counter()
    for count in itertools.count(1):
        assert simulate(WithSaga.run, STEPS, False, activities=[work, undo]).result() == EXPECTED
        if (spent := time.perf_counter() - began) > seconds:
            return count / spent
    raise AssertionError


async def served(client: Client, seconds: float, at_once: int) -> float:
    """Return the runs a second of a server and a worker, with so many under way at once."""
    ids = itertools.count()
    began = time.perf_counter()

    async def one_after_the_other() -> int:
        for count in itertools.count(1):
            id = f"bench-{began}-{next(ids)}"
            result = await client.execute_workflow(WithSaga.run, args=[STEPS, False], id=id, task_queue="bench")
            assert result == EXPECTED
            if time.perf_counter() - began > seconds:
                return count
        raise AssertionError

    counts = await asyncio.gather(*[one_after_the_other() for _ in range(at_once)])
    return sum(counts) / (time.perf_counter() - began)


async def compare(seconds: float) -> None:
    async with (
        dev_server(plugins=[SagaPlugin()]) as env,
        Worker(env.client, task_queue="bench", workflows=[WithSaga], activities=[work, undo]),
    ):
        await served(env.client, 1.0, AT_ONCE[-1])
        simulated(0.2)
        for at_once in AT_ONCE:
            pairs = [(simulated(seconds), await served(env.client, seconds, at_once)) for _ in range(3)]
            ours, theirs = (statistics.median(rates) for rates in zip(*pairs, strict=True))
            print(f"{at_once:>25} {theirs:>12.0f} {ours:>10.0f} {ours / theirs:>7.1f}", flush=True)


def report(seconds: float) -> None:
    """Print the lines; `seconds` is about how long a measurement takes."""
    print("sagas of five steps a second: retries, payload conversion and the real activity functions")
    print(f"{'at once on the dev server':>25} {'dev server':>12} {'simulated':>10} {'ratio':>7}")
    asyncio.run(compare(seconds))
    time.sleep(0.3)  # sdk-python #300: the interpreter may crash if it exits right after a dev server
