"""`step_environment` runs one activity alone, as the activity of a step."""

from __future__ import annotations

import inspect
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from temporal_saga import Declined, Saga, business_key, current_step, fence, presets
from temporal_saga._identity import Step
from temporal_saga.classification import classify_errors
from temporal_saga.errors import Fenced, Throttled
from temporal_saga.testing import simulate, step_environment
from tests.test_docs import load

KEY = "0f36b7a0-2a6c-5f0e-9c8e-1d2f3a4b5c6d"


@activity.defn
async def look() -> Step:
    return current_step()


@activity.defn
def look_in_a_thread() -> Step:
    return current_step()


@workflow.defn(sandboxed=False)
class Looks:
    """A saga with a step, its undo, and a pushed undo."""

    @workflow.run
    async def run(self) -> str:
        async with Saga(activity_options=presets.no_retry()) as saga:
            await saga.execute_activity("forward", compensation="undo", step="a:b")
            saga.add_compensation("pushed", step="by hand")
            await saga.compensate()
        return workflow.info().workflow_id


def test_it_is_the_step_that_a_saga_gives() -> None:
    """Whatever the phase: the environment of a step's key gives what the activity sees in a workflow."""
    seen: dict[str, Step] = {}

    def note(name: str) -> Any:
        @activity.defn(name=name)
        def noted() -> None:
            seen[name] = current_step()

        return noted

    simulate(Looks.run, activities=[note("forward"), note("undo"), note("pushed")]).result()
    forward, undo, pushed = (seen[name] for name in ("forward", "undo", "pushed"))
    assert step_environment("a:b", key=forward.key).run(look_in_a_thread) == forward
    assert step_environment("a:b", phase="undo", key=forward.key).run(look_in_a_thread) == undo
    assert step_environment("by hand", phase="push", key=pushed.key).run(look_in_a_thread) == pushed


async def test_sync_and_async_activities() -> None:
    environment = step_environment("charge", key=KEY, attempt=3)
    assert await environment.run(look) == environment.run(look_in_a_thread) == Step("charge", "do", KEY, KEY, 3)


@given(step=st.text(min_size=1), other=st.text(min_size=1))
def test_without_a_key_the_environments_of_one_step_belong_together(step: str, other: str) -> None:
    do, undo, push = (step_environment(step, phase=phase).run(look_in_a_thread) for phase in ("do", "undo", "push"))
    assert (do.name, undo.name, push.name) == (step, step, step)
    assert str(UUID(do.key)) == do.key
    assert do.key == undo.forward_key == step_environment(step, attempt=2).run(look_in_a_thread).key
    assert len({do.key, undo.key, push.key}) == 3
    assert (step_environment(other).run(look_in_a_thread).key == do.key) is (step == other)


# --- with the fence


@pytest.fixture
def bank() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        with connection:
            fence.create_table(connection)
            connection.execute("CREATE TABLE account (balance INTEGER)")
            connection.execute("INSERT INTO account VALUES (100)")
        yield connection


def balance(bank: sqlite3.Connection) -> int:
    return int(bank.execute("SELECT balance FROM account").fetchone()[0])


def change(bank: sqlite3.Connection, amount: int) -> int | None:
    def effect() -> int:
        bank.execute("UPDATE account SET balance = balance + ?", (amount,))
        return balance(bank)

    with bank:
        return fence.once(bank, effect, payload=abs(amount))


def test_a_repeat_and_an_undo_behind_the_fence(bank: sqlite3.Connection) -> None:
    do, undo = step_environment("withdraw"), step_environment("withdraw", phase="undo")
    assert [do.run(change, bank, -30) for _ in range(2)] == [70, 70]
    assert step_environment("withdraw", attempt=2).run(change, bank, -30) == 70
    assert balance(bank) == 70
    assert undo.run(change, bank, 30) == 100
    undo.run(change, bank, 30)
    assert balance(bank) == 100
    with pytest.raises(Fenced):
        do.run(change, bank, -30)
    assert balance(bank) == 100


