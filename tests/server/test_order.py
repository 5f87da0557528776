"""The order on a real server, its activities on a real SQLite file."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import (
    Client,
    ScheduleActionExecutionStartWorkflow,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, WorkflowAlreadyStartedError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from examples.order.activities import Shop
from examples.order.models import (
    STATUS,
    Booking,
    Line,
    Message,
    Order,
    OrderState,
    OrderStatus,
    Payment,
    PickOrder,
    Report,
    Review,
    Shipment,
    describe,
)
from examples.order.starter import orders_in, place_order, schedule_report
from examples.order.store import Store
from examples.order.worker import build_worker
from examples.order.workflows import REVIEW_WITHIN, SHIP_WITHIN, DailyReport, Notify, OrderWorkflow
from temporal_saga.plugin import SagaPlugin

Handle = WorkflowHandle[OrderWorkflow, OrderState]

UNDO_ALL = ["recall_from_warehouse", "void_label", "cancel_pickup", "release", "refund"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "orders.db")
    store.add_samples()
    return store


@pytest.fixture
def task_queue() -> str:
    return f"orders-{uuid4()}"


@asynccontextmanager
async def working(client: Client, shop: Shop, task_queue: str) -> AsyncGenerator[None, None]:
    with ThreadPoolExecutor() as threads:
        async with build_worker(client, shop, threads, task_queue):
            yield


def new_order(*lines: Line, card: str = "4242") -> Order:
    wanted = list(lines) or [Line("teapot", 2)]
    return Order(f"order-{uuid4()}", "ann@example.com", card, wanted)


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("did not happen within 10 s")


async def eventually_event(handle: Handle, kind: EventType.ValueType) -> None:
    for _ in range(200):
        if any(event.event_type == kind for event in await events(handle)):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"no {EventType.Name(kind)} within 10 s")


async def events(handle: Handle) -> Sequence[HistoryEvent]:
    return (await handle.fetch_history()).events


async def scheduled(handle: Handle, phase: str) -> list[str]:
    """The names of the activities of that phase, in the order in which they were scheduled."""
    found = [event.activity_task_scheduled_event_attributes for event in await events(handle)]
    return [a.activity_type.name for a in found if f":{phase}:" in a.activity_id]


async def replay(handle: WorkflowHandle[Any, Any]) -> None:
    replayer = Replayer(workflows=[OrderWorkflow, Notify, DailyReport], plugins=[SagaPlugin()])
    await replayer.replay_workflow(await handle.fetch_history())


def messages(store: Store, channel: str) -> list[str]:
    select = "SELECT text FROM outbox WHERE channel = ? ORDER BY rowid"
    return [text for (text,) in store.rows(select, channel)]


def told(store: Store, order: Order) -> list[str]:
    """What the customer has heard, in as many mails as it were."""
    return [news for mail in messages(store, "mail") for news in mail.removeprefix(f"{order.id}: ").split("; ")]


def on_hand(store: Store) -> dict[str, int]:
    return dict(store.rows("SELECT sku, on_hand FROM products"))


def assert_untouched(store: Store) -> None:
    """The card, the shelf and the carriers are as they were."""
    assert store.rows("SELECT balance FROM cards WHERE number = '4242'") == [(500_00,)]
    assert on_hand(store) == {"cup": 20, "teapot": 5}
    assert store.rows("SELECT pickups, labels FROM carriers") == [(10, 10), (10, 10)]
    assert store.rows("SELECT * FROM shipments") == []


async def ended(handle: Handle, order: Order, store: Store) -> OrderState:
    """The result, once its mail has gone out too; the history is replayed."""
    state = await handle.result()
    assert state == await handle.query(OrderWorkflow.order_status)
    await eventually(lambda: told(store, order)[-1:] == [describe(state)])
    await replay(handle)
    return state


async def test_happy(client: Client, store: Store, task_queue: str) -> None:
    order = new_order(Line("teapot", 1), Line("cup", 2))
    async with working(client, Shop(store), task_queue):
        handle = await place_order(client, order, task_queue)
        await eventually(lambda: messages(store, "warehouse") != [])
        assert await handle.query(OrderWorkflow.order_status) == OrderState(OrderStatus.CONFIRMED)
        await handle.signal(OrderWorkflow.shipment_ready, "T1")
        state = await ended(handle, order, store)
    assert state == OrderState(OrderStatus.SHIPPED, tracking_number="T1")
    assert store.rows("SELECT balance FROM cards WHERE number = '4242'") == [(500_00 - 37_90,)]
    assert on_hand(store) == {"cup": 18, "teapot": 4}
    assert store.rows("SELECT * FROM shipments") == [(order.id, "T1")]
    assert messages(store, "warehouse") == [f"pack {order.id}, label swift/{order.id}"]
    assert messages(store, "mail") == [f"{order.id}: CONFIRMED", f"{order.id}: SHIPPED (T1)"]
    assert await scheduled(handle, "undo") == []


async def test_an_order_number_is_used_once(client: Client, store: Store, task_queue: str) -> None:
    order = new_order(card="4000")
    async with working(client, Shop(store), task_queue):
        await (await place_order(client, order, task_queue)).result()
        with pytest.raises(WorkflowAlreadyStartedError):
            await place_order(client, order, task_queue)


async def test_bad_input_fails_before_anything_moves(client: Client, store: Store, task_queue: str) -> None:
    async with working(client, Shop(store), task_queue):
        handle = await place_order(client, new_order(Line("sofa", 1)), task_queue)
        with pytest.raises(WorkflowFailureError) as error:
            await handle.result()
        await replay(handle)
    assert isinstance(error.value.cause, ActivityError)
    assert isinstance(error.value.cause.cause, ApplicationError)
    assert error.value.cause.cause.type == "Rejected"
    assert await scheduled(handle, "do") == []
    assert_untouched(store)


async def test_a_declined_card_is_an_answer(
    client: Client, store: Store, task_queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    order = new_order(card="4000")
    with caplog.at_level(logging.INFO, logger="temporalio"):
        async with working(client, Shop(store), task_queue):
            handle = await place_order(client, order, task_queue)
            state = await ended(handle, order, store)
    assert state == OrderState(OrderStatus.PAYMENT_DECLINED, "card 4000 is declined")
    # Proven never to have happened: the charge is not undone.
    assert set(await scheduled(handle, "undo")) <= {"release"}
    assert store.rows("SELECT * FROM payments") == []
    assert_untouched(store)
    assert [record for record in caplog.records if record.exc_info] == []


class SlowCharge(Shop):
    """The provider takes the money, but its answer is slow."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.answer = threading.Event()

    @activity.defn
    def charge(self, payment: Payment) -> None:
        assert self.answer.wait(20)
        super().charge(payment)


