"""The bank's activities and its ledger, against a real SQLite file."""

from __future__ import annotations

import dataclasses
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.testing import ActivityEnvironment

from examples.money_transfer.activities import Bank
from examples.money_transfer.ledger import Ledger, Posting, RefusedError, in_transit
from examples.money_transfer.models import Transfer, format_amount, to_minor_units
from temporal_saga import Declined, Rejected

T = TypeVar("T")

TRANSFER = Transfer("T1", "alice", "bob", 70_00, "EUR")


def open_bank(directory: Path) -> Bank:
    ledger = Ledger(directory / "bank.sqlite3")
    ledger.open_account("alice", "EUR", 100_00)
    ledger.open_account("bob", "EUR", 5_00)
    return Bank(ledger)


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return open_bank(tmp_path)


def new_key() -> str:
    return str(uuid4())


def call(
    function: Callable[[Transfer], T], key: str, transfer: Transfer = TRANSFER, *, phase: str = "do", attempt: int = 1
) -> T:
    """Runs an activity as the step with that forward key."""
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(
        environment.info, activity_id=f"step:{phase}:{key}", activity_type=function.__name__, attempt=attempt
    )
    return environment.run(function, transfer)


def balances(bank: Bank) -> dict[str, int]:
    return {account.name: account.balance for account in bank.ledger.accounts()}


