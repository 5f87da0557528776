"""Calls that every type checker accepts, with the types they give. Read by checkers, never run.

Where a comment says `not in mypy: ...` this checker sees another type, and why. A user sees no
error for it, only less help.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from typing_extensions import assert_type

from temporal_saga import Compensation, Outcome, Saga, SagaState, StepOutcome, presets
from tests.typing.models import (
    Audit,
    Bank,
    Onboard,
    Order,
    Pack,
    Receipt,
    Ship,
    Sweep,
    Unship,
    Unsweep,
    allocate,
    allocate_sync,
    charge,
    charge_sync,
    close_till,
    note,
    open_till,
    open_till_sync,
    refund,
    refund_anything,
    refund_receipt,
    refund_sync,
    release,
)

SECOND = timedelta(seconds=1)


def by_outcome(outcome: StepOutcome[Order, Receipt]) -> Compensation | None:
    assert_type(outcome.state, Outcome)
    assert_type(outcome.result, "Receipt | None")
    assert_type(outcome.input, Order)
    assert_type(outcome.key, str)
    return Compensation(refund_receipt, outcome.result) if outcome.result else None


def by_any_outcome(outcome: StepOutcome[object, object]) -> Compensation:
    return Compensation("cancel", outcome.key)


async def activities(saga: Saga, order: Order) -> None:
    assert_type(await saga.execute_activity(open_till), int)
    assert_type(await saga.execute_activity(open_till, compensation=close_till), int)
    assert_type(await saga.execute_activity(open_till_sync, compensation=close_till), int)
    assert_type(await saga.execute_activity(charge, order), Receipt)
    assert_type(await saga.execute_activity(charge, order, compensation=refund), Receipt)
    assert_type(await saga.execute_activity(charge, order, compensation=refund_sync), Receipt)
    assert_type(await saga.execute_activity(charge_sync, order, compensation=refund), Receipt)
    assert_type(await saga.execute_activity(charge, order, compensation=refund_anything), Receipt)
    assert_type(await saga.execute_activity(charge, order, compensation=Bank.refund), Receipt)
    assert_type(await saga.execute_activity(charge, order, compensation=Unship.run), Receipt)
    assert_type(await saga.execute_activity(charge, order, compensation="refund"), Receipt)
    assert_type(await saga.execute_activity(charge, order, compensation=None), Receipt)
    assert_type(await saga.execute_activity(charge, order, compensation=Compensation(refund, order)), Receipt)
    assert_type(await saga.execute_activity(allocate, args=[order, 1], compensation=release), str)
    assert_type(await saga.execute_activity(allocate_sync, args=[order, 1]), str)
    assert_type(await saga.execute_activity(Audit(), order, compensation=refund), int)
    assert_type(await saga.execute_activity(Bank().withdraw, order), Receipt)
    assert_type(await saga.execute_activity("charge", order, compensation="refund"), Any)
    assert_type(await saga.execute_activity("charge", args=[order], compensation=refund), Any)
    assert_type(await saga.execute_activity("charge", order, result_type=Receipt), Any)


async def outcomes(saga: Saga, order: Order) -> None:
    assert_type(await saga.execute_activity(charge, order, compensation_from=by_outcome), Receipt)
    assert_type(await saga.execute_activity(charge_sync, order, compensation_from=by_any_outcome), Receipt)
    assert_type(await saga.execute_activity(open_till, compensation_from=by_any_outcome), int)
    assert_type(await saga.execute_activity(allocate, args=[order, 1], compensation_from=by_any_outcome), str)
    assert_type(
        await saga.execute_activity(charge, order, compensation_from=lambda o: Compensation(refund, o.input)),
        Receipt,  # not in mypy, pyrefly: Any, since the lambda fits the overload for `def` too
    )
    assert_type(
        await saga.execute_activity(
            charge, order, compensation_from=lambda o: Compensation(refund_receipt, o.result) if o.result else None
        ),
        Receipt,  # not in pyrefly: Any, as above
    )
    assert_type(await saga.execute_child_workflow(Onboard.run, order, compensation_from=lambda o: o.result), SagaState)


async def methods(saga: Saga, order: Order) -> None:
    assert_type(await saga.execute_activity_method(Bank.open, compensation=Bank.close), int)
    assert_type(await saga.execute_activity_method(Bank.open_sync, compensation=close_till), int)
    assert_type(await saga.execute_activity_method(Bank.withdraw, order, compensation=Bank.refund), Receipt)
    assert_type(await saga.execute_activity_method(Bank.withdraw_sync, order, compensation=refund), Receipt)
    assert_type(await saga.execute_activity_method(Bank.withdraw, order, compensation_from=by_outcome), Receipt)
    assert_type(await saga.execute_activity_method(Bank.move, args=[order, 1]), str)
    assert_type(await saga.execute_activity_method(Bank.move_sync, args=[order, 1], compensation=release), str)


async def children(saga: Saga, order: Order) -> None:
    assert_type(await saga.execute_child_workflow(Sweep.run, compensation=Unsweep.run), int)
    assert_type(await saga.execute_child_workflow(Ship.run, order, compensation=Unship.run, id="ship"), Receipt)
    assert_type(await saga.execute_child_workflow(Ship.run, order, compensation=refund, run_timeout=SECOND), Receipt)
    assert_type(
        await saga.execute_child_workflow(
            Ship.run, order, compensation=Compensation.child_workflow(Unship.run, order, id="unship")
        ),
        Receipt,
    )
    assert_type(await saga.execute_child_workflow(Ship.run, order, compensation_from=by_outcome), Receipt)
    assert_type(await saga.execute_child_workflow(Pack.run, args=[order, 1]), str)
    assert_type(await saga.execute_child_workflow("Ship", order, compensation="unship"), Any)
    assert_type(await saga.execute_child_workflow("Ship", order, result_type=Receipt), Any)


async def options(saga: Saga, order: Order) -> None:
    config = workflow.ActivityConfig(start_to_close_timeout=SECOND, summary="charge")
    assert_type(await saga.execute_activity(charge, order, **config), Receipt)
    assert_type(await saga.execute_activity(charge, order, **presets.standard()), Receipt)
    assert_type(
        await saga.execute_activity(
            charge,
            order,
            compensation=refund,
            step="pay",
            key="1",
            summary="s",
            **presets.standard(start_to_close_timeout=SECOND),
        ),
        Receipt,
    )
    assert_type(
        await saga.execute_activity(
            charge, order, heartbeat_timeout=SECOND, retry_policy=RetryPolicy(maximum_attempts=1)
        ),
        Receipt,
    )
    assert_type(await workflow.execute_activity(charge, order, summary="s", **presets.forward_only()), Receipt)
    child = workflow.ChildWorkflowConfig(task_queue="q")
    assert_type(await saga.execute_child_workflow(Ship.run, order, step="ship", key="1", **child), Receipt)


async def parallel(saga: Saga, orders: list[Order]) -> None:
    assert_type(await asyncio.gather(*[saga.execute_activity(charge, order) for order in orders]), list[Receipt])
    both = asyncio.gather(saga.execute_activity(open_till), saga.execute_activity(charge, orders[0]))
    assert_type(await both, tuple[int, Receipt])
    task = asyncio.create_task(saga.execute_activity(charge, orders[0]))
    assert_type(await task, Receipt)


def compensations(order: Order) -> list[Compensation]:
    return [
        Compensation(close_till),
        Compensation(refund, order),
        Compensation(refund_sync, order, summary="s", **presets.compensation()),
        Compensation(Bank.refund, order),
        Compensation(Unship.run, order),
        Compensation(release, args=[order, 1]),
        Compensation(Bank.close, args=[]),
        Compensation("refund", order),
        Compensation("close_till", task_queue="q"),
        Compensation.child_workflow(Unsweep.run),
        Compensation.child_workflow(Unship.run, order, id="unship", run_timeout=SECOND),
        Compensation.child_workflow(Pack.run, args=[order, 1]),
        Compensation.child_workflow("Unship", order),
    ]


def pushes(saga: Saga, order: Order) -> None:
    saga.add_compensation(close_till)
    saga.add_compensation(refund, order)
    saga.add_compensation(refund_sync, order, step="refund", key="1", start_to_close_timeout=SECOND)
    saga.add_compensation(refund, order, summary="s", **presets.compensation())
    saga.add_compensation(Bank.refund, order)
    saga.add_compensation(Unship.run, order)
    saga.add_compensation(release, args=[order, 1])
    saga.add_compensation("refund", order)
    saga.add_compensation(Compensation(refund, order), key="1")
    saga.add_callback(note, "text")
    saga.add_callback(note, "text", count=1)
    saga.add_callback(asyncio.sleep, 1)


async def scopes(state: SagaState | None, order: Order) -> SagaState:
    async with Saga() as saga:
        assert_type(saga, Saga)
        saga.pivot()
    async with Saga(
        "order",
        activity_options=presets.standard(),
        compensation_options=presets.compensation(),
        order="concurrent",
        deadline=SECOND,
        state=state,
    ) as saga:
        async with saga.savepoint() as attempt:
            assert_type(await attempt.execute_activity(charge, order), Receipt)
        assert_type(saga.idempotency_key("a", 1), str)
        await saga.compensate()
    async with Saga(activity_options=workflow.ActivityConfig(task_queue="q")) as saga:
        assert_type(saga.detach(), SagaState)
    return saga.detach()
