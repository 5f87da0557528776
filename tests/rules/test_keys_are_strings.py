"""Keys, step names and saga names are strings that are not empty; anything else is a TypeError where it is written.

What becomes part of a key is persistent data. An int was once taken for the counter, and one step for another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from temporal_saga import Saga, presets
from tests.driver import Run, completed
from tests.rules.workflows import REFUSED, do, end, flow, new_saga, undone

pytestmark = [
    pytest.mark.usefixtures("collected"),
    # Calls that are not refused, and that nobody awaits.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ANCHOR = "11111111-2222-4333-8444-555555555555"
NO_STRINGS = [1, 0, True, 1.0, ("a", 1), b"a", UUID(int=1), {"a": 1}, object()]


def kind_of(value: object) -> str:
    """Name a parameter: the repr of an object holds its address."""
    if value == "":
        return "empty"
    return f"{type(value).__name__} {value}" if isinstance(value, (int, float)) else type(value).__name__


class Item(str, Enum):
    """Items, as many users write them down."""

    APPLE = "apple"


class Text(str):
    """A string that shows itself as something else."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown"

    def __format__(self, spec: str) -> str:
        return "shown"

    def __repr__(self) -> str:
        return "shown"


def keyed_activity(saga: Saga, key: Any) -> Any:
    return saga.execute_activity("charge", 1, compensation="refund", key=key)


def keyed_method(saga: Saga, key: Any) -> Any:
    return saga.execute_activity_method("charge", 1, compensation="refund", key=key)  # type: ignore[call-overload]


def keyed_child(saga: Saga, key: Any) -> Any:
    return saga.execute_child_workflow("Charge", 1, compensation="refund", key=key)


def keyed_push(saga: Saga, key: Any) -> Any:
    return saga.add_compensation("refund", 1, key=key)


def keyed_undo(saga: Saga, key: Any) -> Any:
    return saga.undo("a", key=key)


def named_activity(saga: Saga, step: Any) -> Any:
    return saga.execute_activity("charge", 1, compensation="refund", step=step)


def named_child(saga: Saga, step: Any) -> Any:
    return saga.execute_child_workflow("Charge", 1, compensation="refund", step=step)


def named_push(saga: Saga, step: Any) -> Any:
    return saga.add_compensation("refund", 1, step=step)


def named_undo(saga: Saga, step: Any) -> Any:
    return saga.undo(step)


def ends_with(call: Callable[[Saga, Any], Any], value: Any, *, inside: str = "saga") -> Run:
    """Run a workflow whose last act in its scope, behind a step `a`, is the call; what it returns is not awaited."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            if inside == "savepoint":
                async with saga.savepoint() as attempt:
                    call(attempt, value)
            else:
                call(saga, value)

    run = Run(body).start()
    run.activate(completed("a"))
    return run


# What is raised must be raised by the call itself: nothing is awaited.
@pytest.mark.parametrize("value", [*NO_STRINGS, ""], ids=kind_of)
@pytest.mark.parametrize("call", [keyed_activity, keyed_method, keyed_child, keyed_push, keyed_undo])
def test_a_key_that_is_not_a_string_is_a_type_error_where_it_is_written(
    call: Callable[[Saga, Any], Any], value: Any
) -> None:
    run = ends_with(call, value)
    assert end(run) == "task: TypeError"
    message = run.commands[-1][2]
    assert "empty" in message if value == "" else "key=str(" in message
    assert [activity.name for activity in run.scheduled] == ["a"]
    assert run.children == []
    run.check()


@pytest.mark.parametrize("value", [*NO_STRINGS, ""], ids=kind_of)
@pytest.mark.parametrize("call", [named_activity, named_child, named_push, named_undo])
def test_a_step_that_is_not_a_string_is_a_type_error_where_it_is_written(
    call: Callable[[Saga, Any], Any], value: Any
) -> None:
    run = ends_with(call, value)
    assert end(run) == "task: TypeError"
    message = run.commands[-1][2]
    assert "step" in message
    assert ("empty" if value == "" else "str") in message
    assert [activity.name for activity in run.scheduled] == ["a"]
    run.check()


@pytest.mark.parametrize("call", [keyed_activity, keyed_child, keyed_push, keyed_undo, named_activity, named_undo])
def test_in_a_savepoint_too(call: Callable[[Saga, Any], Any]) -> None:
    run = ends_with(call, 1, inside="savepoint")
    assert end(run) == "task: TypeError"
    assert [activity.name for activity in run.scheduled] == ["a"]


def test_none_names_no_step_to_undo() -> None:
    run = ends_with(named_undo, None)
    assert end(run) == "task: TypeError"
    assert "step" in run.commands[-1][2]


@pytest.mark.parametrize("name", [*NO_STRINGS, None, ""], ids=kind_of)
def test_a_saga_name_that_is_not_a_string_is_a_type_error(name: Any) -> None:
    with pytest.raises(TypeError, match="name"):
        Saga(name)


@pytest.mark.parametrize("options", [presets.standard(), presets.standard, {}], ids=["options", "a preset", "a dict"])
def test_options_in_the_place_of_the_name_are_told_their_keyword(options: Any) -> None:
    with pytest.raises(TypeError, match="activity_options="):
        Saga(options)


def test_ids_as_text_make_three_charges_of_three_calls() -> None:
    """The loop that once charged twice in place of three times: with the fix that the message names."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await saga.execute_activity("charge", 0, compensation="refund")
            for invoice in (1, 2):
                await saga.execute_activity("charge", invoice, compensation="refund", key=str(invoice))
            raise REFUSED

    run = Run(body).autopilot({})
    ids = [activity.id for activity in run.scheduled]
    assert len(set(ids)) == len(ids) == 6
    assert [activity.args for activity in run.scheduled if activity.name == "refund"] == [[2], [1], [0]]
    run.check()


