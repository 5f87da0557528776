"""Rule 9: a history replays though tasks hash otherwise. Rule 1: unwinds of one activation start in order of entry.

A `TaskGroup` keeps its tasks in a set, and cancels them in the order of that set: by their addresses, which differ from
one process to the next, and repeat in one. So a replay in the same process does not show what depends on it. Here tasks
hash as the test says; and the last test replays in processes of their own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ApplicationError
from temporalio.worker import _workflow_instance

from temporal_saga import Saga
from tests.driver import HANG, Run, cancel, completed, failed
from tests.rules.cancelling import TaskGroup, both, counts
from tests.rules.workflows import REFUSED, do, end, flow, new_saga, undone

pytestmark = [pytest.mark.usefixtures("collected"), pytest.mark.slow, counts]

Options = dict[str, Any]
NAMES = "abcdefgh"
HASHES: dict[str, Callable[[int], int]] = {
    "oldest first": lambda number: number,
    "newest first": lambda number: -number,
    "shuffled": lambda number: number * 7919 % 1009,
}


@contextmanager
def tasks_that_hash(by: Callable[[int], int]) -> Iterator[None]:
    """Give each task of a workflow a hash of its number, which is the order of a small set."""
    numbers = count(2)
    instance: Any = _workflow_instance._WorkflowInstanceImpl
    before = instance.create_task

    class Hashed(asyncio.Task[Any]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.number = next(numbers)
            super().__init__(*args, **kwargs)

        def __hash__(self) -> int:
            return by(self.number)

    def create_task(self: Any, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = Hashed(coro, loop=self, context=context)
        self._register_task(task, name=name)
        return task

    instance.create_task = create_task
    try:
        yield
    finally:
        instance.create_task = before


def replays_however_tasks_hash(run: Run) -> None:
    """Check that a run replays and is evicted, whichever order the sets of its tasks have."""
    for by in HASHES.values():
        with tasks_that_hash(by):
            run.replay()
            run.replay(single_batch=True)
    run.check()


def test_the_hash_of_a_task_is_the_order_of_a_task_group() -> None:
    """The means of these tests works: plain activities in a group are cancelled in the order that the hash gives."""

    @flow
    async def body() -> None:
        async with TaskGroup() as group:
            for name in NAMES:
                group.create_task(
                    workflow.execute_activity(
                        name,
                        start_to_close_timeout=timedelta(seconds=10),
                        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                    )
                )

    orders = []
    for by in HASHES.values():
        with tasks_that_hash(by):
            run = Run(body).start()
            run.activate(failed("a", REFUSED))
            orders.append([a.name for c in run.commands if len(c) == 2 for a in run.activities if a.id == c[1]])
            run.evict()
    assert orders[0] == list(NAMES[1:])
    assert orders[1] == list(reversed(NAMES[1:]))
    assert len({tuple(order) for order in orders}) == 3


# --- what is in the group ---

Part = Callable[[Saga, str], Coroutine[Any, Any, None]]


async def step(saga: Saga, name: str) -> None:
    await do(saga, name)


async def child(saga: Saga, name: str) -> None:
    await saga.execute_child_workflow(name, compensation=f"undo_{name}")


async def step_in_a_savepoint(saga: Saga, name: str) -> None:
    async with saga.savepoint() as attempt:
        await do(attempt, name)


async def savepoint(saga: Saga, name: str) -> None:
    async with saga.savepoint() as attempt:
        await do(attempt, name)
        await workflow.wait_condition(lambda: False)


async def savepoint_in_a_savepoint(saga: Saga, name: str) -> None:
    async with saga.savepoint() as outer, outer.savepoint() as inner:
        await do(inner, name)
        await workflow.wait_condition(lambda: False)


async def saga_of_its_own(saga: Saga, name: str) -> None:
    async with new_saga(name) as own:
        await do(own, name)
        await workflow.wait_condition(lambda: False)


async def savepoint_in_a_group(saga: Saga, name: str) -> None:
    async with TaskGroup() as group:
        group.create_task(savepoint(saga, name))


async def savepoint_that_pushes(saga: Saga, name: str) -> None:
    async with saga.savepoint() as attempt:
        attempt.add_compensation(f"undo_{name}")
        await do(attempt, name, compensation=None)
        await workflow.wait_condition(lambda: False)


async def savepoint_with_a_callback(saga: Saga, name: str) -> None:
    async def callback() -> None:
        await workflow.execute_activity(f"undo_{name}", start_to_close_timeout=timedelta(seconds=10))

    async with saga.savepoint() as attempt:
        attempt.add_callback(callback)
        await do(attempt, name, compensation=None)
        await workflow.wait_condition(lambda: False)


async def compensates(saga: Saga, name: str) -> None:
    async with new_saga(name) as own:
        await do(own, name)
        try:
            await workflow.wait_condition(lambda: False)
        finally:
            await own.compensate()


PARTS = [
    step,
    child,
    step_in_a_savepoint,
    savepoint,
    savepoint_in_a_savepoint,
    saga_of_its_own,
    savepoint_in_a_group,
    savepoint_that_pushes,
    savepoint_with_a_callback,
    compensates,
]
ENDS = ["cancel", "one fails", "the whole fails", "a timeout"]


def in_a_group(part: Part, how: str) -> type[Any]:
    """Return a workflow with a saga, in whose scope a `TaskGroup` runs `part` for each name."""

    @flow
    async def body() -> None:
        async def fails() -> None:
            await do(new, "z", compensation=None)

        async with new_saga() as saga, contextlib_timeout(how):
            new = saga
            async with TaskGroup() as group:
                for name in NAMES:
                    group.create_task(part(saga, name))
                if how == "one fails":
                    group.create_task(fails())
                elif how == "the whole fails":
                    await do(saga, "z", compensation=None)

    return body


def contextlib_timeout(how: str) -> Any:
    """Return the timeout around the group, one that never expires unless the test is about it."""
    return asyncio.timeout(5 if how == "a timeout" else None)  # type: ignore[attr-defined,unused-ignore]


def drive(part: Part, how: str, options: Options) -> Run:
    """Run it: each step succeeds, where it is not cancelled in flight; then comes what ends the group."""
    run = Run(in_a_group(part, how), run_id="11111111-2222-4333-8444-555555555555", **options).start()
    if part not in (step, child, step_in_a_savepoint):
        for name in NAMES:
            run.activate(completed(name))
    if how == "cancel":
        run.activate(cancel())
    elif how != "a timeout":
        run.activate(failed("z", REFUSED))
    return run.autopilot(dict.fromkeys((f"{name}:do" for name in NAMES), HANG))


@pytest.mark.deep
@both
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("how", ENDS)
def test_rule_09_what_a_task_group_cancels_replays(options: Options, part: Part, how: str) -> None:
    """A run whose `TaskGroup` is cancelled replays in a process where its set of tasks has another order.

    Siblings: steps, children, steps in savepoints, savepoints, two deep, sagas, nested groups, pushed compensations,
    callbacks, `compensate()` in a `finally`; the group is cancelled by the workflow, by one of its own, by its body, by
    a timeout.
    """
    run = drive(part, how, options)
    assert sorted(undone(run)) == [f"undo_{name}" for name in NAMES]
    replays_however_tasks_hash(run)


@both
@pytest.mark.parametrize("part", [savepoint, savepoint_in_a_savepoint, saga_of_its_own, savepoint_that_pushes])
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("hashed", HASHES)
def test_rule_01_unwinds_of_one_activation_start_in_the_order_of_entry(
    options: Options, part: Part, how: str, hashed: str
) -> None:
    """Unwinds that begin in the same activation start in the order in which their scopes were entered."""
    with tasks_that_hash(HASHES[hashed]):
        run = drive(part, how, options)
    assert undone(run) == [f"undo_{name}" for name in NAMES]


@both
@pytest.mark.parametrize("part", [savepoint, saga_of_its_own])
def test_rule_09_a_gather_of_the_same_replays(options: Options, part: Part) -> None:
    """A `gather` cancels in the order of a list; it stays that order."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await asyncio.gather(*[part(saga, name) for name in NAMES])

    run = Run(body, **options).start()
    for name in NAMES:
        run.activate(completed(name))
    run.activate(cancel())
    run.autopilot({})
    assert undone(run) == [f"undo_{name}" for name in NAMES]
    replays_however_tasks_hash(run)


