"""`key=`: an effect that the user names happens once, whoever runs it."""

from __future__ import annotations

from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from temporalio.testing import ActivityEnvironment

from temporal_saga import business_key, fence
from temporal_saga.errors import Declined, KeyMisuse
from tests.fence.support import Bank, Database, environment, new_key, transaction
from tests.fence.test_once_async import connect

MAIL = business_key("mail", 7)


def send(bank: Bank, key: Any = MAIL, *, amount: int = 1, **options: Any) -> Any:
    """Run the effect in a transaction of its own."""
    with transaction(bank.database.connect()) as connection:
        return send_within(bank, connection, key, amount=amount, **options)


def send_within(bank: Bank, connection: Any, key: Any = MAIL, *, amount: int = 1, **options: Any) -> Any:
    return fence.once(connection, lambda: bank._add(connection, -amount), payload=amount, key=key, **options)


def test_an_effect_of_a_plain_activity_happens_once(bank: Bank) -> None:
    for attempt in (1, 2):
        plain = ActivityEnvironment()
        plain.info = ActivityEnvironment.default_info()
        assert plain.run(lambda: send(bank)) == 99, attempt
    assert bank.effects == ["take"]


def test_it_happens_once_wherever_it_is_called(bank: Bank) -> None:
    """In any activity, phase and run, and outside of activities: the key is all that names it."""
    for phase in ("do", "undo", "push"):
        assert environment(phase, new_key()).run(lambda: send(bank)) == 99
    assert send(bank) == 99
    assert bank.effects == ["take"]


def test_each_key_is_an_effect_of_its_own(bank: Bank) -> None:
    assert [send(bank, "a"), send(bank, "b"), send(bank, "a")] == [99, 98, 99]


def test_a_second_record_in_a_step_s_activity(bank: Bank) -> None:
    """The step and what the key names, in one transaction or two. An undo takes back the step alone."""
    together, apart = new_key(), new_key()

    def effect(connection: Any) -> int:
        bank._add(connection, -10)
        return int(send_within(bank, connection, "together"))

    for _ in range(2):
        assert bank.run("do", together, effect, 10) == 89
        assert environment("do", apart).run(lambda: [bank.take(apart), send(bank, "apart")]) == [79, 78]
    for key, balance in ((together, 88), (apart, 98)):
        assert [bank.give_back(key), bank.give_back(key)] == [balance, balance]
    assert sorted(bank.database.query("SELECT key, state FROM temporal_saga_fence")) == sorted(
        [("key:together", "applied"), ("key:apart", "applied"), (together, "undone"), (apart, "undone")]
    )


def test_a_step_s_key_names_an_effect_beside_the_step(bank: Bank) -> None:
    """An undo must not find it, and the step must not be taken for it."""
    key = new_key()
    send(bank, key)
    assert bank.give_back(key) is None
    bank.take(other := new_key())
    assert send(bank, other) == 88


@pytest.mark.parametrize("guard", [True, False])
def test_it_is_never_guarded(bank: Bank, guard: bool) -> None:
    """In an undo it runs whether the step has a record or not."""
    key = new_key()
    assert environment("undo", key).run(lambda: send(bank, guard=guard)) == 99
    assert environment("undo", key).run(lambda: send(bank, guard=guard)) == 99
    assert bank.take(key) == 89


def test_the_same_key_twice_in_one_activity_is_one_effect(bank: Bank) -> None:
    """Data may bring it twice (a list of customers). With another payload it is a mistake."""

    def attempt() -> list[Any]:
        try:
            return [send(bank, key) for key in ("ada", "bob", "ada")]
        except RuntimeError as error:
            return [error]

    assert environment("do", new_key()).run(attempt) == [99, 98, 99]
    with pytest.raises(KeyMisuse, match=r"^KeyMisuse: key='ada' was called before with another payload$"):
        send(bank, "ada", amount=2)


def test_an_effect_within_itself_is_told(bank: Bank) -> None:
    def attempt() -> None:
        with transaction(bank.database.connect()) as connection:
            fence.once(connection, lambda: send_within(bank, connection), payload=1, key=MAIL)

    with pytest.raises(RuntimeError, match="a second effect in one attempt of key="):
        environment("do", new_key()).run(attempt)
    assert bank.effects == []


def test_an_effect_that_failed_may_be_tried_again(bank: Bank) -> None:
    def attempt(effect: Any) -> Any:
        connection = bank.database.connect()
        try:
            return fence.once(connection, effect, payload=1, key=MAIL)
        finally:
            connection.commit()

    def refuse() -> None:
        raise Declined("no")

    with pytest.raises(Declined):
        attempt(refuse)
    assert attempt(lambda: "sent") == "sent"
    assert attempt(refuse) == "sent"


class Color(str, Enum):
    RED = "red"


@pytest.mark.parametrize("key", ["red", Color.RED, type("Text", (str,), {})("red")], ids=["str", "Enum", "subclass"])
def test_a_str_is_a_key_by_its_characters(bank: Bank, key: Any) -> None:
    """On each Python: what `format` makes of an Enum has changed between them."""
    send(bank, key)
    assert bank.database.query("SELECT key FROM temporal_saga_fence") == [("key:red",)]


@pytest.mark.parametrize("key", ["", 7, True, b"mail", ("mail", 7), 1.0, UUID(MAIL)])
async def test_what_is_not_a_key_is_told_where_it_is_written(database: Database, key: Any) -> None:
    """An int looks like a key, and `str` of it may be another thing's."""
    told = r"^key= must be a non-empty str, such as business_key\(\"refund\", order_id\); got "
    with pytest.raises(TypeError, match=told + ("an empty str" if key == "" else type(key).__name__)):
        send(Bank(database), key)
    async with connect(database) as connection:
        with pytest.raises(TypeError, match=told):
            await fence.once_async(connection, connection.commit, payload=1, key=key)
    assert database.state is None


async def test_with_asyncio(database: Database) -> None:
    runs = []

    async def effect() -> str:
        runs.append(1)
        return "sent"

    for _ in range(2):
        async with connect(database) as connection:
            assert await fence.once_async(connection, effect, payload=1, key=MAIL) == "sent"
            await connection.commit()
    assert len(runs) == 1


def test_without_a_key_it_needs_a_saga(database: Database) -> None:
    with pytest.raises(RuntimeError, match="outside of an activity"):
        send(Bank(database), None)
