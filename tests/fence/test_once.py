"""What the fence promises: once, an undo only of what applied, and no step after its undo."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

import psycopg
import pytest
from temporalio import activity, workflow

from temporal_saga import Saga, fence, presets
from temporal_saga.errors import Declined, Fenced, FenceMisuse, KeyMisuse
from temporal_saga.testing import simulate
from tests.fence.support import Bank, Database, environment, new_key, transaction

# A step and its undo


def test_a_step_runs_once_and_a_repeat_returns_its_first_result(bank: Bank) -> None:
    key = new_key()
    assert bank.take(key) == 90
    bank.take_unfenced(5)
    assert bank.take(key) == 90
    assert bank.database.balance == 85
    assert bank.effects == ["take", "take"]


def test_a_repeat_does_not_ask_the_business_again(bank: Bank) -> None:
    """The account is closed by then: a repeat that checked it would report a step as failed that has applied."""
    key = new_key()
    bank.take(key)

    def closed(connection: Any) -> None:
        raise Declined("the account is closed")

    assert bank.run("do", key, closed, 10) == 90


def test_each_key_is_an_effect_of_its_own(bank: Bank) -> None:
    assert bank.take(new_key()) == 90
    assert bank.take(new_key()) == 80


def test_an_undo_undoes_once_and_a_repeat_returns_its_first_result(bank: Bank) -> None:
    key = new_key()
    bank.take(key)
    assert bank.give_back(key) == 100
    bank.take_unfenced(5)
    assert bank.give_back(key) == 100
    assert bank.database.balance == 95
    assert bank.database.state == "undone"


def test_an_undo_that_comes_first_does_nothing_and_the_late_step_is_refused(bank: Bank) -> None:
    key = new_key()
    assert bank.give_back(key) is None
    assert bank.database.state == "fenced"
    with pytest.raises(Fenced) as late:
        bank.take(key)
    assert late.value.non_retryable
    assert bank.give_back(key) is None
    assert bank.effects == []
    assert bank.database.balance == 100


def test_a_step_that_comes_again_after_its_undo_is_refused(bank: Bank) -> None:
    key = new_key()
    bank.take(key)
    bank.give_back(key)
    with pytest.raises(Fenced):
        bank.take(key)
    assert bank.database.balance == 100


def test_results_of_step_and_undo_are_kept_apart(bank: Bank) -> None:
    key = new_key()
    bank.run("do", key, lambda _: "taken", None)
    bank.run("undo", key, lambda _: "given back", None)
    (record,) = bank.database.query("SELECT result, undo_result FROM temporal_saga_fence")
    assert record == ('"taken"', '"given back"')


# An undo without the step's record


def test_an_undo_whose_step_did_not_use_the_fence_gives_the_money_back_once(bank: Bank) -> None:
    key = new_key()
    bank.take_unfenced()
    assert bank.give_back(key, guard=False) == 100
    assert bank.give_back(key, guard=False) == 100
    assert bank.database.balance == 100


def test_an_unguarded_undo_of_a_step_that_used_the_fence_is_an_ordinary_one(bank: Bank) -> None:
    key = new_key()
    bank.take(key)
    assert bank.give_back(key, guard=False) == 100
    assert bank.give_back(key) == 100
    assert bank.database.state == "undone"
    assert bank.database.balance == 100


def test_after_an_unguarded_undo_the_step_is_refused(bank: Bank) -> None:
    key = new_key()
    bank.take_unfenced()
    bank.give_back(key, guard=False)
    with pytest.raises(Fenced):
        bank.take(key)


def test_an_undo_that_was_guarded_by_mistake_gives_the_money_back_when_that_is_mended(bank: Bank) -> None:
    """Its reply was lost, and before the retry `guard=False` was deployed. The tombstone does not stand in the way."""
    key = new_key()
    bank.take_unfenced()
    assert bank.give_back(key) is None
    assert bank.give_back(key, guard=False) == 100
    assert bank.give_back(key, guard=False) == 100
    assert bank.database.balance == 100


@pytest.mark.parametrize("guard", [True, False])
def test_what_was_pushed_by_hand_is_never_guarded_and_runs_once(bank: Bank, guard: bool) -> None:
    key = new_key()
    bank.take_unfenced()
    assert bank.give_back(key, phase="push", guard=guard) == 100
    assert bank.give_back(key, phase="push", guard=guard) == 100
    assert bank.database.balance == 100


# Another payload


def test_another_payload_under_the_key_of_a_step(bank: Bank) -> None:
    key = new_key()
    bank.take(key, 10)
    with pytest.raises(KeyMisuse, match="another payload") as misuse:
        bank.take(key, 20)
    assert misuse.value.non_retryable
    assert str(misuse.value).endswith(f"pay ({key}) was called before with another payload")  # nothing of the payload
    assert bank.database.balance == 90


def test_another_payload_under_the_key_of_an_undo(bank: Bank) -> None:
    key = new_key()
    bank.take(key)
    bank.give_back(key, 10)
    with pytest.raises(KeyMisuse):
        bank.give_back(key, 20)
    assert bank.database.balance == 100


def test_another_payload_under_a_tombstone(bank: Bank) -> None:
    key = new_key()
    bank.give_back(key, 10)
    with pytest.raises(KeyMisuse):
        bank.give_back(key, 20)
    with pytest.raises(KeyMisuse):
        bank.give_back(key, 20, guard=False)
    assert bank.effects == []


def test_an_undo_may_have_a_payload_of_its_own(bank: Bank) -> None:
    key = new_key()
    bank.take(key, 10)
    assert bank.give_back(key, 7) == 97


# Errors


def test_a_rollback_takes_the_record_with_the_effect(bank: Bank) -> None:
    key = new_key()
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
        bank.take(key, 1000)
    assert bank.database.state is None
    assert bank.give_back(key) is None
    assert bank.database.balance == 100


def refuse(connection: Any) -> None:
    raise Declined("no")


def swallowing(bank: Bank, phase: str, key: str, effect: Any, **options: Any) -> None:
    """Run an attempt that catches what the effect raises, and commits."""

    def attempt() -> None:
        connection = bank.database.connect()
        with pytest.raises(Exception, match="no"):
            fence.once(connection, lambda: effect(connection), payload=10, **options)
        connection.commit()

    environment(phase, key).run(attempt)


def test_a_step_whose_error_is_swallowed_leaves_no_record(bank: Bank) -> None:
    """The record would say that it had applied, and its undo would give money that was never taken."""
    key = new_key()
    swallowing(bank, "do", key, refuse)
    assert bank.database.state is None
    assert bank.take(key) == 90


def test_an_undo_whose_error_is_swallowed_runs_again(bank: Bank) -> None:
    key = new_key()
    bank.take(key)
    swallowing(bank, "undo", key, refuse)
    assert bank.database.state == "applied"
    assert bank.give_back(key) == 100


def test_an_unguarded_undo_whose_error_is_swallowed_runs_again(bank: Bank) -> None:
    key = new_key()
    bank.take_unfenced()
    swallowing(bank, "undo", key, refuse, guard=False)
    assert bank.database.state is None
    assert bank.give_back(key, guard=False) == 100


def test_what_was_pushed_and_whose_error_is_swallowed_runs_again(bank: Bank) -> None:
    key = new_key()
    bank.take_unfenced()
    swallowing(bank, "push", key, refuse)
    assert bank.give_back(key, phase="push") == 100


def test_an_error_within_a_savepoint_of_the_effect(bank: Bank) -> None:
    key = new_key()

    def effect(connection: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("SAVEPOINT mine")
        try:
            cursor.execute("UPDATE account SET balance = -1")
        except (sqlite3.IntegrityError, psycopg.IntegrityError):
            cursor.execute("ROLLBACK TO SAVEPOINT mine")
            raise Declined("no") from None

    swallowing(bank, "do", key, effect)
    assert bank.database.state is None


def test_an_aborted_transaction_takes_the_record_with_it(postgresql: Database) -> None:
    bank, key = Bank(postgresql), new_key()

    def effect(connection: Any) -> None:
        connection.execute("SELECT no")

    swallowing(bank, "do", key, effect)
    assert postgresql.state is None
    assert bank.take(key) == 90


def test_an_effect_that_swallows_a_database_error_is_told(postgresql: Database) -> None:
    """Its commit would roll back without a word, and the activity report a step that never applied."""
    bank = Bank(postgresql)

    def effect(connection: Any) -> None:
        with pytest.raises(psycopg.IntegrityError):
            connection.execute("UPDATE account SET balance = -1")

    with pytest.raises(RuntimeError, match="which aborted the transaction"):
        bank.run("do", new_key(), effect, None)


@pytest.mark.parametrize("result", [None, 1])
@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_an_effect_that_ends_the_transaction_is_told(bank: Bank, how: str, result: object) -> None:
    def effect(connection: Any) -> object:
        getattr(connection, how)()
        return result

    with pytest.raises(RuntimeError, match="ended the transaction"):
        bank.run("do", new_key(), effect, None)


@workflow.defn
class Take:
    """One step of the fence's and its undo."""

    @workflow.run
    async def run(self) -> Any:
        async with Saga(activity_options=presets.standard()) as saga:
            return await saga.execute_activity("take", compensation="give_back")


