"""The table "What changes a key" of docs/keys.md, row by row: what becomes of the key, and of a run that is open."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow

from temporal_saga import Saga, SagaState, current_step
from temporal_saga.testing import step_environment
from tests.driver import Run, completed
from tests.rules.workflows import OPTIONS, do, flow, new_saga

PAGE = (Path(__file__).parents[2] / "docs" / "keys.md").read_text()
ROWS: dict[str, str] = dict(
    re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.partition("## What changes a key")[2], re.MULTILINE)[1:]
)

RUN_ID = "0f2b7f0e-3c1d-4a52-9d9e-3a3c5b1c7d10"
OTHER_ID = "99999999-2222-4333-8444-555555555555"
Steps = Callable[[Saga], Awaitable[Any]]


def row(beginning: str) -> str:
    """Return what the page says in the row that begins so."""
    (found,) = [said for what, said in ROWS.items() if what.startswith(beginning)]
    return found


def version(steps: Steps, name: str = "saga", *, then: str = "") -> type[Any]:
    """Return a workflow: its steps, and then a wait that leaves no trace in history, or another step."""

    @flow
    async def body() -> None:
        async with new_saga(name) as saga:
            await steps(saga)
            if then:
                await do(saga, then)
            await workflow.wait_condition(lambda: False)

    return body


async def charge(saga: Saga, **options: Any) -> None:
    await do(saga, "charge", **options)


def ids(run: Run) -> list[str]:
    return [activity.id for activity in run.scheduled]


def opened(workflow: type[Any], *done: str, **options: Any) -> Run:
    """Return a run whose first step is in flight; or in which these steps are done."""
    run = Run(workflow, **{"run_id": RUN_ID, **options}).start()
    for name in done:
        run.activate(completed(name))
    return run


def fails(run: Run, fixed: type[Any]) -> bool:
    """Tell whether the commands of an open run differ under other code: Temporal's core compares the ids."""
    before = ids(run)
    try:
        run.restart(fixed)
    except AssertionError:
        return True
    assert ids(run)[: len(before)] == before
    return False


def test_each_row_is_tested() -> None:
    """The page has no row of which no test below tells whether it is true."""
    tested = re.findall(r'row\("([^"]+)"\)', Path(__file__).read_text())
    assert len(ROWS) >= 6
    assert [what for what in ROWS if not what.startswith(tuple(tested))] == []


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_retry_keeps_the_key(attempt: int) -> None:
    assert row("a retry") == "stay"
    first = step_environment("charge").run(lambda: current_step().key)
    assert step_environment("charge", attempt=attempt).run(lambda: current_step().key) == first


def test_a_crash_a_replay_and_a_reset_keep_the_key() -> None:
    assert row("a retry") == "stay"
    run = opened(version(charge, then="ship"), "charge")
    before = ids(run)
    assert ids(run.restart()) == before
    assert ids(opened(run.workflow, "charge", run_id=OTHER_ID, original_execution_run_id=RUN_ID)) == before


def test_a_run_that_begins_with_a_state_keeps_the_keys() -> None:
    """Continue-as-new, and each new run with the same state: its undos and its own steps have the first run's keys."""
    assert row("a retry") == row("the same, if the run began with `Saga(state=...)`") == "stay"

    states: list[SagaState] = []

    @flow
    async def detaches() -> None:
        async with new_saga() as saga:
            await do(saga, "charge")
            states.append(saga.detach())

    before = Run(detaches, run_id=RUN_ID).autopilot({})

    @flow
    async def goes_on() -> None:
        async with Saga(state=states[0], activity_options=OPTIONS) as saga:
            await do(saga, "ship")
            await saga.compensate()

    first, second = (ids(Run(goes_on, run_id=id).autopilot({})) for id in (RUN_ID, OTHER_ID))
    assert first == second
    assert first[-1] == ids(before)[0].replace(":do:", ":undo:")


def test_a_new_run_has_new_keys() -> None:
    assert row("a new run:") == "are new"
    assert not set(ids(opened(version(charge)))) & set(ids(opened(version(charge), run_id=OTHER_ID)))