async def test_out_of_stock_while_the_charge_is_in_flight(client: Client, store: Store, task_queue: str) -> None:
    order = new_order(Line("cup", 1), Line("teapot", 6))
    shop = SlowCharge(store)
    async with working(client, shop, task_queue):
        handle = await place_order(client, order, task_queue)
        await eventually_event(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED)
        # Out of stock, and no refund while the charge may still come.
        assert await scheduled(handle, "undo") == []
        shop.answer.set()
        state = await ended(handle, order, store)
    assert state == OrderState(OrderStatus.OUT_OF_STOCK, "teapot is out of stock")
    assert await scheduled(handle, "undo") == ["refund"]
    assert store.rows("SELECT state FROM payments") == [("refunded",)]
    assert_untouched(store)


async def test_the_second_carrier_takes_it(client: Client, store: Store, task_queue: str) -> None:
    store.add_carrier("swift", pickups=10, labels=0)
    order = new_order()
    async with working(client, Shop(store), task_queue):
        handle = await place_order(client, order, task_queue)
        await handle.signal(OrderWorkflow.shipment_ready, "T1")
        state = await ended(handle, order, store)
    assert state.status is OrderStatus.SHIPPED
    # Only the pickup of the first carrier is undone, the payment is not.
    assert await scheduled(handle, "undo") == ["cancel_pickup"]
    assert store.rows("SELECT * FROM carriers ORDER BY name") == [("post", 9, 9), ("swift", 10, 0)]
    assert messages(store, "warehouse") == [f"pack {order.id}, label post/{order.id}"]


class BrokenPrinter(Shop):
    """Prints no label of the first carrier."""

    @activity.defn
    def print_label(self, booking: Booking) -> str:
        if booking.carrier == "swift":
            raise ApplicationError("out of paper", non_retryable=True)
        return super().print_label(booking)