def test_a_step_whose_effect_commits_is_not_tried_again_and_undone(bank: Bank) -> None:
    """A second attempt would find the record of the first, without a result, and go on with None."""

    def commit(connection: Any) -> int:
        balance = bank._add(connection, -10)
        connection.commit()
        return balance

    def attempt(effect: Any) -> Any:
        with transaction(bank.database.connect()) as connection:
            return fence.once(connection, lambda: effect(connection), payload=10)

    @activity.defn
    def take() -> Any:
        return attempt(commit)

    @activity.defn
    def give_back() -> Any:
        return attempt(lambda connection: bank._add(connection, 10))

    simulation = simulate(Take.run, activities=[take, give_back])
    assert simulation.status == "failed"
    assert bank.effects == ["take", "give back"]
    assert (bank.database.balance, bank.database.state) == (100, "undone")


@pytest.mark.parametrize("phase", ["do", "undo"])
def test_an_effect_that_rolled_its_record_back_and_committed_is_not_done_again(bank: Bank, phase: str) -> None:
    """Each attempt would find no trace of the one before it."""
    key = new_key()
    if phase == "undo":
        bank.take(key)

    def effect(connection: Any) -> None:
        connection.rollback()
        bank._add(connection, -10)
        connection.commit()

    with pytest.raises(FenceMisuse, match="ended the transaction") as error:
        bank.run(phase, key, effect, 10)
    assert error.value.non_retryable
    assert isinstance(error.value, RuntimeError)


