"""The approval on a real server: each end that its README names, with answers that come over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from examples.approval.__main__ import decide, post, serving, start, working
from examples.approval.activities import Desk
from examples.approval.models import Answer, Purchase, State, Status
from examples.approval.webhook import deliver
from examples.approval.workflows import Buy
from tests.server.support import causes, eventually

Handle = WorkflowHandle[Buy, Status]
YES: dict[str, object] = {"approved": True, "by": "eve"}
NO: dict[str, object] = {"approved": False, "by": "eve"}


class FragileDesk(Desk):
    """Opens no ticket for a purchase of that amount."""

    no_ticket_for = 7

    @activity.defn
    def open_ticket(self, purchase: Purchase) -> str:
        if purchase.amount == self.no_ticket_for:
            raise ApplicationError("the system of finance is gone", non_retryable=True)
        return super().open_ticket(purchase)


@pytest.fixture(scope="module")
async def office(client: Client) -> AsyncIterator[tuple[Desk, str]]:
    """The desk, and the address of its webhook."""
    desk = FragileDesk()
    async with working(client, desk), serving(client, desk) as address:
        yield desk, address
    desk.close()


def purchase(amount: int = 1, **options: Any) -> Purchase:
    return Purchase(f"p-{uuid4()}", "anvils", "a forge", amount, **options)


async def ticket(desk: Desk, mine: Purchase) -> str:
    """The ticket of a purchase, once it waits for its answer."""
    find = f"SELECT id FROM tickets WHERE purchase = '{mine.id}' AND token IS NOT NULL"
    ((id,),) = await eventually(lambda: desk.rows(find))
    return str(id)


def state(desk: Desk, mine: Purchase) -> tuple[int, int, list[object]]:
    """What is taken from the budget, how many orders there are, and the states of the tickets."""
    spent: Any = desk.rows("SELECT 500000 - remaining FROM budgets")
    orders = desk.rows(f"SELECT item FROM orders WHERE purchase = '{mine.id}'")
    tickets = desk.rows(f"SELECT state FROM tickets WHERE purchase = '{mine.id}'")
    return spent[0][0], len(orders), [each for (each,) in tickets]


async def test_two_people_approve(client: Client, office: tuple[Desk, str]) -> None:
    """The webhook says what counts: the first answer, also if it comes twice. The manager decides once."""
    desk, address = office
    mine, before = purchase(100_00), state(desk, purchase())[0]
    handle = await start(client, mine)
    await decide(handle, Answer(True, "ann"))
    with pytest.raises(WorkflowUpdateFailedError):
        await decide(handle, Answer(False, "bob"))
    url = f"{address}/tickets/{await ticket(desk, mine)}"
    answers: list[tuple[str, dict[str, object]]] = [
        (url, {"approved": "yes"}),
        (f"{address}/tickets/other", YES),
        (url, YES),
        (url, YES),
        (url, NO),
    ]
    said = [(await asyncio.to_thread(post, *each))[0] for each in answers]
    assert said == [400, 404, 200, 202, 409]
    assert await handle.result() == Status(State.ORDERED)
    assert state(desk, mine) == (before + 100_00, 1, ["approved"])


@pytest.mark.parametrize("who", ["budget", "ann", "eve"])
async def test_each_of_them_may_say_no(client: Client, office: tuple[Desk, str], who: str) -> None:
    """A no is an answer: the workflow returns it, and the money is free again."""
    desk, address = office
    mine, before = purchase(1_000_000_00 if who == "budget" else 1), state(desk, purchase())[0]
    handle = await start(client, mine)
    if who != "budget":
        await decide(handle, Answer(who != "ann", "ann"))
    if who == "eve":
        await asyncio.to_thread(post, f"{address}/tickets/{await ticket(desk, mine)}", NO)
    assert await handle.result() == Status(State.REJECTED, who)
    assert state(desk, mine) == (before, 0, ["rejected"] if who == "eve" else [])


async def test_a_cancel_does_not_wait_for_the_answer(client: Client, office: tuple[Desk, str]) -> None:
    """The ticket is withdrawn, the money is free again, and an answer that comes later is refused."""
    desk, address = office
    mine, before = purchase(), state(desk, purchase())[0]
    handle = await start(client, mine)
    await decide(handle, Answer(True, "ann"))
    id = await ticket(desk, mine)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as error:
        await handle.result()
    assert causes(error.value.cause) == ["CancelledError"]
    assert state(desk, mine) == (before, 0, ["withdrawn"])
    assert (await asyncio.to_thread(post, f"{address}/tickets/{id}", YES))[0] == 410


async def test_a_fault_for_good_fails_once_all_is_undone(client: Client, office: tuple[Desk, str]) -> None:
    desk, _ = office
    mine, before = purchase(FragileDesk.no_ticket_for), state(desk, purchase())[0]
    handle = await start(client, mine)
    await decide(handle, Answer(True, "ann"))
    with pytest.raises(WorkflowFailureError) as error:
        await handle.result()
    assert causes(error.value.cause)[0] == "ActivityError"
    assert state(desk, mine) == (before, 0, [])


class SlowDesk(Desk):
    """Takes its time between the ticket and the question."""

    @activity.defn
    def await_answer(self, ticket: str) -> Answer:
        time.sleep(0.5)
        return super().await_answer(ticket)


async def test_an_answer_may_come_before_the_question(client: Client) -> None:
    """The ticket is there, and has no task token yet."""
    desk, mine, queue = SlowDesk(), purchase(), f"q-{uuid4()}"
    async with working(client, desk, queue):
        handle = await start(client, mine, queue)
        await decide(handle, Answer(True, "ann"))
        (id,) = await eventually(desk.open_tickets)
        assert (await deliver(client, desk, id, Answer(True, "eve")))[0] == 202
        assert await handle.result() == Status(State.ORDERED)
    desk.close()


async def test_an_answer_that_nobody_could_take_is_found_by_the_next_attempt(
    client: Client, office: tuple[Desk, str]
) -> None:
    """As if the webhook's process had died between its two lines."""
    desk, _ = office
    mine = purchase(remind_after=1)
    handle = await start(client, mine)
    await decide(handle, Answer(True, "ann"))
    desk.record(await ticket(desk, mine), Answer(True, "eve"))
    assert await handle.result() == Status(State.ORDERED)


async def test_finance_is_reminded_and_then_given_up(client: Client, office: tuple[Desk, str]) -> None:
    """In seconds: virtual time stands still while an activity waits."""
    desk, _ = office
    mine, before = purchase(remind_after=1, give_up_after=3), state(desk, purchase())[0]
    handle = await start(client, mine)
    await decide(handle, Answer(True, "ann"))
    assert await handle.result() == Status(State.NO_ANSWER, "finance")
    assert state(desk, mine) == (before, 0, ["withdrawn"])
    assert desk.rows(f"SELECT asked > 1 FROM tickets WHERE purchase = '{mine.id}'") == [(True,)]


async def test_a_manager_has_three_days(time_skipping_env: WorkflowEnvironment) -> None:
    client, desk = time_skipping_env.client, Desk()
    async with working(client, desk):
        handle = await start(client, purchase())
        assert await handle.result() == Status(State.NO_ANSWER, "manager")
        described = await handle.describe()
        assert described.close_time is not None
        assert (described.close_time - described.start_time).days == 3
        assert state(desk, purchase())[0] == 0
    desk.close()
