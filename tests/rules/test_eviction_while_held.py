"""Rule 4: an eviction leaves no trace, also where it meets code that would wait for an unwind as the next thing.

The SDK ends every task of a run that it evicts. Whoever is about to be held looks for the eviction first: else the task
remains, and the worker says so in an ERROR, again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from temporal_saga import Saga
from temporal_saga.plugin import SagaPlugin
from tests.driver import Run, cancel, completed, failed
from tests.rules.workflows import REFUSED, do, end, flow, new_saga, undone

pytestmark = [pytest.mark.usefixtures("collected"), pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")]


async def a_step(saga: Saga) -> None:
    await do(saga, "late")


async def two_steps(saga: Saga) -> None:
    try:
        await do(saga, "late")
    finally:
        await do(saga, "later")


async def a_child(saga: Saga) -> None:
    await saga.execute_child_workflow("Late", 1, compensation="undo_late")


async def a_savepoint(saga: Saga) -> None:
    async with saga.savepoint() as attempt:
        await do(attempt, "late")


async def an_undo(saga: Saga) -> None:
    await saga.undo("a")


LAST = [a_step, two_steps, a_child, a_savepoint, an_undo]


def siblings(last: Callable[[Saga], Awaitable[None]], where: str) -> type[Any]:
    """Return a workflow that unwinds while a task of it has something to say at its end."""

    @flow
    async def body() -> None:
        async def sibling(saga: Saga) -> None:
            try:
                if where == "in a step":
                    await do(saga, "b")
                elif where == "in a sleep":
                    await asyncio.sleep(3600)
                else:
                    async with saga.savepoint() as attempt:
                        await do(attempt, "b")
            finally:
                await last(saga)

        async with new_saga() as saga:
            await do(saga, "a")
            task = asyncio.create_task(sibling(saga))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            await do(saga, "c")
            raise REFUSED

    return body


def evicted_at_each_point(run: Run, how: str) -> None:
    """Drive a run to its end, and evict a copy of it at each point; that raises if a task remains."""
    run.start()
    run.activate(completed("a"))
    run.activate(cancel() if how == "a cancel" else failed("c", REFUSED))
    while run.closed is None:
        run.evict_copy(len(run.activations))
        run.activate(run._next({}))
    assert end(run) == ("Cancelled" if how == "a cancel" else "ActivityError")
    assert undone(run)[-1] == "undo_a"
    assert "late" not in run.history
    run.evict()  # with what still sleeps


@pytest.mark.parametrize("where", ["in a step", "in a sleep", "in a savepoint"])
@pytest.mark.parametrize("last", LAST)
def test_rule_04_eviction_meets_a_finally_that_calls_the_saga(
    last: Callable[[Saga], Awaitable[None]], where: str
) -> None:
    evicted_at_each_point(Run(siblings(last, where)), "a failure")


@pytest.mark.parametrize("plugins", [[], [SagaPlugin()]], ids=["without the plugin", "with it"])
@pytest.mark.parametrize("how", ["a failure", "a cancel"])
def test_rule_04_whatever_the_unwind_is_for(how: str, plugins: list[Any]) -> None:
    evicted_at_each_point(Run(siblings(a_step, "in a step"), plugins=plugins), how)
