"""The payment on a real server: each end that its README names."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.testing import WorkflowEnvironment

from examples.payment.__main__ import start, unknown_if_open, working
from examples.payment.activities import Cashier
from examples.payment.models import Finding, Order, Refund, State, Status
from examples.payment.provider import Provider
from examples.payment.workflows import Payment
from temporal_saga import Parked
from tests.server.support import causes, eventually

Handle = WorkflowHandle[Payment, Status]


class WatchedCashier(Cashier):
    """One whose settlement waits if a test wants that, and which notes when somebody is paged."""

    def __init__(self) -> None:
        super().__init__(Provider())
        self.go, self.reached = threading.Event(), threading.Event()
        self.go.set()
        self.pages: list[datetime] = []

    @activity.defn
    def settle(self, authorization: str) -> None:
        self.reached.set()
        assert self.go.wait(20)
        super().settle(authorization)

    @activity.defn
    def page_somebody(self, parked: Parked) -> None:
        super().page_somebody(parked)
        self.pages.append(activity.info().scheduled_time)


@pytest.fixture
async def cashier(client: Client) -> AsyncIterator[WatchedCashier]:
    cashier = WatchedCashier()
    async with working(client, cashier):
        yield cashier
    cashier.close()


def order(*parts: int, card: str = "4242", **options: Any) -> Order:
    return Order(f"o-{uuid4()}", card, list(parts or (30_00, 20_00)), **options)


def balance(cashier: Cashier) -> Any:
    return cashier.provider.rows("SELECT balance FROM cards WHERE number = '4242'")[0][0]


async def settled(handle: Handle) -> None:
    async def found() -> bool:
        return (await handle.query(Payment.status)).state is State.SETTLED

    await eventually(found)


async def parked(handle: Handle) -> Finding:
    """The capture that waits, with what the provider says."""
    (finding,) = await eventually(lambda: unknown_if_open(handle))
    assert isinstance(finding, Finding)
    return finding


async def resolve(handle: Handle, key: str, action: str) -> None:
    await handle.execute_update("saga_resolve", args=[key, action, "ann", "looked at it"])


async def failure(handle: Handle) -> list[str]:
    with pytest.raises(WorkflowFailureError) as error:
        await handle.result()
    return causes(error.value.cause)


async def test_all_parts_are_captured_and_given_back_in_parts(client: Client, cashier: Cashier) -> None:
    """A refund is made once, and never more than was paid. The payment ends when nothing is left to refund."""
    mine = order()
    handle = await start(client, mine)
    await settled(handle)
    assert balance(cashier) == 450_00
    assert await handle.execute_update(Payment.refund, Refund("r1", 10_00)) == 10_00
    for again in (Refund("r1", 10_00), Refund("r2", 41_00), Refund("r3", 0)):
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update(Payment.refund, again)
    assert await handle.execute_update(Payment.refund, Refund("r2", 40_00)) == 50_00
    assert await handle.result() == Status(State.SETTLED, 50_00, 50_00)
    assert (balance(cashier), cashier.booked()) == (500_00, [10_00, 40_00])
    with pytest.raises(WorkflowAlreadyStartedError):
        await start(client, mine)


async def test_a_declined_card_is_an_answer(client: Client, cashier: Cashier) -> None:
    handle = await start(client, order(card="4000"))
    assert await handle.result() == Status(State.DECLINED)


@pytest.mark.parametrize("action", ["retry", "give_up"])
async def test_a_person_decides_what_nobody_knows(client: Client, cashier: Cashier, action: str) -> None:
    """The provider has the capture: to retry finds it under its key, to give up takes it back."""
    cashier.provider.lost_replies = 3
    handle = await start(client, order())
    finding = await parked(handle)
    assert (finding.step, finding.provider_says) == ("capture", "capture of 3000: done")
    await resolve(handle, finding.key, action)
    if action == "retry":
        await settled(handle)
        assert balance(cashier) == 450_00
        await handle.cancel()
        assert await failure(handle) == ["CancelledError"]
        assert balance(cashier) == 450_00
    else:
        assert (await failure(handle))[0] == "ActivityError"
        assert balance(cashier) == 500_00


async def test_a_cancel_while_a_capture_waits_takes_everything_back(client: Client, cashier: Cashier) -> None:
    cashier.provider.lost_replies = 3
    handle = await start(client, order())
    await parked(handle)
    await handle.cancel()
    assert await failure(handle) == ["CancelledError"]
    assert balance(cashier) == 500_00
    assert {state for (state,) in cashier.provider.rows("SELECT state FROM operations")} == {"cancelled"}


async def test_a_cancel_after_the_pivot_settles_and_refunds_nothing(client: Client, cashier: WatchedCashier) -> None:
    cashier.go.clear()
    handle = await start(client, order())
    assert await asyncio.to_thread(cashier.reached.wait, 20)
    await handle.cancel()

    async def is_cancelled() -> bool:
        wanted = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
        return any(event.event_type == wanted for event in (await handle.fetch_history()).events)

    await eventually(is_cancelled)
    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update(Payment.refund, Refund("r1", 10_00))
    cashier.go.set()
    assert await failure(handle) == ["CancelledError"]
    assert (balance(cashier), cashier.booked()) == (450_00, [])


async def test_a_person_is_reminded_every_four_hours(time_skipping_env: WorkflowEnvironment) -> None:
    cashier, client = WatchedCashier(), time_skipping_env.client
    cashier.provider.lost_replies = 3
    async with working(client, cashier):
        handle = await start(client, order())
        await eventually(lambda: len(cashier.pages) >= 3)
        await handle.cancel()
        assert await failure(handle) == ["CancelledError"]
        first, second, third = cashier.pages[:3]
        assert second - first >= timedelta(hours=4) <= third - second
        assert third - first < timedelta(hours=9)
    cashier.close()


async def test_nothing_is_refunded_after_thirty_days(time_skipping_env: WorkflowEnvironment) -> None:
    cashier, client = Cashier(Provider()), time_skipping_env.client
    async with working(client, cashier):
        handle = await start(client, order())
        assert await handle.result() == Status(State.SETTLED, 50_00)
        described = await handle.describe()
        assert described.close_time is not None
        assert (described.close_time - described.start_time).days == 30
    cashier.close()
