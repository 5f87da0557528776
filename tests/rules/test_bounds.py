"""What an unwind costs: the bytes that go into one workflow task (rule 1), and the work for each undo (linear)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import pytest
from temporalio import workflow

import temporal_saga
from temporal_saga import Compensation, Saga
from tests.driver import Activation, Run, cancel, completed
from tests.rules.workflows import REFUSED, do, end, flow, new_saga, undone

pytestmark = pytest.mark.usefixtures("collected")

BOUND = 1024 * 1024
KILO = 1_000


# --- bytes ---


def argument_bytes(done: Activation) -> int:
    """Return how many bytes of arguments the undos have that went out with one activation."""
    return sum(
        payload.ByteSize()
        for command in done.protos
        for payload in (
            *(command.schedule_activity.arguments if ":do:" not in command.schedule_activity.activity_id else ()),
            *(
                command.start_child_workflow_execution.input
                if ":do:" not in command.start_child_workflow_execution.workflow_id
                else ()
            ),
        )
    )


def by_task(run: Run) -> list[int]:
    """Return the bytes of the undos' arguments for each workflow task that had any."""
    sums: dict[int, int] = {}
    for done in run.activations:
        sums[done.task] = sums.get(done.task, 0) + argument_bytes(done)
    return [size for size in sums.values() if size]


def parallel(*sizes: int, kind: str = "activity") -> type[Any]:
    """Return a workflow of parallel steps, each undone with an argument of that size, which fails behind them."""

    def undo(size: int) -> Compensation:
        argument = "x" * size
        return (
            Compensation("undo_a", argument) if kind == "activity" else Compensation.child_workflow("undo_a", argument)
        )

    @flow
    async def body() -> None:
        async with new_saga(order="concurrent") as saga:
            steps = [do(saga, "a", compensation=undo(size), key=str(i)) for i, size in enumerate(sizes)]
            await asyncio.gather(*steps)
            raise REFUSED

    return body


def unwound(code: type[Any], **options: Any) -> Run:
    """Run to the end: all that waits completes in one activation, as with many quick workers."""
    run = Run(code, **options).start()
    for _ in range(10_000):
        if run.closed is not None:
            return run
        assert run.task_failure is None, run.task_failure
        events = [completed(activity.id) for activity in run.activities]
        run.activate(*events) if events else run.activate(run._next({}))
    raise AssertionError("no end")


@pytest.mark.parametrize("kind", ["activity", "child"])
def test_rule_01_the_arguments_in_one_workflow_task_are_bounded(kind: str) -> None:
    """The server ends a run whose task has more than 4 MB, and then nothing is undone."""
    count = 200
    run = unwound(parallel(*[20 * KILO] * count, kind=kind))
    assert end(run) == "Refused"
    sizes = by_task(run)
    assert max(sizes) <= BOUND
    assert sum(sizes) >= count * 20 * KILO  # each was undone
    assert sizes[0] >= BOUND / 2  # and side by side: the bound is on bytes, not on how many
    ids = [c[1] for c in run.commands if c[0] in ("schedule_activity", "start_child") and ":undo:" in c[1]]
    assert len(ids) == len(set(ids)) == count


def test_rule_01_it_goes_on_as_the_first_ones_end() -> None:
    """One after another, too: what ends makes room for what waits, and no task exceeds the bound."""
    run = Run(parallel(*[100 * KILO] * 30)).start()
    while run.closed is None:
        run.activate(completed(run.activities[0].id))
    assert undone(run) == ["undo_a"] * 30
    assert max(by_task(run)) <= BOUND
    run.check()


def test_rule_01_one_undo_over_the_bound_goes_alone() -> None:
    """Its step may not be left standing: it goes, and nothing with it."""
    sizes = [20 * KILO, 1_500 * KILO, 20 * KILO, 1_200 * KILO, 20 * KILO]
    run = unwound(parallel(*sizes))
    assert end(run) == "Refused"
    assert undone(run) == ["undo_a"] * 5
    for done in run.activations:
        undos = [c for c in done.protos if ":undo:" in c.schedule_activity.activity_id]
        if argument_bytes(done) > BOUND:
            assert len(undos) == 1
    assert max(by_task(run)) <= 1_600 * KILO
    run.check()


def test_rule_01_small_ones_are_not_held_back() -> None:
    run = unwound(parallel(*[100] * 300))
    assert len(by_task(run)) == 1


