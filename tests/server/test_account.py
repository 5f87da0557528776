"""The account on a real server: each end of an order that its README names, across runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError

from examples.account.__main__ import open_account, working
from examples.account.activities import Bank
from examples.account.models import AccountData, Order
from examples.account.workflows import Account
from tests.server.support import causes, eventually

Handle = WorkflowHandle[Account, int]


class SlowBank(Bank):
    """One whose card network can be held up, or broken."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()
        self.reached = threading.Event()
        self.is_broken = self.cannot_recall = False

    @activity.defn
    def recall(self, order: Order) -> None:
        if self.cannot_recall:
            raise ApplicationError("the money is spent", non_retryable=True)
        super().recall(order)

    @activity.defn
    def pay_out(self, order: Order) -> None:
        super().pay_out(order)
        self.reached.set()
        assert self.go.wait(20)
        if self.is_broken:
            raise ApplicationError("the reply is lost", non_retryable=True)


@pytest.fixture
async def bank(client: Client) -> AsyncIterator[SlowBank]:
    bank = SlowBank()
    async with working(client, bank):
        yield bank
    bank.close()


def money(bank: Bank) -> tuple[int, int]:
    """What is on the card, and what the journal adds up to."""
    rows: Any = bank.rows("SELECT balance FROM cards WHERE number = '4242'")
    journal: Any = bank.rows("SELECT coalesce(sum(amount), 0) FROM journal")
    return rows[0][0], journal[0][0]


async def opened(client: Client, orders_per_run: int = 500) -> Handle:
    """An account with 100.00 on it."""
    handle = await open_account(client, AccountData(f"a-{uuid4()}", orders_per_run=orders_per_run))
    assert await handle.execute_update(Account.bring_in, Order("first", "4242", 100_00)) == "done"
    return handle


async def test_an_order_is_made_once_also_across_runs(client: Client, bank: SlowBank) -> None:
    """Who asks again gets the same answer, be it a no. The balance and the journal agree."""
    handle = await opened(client, orders_per_run=1)
    for _ in range(2):
        assert await handle.execute_update(Account.bring_in, Order("first", "4242", 100_00)) == "done"
        assert await handle.execute_update(Account.pay_out, Order("2", "4242", 30_00)) == "done"
        assert "declined" in await handle.execute_update(Account.pay_out, Order("3", "4000", 10_00))
    assert money(bank) == (430_00, 70_00)
    assert await handle.query(Account.balance) == 70_00
    await handle.signal(Account.close)
    assert await handle.result() == 70_00


async def test_the_same_order_twice_at_once_is_made_once(client: Client, bank: SlowBank) -> None:
    handle = await opened(client)
    order = Order("2", "4242", 60_00)
    updates = [handle.execute_update(Account.pay_out, order) for _ in range(2)]
    assert await asyncio.gather(*updates) == ["done", "done"]
    assert money(bank) == (460_00, 40_00)
    await handle.terminate()


async def test_two_orders_at_once_cannot_spend_the_same_money(client: Client, bank: SlowBank) -> None:
    handle = await opened(client)
    bank.go.clear()
    first = asyncio.create_task(handle.execute_update(Account.pay_out, Order("2", "4242", 60_00)))
    await asyncio.to_thread(bank.reached.wait, 20)
    for refused in (Order("3", "4242", 60_00), Order("4", "4242", 0), Order("5", "4242", -1)):
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update(Account.pay_out, refused)
    await handle.signal(Account.close)
    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update(Account.bring_in, Order("6", "4242", 1))
    bank.go.set()
    assert await first == "done"
    assert (money(bank), await handle.result()) == ((460_00, 40_00), 40_00)


async def test_a_fault_undoes_the_order_and_the_account_goes_on(client: Client, bank: SlowBank) -> None:
    """The money was paid out and the reply was lost: it is recalled. The id may be used again."""
    handle = await opened(client)
    bank.is_broken = True
    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update(Account.pay_out, Order("2", "4242", 60_00))
    assert (money(bank), await handle.query(Account.balance)) == ((400_00, 100_00), 100_00)
    bank.is_broken = False
    assert await handle.execute_update(Account.pay_out, Order("2", "4242", 60_00)) == "done"
    assert money(bank) == (460_00, 40_00)
    await handle.terminate()


async def test_an_undo_that_fails_for_good_fails_its_order_alone(client: Client, bank: SlowBank) -> None:
    """What was paid out stays there, and the rest of the order is undone. The account goes on."""
    handle = await opened(client)
    bank.is_broken = bank.cannot_recall = True
    with pytest.raises(WorkflowUpdateFailedError) as error:
        await handle.execute_update(Account.pay_out, Order("2", "4242", 60_00))
    assert any("CompensationError" in each for each in causes(error.value)), causes(error.value)
    assert (money(bank), await handle.query(Account.balance)) == ((460_00, 100_00), 100_00)
    bank.is_broken = False
    assert await handle.execute_update(Account.pay_out, Order("3", "4242", 10_00)) == "done"
    await handle.terminate()


async def test_a_cancel_undoes_the_orders_under_way(client: Client, bank: SlowBank) -> None:
    handle = await opened(client)
    bank.go.clear()
    order = asyncio.create_task(handle.execute_update(Account.pay_out, Order("2", "4242", 60_00)))
    await asyncio.to_thread(bank.reached.wait, 20)
    await handle.cancel()
    await eventually(lambda: _is_cancelling(handle))
    bank.go.set()
    with pytest.raises(WorkflowFailureError) as error:
        await handle.result()
    assert isinstance(error.value.cause, CancelledError), causes(error.value)
    with pytest.raises(Exception, match=r"(?i)cancel|completed|failed"):
        await order
    assert money(bank) == (400_00, 100_00)


async def _is_cancelling(handle: Handle) -> bool:
    events = (await handle.fetch_history()).events
    return any(event.HasField("activity_task_cancel_requested_event_attributes") for event in events)
