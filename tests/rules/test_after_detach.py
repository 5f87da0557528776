"""After `detach()` the stack belongs to the next run; in this run nothing undoes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import Saga
from temporal_saga.plugin import SagaPlugin
from tests.driver import Run, cancel, completed
from tests.rules.workflows import do, end, flow, new_saga


async def fails(saga: Saga) -> None:
    raise ApplicationError("after detach")


async def waits(saga: Saga) -> None:
    await workflow.wait_condition(lambda: False)


async def calls_a_step(saga: Saga) -> None:
    await do(saga, "late")


async def returns(saga: Saga) -> None: ...


@pytest.mark.parametrize("with_plugin", [True, False])
@pytest.mark.parametrize(
    ("then", "ends"),
    [(fails, "ApplicationError"), (waits, "Cancelled"), (calls_a_step, "SagaClosed"), (returns, "None")],
)
def test_what_is_detached_and_not_carried_on_stands(
    then: Callable[[Saga], Awaitable[None]], ends: str, with_plugin: bool
) -> None:
    """As the guarantees say: so nothing may come between `detach()` and `continue_as_new`."""

    @flow
    async def body() -> Any:
        async with new_saga() as saga:
            await do(saga, "charge")
            saga.detach()
            await then(saga)

    run = Run(body, plugins=[SagaPlugin()] if with_plugin else []).start()
    run.activate(completed("charge"))
    if run.closed is None:
        run.activate(cancel())
    assert end(run) == ends
    assert run.history == ["charge"]
    run.check()