async def test_a_fault_of_a_carrier_counts_as_a_no(client: Client, store: Store, task_queue: str) -> None:
    order = new_order()
    async with working(client, BrokenPrinter(store), task_queue):
        handle = await place_order(client, order, task_queue)
        await handle.signal(OrderWorkflow.shipment_ready, "T1")
        state = await ended(handle, order, store)
    assert state.status is OrderStatus.SHIPPED
    assert await scheduled(handle, "undo") == ["void_label", "cancel_pickup"]
    assert store.rows("SELECT * FROM carriers ORDER BY name") == [("post", 9, 9), ("swift", 10, 10)]


async def test_no_carrier_takes_it(client: Client, store: Store, task_queue: str) -> None:
    store.add_carrier("swift", pickups=10, labels=0)
    store.add_carrier("post", pickups=0, labels=10)
    order = new_order()
    async with working(client, Shop(store), task_queue):
        handle = await place_order(client, order, task_queue)
        state = await ended(handle, order, store)
    assert state == OrderState(OrderStatus.NO_CARRIER, "no carrier takes the order")
    assert await scheduled(handle, "undo") == ["cancel_pickup", "release", "refund"]
    assert messages(store, "warehouse") == []
    store.add_carrier("swift", pickups=10, labels=10)
    store.add_carrier("post", pickups=10, labels=10)
    assert_untouched(store)


class BrokenWarehouse(Shop):
    """Nobody knows whether the pick order arrived."""

    @activity.defn
    def notify_warehouse(self, pick: PickOrder) -> None:
        super().notify_warehouse(pick)
        raise ApplicationError("no answer", non_retryable=True)


async def test_a_fault_for_good_fails_once_all_is_undone(client: Client, store: Store, task_queue: str) -> None:
    async with working(client, BrokenWarehouse(store), task_queue):
        handle = await place_order(client, new_order(), task_queue)
        with pytest.raises(WorkflowFailureError) as error:
            await handle.result()
        await replay(handle)
    assert isinstance(error.value.cause, ActivityError)
    assert await scheduled(handle, "undo") == UNDO_ALL
    assert_untouched(store)


async def test_cancel_order_while_waiting(client: Client, store: Store, task_queue: str) -> None:
    order = new_order()
    async with working(client, Shop(store), task_queue):
        handle = await place_order(client, order, task_queue)
        await eventually_event(handle, EventType.EVENT_TYPE_TIMER_STARTED)
        await handle.signal(OrderWorkflow.cancel_order, "changed my mind")
        # What came first counts.
        await handle.signal(OrderWorkflow.shipment_ready, "T1")
        state = await ended(handle, order, store)
    assert state == OrderState(OrderStatus.CANCELLED, "changed my mind")
    assert await scheduled(handle, "undo") == UNDO_ALL
    assert messages(store, "warehouse")[-1] == f"do not ship {order.id}"
    assert messages(store, "support") == []
    assert_untouched(store)


async def test_cancel_order_before_anything(client: Client, store: Store, task_queue: str) -> None:
    order = new_order()
    handle = await place_order(client, order, task_queue)
    await handle.signal(OrderWorkflow.cancel_order, "wrong size")
    async with working(client, Shop(store), task_queue):
        state = await ended(handle, order, store)
    assert state == OrderState(OrderStatus.CANCELLED, "wrong size")
    assert await scheduled(handle, "do") == []
    assert_untouched(store)


async def test_cancel_order_between_two_stages(client: Client, store: Store, task_queue: str) -> None:
    order = new_order()
    shop = SlowCharge(store)
    async with working(client, shop, task_queue):
        handle = await place_order(client, order, task_queue)
        await eventually(lambda: on_hand(store) == {"cup": 20, "teapot": 3})
        await handle.signal(OrderWorkflow.cancel_order, "too slow")
        shop.answer.set()
        state = await ended(handle, order, store)
    assert state == OrderState(OrderStatus.CANCELLED, "too slow")
    assert await scheduled(handle, "do") == ["charge", "allocate"]
    assert await scheduled(handle, "undo") == ["release", "refund"]
    assert_untouched(store)