def test_an_effect_that_goes_on_after_a_rollback_is_told(bank: Bank) -> None:
    def effect(connection: Any) -> int:
        connection.rollback()
        return bank._add(connection, -10)

    with pytest.raises(FenceMisuse, match="ended the transaction"):
        bank.run("do", new_key(), effect, None)
    assert bank.database.balance == 100


def test_an_effect_that_goes_on_after_sqlite_rolled_back_is_told(sqlite: Database) -> None:
    """With no result to keep, too: the effect would be committed without its record."""
    bank = Bank(sqlite)

    def effect(connection: Any) -> None:
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("INSERT OR ROLLBACK INTO account VALUES (NULL)")
        bank._add(connection, -10)

    with pytest.raises(FenceMisuse, match="ended the transaction"):
        bank.run("do", new_key(), effect, None)
    assert sqlite.balance == 100


# Results


def test_none_is_a_result_too(bank: Bank) -> None:
    key = new_key()
    assert bank.run("do", key, lambda connection: None, 1) is None
    assert bank.run("do", key, refuse, 1) is None
    assert bank.database.query("SELECT result FROM temporal_saga_fence") == [(None,)]


@pytest.mark.parametrize("result", [0, "", False, [], {"a": [1.5, None, "ä\x00\U0001f600"]}])
def test_a_repeat_returns_what_json_holds(bank: Bank, result: object) -> None:
    key = new_key()
    first, repeat = (bank.run("do", key, effect, 1) for effect in (lambda _: result, refuse))
    assert first == repeat == result
    assert type(first) is type(repeat)