def rows(bank: Bank, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(bank.ledger.path) as db:
        found = db.execute(query).fetchall()
    db.close()
    return found


def assert_intact(bank: Bank) -> None:
    """Every entry adds up to zero, and what the customers lack is in transit."""
    assert rows(bank, "SELECT coalesce(sum(amount), 0) FROM postings") == [(0,)]
    unbalanced = "SELECT entry FROM postings GROUP BY entry HAVING sum(amount) <> 0"
    assert rows(bank, unbalanced) == []
    assert bank.ledger.total("EUR") + balances(bank)[in_transit("EUR")] == 105_00


def at_once(*functions: Callable[[], object]) -> list[object]:
    """Runs the functions in threads that start together; gives results or exceptions."""
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> object:
        barrier.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        futures = [pool.submit(run, function) for function in functions]
    return [future.exception() or future.result() for future in futures]


def test_a_transfer_moves_the_money(bank: Bank) -> None:
    call(bank.check, new_key())
    call(bank.withdraw, new_key())
    assert balances(bank)["alice"] == 30_00
    assert balances(bank)["in transit EUR"] == 70_00
    call(bank.deposit, new_key())
    assert balances(bank)["bob"] == 75_00
    assert balances(bank)["in transit EUR"] == 0
    assert bank.ledger.total("EUR") == 105_00
    assert_intact(bank)


def test_the_receipt_is_the_number_of_the_record(bank: Bank) -> None:
    receipt = call(bank.record, new_key())
    assert rows(bank, f"SELECT memo FROM entries WHERE number = {receipt}") == [("record T1",)]


def test_a_repeat_returns_the_first_result_and_posts_nothing(bank: Bank) -> None:
    key = new_key()
    first = call(bank.withdraw, key)
    assert call(bank.withdraw, key, attempt=2) == first
    assert balances(bank)["alice"] == 30_00


def test_a_repeat_is_answered_even_when_the_step_would_now_be_refused(bank: Bank) -> None:
    key = new_key()
    first = call(bank.withdraw, key)
    bank.ledger.freeze("alice")
    assert call(bank.withdraw, key, attempt=2) == first


def test_one_step_in_eight_threads_at_once_happens_once(bank: Bank) -> None:
    key = new_key()
    results = at_once(*[lambda: call(bank.withdraw, key)] * 8)
    assert len(set(results)) == 1
    assert isinstance(results[0], int)
    assert balances(bank)["alice"] == 30_00
    assert_intact(bank)


def test_two_withdrawals_at_once_cannot_both_have_the_last_money(bank: Bank) -> None:
    results = at_once(*[lambda: call(bank.withdraw, new_key())] * 2)
    assert sorted(type(result) is Declined for result in results) == [False, True]
    assert balances(bank)["alice"] == 30_00
    assert_intact(bank)


@pytest.mark.parametrize("attempt", range(5))
def test_a_step_and_its_undo_at_once_leave_nothing(bank: Bank, attempt: int) -> None:
    key = new_key()
    done, undone = at_once(lambda: call(bank.withdraw, key), lambda: call(bank.return_withdrawal, key, phase="undo"))
    assert isinstance(done, (int, Rejected))
    assert undone is None
    assert balances(bank)["alice"] == 100_00
    assert_intact(bank)


@pytest.mark.parametrize(
    ("do", "undo"), [("withdraw", "return_withdrawal"), ("deposit", "reverse_deposit"), ("record", "void_record")]
)
class TestUndo:
    def test_reverses_the_step(self, bank: Bank, do: str, undo: str) -> None:
        key = new_key()
        before = balances(bank)
        number = call(getattr(bank, do), key)
        call(getattr(bank, undo), key, phase="undo")
        assert balances(bank) == before
        reversals = f"SELECT memo FROM entries WHERE reverses = '{key}' AND number <> {number}"
        assert rows(bank, reversals) == [(f"{undo} T1",)]
        assert_intact(bank)

    def test_twice_is_once(self, bank: Bank, do: str, undo: str) -> None:
        key = new_key()
        before = balances(bank)
        call(getattr(bank, do), key)
        for attempt in (1, 2):
            call(getattr(bank, undo), key, phase="undo", attempt=attempt)
        assert balances(bank) == before
        assert rows(bank, f"SELECT count(*) FROM entries WHERE reverses = '{key}'") == [(1,)]

    def test_of_a_step_that_never_applied_does_nothing(self, bank: Bank, do: str, undo: str) -> None:
        before = balances(bank)
        key = new_key()
        for attempt in (1, 2):
            call(getattr(bank, undo), key, phase="undo", attempt=attempt)
        assert balances(bank) == before

    def test_before_do_refuses_the_late_step(self, bank: Bank, do: str, undo: str) -> None:
        before = balances(bank)
        key = new_key()
        call(getattr(bank, undo), key, phase="undo")
        with pytest.raises(Rejected, match="undone"):
            call(getattr(bank, do), key)
        assert balances(bank) == before

    def test_is_for_good_so_that_a_repeat_of_the_step_is_refused(self, bank: Bank, do: str, undo: str) -> None:
        # After a reset to before the step, the workflow calls it again under the same key.
        before = balances(bank)
        key = new_key()
        call(getattr(bank, do), key)
        call(getattr(bank, undo), key, phase="undo")
        with pytest.raises(Rejected, match="undone"):
            call(getattr(bank, do), key)
        assert balances(bank) == before


def test_an_undo_leaves_other_steps_alone(bank: Bank) -> None:
    small = dataclasses.replace(TRANSFER, amount=10_00)
    mine, theirs = new_key(), new_key()
    call(bank.withdraw, mine, small)
    call(bank.withdraw, theirs, small)
    call(bank.return_withdrawal, mine, small, phase="undo")
    assert balances(bank)["alice"] == 90_00


def test_a_deposit_is_reversed_although_the_money_is_spent_and_the_account_frozen(bank: Bank) -> None:
    call(bank.withdraw, new_key())
    key = new_key()
    call(bank.deposit, key)
    spend = Transfer("T2", "bob", "alice", 75_00, "EUR")
    call(bank.withdraw, new_key(), spend)
    call(bank.deposit, new_key(), spend)
    bank.ledger.freeze("bob")
    call(bank.reverse_deposit, key, phase="undo")
    assert balances(bank)["bob"] == -70_00
    assert_intact(bank)


def test_insufficient_funds_are_a_business_answer_and_move_nothing(bank: Bank) -> None:
    call(bank.withdraw, new_key(), dataclasses.replace(TRANSFER, amount=100_00))
    with pytest.raises(Declined, match="insufficient funds"):
        call(bank.withdraw, new_key(), dataclasses.replace(TRANSFER, amount=1))
    assert balances(bank)["alice"] == 0
    assert_intact(bank)


def test_a_frozen_account_refuses_steps(bank: Bank) -> None:
    bank.ledger.freeze("bob")
    call(bank.check, new_key())
    call(bank.withdraw, new_key())
    key = new_key()
    with pytest.raises(Declined, match="bob is frozen"):
        call(bank.deposit, key)
    bank.ledger.freeze("bob", frozen=False)
    call(bank.deposit, key, attempt=2)
    assert balances(bank)["bob"] == 75_00


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"amount": 0}, "above zero"),
        ({"amount": -1}, "above zero"),
        ({"target": "alice"}, "same account"),
        ({"source": "mallory"}, "unknown account mallory"),
        ({"target": "mallory"}, "unknown account mallory"),
        ({"source": "capital EUR"}, "unknown account capital EUR"),
        ({"currency": "USD"}, "account alice is in EUR, not USD"),
        ({"target": "yuki"}, "account yuki is in JPY, not EUR"),
    ],
)
def test_an_order_that_can_never_succeed_is_rejected(bank: Bank, change: dict[str, object], message: str) -> None:
    bank.ledger.open_account("yuki", "JPY", 1000)
    with pytest.raises(Rejected, match=message) as caught:
        call(bank.check, new_key(), dataclasses.replace(TRANSFER, **change))  # type: ignore[arg-type]
    assert caught.value.non_retryable