@pytest.mark.parametrize("kind", ["sagas", "savepoints"])
def test_rule_01_the_bound_is_the_runs_not_the_scopes(kind: Literal["sagas", "savepoints"]) -> None:
    """A cancel unwinds all of them in one workflow task: five times the bound is too much for the server."""

    @flow
    async def body() -> None:
        async def part(scope: Saga, name: str) -> None:
            async with scope as saga:
                undo = Compensation("undo_a", "x" * 20 * KILO)
                await asyncio.gather(
                    *[do(saga, f"step-{name}", compensation=undo, key=f"{name}-{i}") for i in range(50)]
                )
                await workflow.wait_condition(lambda: False)

        if kind == "sagas":
            parts = [part(new_saga(name, order="concurrent"), name) for name in "vwxyz"]
            await asyncio.gather(*parts, return_exceptions=True)  # which waits for each
            return
        async with new_saga(order="concurrent") as saga:
            await asyncio.gather(*[part(saga.savepoint(), name) for name in "vwxyz"])

    run = Run(body).start()
    run.activate(*[completed(activity.id) for activity in run.activities])
    run.activate(cancel())
    while run.closed is None:
        run.activate(*[completed(activity.id) for activity in run.activities])
    assert end(run) == "Cancelled"
    assert undone(run) == ["undo_a"] * 250
    assert max(by_task(run)) <= BOUND
    run.check()


# --- work ---

# asyncio's too: `asyncio.wait` looks at each of its tasks, each time.
_COUNTED = tuple(str(Path(module.__file__ or "").parent) for module in (temporal_saga, asyncio))


class Work:
    """Counts the bytecodes that the library executes, and asyncio for it: exact, where time is not.

    What runs in C is not counted.
    """

    def __init__(self) -> None:
        self.count = 0

    def _global(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(_COUNTED):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._local

    def _local(self, frame: FrameType, event: str, arg: object) -> Any:
        self.count += event == "opcode"
        return self._local

    def of(self, act: Callable[[], Any]) -> int:
        """Count what an act costs."""
        before, self.count = sys.gettrace(), 0
        sys.settrace(self._global)
        try:
            act()
        finally:
            sys.settrace(before)
        return self.count


def pushed(count: int, order: Literal["reverse", "concurrent"]) -> type[Any]:
    @flow
    async def body() -> None:
        async with new_saga(order=order) as saga:
            for i in range(count):
                saga.add_compensation("undo_a", i)
            await workflow.wait_condition(lambda: False)

    return body


def at_once(count: int, order: Literal["reverse", "concurrent"]) -> type[Any]:
    @flow
    async def body() -> None:
        async with new_saga(order=order) as saga:
            await asyncio.gather(*[do(saga, "a", compensation="undo_a", key=str(i)) for i in range(count)])
            await workflow.wait_condition(lambda: False)

    return body


def in_one_scope_each(count: int, order: Literal["reverse", "concurrent"]) -> type[Any]:
    @flow
    async def body() -> None:
        async with new_saga(order=order) as saga:
            for i in range(count):
                async with saga.savepoint() as attempt:
                    attempt.add_compensation("undo_a", i)
            await workflow.wait_condition(lambda: False)

    return body


def unwind_work(code: type[Any]) -> int:
    """Return the work of an unwind; the steps before it are not counted."""
    run = Run(code).start()
    if run.activities:
        run.activate(*[completed(activity.id) for activity in run.activities])

    def unwind() -> None:
        run.activate(cancel())
        while run.closed is None:
            run.activate(completed(run.activities[0].id))

    work = Work().of(unwind)
    assert end(run) == "Cancelled"
    return work


@pytest.mark.slow
@pytest.mark.parametrize("order", ["reverse", "concurrent"])
@pytest.mark.parametrize("shape", [pushed, at_once, in_one_scope_each])
def test_an_undo_costs_the_same_however_many_there_are(shape: Any, order: str) -> None:
    """The fourth hundred of them costs no more than the second: counted without what is paid once."""
    first, second, fourth = (unwind_work(shape(count, order)) for count in (100, 200, 400))
    early = (second - first) / 100
    late = (fourth - second) / 200
    assert late / early <= 1.2


@pytest.mark.slow
@pytest.mark.parametrize("order", ["reverse", "concurrent"])
def test_a_drain_of_many_steps_is_linear(order: str) -> None:
    """A cancel while they all run: each is asked to end, settled, and undone."""

    def work(count: int) -> int:
        run = Run(at_once(count, order)).start()  # type: ignore[arg-type]

        def unwind() -> None:
            run.activate(cancel())
            while run.closed is None:
                run.activate(*[completed(activity.id) for activity in run.activities])

        found = Work().of(unwind)
        assert len(undone(run)) == count
        return found

    first, second, fourth = (work(count) for count in (100, 200, 400))
    assert ((fourth - second) / 200) / ((second - first) / 100) <= 1.2