RENAMED = {
    "the saga is renamed": version(charge, "another"),
    "the step is renamed": version(lambda saga: charge(saga, step="pay")),
    "a key= is added": version(lambda saga: charge(saga, key="1")),
}


@pytest.mark.parametrize("then", ["", "ship"])
@pytest.mark.parametrize("change", RENAMED)
def test_what_makes_keys_new_fails_an_open_run(change: str, then: str) -> None:
    """Whatever has come after it."""
    said = row("the step or the saga is renamed, a `key=` is added")
    assert said.startswith("are new. An open run past that point fails its workflow task")
    run = opened(version(charge, then=then), *(["charge"] if then else []))
    assert not set(ids(run)) & set(ids(opened(RENAMED[change])))
    assert fails(run, RENAMED[change])


@pytest.mark.parametrize("then", ["", "ship"])
def test_another_step_before_it_changes_no_key_and_fails_an_open_run(then: str) -> None:
    said = row("a call of another step is inserted before it")
    assert said.startswith("stay. An open run past that point fails its workflow task")

    async def steps(saga: Saga) -> None:
        await do(saga, "reserve")
        await charge(saga)

    run = opened(version(charge, then=then), *(["charge"] if then else []))
    assert ids(opened(version(steps), "reserve"))[-1] == ids(run)[0]
    assert fails(run, version(steps))


async def twice(saga: Saga) -> None:
    await charge(saga)
    await charge(saga)


@flow
async def in_a_saga_before() -> None:
    async with new_saga() as saga:
        await charge(saga)
    async with new_saga() as saga:
        await charge(saga)
        await workflow.wait_condition(lambda: False)


@pytest.mark.parametrize("fixed", [version(twice), in_a_saga_before], ids=["call", "saga"])
def test_a_call_of_the_same_step_before_it_takes_its_event_and_its_key(fixed: type[Any]) -> None:
    """The open run goes on: the call that has had its effect is made once more, under a new key."""
    said = row("a call of the same step, or a saga of the same name")
    assert said.startswith("move: ")
    assert "**its effect happens twice**" in said
    run = opened(version(charge))
    (first,) = ids(run)
    assert not fails(run, fixed)
    run.activate(completed("charge"))
    taken, again = ids(run)
    assert taken == first != again
    assert run.activities[0].id == again, "the effect is about to happen once more"


def test_a_call_of_the_same_step_that_is_taken_out_leaves_its_event_to_the_next() -> None:
    """The open run goes on: the call that has not been made yet takes the result of the one that has."""
    assert "**its effect never happens**" in row("a call of the same step, or a saga of the same name")

    run = opened(version(twice))
    (first,) = ids(run)
    assert not fails(run, version(charge))
    run.activate(completed("charge"))
    assert (ids(run), run.names) == ([first], [])


@pytest.mark.parametrize("then", ["", "ship"])
@pytest.mark.parametrize("guard", ["key", "patch", "none"])
def test_what_guards_against_a_call_that_is_inserted(guard: str, then: str) -> None:
    """A `key=` from the start stops the run, as a command does that has followed; a patch lets it go on as it was."""
    said = row("a call of the same step, or a saga of the same name")
    assert "`workflow.patched`" in said
    assert "`key=`" in said
    key: dict[str, Any] = {"key": "1"} if guard == "key" else {}

    async def fixed(saga: Saga) -> None:
        if guard != "patch" or workflow.patched("charge-0"):
            await charge(saga, **({"key": "0"} if key else {}))
        await charge(saga, **key)

    done = ["charge"] if then else []
    run = opened(version(partial(charge, **key), then=then), *done)
    before = ids(run)
    assert fails(run, version(fixed, then=then)) == (guard == "key" or (guard == "none" and then == "ship"))
    if guard == "patch":
        assert ids(run) == before
        assert len(ids(opened(version(fixed, then=then), "charge"))) == 2, "a new run makes both calls"