def test_the_ledger_refuses_what_is_no_double_entry(bank: Bank) -> None:
    with pytest.raises(ValueError, match="zero"):
        bank.ledger.post(new_key(), "gift", Posting("alice", 1))
    with pytest.raises(sqlite3.IntegrityError):
        bank.ledger.post(new_key(), "half", Posting("alice", -0.5), Posting("bob", 0.5))  # type: ignore[arg-type]
    with pytest.raises(LookupError):
        bank.ledger.post(new_key(), "lost", Posting("alice", -1), Posting("nobody", 1))
    with pytest.raises(LookupError):
        bank.ledger.freeze("nobody")
    assert balances(bank)["alice"] == 100_00
    assert rows(bank, "SELECT count(*) FROM entries") == [(2,)]  # the two openings


def test_an_entry_is_written_as_a_whole_or_not_at_all(bank: Bank) -> None:
    bank.ledger.freeze("bob")
    with pytest.raises(RefusedError):
        bank.ledger.post(new_key(), "half", Posting("alice", -1), Posting("bob", 1))
    assert balances(bank)["alice"] == 100_00


def test_to_open_an_account_again_changes_nothing(bank: Bank) -> None:
    call(bank.withdraw, new_key())
    bank.ledger.open_account("alice", "EUR", 100_00)
    assert balances(bank)["alice"] == 30_00


def test_the_books_survive_being_opened_again(bank: Bank) -> None:
    call(bank.withdraw, new_key())
    again = Bank(Ledger(bank.ledger.path))
    assert balances(again) == balances(bank)
    assert rows(bank, "PRAGMA journal_mode") == [("wal",)]


def test_the_table_shows_customers_transit_and_total(bank: Bank) -> None:
    call(bank.withdraw, new_key())
    bank.ledger.freeze("bob")
    lines = [line.split() for line in bank.ledger.table().splitlines()]
    assert lines == [
        ["alice", "30.00", "EUR"],
        ["bob", "5.00", "EUR", "frozen"],
        ["in", "transit", "EUR", "70.00", "EUR"],
        ["customers", "own", "35.00", "EUR"],
    ]


STEPS = [("withdraw", "return_withdrawal"), ("deposit", "reverse_deposit")]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2), st.booleans(), st.integers(1, 40_00)), max_size=12)
)
def test_any_order_of_steps_and_undos_keeps_the_books_intact(
    plan: list[tuple[tuple[str, str], int, bool, int]],
) -> None:
    keys = {pair: [new_key() for _ in range(3)] for pair in STEPS}
    effects: dict[str, tuple[str, int]] = {}
    undone: set[str] = set()
    with TemporaryDirectory() as directory:
        bank = open_bank(Path(directory))
        for pair, which, undo, amount in plan:
            key = keys[pair][which]
            transfer = dataclasses.replace(TRANSFER, amount=amount)
            if undo:
                call(getattr(bank, pair[1]), key, transfer, phase="undo")
                undone.add(key)
                continue
            try:
                call(getattr(bank, pair[0]), key, transfer)
            except Rejected:
                assert key in undone
            except Declined:
                assert key not in effects
            else:
                assert key not in undone
                effects.setdefault(key, (pair[0], amount))
        standing = [effect for key, effect in effects.items() if key not in undone]
        withdrawn = sum(amount for do, amount in standing if do == "withdraw")
        deposited = sum(amount for do, amount in standing if do == "deposit")
        assert balances(bank)["alice"] == 100_00 - withdrawn
        assert balances(bank)["bob"] == 5_00 + deposited
        assert_intact(bank)


@pytest.mark.parametrize(
    ("text", "currency", "units"), [("12.34", "EUR", 1234), ("0.1", "EUR", 10), ("7", "JPY", 7), ("-1", "EUR", -100)]
)
def test_amounts_are_read_without_floats(text: str, currency: str, units: int) -> None:
    assert to_minor_units(text, currency) == units


@pytest.mark.parametrize(
    ("text", "currency"), [("0.001", "EUR"), ("1.5", "JPY"), ("ten", "EUR"), ("NaN", "EUR"), ("inf", "EUR"), ("1", "X")]
)
def test_what_is_no_amount_is_refused(text: str, currency: str) -> None:
    with pytest.raises(ValueError, match=r"decimals|not an amount|unknown currency"):
        to_minor_units(text, currency)


def test_amounts_are_written_in_major_units() -> None:
    assert format_amount(1_234_56, "EUR") == "1,234.56 EUR"
    assert format_amount(-5, "EUR") == "-0.05 EUR"
    assert format_amount(1234, "JPY") == "1,234 JPY"


@pytest.mark.parametrize("module", ["", ".worker", ".starter"])
def test_each_program_has_help(module: str) -> None:
    program = f"examples.money_transfer{module}"
    shown = subprocess.run([sys.executable, "-m", program, "--help"], capture_output=True, text=True, check=True)
    assert f"python -m {program}" in shown.stdout
