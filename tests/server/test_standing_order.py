"""The standing order on a real server: a period is paid once, by the schedule or the loop, whatever is begun anew."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import (
    Client,
    ScheduleActionExecutionStartWorkflow,
    ScheduleHandle,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from examples.standing_order import schedule
from examples.standing_order.__main__ import QUEUE, change_amount, start_loop, working
from examples.standing_order.activities import Bank
from examples.standing_order.models import DAY, LoopState, Outcome, Payment, StandingOrder
from examples.standing_order.workflows import PayForever, PayPeriod
from tests.server.support import causes, eventually


class FragileBank(Bank):
    """One whose credits fail for good while it is broken."""

    is_broken = cannot_return = False

    def __init__(self) -> None:
        super().__init__()
        self.go, self.reached = threading.Event(), threading.Event()
        self.go.set()

    @activity.defn
    def return_debit(self, payment: Payment) -> None:
        if self.cannot_return:
            raise ApplicationError("the debtor's bank is gone", non_retryable=True)
        super().return_debit(payment)

    @activity.defn
    def credit(self, payment: Payment) -> None:
        self.reached.set()
        assert self.go.wait(20)
        if self.is_broken:
            raise ApplicationError("no route to the creditor's bank", non_retryable=True)
        super().credit(payment)


@pytest.fixture(scope="module")
async def bank(client: Client) -> AsyncIterator[FragileBank]:
    bank = FragileBank()
    async with working(client, bank):
        yield bank
    bank.close()


def rent(amount: int = 10, **options: Any) -> StandingOrder:
    return StandingOrder(f"rent-{uuid4()}", "ann", "landlord", amount, **options)


def paid(bank: Bank, order: StandingOrder) -> list[Any]:
    """The amounts, by period."""
    found = bank.rows(f"SELECT amount FROM periods WHERE standing_order = '{order.id}' ORDER BY period")
    return [amount for (amount,) in found]


def is_balanced(bank: Bank) -> bool:
    balances: Any = bank.rows("SELECT sum(balance) FROM accounts UNION ALL SELECT sum(amount) FROM periods")
    left: Any = bank.rows("SELECT balance FROM accounts WHERE name = 'ann'")
    return bool(balances[0][0] == 100_000 and 100_000 - left[0][0] == (balances[1][0] or 0))


async def ran(handle: ScheduleHandle, count: int) -> None:
    """Waits until the schedule has begun so many payments, and none is under way."""

    async def done() -> bool:
        info = (await handle.describe()).info
        return info.num_actions >= count and not info.running_actions

    await eventually(done)


def days_ago(days: int) -> datetime:
    """In the middle of a period."""
    period = int(datetime.now(timezone.utc).timestamp()) // DAY
    return datetime.fromtimestamp((period - days + 0.5) * DAY, timezone.utc)


async def test_a_schedule_pays_a_period_once(client: Client, bank: FragileBank) -> None:
    """Whether it is made up for again, begun by hand, or by a second schedule of the same order."""
    order = rent()
    handle = await schedule.create(client, order, QUEUE)
    await schedule.make_up_for(handle, days_ago(3))
    await ran(handle, 3)
    assert paid(bank, order) == [10, 10, 10]
    await schedule.change_amount(client, order.id, QUEUE, 20)
    await schedule.make_up_for(handle, days_ago(4))
    await ran(handle, 7)
    assert paid(bank, order) == [20, 10, 10, 10]
    await handle.trigger()  # in a period that is paid
    await ran(handle, 8)
    await handle.delete()
    again = await schedule.create(client, order, f"{QUEUE}-again")
    async with working(client, bank, f"{QUEUE}-again"):
        await schedule.make_up_for(again, days_ago(4))
        await ran(again, 4)
    await again.delete()
    assert paid(bank, order) == [20, 10, 10, 10]
    assert is_balanced(bank)


async def test_a_period_that_failed_is_undone_and_can_be_made_up_for(client: Client, bank: FragileBank) -> None:
    order = rent()
    handle = await schedule.create(client, order, QUEUE)
    bank.is_broken = True
    await schedule.make_up_for(handle, days_ago(1))
    await ran(handle, 1)
    bank.is_broken = False
    assert (paid(bank, order), is_balanced(bank)) == ([], True)
    await schedule.make_up_for(handle, days_ago(1))
    await ran(handle, 2)
    assert (paid(bank, order), is_balanced(bank)) == ([10], True)
    await handle.delete()


async def run_of(client: Client, handle: ScheduleHandle) -> WorkflowHandle[Any, Outcome]:
    """The payment that a schedule has begun last."""

    async def begun() -> Any:
        return (await handle.describe()).info.recent_actions[-1:]

    (latest,) = await eventually(begun)
    assert isinstance(latest.action, ScheduleActionExecutionStartWorkflow)
    return client.get_workflow_handle(
        latest.action.workflow_id, run_id=latest.action.first_execution_run_id, result_type=Outcome
    )


async def test_a_payment_that_the_bank_declines_is_undone_and_says_why(client: Client, bank: FragileBank) -> None:
    order = rent(1_000_000)
    handle = await schedule.create(client, order, QUEUE)
    await handle.trigger()
    outcome = await (await run_of(client, handle)).result()
    await handle.delete()
    assert (outcome.paid, outcome.why) == (False, "ann has no 1000000")
    assert (paid(bank, order), is_balanced(bank)) == ([], True)


@pytest.mark.parametrize("way", ["schedule", "loop"])
@pytest.mark.parametrize("end", ["cancelled", "fault", "undo fails"])
async def test_how_a_payment_ends_badly(client: Client, way: str, end: str) -> None:
    """A cancel and a fault undo the payment under way. An undo that fails for good fails the workflow, the loop too."""
    bank, order, queue = FragileBank(), rent(), f"{QUEUE}-{uuid4()}"
    bank.is_broken, bank.cannot_return = end != "cancelled", end == "undo fails"
    if end == "cancelled":
        bank.go.clear()
    async with working(client, bank, queue):
        handle: WorkflowHandle[Any, Any]
        if way == "schedule":
            schedules = await schedule.create(client, order, queue)
            await schedules.trigger()
            handle = await run_of(client, schedules)
            await schedules.delete()
        else:
            today = int(datetime.now(timezone.utc).timestamp()) // DAY
            handle = await start_loop(client, LoopState(order, next_period=today), queue)
        if end == "cancelled":
            assert await asyncio.to_thread(bank.reached.wait, 20)
            await handle.cancel()
            await eventually(lambda: cancel_is_known(handle))
            bank.go.set()
        if (way, end) == ("loop", "fault"):  # it goes on

            async def handled() -> Any:
                return (await handle.query(PayForever.status)).latest

            assert (await eventually(handled)).why == "credit failed"
            await handle.signal(PayForever.stop)
            state: Any = await handle.result()
            assert state.not_paid == 1
        else:
            with pytest.raises(WorkflowFailureError) as error:
                await handle.result()
            expected = {"cancelled": "CancelledError", "fault": "ActivityError", "undo fails": "CompensationError"}
            assert expected[end] in causes(error.value.cause)[0], causes(error.value.cause)
    assert paid(bank, order) == []
    assert is_balanced(bank) == (end != "undo fails")
    bank.close()


async def cancel_is_known(handle: WorkflowHandle[Any, Any]) -> bool:
    events = (await handle.fetch_history()).events
    return any(event.HasField("activity_task_cancel_requested_event_attributes") for event in events)


async def test_a_schedule_ticks_and_ends_after_its_last_payment(client: Client, bank: FragileBank) -> None:
    """While it is paused it pays nothing."""
    order = rent(every=1, payments=2)
    handle = await schedule.create(client, order, QUEUE)
    await handle.pause()
    state = (await handle.describe()).schedule.state
    assert state.paused
    before = len(paid(bank, order))
    await handle.unpause()
    await eventually(lambda: len(paid(bank, order)) == 2)
    state = (await handle.describe()).schedule.state
    assert (before < 2, state.remaining_actions) == (True, 0)
    await handle.delete()


async def test_only_a_schedule_starts_a_single_payment(client: Client, bank: FragileBank) -> None:
    with pytest.raises(WorkflowFailureError) as error:
        await client.execute_workflow(PayPeriod.run, rent(), id=f"w-{uuid4()}", task_queue=QUEUE)
    assert causes(error.value.cause) == ["ApplicationError"]


async def test_a_loop_that_begins_anew_pays_nothing_again(client: Client, bank: FragileBank) -> None:
    """Of the payments that it makes up for, one is refused for want of money, and one fails: neither ends the loop."""
    order = rent(payments=3)
    today = int(datetime.now(timezone.utc).timestamp()) // DAY
    state = LoopState(order, next_period=today - 2, periods_per_run=2)
    assert (await (await start_loop(client, state)).result()).paid == 3
    again = await (await start_loop(client, state)).result()
    assert (again.latest, again.paid) == (Outcome(today, True, "paid before"), 3)
    assert (paid(bank, order), is_balanced(bank)) == ([10, 10, 10], True)

    bank.is_broken = True
    for other in (rent(10), rent(1_000_000)):
        handle = await start_loop(client, LoopState(other, next_period=today))

        async def handled(handle: Any = handle) -> Any:
            return (await handle.query(PayForever.status)).latest

        outcome: Outcome = await eventually(handled)
        await handle.signal(PayForever.stop)
        assert (await handle.result()).not_paid == 1
        assert outcome.why == ("credit failed" if other.amount == 10 else "ann has no 1000000")
    bank.is_broken = False
    assert is_balanced(bank)


async def test_a_loop_is_changed_paused_resumed_and_stopped(client: Client, bank: FragileBank) -> None:
    handle = await start_loop(client, LoopState(rent()))
    await change_amount(handle, 20)
    with pytest.raises(WorkflowUpdateFailedError):
        await change_amount(handle, 0)
    await handle.signal(PayForever.pause)
    status = await handle.query(PayForever.status)
    assert (status.order.amount, status.is_paused) == (20, True)
    await handle.signal(PayForever.resume)
    await handle.signal(PayForever.stop)
    assert (await handle.result()).paid == 0


async def test_a_loop_pays_day_after_day(time_skipping_env: WorkflowEnvironment) -> None:
    """Five days, in three runs."""
    client, bank, order = time_skipping_env.client, Bank(), rent(payments=5)
    async with working(client, bank):
        began = datetime.now(timezone.utc)
        handle = await start_loop(client, LoopState(order, periods_per_run=2))
        assert (await handle.result()).paid == 5
        assert paid(bank, order) == [10] * 5
        last: Any = bank.rows("SELECT max(period) FROM periods")
        assert last[0][0] * DAY > (began + timedelta(days=4)).timestamp()
    bank.close()