@both
def test_rule_01_sagas_of_other_tasks_are_ended_in_the_order_of_entry(options: Options) -> None:
    """The plugin ends the open sagas of other tasks in the order of entry; so does whoever cancels them together."""

    @flow
    async def body() -> None:
        async def work(name: str) -> None:
            async with new_saga(name) as saga:
                await do(saga, name)
                await asyncio.sleep(1000)

        tasks = [asyncio.create_task(work(name)) for name in NAMES]
        await workflow.execute_activity("main", start_to_close_timeout=timedelta(seconds=10))
        if not options:
            for task in reversed(tasks):
                task.cancel()
            await asyncio.wait(tasks)
        raise ApplicationError("the end", type="End")

    run = Run(body, **options).start()
    for name in NAMES:
        run.activate(completed(name))
    run.activate(completed("main"))
    run.autopilot({})
    assert undone(run) == [f"undo_{name}" for name in NAMES]
    assert end(run) == "End"
    replays_however_tasks_hash(run)


# --- other processes ---

SCRIPT = """
import gc, os, random
from temporal_saga.plugin import SagaPlugin
from tests.rules import test_determinism_of_tasks as here

# Other addresses than in a process that has done the same: objects of a task's size, some of which go.
rng = random.Random(os.environ["PYTHONHASHSEED"])
litter = [bytearray(rng.randrange(100, 400)) for _ in range(5000)]
for _ in range(2500):
    litter.pop(rng.randrange(len(litter)))
for part in (here.step, here.savepoint, here.saga_of_its_own, here.savepoint_in_a_group):
    for how in here.ENDS:
        for command in here.drive(part, how, {"plugins": [SagaPlugin()]}).commands:
            if command[0] != "fail":
                print(part.__name__, how, command)
"""


def test_rule_09_three_processes_give_the_same_commands() -> None:
    """The same activations give the same commands in three processes, each with another `PYTHONHASHSEED`."""
    outputs = set()
    for seed in "123":
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) > 16 * len(NAMES)