def test_an_undo_first_leaves_a_tombstone(bank: sqlite3.Connection) -> None:
    assert step_environment("withdraw", phase="undo").run(change, bank, 30) is None
    with pytest.raises(Fenced):
        step_environment("withdraw").run(change, bank, -30)
    assert step_environment("deposit").run(change, bank, 30) == 130


# --- with classify_errors


@activity.defn(name="registered otherwise")
@classify_errors
def fails(progress: tuple[int, ...], error: Exception) -> None:
    if progress:
        activity.heartbeat(*progress)
    raise error


@pytest.mark.parametrize(("progress", "effect"), [((), "none"), ((1,), "unknown")])
def test_a_decorated_activity_is_classified_as_on_a_worker(progress: tuple[int, ...], effect: str) -> None:
    with pytest.raises(ApplicationError) as raised:
        step_environment("charge").run(fails, progress, ConnectionRefusedError())
    assert raised.value.type == "NotSent"
    assert raised.value.details[-1]["temporal_saga"]["effect"] == effect
    with pytest.raises(Declined) as declined:
        step_environment("charge", attempt=2).run(fails, progress, Declined())
    assert declined.value.details[-1]["temporal_saga"]["effect"] == "unknown"  # of the first nothing is known


def test_a_retry_after_is_not_shortened() -> None:
    with pytest.raises(Throttled) as raised:
        step_environment("charge").run(fails, (), Throttled(retry_after=timedelta(hours=1)))
    assert raised.value.next_retry_delay == timedelta(hours=1)


# --- docs/testing.md


async def test_the_test_of_the_page_passes() -> None:
    await load("testing").test_an_undo_that_comes_first()


# --- slips


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"step": look}, TypeError, "step must be the name of a step, such as 'look'; got <function look"),
        ({"step": ""}, TypeError, "step must be the name of a step, such as 'charge'; got ''"),
        ({"step": None}, TypeError, "such as 'charge'; got None"),
        ({"phase": "redo"}, ValueError, "phase must be 'do', 'undo' or 'push'; got 'redo'"),
        ({"key": "o-1"}, ValueError, "such as business_key('o-1'); got 'o-1'"),
        ({"key": KEY.upper()}, ValueError, "key must be a UUID of 36 lower-case characters"),
        ({"key": ""}, ValueError, "key must be a UUID"),
        ({"key": 7}, TypeError, "key must be a string, such as business_key(7); got 7"),
        ({"key": UUID(KEY)}, TypeError, f"key must be a string, such as str(UUID('{KEY}')); got"),
        ({"attempt": 0}, ValueError, "attempt must be 1 or more; got 0"),
        ({"attempt": True}, TypeError, "attempt must be an int, such as 2; got True"),
        ({"attempt": "2"}, TypeError, "attempt must be an int, such as 2; got '2'"),
    ],
)
def test_a_slip_says_what_to_write(wrong: dict[str, Any], error: type[Exception], says: str) -> None:
    options: dict[str, Any] = {"step": "charge", **wrong}
    with pytest.raises(error, match=re.escape(says)):
        step_environment(options.pop("step"), **options)
    assert business_key(7)  # what the message says is right


def test_what_is_not_a_step_names_it() -> None:
    says = re.escape("temporal_saga.testing.step_environment(...)")
    with pytest.raises(RuntimeError, match=says):
        ActivityEnvironment().run(look_in_a_thread)
    with pytest.raises(RuntimeError, match=says):
        look_in_a_thread()


def test_its_signature_is_the_contracts() -> None:
    parameters = inspect.signature(step_environment).parameters
    assert {name: each.default for name, each in parameters.items()} == {
        "step": inspect.Parameter.empty,
        "phase": "do",
        "key": None,
        "attempt": 1,
    }
