"""How many runs of a saga of five steps the simulator makes in a second, beside the dev server and beside the floor.

The floor is the SDK's own workflow instance, which is made anew and fed the recorded activations: no simulator can take
less. What is above it are the activities, whose arguments and results are converted too, and the virtual server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import statistics
import time
from concurrent.futures import Executor, ProcessPoolExecutor

from temporalio.client import Client
from temporalio.worker import Worker

from bench.recording import Recording, executed, least_seconds
from bench.workflows import WithSaga, undo, work
from examples.dev_server import dev_server
from temporal_saga.plugin import SagaPlugin
from temporal_saga.testing import simulate

STEPS = 5
EXPECTED = sum(range(STEPS))
# How many runs are under way on the server, and how many processes simulate. The server, its worker and its client use
# all cores; more than twenty at once do not make them faster on two.
PAIRS = ((1, 1), (20, 1), (20, os.cpu_count() or 1))


def simulated(seconds: float) -> float:
    """Return the runs a second of the simulator, in this process."""
    began = time.perf_counter()
    for count in itertools.count(1):
        assert simulate(WithSaga.run, STEPS, False, activities=[work, undo]).result() == EXPECTED
        if (spent := time.perf_counter() - began) > seconds:
            return count / spent
    raise AssertionError


class Simulated:
    """A run in the simulator, that can be had again."""

    def again(self) -> None:
        """Run it."""
        assert simulate(WithSaga.run, STEPS, False, activities=[work, undo]).result() == EXPECTED

    def seconds(self) -> float:
        """Run it, and return how long that took."""
        began = time.perf_counter()
        self.again()
        return time.perf_counter() - began


def recorded() -> Recording:
    """Return the floor: the workflow, with the plugin that `simulate` gives its worker."""
    return Recording(WithSaga, STEPS, False, plugins=[SagaPlugin()])


def bytecodes() -> tuple[int, int]:
    """Return how many bytecodes the floor takes, and how many a simulated run takes."""
    return recorded().bytecodes(), executed(Simulated().again)


def beside_the_floor(seconds: float) -> None:
    floor, simulated = least_seconds(recorded(), Simulated(), budget=seconds)
    fed, ran = bytecodes()
    print(f"{'':>25} {'runs a second':>14} {'bytecodes':>10}")
    for name, least, count in (("recorded activations", floor, fed), ("simulated", simulated, ran)):
        print(f"{name:>25} {1 / least:>14.0f} {count:>10}")
    print(f"{'ratio':>25} {floor / simulated:>14.2f} {fed / ran:>10.2f}", flush=True)


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


async def compare(seconds: float, simulators: list[Executor]) -> None:
    async with (
        dev_server(plugins=[SagaPlugin()]) as env,
        Worker(env.client, task_queue="bench", workflows=[WithSaga], activities=[work, undo]),
    ):
        await served(env.client, 1.0, PAIRS[-1][0])
        for at_once, processes in PAIRS:
            in_turns = list[tuple[float, float]]()
            for _ in range(3):
                runs = [simulator.submit(simulated, seconds) for simulator in simulators[:processes]]
                in_turns.append((sum(run.result() for run in runs), await served(env.client, seconds, at_once)))
            ours, theirs = (statistics.median(rates) for rates in zip(*in_turns, strict=True))
            line = f"{at_once:>25} {theirs:>12.0f} {processes:>12} {ours:>10.0f} {ours / theirs:>7.1f}"
            print(line, flush=True)


def report(seconds: float) -> None:
    """Print the lines; `seconds` is about how long a measurement takes."""
    print("sagas of five steps: the SDK's own workflow instance, fed what was recorded, and the simulator")
    beside_the_floor(seconds)
    print()
    print("sagas of five steps a second: retries, payload conversion and the real activity functions")
    print(f"{'at once on the dev server':>25} {'dev server':>12} {'simulators':>12} {'simulated':>10} {'ratio':>7}")
    with contextlib.ExitStack() as stack:
        # Processes of their own, without the server's client in them: a worker's threads would share their lock.
        spawn = multiprocessing.get_context("spawn")
        simulators: list[Executor] = [
            stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn))
            for _ in range(max(processes for _, processes in PAIRS))
        ]
        for warm in [simulator.submit(simulated, 0.2) for simulator in simulators]:
            warm.result()
        asyncio.run(compare(seconds, simulators))
    time.sleep(0.3)  # sdk-python #300: the interpreter may crash if it exits right after a dev server
