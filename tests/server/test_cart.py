"""The cart on a real server: each end that its README names, and what its updates refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import CancelledError
from temporalio.testing import WorkflowEnvironment

from examples.cart.__main__ import QUEUE, open_cart, working
from examples.cart.activities import Shop
from examples.cart.models import CartData, CartStatus, Line, State
from examples.cart.workflows import Cart
from tests.server.support import causes, eventually

Handle = WorkflowHandle[Cart, CartStatus]


@pytest.fixture(scope="module")
async def shop(client: Client) -> AsyncIterator[Shop]:
    shop = Shop()
    async with working(client, shop):
        yield shop
    shop.close()


def stock(shop: Shop) -> dict[str, int]:
    rows: Any = shop.rows("SELECT sku, on_hand FROM products")
    return dict(rows)


def balance(shop: Shop) -> int:
    rows: Any = shop.rows("SELECT balance FROM cards WHERE number = '4242'")
    return int(rows[0][0])


async def new_cart(client: Client, **options: Any) -> Handle:
    return await open_cart(client, CartData(f"c-{uuid4()}", **options))


async def handed_over(handle: Handle) -> None:
    """Wait until a run has taken over the state of an earlier one."""

    async def found() -> bool:
        return (await handle.query(Cart.status)).state_bytes > 100

    await eventually(found)


async def refused(handle: Handle, update: Any, *args: Any) -> str:
    """The message with which an update is refused."""
    with pytest.raises(WorkflowUpdateFailedError) as error:
        await handle.execute_update(update, args=args)
    cause: Any = error.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause)


async def test_a_cart_goes_on_across_runs_until_it_is_paid(client: Client, shop: Shop) -> None:
    """A line that was reserved in an earlier run is taken out, and the rest is paid and shipped."""
    before, money = stock(shop), balance(shop)
    handle = await new_cart(client, changes_per_run=2)
    assert await handle.execute_update(Cart.add, Line("1", "teapot", 2)) == 49_80
    assert await handle.execute_update(Cart.add, Line("2", "cup", 1)) == 6_50
    await handed_over(handle)
    await handle.execute_update(Cart.remove, "1")
    assert stock(shop) == {**before, "cup": before["cup"] - 1}
    status = await handle.query(Cart.status)
    assert (status.state, status.lines, 100 < status.state_bytes < 2000) == (State.OPEN, {"2": 6_50}, True)
    assert await handle.execute_update(Cart.check_out, "4242") == 6_50
    assert (await handle.result()).state is State.CHECKED_OUT
    assert (stock(shop), balance(shop)) == ({**before, "cup": before["cup"] - 1}, money - 6_50)


async def test_a_refused_update_leaves_the_cart_as_it_was(client: Client, shop: Shop) -> None:
    """What is done twice, what is not there, and a card without money. Also by the run after the one that did it."""
    before, money = stock(shop), balance(shop)
    handle = await new_cart(client, changes_per_run=1)
    assert "is empty" in await refused(handle, Cart.check_out, "4242")
    await handle.execute_update(Cart.add, Line("1", "cup"))
    assert "has been added" in await refused(handle, Cart.add, Line("1", "cup"))
    assert "out of stock" in await refused(handle, Cart.add, Line("2", "cup", 1000))
    assert "has been added" in await refused(handle, Cart.add, Line("2", "cup"))  # an id is used once
    assert "not a quantity" in await refused(handle, Cart.add, Line("3", "cup", 0))
    assert "declined" in await refused(handle, Cart.check_out, "4000")
    await handle.execute_update(Cart.remove, "1")
    assert "no line 1" in await refused(handle, Cart.remove, "1")
    assert (await handle.query(Cart.status)).lines == {}
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert (stock(shop), balance(shop)) == (before, money)


async def test_a_full_cart_takes_no_more_lines(client: Client, shop: Shop) -> None:
    before = stock(shop)
    handle = await new_cart(client, changes_per_run=1, max_bytes=100)
    await handle.execute_update(Cart.add, Line("1", "cup"))
    await handed_over(handle)
    assert "full" in await refused(handle, Cart.add, Line("2", "cup"))
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as error:
        await handle.result()
    assert isinstance(error.value.cause, CancelledError), causes(error.value)
    assert stock(shop) == before


async def test_a_cart_expires_a_day_after_its_first_run_began(time_skipping_env: WorkflowEnvironment) -> None:
    """Virtual time skips whatever nobody does meanwhile: so the cart is started with its only update."""
    shop, client, customer = Shop(), time_skipping_env.client, f"c-{uuid4()}"
    async with working(client, shop):
        start = WithStartWorkflowOperation(
            Cart.run,
            CartData(customer, changes_per_run=1),
            id=customer,
            task_queue=QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
        await client.execute_update_with_start_workflow(Cart.add, Line("1", "cup"), start_workflow_operation=start)
        handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(customer, result_type=CartStatus)
        assert (await handle.result()).state is State.EXPIRED
    assert stock(shop) == {"teapot": 5, "cup": 20}
    shop.close()
