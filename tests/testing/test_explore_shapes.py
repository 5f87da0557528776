"""`explore` has nothing to object to in sagas of each shape that the library offers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Compensation, Saga, SagaState, presets
from temporal_saga.testing import Simulation, explore, signal

with workflow.unsafe.imports_passed_through():
    from tests.testing.bank import Bank

_STANDARD = presets.standard()


# Plain functions: a step is counted when it is called, and not in a task that `gather` makes.


def withdraw(saga: Saga, amount: int, step: str | None = None) -> Awaitable[None]:
    return saga.execute_activity_method(Bank.withdraw, amount, compensation=Bank.return_withdrawal, step=step)


def deposit(saga: Saga, amount: int, step: str | None = None) -> Awaitable[None]:
    return saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit, step=step)


@workflow.defn
class Savepoints:
    @workflow.run
    async def run(self, amount: int) -> str:
        async with Saga(activity_options=_STANDARD) as saga:
            await withdraw(saga, amount)
            for way in ("one", "two"):
                try:
                    async with saga.savepoint() as attempt:
                        await deposit(attempt, amount, way)
                        await withdraw(attempt, 0, f"{way}b")
                        return way
                except ActivityError:
                    pass
            raise ApplicationError("no way", non_retryable=True)


@workflow.defn
class Pivot:
    @workflow.run
    async def run(self, amount: int) -> str:
        async with Saga(activity_options=_STANDARD) as saga:
            await withdraw(saga, amount)
            saga.pivot()
            await workflow.sleep(10)
            await deposit(saga, amount)
        return "x"


@workflow.defn
class Concurrent:
    @workflow.run
    async def run(self, amount: int) -> str:
        async with Saga(activity_options=_STANDARD, order="concurrent") as saga:
            await asyncio.gather(*[withdraw(saga, amount) for _ in range(2)])
            await deposit(saga, 2 * amount)
            await workflow.sleep(1)
        return "x"


@workflow.defn
class Child:
    @workflow.run
    async def run(self, amount: int) -> str:
        async with Saga(activity_options=_STANDARD) as saga:
            await deposit(saga, amount)
        return "c"


@workflow.defn
class UndoChild:
    @workflow.run
    async def run(self, amount: int) -> str:
        async with Saga(activity_options=_STANDARD) as saga:
            await withdraw(saga, 0, "back")
        return "c"


@workflow.defn
class Parent:
    @workflow.run
    async def run(self, amount: int) -> str:
        async with Saga(activity_options=_STANDARD) as saga:
            await withdraw(saga, amount)
            await saga.execute_child_workflow(
                Child.run, amount, compensation=Compensation.child_workflow(UndoChild.run, amount), step="child"
            )
            await workflow.sleep(1)
        return "p"


@workflow.defn
class Hops:
    @workflow.run
    async def run(self, amount: int, left: int, state: SagaState | None = None) -> str:
        async with Saga(activity_options=_STANDARD, state=state) as saga:
            await withdraw(saga, amount)
            if left:
                workflow.continue_as_new(args=[amount, left - 1, saga.detach()])
            await deposit(saga, amount)
        return "h"


@workflow.defn
class Swallows:
    @workflow.run
    async def run(self, amount: int) -> str:
        async with Saga(activity_options=_STANDARD) as saga:
            try:
                await withdraw(saga, amount)
            except ActivityError:
                await withdraw(saga, amount, "card2")
            await deposit(saga, amount)
        return "h"


@workflow.defn
class Handler:
    def __init__(self) -> None:
        self.done = False

    @workflow.run
    async def run(self, amount: int) -> str:
        await workflow.wait_condition(lambda: self.done)
        return "x"

    @workflow.signal
    async def go(self) -> None:
        async with Saga(activity_options=_STANDARD) as saga:
            await withdraw(saga, 5)
            await deposit(saga, 5)
        self.done = True


@workflow.defn
class Rejected:
    @workflow.run
    async def run(self, amount: int) -> str:
        async with Saga(activity_options=_STANDARD) as saga:
            await withdraw(saga, amount)
            await saga.compensate()
        async with Saga(activity_options=_STANDARD) as saga:
            await withdraw(saga, amount)
            await deposit(saga, amount)
        return "rejected"


@workflow.defn
class Pushed:
    @workflow.run
    async def run(self, amount: int) -> str:
        async with Saga(activity_options=_STANDARD, deadline=timedelta(minutes=5)) as saga:
            await withdraw(saga, amount)
            saga.add_callback(asyncio.sleep, 1)
            await deposit(saga, amount)
        return "rejected"


class HandlerBank(Bank):
    async def client(self, handle: Any) -> None:
        await handle.signal(Handler.go)


SHAPES: dict[Any, dict[str, Any]] = {
    Savepoints: {},
    Pivot: {},
    Concurrent: {},
    Parent: {"workflows": [Child, UndoChild]},
    Hops: {},
    Swallows: {},
    Rejected: {},
    Pushed: {},
    Handler: {"setup": HandlerBank},
}


def explore_shape(shape: Any, faults: int) -> None:
    arguments = (10, 2) if shape is Hops else (10,)
    exploration = explore(shape.run, *arguments, faults=faults, **{"setup": Bank, **SHAPES[shape]})
    assert exploration.untried == 0
    assert exploration.tried > 20


@pytest.mark.parametrize("shape", SHAPES)
def test_one_fault(shape: Any) -> None:
    explore_shape(shape, 1)


@pytest.mark.deep
@pytest.mark.timeout(180)
@pytest.mark.parametrize("shape", SHAPES)
def test_two_faults(shape: Any) -> None:
    explore_shape(shape, 2)


def test_a_signal_at_every_point() -> None:
    """Any number of handlers, each with a saga, at any point of the first one's."""
    exploration = explore(Handler.run, 10, setup=HandlerBank, faults=1, kinds=[], signals=["go"])
    assert exploration.tried == 1 + 3  # without, and one in front of each activation


@workflow.defn
class Mailbox:
    """Has room for one letter: a second one in the same workflow task takes its place."""

    def __init__(self) -> None:
        self.letter: str | None = None

    @workflow.run
    async def run(self) -> list[str]:
        read: list[str] = []
        with suppress(asyncio.TimeoutError):
            while True:
                await workflow.wait_condition(lambda: self.letter is not None, timeout=timedelta(hours=1))
                assert self.letter is not None
                read.append(self.letter)
                self.letter = None
        return read

    @workflow.signal
    async def post(self, letter: str) -> None:
        self.letter = letter


def test_two_signals_in_one_workflow_task() -> None:
    def nothing_lost(world: HandlerBank, simulation: Simulation[list[str]]) -> None:
        assert len(simulation.result()) == len(simulation.faults)

    signals = [("post", "a"), ("post", "b")]
    exploration = explore(
        Mailbox.run, setup=HandlerBank, check=nothing_lost, faults=2, kinds=[], signals=signals, fail=False
    )
    (violation,) = exploration.violations
    assert violation.plan == (signal("post", "a", at=1), signal("post", "a", at=1))
