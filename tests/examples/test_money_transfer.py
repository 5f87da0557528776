"""The bank's activities and its ledger, in a real SQLite file and on a real PostgreSQL."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.testing import ActivityEnvironment

from examples.money_transfer.activities import Bank
from examples.money_transfer.ledger import Ledger, Posting, in_transit
from examples.money_transfer.models import Transfer, format_amount, to_minor_units
from temporal_saga import Declined, Rejected
from temporal_saga.errors import Fenced, KeyMisuse
from tests.examples.databases import schema_on

T = TypeVar("T")
NewDatabase = Callable[[], AbstractContextManager["str | Path"]]

TRANSFER = Transfer("T1", "alice", "bob", 70_00, "EUR")


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    """Gives an empty database, as often as it is called."""
    if request.param == "sqlite":
        return lambda: nullcontext(tmp_path / f"{uuid4()}.sqlite3")
    server: str = request.getfixturevalue("postgres")
    return lambda: schema_on(server)


@pytest.fixture
def database(new_database: NewDatabase) -> Iterator[str | Path]:
    with new_database() as database:
        yield database


@pytest.fixture
def bank(database: str | Path) -> Bank:
    return open_bank(database)


def open_bank(database: str | Path) -> Bank:
    ledger = Ledger(database)
    ledger.open_account("alice", "EUR", 100_00)
    ledger.open_account("bob", "EUR", 5_00)
    return Bank(ledger)


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
    with bank.ledger.transaction() as db:
        return list(db.execute(query))


def assert_intact(bank: Bank) -> None:
    """Every entry adds up to zero, every balance is that of its postings, what the customers lack is in transit."""
    assert rows(bank, "SELECT coalesce(sum(amount), 0) FROM postings") == [(0,)]
    unbalanced = "SELECT entry FROM postings GROUP BY entry HAVING sum(amount) <> 0"
    assert rows(bank, unbalanced) == []
    posted = "SELECT coalesce(sum(amount), 0) FROM postings WHERE account = name"
    assert rows(bank, f"SELECT name FROM accounts WHERE balance <> ({posted})") == []
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


def test_transfers_in_both_directions_at_once_do_not_wait_for_each_other(bank: Bank) -> None:
    there = dataclasses.replace(TRANSFER, amount=1)
    back = Transfer("T2", "bob", "alice", 1, "EUR")

    def move(transfer: Transfer) -> None:
        for _ in range(10):
            call(bank.withdraw, new_key(), transfer)
            call(bank.deposit, new_key(), transfer)

    assert at_once(*[lambda: move(there), lambda: move(back)] * 2) == [None] * 4
    assert balances(bank)["alice"] == 100_00
    assert_intact(bank)


@pytest.mark.parametrize("attempt", range(5))
def test_a_step_and_its_undo_at_once_leave_nothing(bank: Bank, attempt: int) -> None:
    key = new_key()
    done, undone = at_once(lambda: call(bank.withdraw, key), lambda: call(bank.return_withdrawal, key, phase="undo"))
    assert isinstance(done, (int, Fenced))
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
        assert rows(bank, f"SELECT memo FROM entries WHERE number > {number}") == [(f"{undo} T1",)]
        assert_intact(bank)

    def test_twice_is_once(self, bank: Bank, do: str, undo: str) -> None:
        key = new_key()
        before = balances(bank)
        call(getattr(bank, do), key)
        for attempt in (1, 2):
            call(getattr(bank, undo), key, phase="undo", attempt=attempt)
        assert balances(bank) == before
        assert rows(bank, f"SELECT count(*) FROM entries WHERE memo = '{undo} T1'") == [(1,)]

    def test_of_a_step_that_never_applied_does_nothing(self, bank: Bank, do: str, undo: str) -> None:
        before = balances(bank)
        key = new_key()
        for attempt in (1, 2):
            call(getattr(bank, undo), key, phase="undo", attempt=attempt)
        assert balances(bank) == before
        assert rows(bank, "SELECT count(*) FROM entries") == [(2,)]  # the two openings

    def test_before_do_refuses_the_late_step(self, bank: Bank, do: str, undo: str) -> None:
        before = balances(bank)
        key = new_key()
        call(getattr(bank, undo), key, phase="undo")
        with pytest.raises(Fenced):
            call(getattr(bank, do), key)
        assert balances(bank) == before

    def test_is_for_good_so_that_a_repeat_of_the_step_is_refused(self, bank: Bank, do: str, undo: str) -> None:
        # After a reset to before the step, the workflow calls it again under the same key.
        before = balances(bank)
        key = new_key()
        call(getattr(bank, do), key)
        call(getattr(bank, undo), key, phase="undo")
        with pytest.raises(Fenced):
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


def test_a_key_is_good_for_one_transfer(bank: Bank) -> None:
    key = new_key()
    call(bank.withdraw, key)
    with pytest.raises(KeyMisuse):
        call(bank.withdraw, key, dataclasses.replace(TRANSFER, amount=1))
    assert balances(bank)["alice"] == 30_00


def test_the_ledger_refuses_what_is_no_double_entry(bank: Bank) -> None:
    def post(*postings: Posting) -> None:
        with bank.ledger.transaction() as db:
            bank.ledger.post(db, new_key(), "wrong", *postings)

    with pytest.raises(ValueError, match="zero"):
        post(Posting("alice", 1))
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
        post(Posting("alice", -1), Posting("nobody", 1))
    with pytest.raises(LookupError):
        bank.ledger.freeze("nobody")
    assert balances(bank)["alice"] == 100_00
    assert rows(bank, "SELECT count(*) FROM entries") == [(2,)]


def test_to_open_an_account_again_changes_nothing(bank: Bank) -> None:
    call(bank.withdraw, new_key())
    bank.ledger.open_account("alice", "EUR", 100_00)
    assert balances(bank)["alice"] == 30_00


def test_the_books_survive_being_opened_again(bank: Bank, database: str | Path) -> None:
    call(bank.withdraw, new_key())
    assert balances(Bank(Ledger(database))) == balances(bank)


def test_two_workers_may_open_new_books_at_once(database: str | Path) -> None:
    assert [type(opened) for opened in at_once(*[lambda: open_bank(database)] * 6)] == [Bank] * 6


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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2), st.booleans(), st.integers(1, 40_00)), max_size=12)
)
def test_any_order_of_steps_and_undos_keeps_the_books_intact(
    new_database: NewDatabase, plan: list[tuple[tuple[str, str], int, bool, int]]
) -> None:
    keys = {pair: [new_key() for _ in range(3)] for pair in STEPS}
    amounts: dict[str, int] = {}  # a key has one amount: with another it would be misused
    applied: dict[str, str] = {}
    undone: set[str] = set()
    with new_database() as database:
        bank = open_bank(database)
        for pair, which, undo, amount in plan:
            key = keys[pair][which]
            transfer = dataclasses.replace(TRANSFER, amount=amounts.setdefault(key, amount))
            if undo:
                call(getattr(bank, pair[1]), key, transfer, phase="undo")
                undone.add(key)
                continue
            try:
                call(getattr(bank, pair[0]), key, transfer)
            except Fenced:
                assert key in undone
            except Declined:
                assert key not in applied
            else:
                assert key not in undone
                applied[key] = pair[0]
        standing = {key: do for key, do in applied.items() if key not in undone}
        withdrawn = sum(amounts[key] for key, do in standing.items() if do == "withdraw")
        deposited = sum(amounts[key] for key, do in standing.items() if do == "deposit")
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


def test_a_ledger_without_a_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match=r"pip install 'psycopg\[binary\]'"):
        Ledger("postgresql://localhost/bank")


def test_a_ledger_that_is_neither_a_file_nor_on_postgresql_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not mysql://"):
        Ledger("mysql://localhost/bank")


def test_a_ledger_says_where_it_is_and_keeps_the_password(tmp_path: Path, postgres: str) -> None:
    assert Ledger(tmp_path / "bank.sqlite3").where == str(tmp_path / "bank.sqlite3")
    with schema_on(postgres) as url:
        where = Ledger(f"{url}&password=secret").where
    assert "dbname=" in where
    assert "secret" not in where


@pytest.mark.parametrize("module", ["", ".worker"])
def test_a_server_that_does_not_answer_is_an_error_and_no_stack_trace(module: str) -> None:
    program = run_program(module, DATABASE_URL="postgresql://bank:secret@127.0.0.1:1/bank")
    assert program.returncode == 2
    assert "error: no ledger on PostgreSQL: connection" in program.stderr
    assert "Traceback" not in program.stderr
    assert "secret" not in program.stderr


@pytest.mark.parametrize("module", ["", ".worker", ".starter"])
def test_each_program_has_help_and_says_where_the_ledger_is(module: str) -> None:
    shown = run_program(module, "--help", DATABASE_URL="")
    assert f"python -m examples.money_transfer{module}" in shown.stdout
    assert ("worker's ledger" if module == ".starter" else "DATABASE_URL") in shown.stdout


def run_program(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"examples.money_transfer{module}", *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=50, check=False
    )