async def test_shipment_ready_before_anything(client: Client, store: Store, task_queue: str) -> None:
    order = new_order()
    handle = await place_order(client, order, task_queue)
    await handle.signal(OrderWorkflow.shipment_ready, "T1")
    await handle.signal(OrderWorkflow.cancel_order, "too late")
    async with working(client, Shop(store), task_queue):
        state = await ended(handle, order, store)
    assert state == OrderState(OrderStatus.SHIPPED, tracking_number="T1")
    assert store.rows("SELECT * FROM shipments") == [(order.id, "T1")]


async def test_no_shipment_in_time(time_skipping_env: WorkflowEnvironment, store: Store, task_queue: str) -> None:
    client = time_skipping_env.client
    order = new_order()
    async with working(client, Shop(store), task_queue):
        handle = await place_order(client, order, task_queue)
        state = await ended(handle, order, store)
    assert state == OrderState(OrderStatus.NOT_SHIPPED, "not shipped within 7 days")
    assert await scheduled(handle, "undo") == UNDO_ALL
    assert messages(store, "support") == [f"{order.id}: NOT_SHIPPED (not shipped within 7 days)"]
    assert told(store, order) == ["CONFIRMED", "NOT_SHIPPED (not shipped within 7 days)"]
    assert_untouched(store)
    history = await events(handle)
    took = history[-1].event_time.ToDatetime() - history[0].event_time.ToDatetime()
    assert SHIP_WITHIN <= took < SHIP_WITHIN + timedelta(hours=1)


def dear_order() -> Order:
    return Order(f"order-{uuid4()}", "ann@example.com", "4242", [Line("teapot", 2)], review_over=40_00)


async def test_a_review_is_found_in_the_list_and_approved_once(client: Client, store: Store, task_queue: str) -> None:
    order = dear_order()
    async with working(client, Shop(store), task_queue):
        handle = await place_order(client, order, task_queue, listed=True)
        for _ in range(200):  # the list lags behind
            if order.id in await orders_in(client, OrderStatus.REVIEWING):
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("not listed within 10 s")
        review = Review(True, "eve")
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update(OrderWorkflow.review, Review(True, " "))
        await handle.execute_update(OrderWorkflow.review, review)
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update(OrderWorkflow.review, review)
        await handle.signal(OrderWorkflow.shipment_ready, "T1")
        state = await ended(handle, order, store)
        shown = (await handle.describe()).typed_search_attributes.get(STATUS)
    assert (state.status, shown) == (OrderStatus.SHIPPED, "SHIPPED")
    # What happens within a minute goes into one mail; the last one does not wait for that.
    assert told(store, order) == ["REVIEWING", "CONFIRMED", "SHIPPED (T1)"]
    assert len(messages(store, "mail")) <= 2


@pytest.mark.parametrize(
    "says_no",
    [
        lambda handle: handle.execute_update(OrderWorkflow.review, Review(False, "eve")),
        lambda handle: handle.signal(OrderWorkflow.cancel_order, "too slow"),
    ],
    ids=["reviewer", "customer"],
)
async def test_a_review_ends_with_a_no(client: Client, store: Store, task_queue: str, says_no: Any) -> None:
    order = dear_order()
    async with working(client, Shop(store), task_queue):
        handle = await place_order(client, order, task_queue)
        await eventually_event(handle, EventType.EVENT_TYPE_TIMER_STARTED)
        await says_no(handle)
        state = await ended(handle, order, store)
    assert describe(state) in ("REJECTED (rejected by eve)", "CANCELLED (too slow)")
    assert set(await scheduled(handle, "undo")) == {"release", "refund"}
    assert_untouched(store)


async def test_nobody_reviews_it(time_skipping_env: WorkflowEnvironment, store: Store, task_queue: str) -> None:
    client, order = time_skipping_env.client, dear_order()
    async with working(client, Shop(store), task_queue):
        handle = await place_order(client, order, task_queue)
        state = await ended(handle, order, store)
    assert state == OrderState(OrderStatus.REJECTED, "no review in time")
    assert_untouched(store)
    history = await events(handle)
    took = history[-1].event_time.ToDatetime() - history[0].event_time.ToDatetime()
    assert REVIEW_WITHIN <= took < REVIEW_WITHIN + timedelta(hours=1)