def test_the_first_result_is_what_a_repeat_will_return(bank: Bank) -> None:
    """A tuple becomes a list: seen in the first test that anyone writes, not in the first retry in production."""
    key = new_key()
    assert bank.run("do", key, lambda _: (1, {2: 3}), 1) == [1, {"2": 3}]
    assert bank.run("do", key, refuse, 1) == [1, {"2": 3}]


@dataclass
class Receipt:
    number: int
    total: Decimal


def test_results_of_other_types(bank: Bank) -> None:
    def encode(receipt: Receipt) -> str:
        return f"{receipt.number} {receipt.total}"

    def decode(text: str) -> Receipt:
        number, total = text.split()
        return Receipt(int(number), Decimal(total))

    key, receipt = new_key(), Receipt(7, Decimal("9.90"))
    run = partial(bank.run, "do", key, payload=1, encode=encode, decode=decode)
    assert run(effect=lambda _: receipt) == receipt
    assert run(effect=refuse) == receipt


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "cannot be kept for a repeat: return what JSON can hold, or give encode="),
        ({"encode": lambda result: json.dumps(str(result)).encode()}, "encode= must return a str, not bytes"),
        ({"encode": str, "decode": json.loads}, "Expecting value"),
    ],
)
def test_a_result_that_cannot_be_kept_rolls_the_effect_back(bank: Bank, options: Any, message: str) -> None:
    key = new_key()

    def effect(connection: Any) -> Receipt:
        return Receipt(bank._add(connection, -10), Decimal(1))

    with pytest.raises((TypeError, ValueError), match=message):
        bank.run("do", key, effect, 1, **options)
    assert bank.database.balance == 100
    assert bank.database.state is None


# Two effects in one activity


def test_a_second_effect_in_one_transaction_is_told(bank: Bank) -> None:
    """Taken for a repeat of the first, it would be left out in silence."""

    def attempt() -> None:
        with transaction(bank.database.connect()) as connection:
            fence.once(connection, lambda: bank._add(connection, -10), payload=1)
            fence.once(connection, lambda: bank._add(connection, 3), payload=1)

    with pytest.raises(RuntimeError, match="a second effect in one attempt"):
        environment("do", new_key()).run(attempt)
    assert bank.database.balance == 100


@pytest.mark.parametrize("phase", ["do", "undo", "push"])
def test_a_second_effect_in_a_transaction_of_its_own_is_told_at_each_attempt(bank: Bank, phase: str) -> None:
    key = new_key()

    def attempt() -> None:
        with transaction(bank.database.connect()) as connection:
            fence.once(connection, lambda: bank._add(connection, 1), payload=1, guard=False)
        with transaction(bank.database.connect()) as connection:
            fence.once(connection, partial(bank._add, connection, 2), payload=2, guard=False)

    for number in (1, 2):
        with pytest.raises(RuntimeError, match="a second effect in one attempt"):
            environment(phase, key, attempt=number).run(attempt)
    assert bank.effects == ["give back"]


def test_a_second_undo_of_what_never_applied_is_told(bank: Bank) -> None:
    def attempt() -> None:
        with transaction(bank.database.connect()) as connection:
            for payload in (1, 2):
                fence.once(connection, lambda: refuse(connection), payload=payload)

    with pytest.raises(RuntimeError, match="a second effect in one attempt"):
        environment("undo", new_key()).run(attempt)


def test_an_effect_within_an_effect_is_told(bank: Bank) -> None:
    def attempt() -> None:
        with transaction(bank.database.connect()) as connection:

            def outer() -> object:
                return fence.once(connection, lambda: bank._add(connection, -10), payload=1)

            fence.once(connection, outer, payload=1)

    with pytest.raises(RuntimeError, match="a second effect in one attempt"):
        environment("do", new_key()).run(attempt)
    assert bank.effects == []


