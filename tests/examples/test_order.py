"""The shop's activities and its store, against a real SQLite file."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment

from examples.order.activities import Shop
from examples.order.models import (
    Booking,
    Line,
    Message,
    Order,
    OrderState,
    OrderStatus,
    Payment,
    PickOrder,
    Shipment,
    describe,
    format_amount,
)
from examples.order.starter import parse, parse_line
from examples.order.store import Store
from temporal_saga import Declined, Rejected
from temporal_saga.errors import Fenced, KeyMisuse

ORDER = Order("o1", "ann@example.com", "4242", [Line("teapot", 2), Line("cup", 1)])
PAYMENT = Payment("4242", 60_00)
BOOKING = Booking("o1", "swift")


def open_shop(directory: Path) -> Shop:
    store = Store(directory / "orders.db")
    store.add_samples()
    return Shop(store)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return open_shop(tmp_path)


def new_key() -> str:
    return str(uuid4())


def call(function: Callable[..., Any], key: str, *arguments: Any, phase: str = "do") -> Any:
    """Runs an activity as the step with that key, or as its undo."""
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, activity_id=f"{function.__name__}:{phase}:{key}")
    return environment.run(function, *arguments)


def undo(function: Callable[..., Any], key: str, *arguments: Any) -> None:
    call(function, key, *arguments, phase="undo")


def at_once(*functions: Callable[[], object]) -> list[object]:
    """Runs the functions in threads that start together; gives results or exceptions."""
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> object:
        barrier.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        futures = [pool.submit(run, function) for function in functions]
    return [future.exception() or future.result() for future in futures]


def stock(shop: Shop) -> dict[str, int]:
    return dict(shop.store.rows("SELECT sku, on_hand FROM products"))


def balance(shop: Shop) -> int:
    ((balance,),) = shop.store.rows("SELECT balance FROM cards WHERE number = '4242'")
    return int(balance)


def paid(shop: Shop) -> int:
    (row,) = shop.store.rows("SELECT total(amount) FROM payments WHERE state = 'charged'")
    return int(row[0])


def left(shop: Shop) -> tuple[int, ...]:
    return shop.store.rows("SELECT pickups, labels FROM carriers WHERE name = 'swift'")[0]


def outbox(shop: Shop) -> list[tuple[str, ...]]:
    return list(shop.store.rows("SELECT channel, text FROM outbox ORDER BY rowid"))


def test_an_order_costs_what_its_lines_cost(shop: Shop) -> None:
    assert call(shop.validate, new_key(), ORDER) == 2 * 24_90 + 6_50


@pytest.mark.parametrize("lines", [[], [Line("sofa", 1)], [Line("cup", 0)], [Line("cup", -1)]])
def test_bad_input_is_rejected(shop: Shop, lines: list[Line]) -> None:
    with pytest.raises(Rejected) as error:
        call(shop.validate, new_key(), dataclasses.replace(ORDER, lines=lines))
    assert error.value.non_retryable


def test_a_repeated_charge_takes_the_money_once(shop: Shop) -> None:
    key = new_key()
    call(shop.charge, key, PAYMENT)
    call(shop.charge, key, PAYMENT)
    assert (balance(shop), paid(shop)) == (440_00, 60_00)
    call(shop.charge, new_key(), PAYMENT)
    assert (balance(shop), paid(shop)) == (380_00, 120_00)


def test_a_declined_card_is_a_business_answer(shop: Shop) -> None:
    key = new_key()
    for payment in (Payment("4000", 1), Payment("4242", 500_01), Payment("unknown", 1)):
        with pytest.raises(Declined) as error:
            call(shop.charge, key, payment)
        assert error.value.non_retryable
        assert error.value.category is ApplicationErrorCategory.BENIGN
        assert error.value.details[0] == OrderStatus.PAYMENT_DECLINED
    assert (balance(shop), paid(shop)) == (500_00, 0)


def test_one_key_is_good_for_one_payment(shop: Shop) -> None:
    key = new_key()
    call(shop.charge, key, PAYMENT)
    with pytest.raises(KeyMisuse):
        call(shop.charge, key, Payment("4242", 61_00))
    assert balance(shop) == 440_00


def test_a_refund_gives_the_money_back_once(shop: Shop) -> None:
    key = new_key()
    call(shop.charge, key, PAYMENT)
    undo(shop.refund, key, PAYMENT)
    undo(shop.refund, key, PAYMENT)
    assert (balance(shop), paid(shop)) == (500_00, 0)


def test_a_charge_that_comes_after_its_refund_is_refused(shop: Shop) -> None:
    key = new_key()
    undo(shop.refund, key, PAYMENT)
    undo(shop.refund, key, PAYMENT)
    with pytest.raises(Fenced):
        call(shop.charge, key, PAYMENT)
    assert (balance(shop), paid(shop)) == (500_00, 0)


def test_goods_are_allocated_and_released_once(shop: Shop) -> None:
    key = new_key()
    call(shop.allocate, key, ORDER)
    call(shop.allocate, key, ORDER)
    assert stock(shop) == {"teapot": 3, "cup": 19}
    undo(shop.release, key, ORDER)
    undo(shop.release, key, ORDER)
    assert stock(shop) == {"teapot": 5, "cup": 20}


def test_all_lines_are_allocated_or_none(shop: Shop) -> None:
    key = new_key()
    order = dataclasses.replace(ORDER, lines=[Line("cup", 1), Line("teapot", 6)])
    with pytest.raises(Declined, match="teapot is out of stock") as error:
        call(shop.allocate, key, order)
    assert error.value.details[0] == OrderStatus.OUT_OF_STOCK
    assert stock(shop) == {"teapot": 5, "cup": 20}
    # What never happened is not undone either.
    undo(shop.release, key, order)
    assert stock(shop) == {"teapot": 5, "cup": 20}


def test_an_allocation_that_comes_after_its_release_is_refused(shop: Shop) -> None:
    key = new_key()
    undo(shop.release, key, ORDER)
    with pytest.raises(Fenced):
        call(shop.allocate, key, ORDER)
    assert stock(shop) == {"teapot": 5, "cup": 20}


def test_a_pickup_and_a_label_are_booked_and_undone(shop: Shop) -> None:
    pickup, label = new_key(), new_key()
    call(shop.book_pickup, pickup, BOOKING)
    assert call(shop.print_label, label, BOOKING) == "swift/o1"
    assert call(shop.print_label, label, BOOKING) == "swift/o1"
    assert left(shop) == (9, 9)
    undo(shop.void_label, label, BOOKING)
    undo(shop.cancel_pickup, pickup, BOOKING)
    assert left(shop) == (10, 10)


def test_a_carrier_with_nothing_left_declines(shop: Shop) -> None:
    shop.store.add_carrier("swift", pickups=0, labels=0)
    for step in (shop.book_pickup, shop.print_label):
        with pytest.raises(Declined) as error:
            call(step, new_key(), BOOKING)
        assert error.value.details[0] == OrderStatus.NO_CARRIER
    assert left(shop) == (0, 0)


def test_a_pick_order_is_revoked_only_if_it_was_given(shop: Shop) -> None:
    pick = PickOrder("o1", "swift/o1")
    given_key, never = new_key(), new_key()
    call(shop.notify_warehouse, given_key, pick)
    call(shop.notify_warehouse, given_key, pick)
    undo(shop.recall_from_warehouse, given_key, pick)
    undo(shop.recall_from_warehouse, given_key, pick)
    undo(shop.recall_from_warehouse, never, pick)
    assert outbox(shop) == [("warehouse", "pack o1, label swift/o1"), ("warehouse", "do not ship o1")]


def test_a_message_is_sent_once(shop: Shop) -> None:
    message = Message(new_key(), "mail", "ann@example.com", "hello")
    ActivityEnvironment().run(shop.send, message)
    ActivityEnvironment().run(shop.send, message)
    assert outbox(shop) == [("mail", "hello")]


def test_the_report_counts_what_is_sold(shop: Shop) -> None:
    call(shop.charge, new_key(), PAYMENT)
    refunded = new_key()
    call(shop.charge, refunded, PAYMENT)
    undo(shop.refund, refunded, PAYMENT)
    key = new_key()
    call(shop.record_shipment, key, Shipment("o1", "T"))
    call(shop.record_shipment, key, Shipment("o1", "T"))
    report = ActivityEnvironment().run(shop.report)
    assert (report.shipped, report.paid) == (1, 60_00)
    assert report.on_hand == {"cup": 20, "teapot": 5}


def test_two_threads_with_one_key_have_one_effect(shop: Shop) -> None:
    order = dataclasses.replace(ORDER, lines=[Line("cup", 1)])
    for turn in range(1, 11):
        charge = partial(call, shop.charge, new_key(), Payment("4242", 1_00))
        allocate = partial(call, shop.allocate, new_key(), order)
        assert at_once(charge, charge, allocate, allocate) == [None] * 4
        assert (balance(shop), paid(shop)) == (500_00 - turn * 1_00, turn * 1_00)
        assert stock(shop)["cup"] == 20 - turn


def test_two_threads_cannot_both_take_the_last_one(shop: Shop) -> None:
    order = dataclasses.replace(ORDER, lines=[Line("teapot", 5)])
    results = at_once(lambda: call(shop.allocate, new_key(), order), lambda: call(shop.allocate, new_key(), order))
    assert sorted(type(result).__name__ for result in results) == ["Declined", "NoneType"]
    assert stock(shop)["teapot"] == 0


def test_a_step_that_races_its_undo_leaves_nothing(shop: Shop) -> None:
    for _ in range(10):
        key, card = new_key(), new_key()
        results = at_once(
            partial(call, shop.charge, card, PAYMENT),
            partial(undo, shop.refund, card, PAYMENT),
            partial(call, shop.allocate, key, ORDER),
            partial(undo, shop.release, key, ORDER),
        )
        assert all(result is None or isinstance(result, Fenced) for result in results)
        assert (balance(shop), paid(shop)) == (500_00, 0)
        assert stock(shop) == {"teapot": 5, "cup": 20}


DO_OR_UNDO = st.tuples(st.sampled_from(["do", "undo"]), st.integers(0, 2))


@settings(max_examples=30, deadline=None)
@given(st.lists(DO_OR_UNDO, max_size=12))
def test_whatever_the_order_of_steps_and_undos(calls: list[tuple[str, int]]) -> None:
    """Applied are the steps that came, and of which no undo came before or after."""
    with TemporaryDirectory() as directory:
        shop = open_shop(Path(directory))
        keys = [new_key() for _ in range(3)]
        order = dataclasses.replace(ORDER, lines=[Line("teapot", 1)])
        for turn, (phase, index) in enumerate(calls):
            charge, allocate = (shop.charge, shop.allocate) if phase == "do" else (shop.refund, shop.release)
            late = ("undo", index) in calls[:turn] and phase == "do"
            for function, argument in ((charge, PAYMENT), (allocate, order)):
                with pytest.raises(Fenced) if late else nullcontext():
                    call(function, keys[index], argument, phase=phase)
        done = {index for phase, index in calls if phase == "do"}
        undone = {index for phase, index in calls if phase == "undo"}
        applied = len(done - undone)
        assert paid(shop) == applied * 60_00
        assert balance(shop) == 500_00 - paid(shop)
        assert stock(shop)["teapot"] == 5 - applied


def test_samples_are_added_once(shop: Shop) -> None:
    call(shop.allocate, new_key(), ORDER)
    shop.store.add_samples()
    assert stock(shop) == {"teapot": 3, "cup": 19}


def test_what_people_read_and_write() -> None:
    assert format_amount(1_234_05) == "1,234.05 EUR"
    assert parse_line("teapot:2") == Line("teapot", 2)
    assert parse_line("teapot") == Line("teapot", 1)
    assert describe(OrderState(OrderStatus.SHIPPED, tracking_number="T1")) == "SHIPPED (T1)"
    assert parse(["place", "o1", "cup:3"]).lines == [Line("cup", 3)]
    with pytest.raises(SystemExit):
        parse(["place", "o1", "cup:many"])


@pytest.mark.parametrize("module", ["order", "order.worker", "order.starter"])
def test_each_command_has_a_help(module: str) -> None:
    command = [sys.executable, "-m", f"examples.{module}", "--help"]
    assert "usage: python -m examples.order" in subprocess.check_output(command, text=True)