async def test_the_workflow_is_cancelled_while_waiting(client: Client, store: Store, task_queue: str) -> None:
    order = new_order()
    async with working(client, Shop(store), task_queue):
        handle = await place_order(client, order, task_queue)
        await eventually_event(handle, EventType.EVENT_TYPE_TIMER_STARTED)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as error:
            await handle.result()
        await replay(handle)
    assert isinstance(error.value.cause, CancelledError)
    assert await scheduled(handle, "undo") == UNDO_ALL
    assert messages(store, "warehouse")[-1] == f"do not ship {order.id}"
    assert_untouched(store)


class SlowRecord(Shop):
    """The books are slow to take the sale."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.begun, self.go = threading.Event(), threading.Event()

    @activity.defn
    def record_shipment(self, shipment: Shipment) -> None:
        self.begun.set()
        assert self.go.wait(20)
        super().record_shipment(shipment)


async def test_what_has_left_is_not_taken_back(client: Client, store: Store, task_queue: str) -> None:
    order = new_order()
    shop = SlowRecord(store)
    async with working(client, shop, task_queue):
        handle = await place_order(client, order, task_queue)
        await handle.signal(OrderWorkflow.shipment_ready, "T1")
        await eventually(shop.begun.is_set)
        await handle.cancel()
        await eventually_event(handle, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
        shop.go.set()
        with pytest.raises(WorkflowFailureError) as error:
            await handle.result()
        await replay(handle)
    assert isinstance(error.value.cause, CancelledError)
    assert store.rows("SELECT * FROM shipments") == [(order.id, "T1")]
    assert store.rows("SELECT state FROM payments") == [("charged",)]
    assert await scheduled(handle, "undo") == []


class NoMail(Shop):
    """The mail server is down for a while."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.works = threading.Event()

    @activity.defn
    def send(self, message: Message) -> None:
        assert self.works.wait(20)
        super().send(message)


async def test_a_mail_outlives_its_order(client: Client, store: Store, task_queue: str) -> None:
    order = new_order(card="4000")
    shop = NoMail(store)
    async with working(client, shop, task_queue):
        handle = await place_order(client, order, task_queue)
        await handle.result()
        assert messages(store, "mail") == []
        shop.works.set()
        await ended(handle, order, store)


async def test_the_report_is_scheduled(client: Client, store: Store, task_queue: str) -> None:
    handle = await schedule_report(client, task_queue, f"report-{uuid4()}")
    try:
        assert (await schedule_report(client, task_queue, handle.id)).id == handle.id
        times = (await handle.describe()).info.next_action_times
        assert len(times) == 10
        assert {time.isoweekday() for time in times} == {1, 2, 3, 4, 5}
        assert {(time.hour, time.minute, time.second) for time in times} == {(9, 0, 0)}

        async with working(client, Shop(store), task_queue):
            await handle.trigger()
            await eventually(lambda: messages(store, "mail") != [])
            (run,) = (await handle.describe()).info.recent_actions
            assert isinstance(run.action, ScheduleActionExecutionStartWorkflow)
            report_handle = client.get_workflow_handle(run.action.workflow_id, result_type=Report)
            assert await report_handle.result() == Report(0, 0, {"cup": 20, "teapot": 5})
            await replay(report_handle)
    finally:
        await handle.delete()
    assert messages(store, "mail") == ["0 shipped, 0.00 EUR paid, left: 20 cup, 5 teapot"]


async def test_worker_and_starter_as_processes(env: WorkflowEnvironment, tmp_path: Path, task_queue: str) -> None:
    environment = {**os.environ, "TEMPORAL_ADDRESS": env.client.service_client.config.target_host}
    database = str(tmp_path / "orders.db")
    order_id = f"order-{uuid4()}"

    async def start(module: str, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"examples.{module}", *arguments), env=environment, stdout=asyncio.subprocess.PIPE
        )

    async def starter(*arguments: str) -> str:
        process = await start("order.starter", "--task-queue", task_queue, *arguments)
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()

    worker = await start("order.worker", "--db", database, "--task-queue", task_queue)
    try:
        assert worker.stdout is not None
        assert b"working" in await worker.stdout.readline()
        await starter("place", order_id, "teapot:2", "cup")
        await starter("ship", order_id, "T1")
        assert await starter("status", order_id, "--wait") == "SHIPPED (T1)\n"
        assert "paid to the shop                 56.30 EUR" in await starter("books", "--db", database)
    finally:
        worker.terminate()
        await worker.wait()
    assert worker.returncode == 0