def ids_with(key: str, step: str) -> list[str]:
    """Return the ids of a run whose step and push have this key and name."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await saga.execute_activity("a", 1, compensation="undo_a", key=key, step=step)
            saga.add_compensation("undo_b", 1, key=key, step=f"{str.__str__(step)}-pushed")
            raise REFUSED

    run = Run(body, run_id=ANCHOR).autopilot({})
    run.check()
    (report,) = run.query("saga_report")
    assert {type(step["name"]) for step in report["steps"]} == {str}
    assert [step["name"] for step in report["steps"]] == ["apple", "apple-pushed"]
    return [activity.id for activity in run.scheduled]


@pytest.mark.parametrize("value", [Item.APPLE, Text("apple")], ids=["enum", "subclass"])
def test_a_kind_of_string_counts_as_its_text(value: str) -> None:
    """How an enum formats itself differs between versions of Python, and an id must not."""
    assert ids_with(value, value) == ids_with("apple", "apple")


@pytest.mark.parametrize("value", [Item.APPLE, Text("apple")], ids=["enum", "subclass"])
def test_a_kind_of_string_and_its_text_are_one_key(value: str) -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a", key=value)
            await do(saga, "a", key="apple")

    run = Run(body).autopilot({})
    assert end(run) == "task: RuntimeError"
    assert "taken for the first" in run.commands[-1][2]
    assert undone(run) == []


@pytest.mark.parametrize("name", [Item.APPLE, Text("apple")], ids=["enum", "subclass"])
def test_a_saga_named_by_a_kind_of_string_has_the_keys_of_its_text(name: str) -> None:
    def ids(name: str) -> list[str]:
        @flow
        async def body() -> Any:
            async with new_saga(name) as saga:
                await do(saga, "a")
                return saga.report().name

        run = Run(body, run_id=ANCHOR).autopilot({})
        assert run.result == "apple"
        return [activity.id for activity in run.scheduled]

    assert ids(name) == ids("apple")


def test_none_is_no_key() -> None:
    """`key=None` and `step=None` are the defaults, which pass-through code hands on."""

    async def call(saga: Saga) -> Awaitable[Any]:
        return await saga.execute_activity("a", 1, compensation="undo_a", key=None, step=None)  # type: ignore[no-any-return]

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await call(saga)
            await call(saga)
            raise REFUSED

    run = Run(body).autopilot({})
    assert undone(run) == ["undo_a", "undo_a"]
    run.check()