def test_a_second_effect_that_looks_the_same_is_told(bank: Bank) -> None:
    def attempt() -> None:
        with transaction(bank.database.connect()) as connection:
            for amount in (-10, -20):
                fence.once(connection, partial(bank._add, connection, amount), payload=1)

    with pytest.raises(RuntimeError, match="a second effect in one attempt"):
        environment("do", new_key()).run(attempt)
    assert bank.database.balance == 100


def test_a_transaction_that_was_rolled_back_may_be_tried_again_in_one_attempt(bank: Bank) -> None:
    def attempt() -> Any:
        for _ in range(3):
            connection = bank.database.connect()
            result = fence.once(connection, lambda: bank._add(connection, -10), payload=1)  # noqa: B023
            connection.rollback()
        connection.close()
        return result

    key = new_key()
    assert environment("do", key).run(attempt) == 90
    assert bank.take(key) == 90


def test_another_effect_may_take_the_place_of_one_that_failed(bank: Bank) -> None:
    def attempt() -> Any:
        connection = bank.database.connect()
        with pytest.raises(Declined):
            fence.once(connection, lambda: refuse(connection), payload=1)
        with transaction(connection):
            return fence.once(connection, lambda: bank._add(connection, -10), payload=2)

    assert environment("do", new_key()).run(attempt) == 90


# Where it is called


def test_outside_of_a_saga(database: Database) -> None:
    connection = database.connect()
    with pytest.raises(RuntimeError, match="activity"):
        fence.once(connection, lambda: 1, payload=1)
    by_hand = environment("do", "no key")
    with pytest.raises(RuntimeError, match="is not a step of a saga"):
        by_hand.run(fence.once, connection, lambda: 1, payload=1)
    assert database.state is None


def test_what_statements_it_costs(database: Database) -> None:
    """At most two, where something is done."""
    bank, key, seen = Bank(database), new_key(), _Statements(database)
    sqlite = database.dialect == "sqlite"
    assert bank.run("do", key, lambda _: None, 1) is None
    assert seen.taken() == ["INSERT", "UPDATE"]
    bank.run("undo", key, lambda _: None, 1)
    assert seen.taken() == (["UPDATE", "UPDATE"] if sqlite else ["INSERT", "UPDATE"])
    key = new_key()
    bank.run("do", key, lambda _: 1, 1)
    assert seen.taken() == ["INSERT", "UPDATE"]
    bank.run("do", key, lambda _: 1, 1)
    assert seen.taken() == ["INSERT", "SELECT"]
    bank.run("undo", key, lambda _: 1, 1)
    assert seen.taken() == (["UPDATE", "UPDATE"] if sqlite else ["INSERT", "UPDATE"])
    bank.run("undo", key, lambda _: 1, 1)
    assert seen.taken() == (["UPDATE", "INSERT", "SELECT"] if sqlite else ["INSERT", "SELECT"])
    bank.run("undo", new_key(), lambda _: 1, 1)
    assert seen.taken() == (["UPDATE", "INSERT"] if sqlite else ["INSERT"])


class _Statements:
    """The statements about the fence's table that a database's connections ran."""

    def __init__(self, database: Database) -> None:
        self._seen: list[str] = []
        connect = database.connect
        seen = self._seen

        class Cursor(psycopg.Cursor[Any]):
            def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
                seen.append(str(query))
                return super().execute(query, *args, **kwargs)

        def watched(**options: Any) -> Any:
            connection = connect(**options)
            if database.dialect == "sqlite":
                connection.set_trace_callback(seen.append)
            else:
                connection.cursor_factory = Cursor
            return connection

        database.connect = watched  # type: ignore[method-assign]

    def taken(self) -> list[str]:
        found = [statement.split()[0] for statement in self._seen if "temporal_saga_fence" in statement]
        self._seen.clear()
        return found
