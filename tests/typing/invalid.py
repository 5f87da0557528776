"""Calls that every type checker rejects. Read by checkers, never run.

Each statement marked as wrong must have an error, and no other may have one. Where a mark goes on
`not in ty: ...` this checker misses the error, and why.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporal_saga import Compensation, Saga, SagaState, StepOutcome, presets
from tests.typing.models import (
    Bank,
    Order,
    Receipt,
    Ship,
    Sweep,
    Unship,
    allocate,
    charge,
    charge_sync,
    close_till,
    note,
    open_till,
    refund,
    refund_receipt,
    refund_sync,
    release,
)

SECOND = timedelta(seconds=1)


def of_receipt(outcome: StepOutcome[Receipt, Receipt]) -> Compensation | None:
    return None


def of_text(outcome: StepOutcome[Order, str]) -> Compensation | None:
    return None


def to_text(outcome: StepOutcome[Order, Receipt]) -> str:
    return ""


async def awaits(outcome: StepOutcome[Order, Receipt]) -> Compensation | None:
    return None


def plain(text: str) -> None:
    return None


async def activities(saga: Saga, order: Order, receipt: Receipt) -> None:
    do = saga.execute_activity

    # The step itself.
    await do(charge)  # wrong: no input
    await do(charge, receipt)  # wrong: input of another type
    await do(charge_sync, receipt)  # wrong: input of another type
    await do(charge, order, order)  # wrong: a second positional argument
    await do(open_till, order)  # wrong: takes no input
    await do(charge(order))  # wrong: called
    await do(Bank.withdraw, order)  # wrong: a method
    await do(allocate, order)  # wrong: takes two
    plain(await do(charge, order))  # wrong: result of another type
    print(do(charge, order).number)  # wrong: not awaited

    # Its options.
    await do(charge, order, timeout=SECOND)  # wrong: no such option
    await do(charge, order, start_to_close_timeout=1)  # wrong: no timedelta
    await do(charge, order, key=1)  # wrong: a key is text
    await do(charge, order, id="x")  # wrong: a child's option
    await do(charge, order, result_type=Receipt)  # wrong: the type is known
    await do(
        charge, order, **presets.standard(), start_to_close_timeout=SECOND
    )  # wrong: twice; not in pyrefly: misses it
    presets.standard(summary="s")  # wrong: a preset does not speak of it

    # Its compensation.
    await do(charge, order, compensation=refund_receipt)  # wrong: undoes another
    await do(charge_sync, order, compensation=refund_receipt)  # wrong: undoes another
    await do(charge, order, compensation=close_till)  # wrong: takes no input
    await do(open_till, compensation=refund)  # wrong: takes an input
    await do(charge, order, compensation=Compensation(refund, receipt))  # wrong: input
    await do(charge, order, compensation=refund(order))  # wrong: called
    await do(charge, order, compensation=1)  # wrong: not to be called
    await do(charge, order, compensate=refund)  # wrong: no such keyword
    await do(charge, order, compensation_from=of_receipt)  # wrong: other input
    await do(charge, order, compensation_from=of_text)  # wrong: other result
    await do(charge, order, compensation_from=to_text)  # wrong: returns text
    await do(charge, order, compensation_from=awaits)  # wrong: async
    await do(charge, order, compensation_from=refund)  # wrong: an activity
    await do(charge, order, compensation_from="refund")  # wrong: a name
    await do(charge, order, compensation_from=lambda o: Compensation(refund, o.result))  # wrong: None, or a receipt
    await do(charge, order, compensation_from=lambda o: refund(o.input))  # wrong: calls the activity
    await do(charge, order, compensation_from=lambda: None)  # wrong: no outcome


async def methods(saga: Saga, order: Order, receipt: Receipt) -> None:
    do = saga.execute_activity_method
    await do(Bank.withdraw)  # wrong: no input
    await do(Bank.withdraw, receipt)  # wrong: input of another type
    await do(charge, order)  # wrong: a function
    await do("withdraw", order)  # wrong: a name
    await do(Bank.withdraw, order, compensation=refund_receipt)  # wrong: undoes another
    await do(Bank.withdraw, order, timeout=SECOND)  # wrong: no such option


async def children(saga: Saga, order: Order, receipt: Receipt) -> None:
    do = saga.execute_child_workflow
    await do(Ship, order)  # wrong: the class
    await do(Ship.run)  # wrong: no input
    await do(Ship.run, receipt)  # wrong: input of another type
    await do(Sweep.run, order)  # wrong: takes no input
    await do(Ship.run, order, compensation=refund_receipt)  # wrong: undoes another
    await do(Ship.run, order, compensation_from=of_text)  # wrong: other result
    await do(Ship.run, order, start_to_close_timeout=SECOND)  # wrong: an activity's option


def compensations(order: Order, receipt: Receipt) -> None:
    Compensation(refund)  # wrong: no input
    Compensation(refund, receipt)  # wrong: input of another type
    Compensation(refund_sync, receipt)  # wrong: input of another type
    Compensation(Unship.run, receipt)  # wrong: input of another type
    Compensation(close_till, order)  # wrong: takes no input
    Compensation(refund, order, timeout=SECOND)  # wrong: no such option
    Compensation(refund, order, key="1")  # wrong: the key is its step's
    Compensation.child_workflow(Unship.run)  # wrong: no input
    Compensation.child_workflow(Unship.run, receipt)  # wrong: input of another type
    Compensation.child_workflow(Unship.run, order, summary="s")  # wrong: an activity's option


def pushes(saga: Saga, order: Order, receipt: Receipt) -> None:
    saga.add_compensation(refund)  # wrong: no input
    saga.add_compensation(refund, receipt)  # wrong: input of another type
    saga.add_compensation(Bank.refund, receipt)  # wrong: input of another type
    saga.add_compensation(release, order)  # wrong: takes two
    saga.add_compensation(refund, order, timeout=SECOND)  # wrong: no such option
    saga.add_compensation(Compensation(refund, order), order)  # wrong: it has its input
    saga.add_compensation(Compensation(refund, order), summary="s")  # wrong: it has its options
    saga.add_callback(plain, "text")
    saga.add_callback(note)  # wrong: no text
    saga.add_callback(note, 1)  # wrong: no text
    saga.add_callback(note, "text", number=1)  # wrong: no such argument
    saga.add_callback(note("text"))  # wrong: called


def scopes(saga: Saga, state: dict[str, Any]) -> SagaState:
    Saga(order="parallel")  # wrong: no such order
    Saga(deadline=60)  # wrong: no timedelta
    Saga(state=state)  # wrong: no SagaState
    Saga(options=presets.standard())  # wrong: no such option
    with saga:  # wrong: not awaited
        pass
    return saga.savepoint()  # wrong: a scope
