"""A child workflow that is a step: what its parent's account says of it."""

from __future__ import annotations

import json

import pytest
from temporalio.api.enums.v1 import WorkflowTaskFailedCause

from temporal_saga._proof import failure_mark
from temporal_saga.cli._history import Now, read
from temporal_saga.cli._story import Story, tell
from temporal_saga.cli._words import undoing, verdict
from tests.cli.test_story import KEYS, NOW, Written, shown


def child_of(step: str, key: str, *, end: str = "FAILED", run_id: str = "r") -> Written:
    """A parent with one step, which is a child workflow."""
    parent = Written().do("before", KEYS[8])
    start_child(parent, step, key, run_id)
    parent.add(f"CHILD_WORKFLOW_EXECUTION_{end}", initiated_event_id=len(parent.events) - 1)
    return parent


def start_child(parent: Written, step: str, key: str, run_id: str) -> int:
    id = f"{step}:do:{key}"
    begun = parent.add("START_CHILD_WORKFLOW_EXECUTION_INITIATED", workflow_id=id, workflow_type={"name": "Trip"})
    started = {"workflow_id": id, "run_id": run_id}
    parent.add("CHILD_WORKFLOW_EXECUTION_STARTED", initiated_event_id=begun, workflow_execution=started)
    return begun


def unwound(*, undone: int = 2, end: str = "FAILED") -> Written:
    """A child with two steps, of which some are undone."""
    child = Written().do("seat", KEYS[1]).do("meal", KEYS[2])
    for step, key in [("meal", KEYS[2]), ("seat", KEYS[1])][:undone]:
        child.complete(child.schedule(f"{step}:undo:{key}"))
    if end:
        child.add(f"WORKFLOW_EXECUTION_{end}")
    return child


def with_child(child: Written, *, end: str = "FAILED") -> Story:
    """The story of a failed parent, whose child is a step that nothing in the parent undoes."""
    parent = child_of("trip", KEYS[0], end=end)
    parent.complete(parent.schedule(f"before:undo:{KEYS[8]}")).add("WORKFLOW_EXECUTION_FAILED")
    told = tell([read(child.events, Now("RUNNING"), workflow_id=f"trip:do:{KEYS[0]}", run_id="r")])
    return parent.story(children=[told])


@pytest.mark.parametrize("end", ["FAILED", "CANCELED", "TIMED_OUT", "TERMINATED", "COMPLETED"])
def test_a_child_that_has_undone_itself_is_no_alarm(end: str) -> None:
    """However it ended: its own account is whole, so its parent has nothing to undo, and says so."""
    story = with_child(unwound(end=end), end=end)
    said = " ".join(line.text for line in verdict(story, NOW))
    assert (story.standing, "Not undone" in said) == ([], False)
    assert "The child workflow of trip has undone its steps itself" in said
    trip = next(step for step in story.steps if step.name == "trip")
    assert undoing(trip, story, NOW) == "by the child itself"
    assert "and everything is undone (1 of 1)" in said


def test_a_child_whose_steps_had_no_effect_has_had_none() -> None:
    child = Written()
    mark = json.dumps(failure_mark("DECLINED", "none")).encode()
    child.fail(child.schedule(f"seat:do:{KEYS[1]}"), "Declined", mark).add("WORKFLOW_EXECUTION_FAILED")
    story = with_child(child)
    assert story.standing == []
    assert "no effect" in shown(story)
    assert "has undone its steps itself" not in shown(story)


def plain_activity() -> Written:
    child = unwound(end="")
    child.complete(child.schedule("1", "plain")).add("WORKFLOW_EXECUTION_FAILED")
    return child


@pytest.mark.parametrize(
    "child",
    [unwound(undone=1), unwound(undone=0), unwound(undone=1, end=""), unwound(end=""), plain_activity(), Written()],
    ids=["half", "nothing undone", "unwinds", "open", "with a plain activity", "without a step"],
)
def test_a_child_whose_account_is_not_whole_is_named(child: Written) -> None:
    """An effect of the child may stand, may still happen, or is not a step of a saga. The child is listed."""
    story = with_child(child)
    assert [step.id for step in story.standing] == [f"trip:do:{KEYS[0]}"]
    assert any("Not undone" in line.text and f"trip:do:{KEYS[0]}" in line.text for line in verdict(story, NOW))


@pytest.mark.parametrize("undone", [0, 1, 2])
@pytest.mark.parametrize("reader", ["history", "report"])
def test_what_a_child_handed_over_comes_right_after_that_child(undone: int, reader: str) -> None:
    """Before, during and after its undo: the reader sees where it belongs. A callback keeps its place too."""
    parent = child_of("trip", KEYS[0], end="COMPLETED").do("after", KEYS[9])
    for step, key in [("after", KEYS[9]), ("meal", KEYS[2]), ("seat", KEYS[1])][: undone + 1]:
        parent.complete(parent.schedule(f"{step}:undo:{key}"))
    order = ["before", "seat", "meal", "look", "after"]
    keys = dict(zip(order, (KEYS[8], KEYS[1], KEYS[2], KEYS[7], KEYS[9]), strict=True))
    steps = [{"name": name, "key": keys[name], "state": "APPLIED", "undo_state": "PENDING"} for name in order]
    reports = [{"name": "order", "state": "PARKED", "steps": steps}] if reader == "report" else []
    told = tell([read(unwound(undone=0, end="COMPLETED").events, workflow_id=f"trip:do:{KEYS[0]}", run_id="r")])
    story = parent.story(children=[told], reports=reports)
    expected = ["before", "trip", *order[1:]] if reports else ["before", "trip", "seat", "meal", "after"]
    if not reports and not undone:
        expected = ["before", "trip", "after"]  # nothing of it has been undone yet, so it counts as one step
    assert [step.name for step in story.steps] == expected
    # Only the parent says what to do about it: the child has ended.
    assert [line.text for line in verdict(told, NOW)][1:] == []


@pytest.mark.parametrize("undone", [0, 2])
def test_a_child_that_a_reset_has_run_again_is_named(undone: int) -> None:
    """Its keys come from its run id, so its effects happen twice; not if its earlier run has undone itself."""
    base = child_of("trip", KEYS[0], end="COMPLETED", run_id="first")
    after = Written()
    after.events = base.events[:4]
    base.add("WORKFLOW_EXECUTION_TERMINATED", reason="reset")
    cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    after.add("WORKFLOW_TASK_FAILED", cause=cause, base_run_id="base", new_run_id="new")
    begun = start_child(after, "trip", KEYS[0], "second")
    after.add("CHILD_WORKFLOW_EXECUTION_COMPLETED", initiated_event_id=begun)
    after.add("WORKFLOW_EXECUTION_COMPLETED")
    children = [
        tell([read(unwound(undone=count, end=end).events, workflow_id=f"trip:do:{KEYS[0]}", run_id=run)])
        for run, count, end in (("first", undone, "COMPLETED"), ("second", 0, "COMPLETED"))
    ]
    runs = [read(base.events, Now("TERMINATED"), run_id="base"), read(after.events, run_id="new")]
    for known in (children, children[1:]):  # an earlier run that cannot be read may stand as well
        said = shown(tell(runs, children=known))
        has_hint = f"temporal-saga show trip:do:{KEYS[0]} --run-id first" in said
        assert has_hint == (known is not children or not undone)
        assert ("A reset has run the child workflow of trip again, with new keys." in said) == has_hint
