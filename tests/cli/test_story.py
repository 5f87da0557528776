"""What is read from a history alone: recorded histories, whole and cut at each of their events."""

from __future__ import annotations

import io
import json
import re
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from rich.console import Console
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse
from temporalio.client import WorkflowHistory

from temporal_saga._parking import MOST_NAMED
from temporal_saga._proof import failure_mark
from temporal_saga.cli._commands import cli
from temporal_saga.cli._connect import Problem
from temporal_saga.cli._history import BY_US, Now, Pending, Run, parse_id, read, read_description
from temporal_saga.cli._look import kinds_of
from temporal_saga.cli._page import page
from temporal_saga.cli._resolve import decide, identity_of
from temporal_saga.cli._story import Story, tell
from temporal_saga.cli._text import as_json, show
from temporal_saga.cli._words import duration, undoing, verdict
from tests.cli.support import check_snapshot

GOLDEN = Path(__file__).parents[1] / "histories" / "0.1"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json"))
NOW = datetime(2026, 12, 1, tzinfo=timezone.utc)
KEYS = [f"0f2b7f0e-3c1d-5a52-9d9e-3a3c5b1c7d{n:02}" for n in range(10)]


@cache
def events(name: str) -> tuple[HistoryEvent, ...]:
    return tuple(WorkflowHistory.from_json("w", (GOLDEN / f"{name}.json").read_text()).events)


def shown(story: Story) -> str:
    out = io.StringIO()
    show(Console(file=out, width=200, highlight=False), story, NOW)
    return out.getvalue()


def lineages() -> dict[str, Story]:
    """The golden histories as stories: the runs of one workflow together, children under their parent."""
    alone = [name for name in NAMES if not name.startswith(("continued", "children"))]
    stories = {name: tell([read(events(name))]) for name in alone}
    stories["continued-as-new"] = tell([read(events(f"continued-as-new-{n}")) for n in (1, 2, 3)])
    children = [tell([read(events(f"children-{n}"))]) for n in (2, 3, 4)]
    stories["children"] = tell([read(events("children-1"))], children=children)
    return stories


def test_what_is_said_of_each_recorded_history() -> None:
    """The words, as a reader sees them, for every golden history of the library."""
    check_snapshot("golden", "\n\n".join(f"=== {name}\n{shown(story)}" for name, story in lineages().items()))


def test_a_stack_that_was_carried_on_is_one_story() -> None:
    """Continue-as-new: what the first run did, and the third has undone, is undone."""
    story = lineages()["continued-as-new"]
    assert [step.undo_state for step in story.steps] == ["DONE"] * 3
    assert len(story.runs) == 3
    assert story.standing == []


def test_what_a_child_handed_over_is_undone_by_its_parent() -> None:
    story = lineages()["children"]
    assert story.standing == []
    assert {step.name: step.handed_over for step in story.steps} == {"first": False, "second": True, "b": False}
    (step,) = next(child for child in story.children if any(each.name == "b" for each in child.steps)).steps
    assert step.undone


def test_what_a_child_handed_over_and_a_terminated_parent_did_not_undo_is_named() -> None:
    child = Written().do("seat", KEYS[1]).do("meal", KEYS[2])
    child.add("WORKFLOW_EXECUTION_COMPLETED")
    parent = Written()
    id = f"trip:do:{KEYS[0]}"
    begun = parent.add("START_CHILD_WORKFLOW_EXECUTION_INITIATED", workflow_id=id, workflow_type={"name": "Trip"})
    started = {"workflow_id": id, "run_id": "r"}
    parent.add("CHILD_WORKFLOW_EXECUTION_STARTED", initiated_event_id=begun, workflow_execution=started)
    parent.add("CHILD_WORKFLOW_EXECUTION_COMPLETED", initiated_event_id=begun)
    parent.complete(parent.schedule(f"meal:undo:{KEYS[2]}"))
    parent.add("WORKFLOW_EXECUTION_TERMINATED", reason="test")
    story = parent.story(children=[tell([read(child.events, workflow_id=id, run_id="r")])])
    assert [step.id for step in story.standing] == [f"seat:do:{KEYS[1]}"]
    assert kinds_of(story) == ["incomplete"]


def completed_ids(history: list[HistoryEvent]) -> set[str]:
    """The ids of the activities and children that have completed: another reading of the same events."""
    names = {
        event.event_id: event.activity_task_scheduled_event_attributes.activity_id
        or event.start_child_workflow_execution_initiated_event_attributes.workflow_id
        for event in history
    }
    done = [event.activity_task_completed_event_attributes.scheduled_event_id for event in history]
    done += [event.child_workflow_execution_completed_event_attributes.initiated_event_id for event in history]
    return {names[number] for number in done if number}


@pytest.mark.parametrize("name", NAMES)
def test_cut_off_after_any_event_what_is_not_undone_is_named(name: str) -> None:
    """A run that is terminated at any point: each effect that may exist is named, and none that is undone."""
    whole = list(events(name))[:-1]
    for length in range(1, len(whole) + 1):
        history = whole[:length]
        terminated = HistoryEvent(event_id=length + 1, event_type=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED)
        terminated.event_time.CopyFrom(history[-1].event_time)
        terminated.workflow_execution_terminated_event_attributes.reason = "test"
        story = tell([read([*history, terminated])])
        assert story.state == "CUT_OFF"
        done = completed_ids(history)
        undone = {id.replace(":undo:", ":do:") for id in done if ":undo:" in id}
        standing = {step.id for step in story.standing}
        assert {id for id in done if ":do:" in id} - undone <= standing
        assert not undone & standing
        said = " ".join(line.text for line in verdict(story, NOW))
        assert all(id in said for id in standing)
        assert ("incomplete" in kinds_of(story)) == bool(standing)


@pytest.mark.parametrize("name", NAMES)
def test_no_cut_of_a_history_is_too_short_to_be_told(name: str) -> None:
    """A run that is still open, at any point: text, JSON and the page can be made, and promise nothing too early."""
    for length in range(1, len(events(name)) + 1):
        story = tell([read(events(name)[:length], Now("RUNNING") if length < len(events(name)) else None)])
        assert sum(step.undone for step in story.due) <= len(story.due)
        if length < len(events(name)):
            assert story.state in ("OPEN", "UNWINDING", "STUCK")
        if length % 7:
            continue  # to lay out text takes time
        assert story.type in shown(story)
        assert as_json(story, NOW)
        assert "<svg" in page(story, NOW) or not story.steps


# --- written by hand: what no golden history has ---


class Written:
    """Writes a history, an event after another."""

    def __init__(self, at: datetime = NOW - timedelta(hours=1), type: str = "Order") -> None:
        self.events: list[HistoryEvent] = []
        self.at = at
        self.add("WORKFLOW_EXECUTION_STARTED", workflow_type={"name": type}, workflow_id="w", attempt=1)

    def add(self, type: str, **attributes: Any) -> int:
        number = len(self.events) + 1
        event = HistoryEvent(event_id=number, event_type=EventType.Value(f"EVENT_TYPE_{type}"))
        event.event_time.FromDatetime(self.at + timedelta(seconds=number - 1))
        message: Any = getattr(event, f"{type.lower()}_event_attributes")
        message.SetInParent()
        for name, value in attributes.items():
            if isinstance(value, dict):
                for inner, each in value.items():
                    setattr(getattr(message, name), inner, each)
            else:
                setattr(message, name, value)
        self.events.append(event)
        return number

    def schedule(self, id: str, activity: str = "") -> int:
        name = activity or id.partition(":")[0]
        return self.add("ACTIVITY_TASK_SCHEDULED", activity_id=id, activity_type={"name": name})

    def do(self, step: str, key: str) -> Written:
        self.complete(self.schedule(f"{step}:do:{key}"))
        return self

    def complete(self, number: int, starter: str = "worker", by: str = "worker") -> Written:
        self.add("ACTIVITY_TASK_STARTED", scheduled_event_id=number, identity=starter, attempt=1)
        self.add("ACTIVITY_TASK_COMPLETED", scheduled_event_id=number, identity=by)
        return self

    def fail(
        self, number: int, type: str = "Boom", detail: bytes | None = None, encoding: bytes = b"json/plain"
    ) -> Written:
        self.add("ACTIVITY_TASK_FAILED", scheduled_event_id=number)
        info = self.events[-1].activity_task_failed_event_attributes.failure.application_failure_info
        info.type = type
        if detail is not None:
            payload = info.details.payloads.add()
            payload.metadata["encoding"] = encoding
            payload.data = detail
        return self

    def decide(self, *arguments: str) -> Written:
        self.add("WORKFLOW_EXECUTION_UPDATE_ACCEPTED")
        call = self.events[-1].workflow_execution_update_accepted_event_attributes.accepted_request.input
        call.name = "saga_resolve"
        for argument in arguments:
            payload = call.args.payloads.add()
            payload.metadata["encoding"] = b"json/plain"
            payload.data = f'"{argument}"'.encode()
        return self

    def memo(self, data: bytes, encoding: str = "json/plain") -> Written:
        self.add("WORKFLOW_PROPERTIES_MODIFIED")
        memo = self.events[-1].workflow_properties_modified_event_attributes.upserted_memo
        memo.fields["saga_parked"].metadata["encoding"] = encoding.encode()
        memo.fields["saga_parked"].data = data
        return self

    def story(self, now: Now | None = None, **options: Any) -> Story:
        return tell([self.read(now)], **options)

    def read(self, now: Now | None = None) -> Run:
        return read(self.events, now or Now("RUNNING"))


@pytest.mark.parametrize(
    ("starter", "by", "state", "who"),
    [
        ("worker", "worker", "DONE", None),
        ("worker", "callback service", "DONE", "callback service"),
        ("temporal-cli:alice@host", "temporal-cli:alice@host", "BY_HAND", "alice@host"),
        (identity_of("alice", "secret"), identity_of("alice", "secret"), "BY_HAND", "alice"),
        ("worker", identity_of("alice", "secret"), "BY_HAND", "alice"),
    ],
)
def test_who_completed_an_undo(starter: str, by: str, state: str, who: str | None) -> None:
    """A completion during the backoff is written as if its sender had started the attempt."""
    written = Written().do("charge", KEYS[0])
    written.complete(written.schedule(f"charge:undo:{KEYS[0]}"), starter, by)
    (step,) = written.story().steps
    assert (step.undo_state, step.who) == (state, who)
    assert "secret" not in shown(written.story()) + as_json(written.story(), NOW) + page(written.story(), NOW)


@pytest.mark.parametrize(
    ("detail", "encoding", "state", "is_encoded"),
    [
        (b'{"temporal_saga": {"v": 1, "kind": "DECLINED", "effect": "none"}}', b"json/plain", "NOT_APPLIED", False),
        (b'{"temporal_saga": {"v": 1, "kind": "DECLINED", "effect": "unknown"}}', b"json/plain", "UNKNOWN", False),
        (b'{"effect": "none"}', b"json/plain", "UNKNOWN", False),
        (b"not json", b"json/plain", "UNKNOWN", True),
        (b"\x01\x02", b"binary/encrypted", "UNKNOWN", True),
        (None, b"", "UNKNOWN", False),
    ],
)
def test_only_our_mark_proves_that_nothing_took_effect(
    detail: bytes | None, encoding: bytes, state: str, is_encoded: bool
) -> None:
    """Rule 3. Where details are encoded, the reader is told that a proof may be missed."""
    assert failure_mark("DECLINED", "none") == {"temporal_saga": {"v": 1, "kind": "DECLINED", "effect": "none"}}
    written = Written()
    story = written.fail(written.schedule(f"charge:do:{KEYS[0]}"), "Declined", detail, encoding).story()
    assert story.steps[0].state == state
    assert any("encoded" in note for note in story.notes) == is_encoded


PARKED = Now("RUNNING", saga_state="PARKED")


def parked_undo() -> Written:
    written = Written().do("reserve", KEYS[1]).do("charge", KEYS[0])
    return written.fail(written.schedule(f"charge:undo:{KEYS[0]}"))


def parked_step() -> Written:
    written = Written().do("reserve", KEYS[1])
    return written.fail(written.schedule(f"charge:do:{KEYS[0]}"))


def report(undo_state: str | None, state: str = "UNKNOWN") -> list[dict[str, Any]]:
    step = {"name": "charge", "key": KEYS[0], "state": state, "undo": "refund", "undo_state": undo_state}
    return [{"name": "order", "state": "PARKED", "steps": [step]}]


def test_a_parked_undo_is_told_by_the_attribute_or_by_the_report() -> None:
    for story in (parked_undo().story(PARKED), parked_undo().story(reports=report("PARKED", "APPLIED"))):
        assert story.state == "PARKED"
        step = next(step for step in story.steps if step.name == "charge")
        assert (step.undo_state, step.stands) == ("PARKED", "maybe")
        assert kinds_of(story) == ["parked"]
        assert f"resolve w {KEYS[0]} retry|done-by-hand|give-up" in shown(story)


def test_a_parked_step_is_told_by_the_attribute_or_by_the_report() -> None:
    for story in (parked_step().story(PARKED), parked_step().story(reports=report("PENDING", "PARKED"))):
        assert story.state == "PARKED"
        assert next(step for step in story.steps if step.name == "charge").state == "PARKED"
        assert f"resolve w {KEYS[0]} retry|give-up" in shown(story)


def test_by_the_attribute_alone_a_step_that_failed_is_not_taken_for_parked_once_undoing_has_begun() -> None:
    written = Written().do("reserve", KEYS[1])
    written.fail(written.schedule(f"charge:do:{KEYS[0]}"))
    written.fail(written.schedule(f"reserve:undo:{KEYS[1]}"))
    steps = written.story(PARKED).steps
    assert [(step.state, step.undo_state) for step in steps] == [("APPLIED", "PARKED"), ("UNKNOWN", None)]
    given_up = parked_step().decide(KEYS[0], "give_up", "alice", "x").story(PARKED)
    assert [step.state for step in given_up.steps] == ["APPLIED", "UNKNOWN"]


def test_what_failed_for_good_and_waits_may_be_parked() -> None:
    """With neither attribute nor worker, and an encoded memo, nothing tells: it is listed, and the way out is named."""
    story = parked_undo().memo(b"?", "binary/encrypted").story()
    assert kinds_of(story) == ["parked", "unwinding"]
    assert f"If it is parked: temporal-saga resolve w {KEYS[0]}" in shown(story)


def test_what_is_parked_is_told_by_the_memo() -> None:
    """With neither attribute nor worker. What failed for good and is not named there is not parked."""
    for story, actions in (
        (parked_undo().memo(b'["charge"]').story(), "retry|done-by-hand|give-up"),
        (parked_step().memo(b'["charge"]').story(), "retry|give-up"),
    ):
        assert (story.state, kinds_of(story)) == ("PARKED", ["parked"])
        assert f"resolve w {KEYS[0]} {actions}" in shown(story)
    for written in (parked_undo(), parked_undo().memo(b'["charge"]').memo(b"", "binary/null")):
        assert kinds_of(written.story()) == ["incomplete"]
        assert "parked" not in shown(written.story()).lower()


@pytest.mark.parametrize("reader", ["attribute", "memo"])
def test_a_parked_step_is_told_though_it_had_no_effect_or_something_was_undone_before(reader: str) -> None:
    """No worker answers. An answer such as Declined does not park; a savepoint may have unwound before."""
    not_sent = b'{"temporal_saga": {"v": 1, "kind": "NOT_SENT", "effect": "none"}}'
    declined = not_sent.replace(b"NOT_SENT", b"DECLINED")
    written = Written().do("reserve", KEYS[1])
    if reader == "memo":
        written.complete(written.schedule(f"reserve:undo:{KEYS[1]}"))
    written.fail(written.schedule(f"ask:do:{KEYS[2]}"), "Declined", declined)
    written.fail(written.schedule(f"charge:do:{KEYS[0]}"), "NotSent", not_sent)
    story = written.memo(b'["charge"]').story() if reader == "memo" else written.story(PARKED)
    assert {step.name: step.state for step in story.steps}.items() >= {"ask": "NOT_APPLIED", "charge": "PARKED"}.items()
    assert (story.state, kinds_of(story)) == ("PARKED", ["parked"])
    assert decide(story, KEYS[0], "retry", NOW).how == "update"


@pytest.mark.parametrize("now", [PARKED, None])
def test_a_parked_callback_has_no_call_in_the_history(now: Now | None) -> None:
    """That something is parked is told all the same, and listed; a worker tells its key."""
    story = Written().do("reserve", KEYS[1]).memo(b'["close()"]').story(now)
    assert (story.state, kinds_of(story)) == ("PARKED", ["parked"])
    assert "Parked: a person has to decide." in shown(story)


def test_of_many_that_are_parked_each_is_told() -> None:
    """The memo names the first twenty."""
    written = Written()
    keys = [str(uuid4()) for _ in range(25)]
    for number, key in enumerate(keys):
        written.fail(written.schedule(f"s{number}:do:{key}"))
    names = [*(f"s{number}" for number in range(MOST_NAMED)), "and 5 more"]
    story = written.memo(json.dumps(names).encode()).story()
    assert {step.state for step in story.steps} == {"PARKED"}


@pytest.mark.parametrize(
    ("action", "undo_state", "stands"),
    [("done_by_hand", "BY_HAND", "no"), ("give_up", "GIVEN_UP", "yes"), ("retry", "FAILED", "maybe")],
)
def test_a_decision_is_read_from_the_history(action: str, undo_state: str, stands: str) -> None:
    story = parked_undo().decide(KEYS[0], action, "alice", "secret").story()
    step = next(step for step in story.steps if step.name == "charge")
    assert (step.undo_state, step.who, step.stands) == (undo_state, "alice", stands)
    assert f"alice decides: {action.replace('_', ' ')}" in shown(story)
    assert "secret" not in shown(story) + as_json(story, NOW)


def test_a_decision_that_came_too_late_is_none() -> None:
    """It was accepted, and then refused: an interceptor of the worker had delayed it."""
    written = parked_undo().decide(KEYS[0], "give_up", "alice", "x").decide(KEYS[0], "retry", "bob", "x")
    for number, failed in ((-2, False), (-1, True)):
        accepted = [each for each in written.events if "UPDATE_ACCEPTED" in EventType.Name(each.event_type)][number]
        written.add("WORKFLOW_EXECUTION_UPDATE_COMPLETED", accepted_event_id=accepted.event_id)
        if failed:
            outcome = written.events[-1].workflow_execution_update_completed_event_attributes.outcome
            outcome.failure.message = "nothing is parked"
    story = written.story()
    step = next(step for step in story.steps if step.name == "charge")
    assert (step.undo_state, step.who) == ("GIVEN_UP", "alice")
    assert "bob" not in shown(story)


def test_what_a_newer_server_says_is_passed_over() -> None:
    """An event, a status, a cause of a failure that this release does not know."""
    written = Written().do("charge", KEYS[0])
    written.add("WORKFLOW_TASK_FAILED")
    written.events[-1].workflow_task_failed_event_attributes.cause = 999  # type: ignore[assignment, unused-ignore]
    written.events.append(HistoryEvent(event_id=len(written.events) + 1, event_type=999))  # type: ignore[arg-type, unused-ignore]
    answer = DescribeWorkflowExecutionResponse()
    answer.workflow_execution_info.status = 999  # type: ignore[assignment, unused-ignore]
    now = read_description(answer)
    assert now.status == "RUNNING"
    story = written.story(now)
    assert (story.state, story.steps[0].state) == ("STUCK", "APPLIED")
    assert "charge" in shown(story)


def test_who_settled_the_undo_is_not_who_decided_about_the_step() -> None:
    written = parked_step().decide(KEYS[0], "give_up", "alice", "x")
    undo = written.schedule(f"charge:undo:{KEYS[0]}")
    running = next(step for step in written.story().steps if step.name == "charge")
    assert (running.undo_state, "by alice" in undoing(running, written.story(), NOW)) == ("RUNNING", False)
    by = identity_of("bob", "x")
    settled = written.complete(undo, by, by).story(reports=report("BY_HAND"))
    assert "charge was undone by hand, by bob." in shown(settled)


def test_a_reset_keeps_what_the_run_before_it_did() -> None:
    """What lay after the point of the reset may stand, and is in no other history."""
    base = Written().do("reserve", KEYS[0])
    fork = len(base.events) + 1
    after = Written()
    after.events = list(base.events)
    base.do("charge", KEYS[1]).add("WORKFLOW_EXECUTION_TERMINATED", reason="reset")
    cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    after.add("WORKFLOW_TASK_FAILED", cause=cause, base_run_id="base", new_run_id="new")
    after.complete(after.schedule(f"reserve:undo:{KEYS[0]}"))
    runs = [
        read(base.events, Now("TERMINATED", reset_to="new"), run_id="base"),
        read(after.events, Now("FAILED"), run_id="new"),
    ]
    assert (runs[1].reset_from, runs[1].forked_at) == ("base", fork)
    story = tell(runs)
    assert {step.name: step.stands for step in story.steps} == {"reserve": "no", "charge": "yes"}
    assert len([call for step in story.steps for call in step.calls]) == 3


def test_what_was_undone_after_the_point_of_a_reset_does_not_stand() -> None:
    """The step is in both runs, its undo in the old one only; done again in the new run, it stands again."""
    base = Written().do("reserve", KEYS[0])
    after = Written()
    after.events = list(base.events)
    base.complete(base.schedule(f"reserve:undo:{KEYS[0]}"))
    base.add("WORKFLOW_EXECUTION_TERMINATED", reason="reset")
    cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
    after.add("WORKFLOW_TASK_FAILED", cause=cause, base_run_id="base", new_run_id="new")

    def stands() -> str:
        old = read(base.events, Now("TERMINATED"), run_id="base")
        return tell([old, read(after.events, Now("RUNNING"), run_id="new")]).steps[0].stands

    assert stands() == "no"
    after.at += timedelta(minutes=1)
    after.do("reserve", KEYS[0])
    assert stands() == "yes"


@pytest.mark.parametrize(
    "detail", [b"1", b"[]", b"{}", b'{"steps": 1}', b'{"steps": [1, {}, {"key": 1, "name": []}]}', b'{"steps": null}']
)
def test_a_report_that_is_none_is_passed_over(detail: bytes) -> None:
    """Anyone may raise an error of that type: the saga counts as incomplete, and the rest is told from the history."""
    written = Written().do("charge", KEYS[0])
    written.add("WORKFLOW_EXECUTION_FAILED")
    failure = written.events[-1].workflow_execution_failed_event_attributes.failure
    failure.application_failure_info.type = "CompensationError"
    payload = failure.application_failure_info.details.payloads.add()
    payload.metadata["encoding"] = b"json/plain"
    payload.data = detail
    story = written.story()
    assert (story.state, len(story.steps)) == ("INCOMPLETE", 1)
    assert tell([written.read()], reports=[{"steps": 1}]).steps


def pending(failures: int = 0, *, paused: bool = False) -> Now:
    id = f"charge:undo:{KEYS[0]}"
    return Now("RUNNING", {id: Pending("refund", failures, "ConnectionError", NOW + timedelta(seconds=40), paused)})


def retried() -> Written:
    written = Written().do("charge", KEYS[0])
    written.schedule(f"charge:undo:{KEYS[0]}")
    return written


def test_an_undo_that_is_tried_again() -> None:
    story = retried().story(pending(7))
    assert [line.text for line in verdict(story, NOW)] == [
        "Unwinding: 0 of 1 undone.",
        "charge, which undoes charge: has failed 7 times (ConnectionError), next try in 40 s.",
        f"May stand: charge:do:{KEYS[0]}",
    ]
    assert kinds_of(story) == ["stuck", "unwinding"]
    assert kinds_of(retried().story(pending(1))) == ["unwinding"]
    assert "is paused" in shown(retried().story(pending(2, paused=True)))


def test_names_cannot_write_to_the_terminal() -> None:
    """A workflow's id may come from anyone: control characters and markup are shown, and do nothing."""
    written = Written().do("charge\x1b[31m[bold]x", KEYS[0])
    story = tell([read(written.events, Now("RUNNING"), workflow_id="w\x1b]0;x\x07\n<b>")])
    said = shown(story)
    assert "\x1b" not in said
    assert r"w\x1b]0;x\x07\n<b> (Order)" in said
    assert r"charge\x1b[31m[bold]x" in said
    assert "<b>" not in page(story, NOW)


PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()


def test_the_story_on_the_page() -> None:
    """The page shows what the command says."""
    keys = re.findall(r"  ([0-9a-f-]{36})$", PAGE, re.MULTILINE)
    names = ["allocate", "charge", "book"]
    written = Written(datetime(2026, 11, 30, 23, tzinfo=timezone.utc), "Order")
    for name, key in zip(names, keys, strict=False):
        written.do(name, key)
    written.fail(
        written.schedule(f"ship:do:{keys[3]}"), "Declined", json.dumps(failure_mark("DECLINED", "none")).encode()
    )
    written.complete(written.schedule(f"book:undo:{keys[2]}", "cancel_booking"))
    written.schedule(f"charge:undo:{keys[1]}", "refund")
    now = datetime(2026, 11, 30, 23, 2, tzinfo=timezone.utc)
    waits = Pending("refund", 7, "ConnectionError", now + timedelta(seconds=40), False)
    run = read(
        written.events,
        Now("RUNNING", {f"charge:undo:{keys[1]}": waits}),
        workflow_id="order-1042",
        run_id=re.findall(r"run ([0-9a-f-]{36})", PAGE)[0],
    )
    out = io.StringIO()
    console_of_the_page = Console(file=out, width=200, highlight=False)
    show(console_of_the_page, tell([run]), now)
    ((shown_there,),) = [re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
    assert [line.rstrip() for line in out.getvalue().splitlines()] == shown_there.splitlines()


def test_the_page_names_all_commands_and_options() -> None:
    for name, command in cli.commands.items():
        assert f"temporal-saga {name}" in PAGE
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert {option for option in options if option not in PAGE} == set()


@pytest.mark.parametrize(("error", "kinds"), [("NondeterminismError", ["incomplete"]), ("Late", [])])
def test_a_workflow_that_an_incompatible_deployment_has_closed_is_listed(error: str, kinds: list[str]) -> None:
    """No code of it ran, so nothing is undone; one that failed by itself, past a pivot, has undone what it had to."""
    written = Written().do("charge", KEYS[0])
    written.add("WORKFLOW_EXECUTION_FAILED")
    failure = written.events[-1].workflow_execution_failed_event_attributes.failure
    failure.application_failure_info.type = error
    assert kinds_of(written.story()) == kinds
    assert f"charge:do:{KEYS[0]}" in shown(written.story())


def test_what_is_not_undone_may_have_been_given_up() -> None:
    """After `detach()` nothing is armed, so a run that does not continue as new leaves its effects."""
    written = Written().do("charge", KEYS[0])
    written.add("WORKFLOW_EXECUTION_FAILED")
    assert "given up by detach()" in shown(written.story())


# --- what to do about a step ---


def test_what_can_be_decided() -> None:
    """The update settles what is parked, and the completion of its activity an undo that is tried again."""
    for key in (KEYS[0], f"charge:undo:{KEYS[0]}"):
        settlement = decide(retried().story(pending(7)), key, "done-by-hand", NOW)
        assert (settlement.how, settlement.activity_id) == ("complete", f"charge:undo:{KEYS[0]}")
    for action in ("retry", "done-by-hand", "give-up"):
        assert decide(parked_undo().story(PARKED), KEYS[0], action, NOW).how == "update"
    assert decide(parked_step().story(PARKED), KEYS[0], "retry", NOW).key == KEYS[0]


@pytest.mark.parametrize(
    ("story", "key", "action", "says"),
    [
        (retried().story(pending(7)), KEYS[0], "retry", "temporal activity reset --workflow-id w"),
        (retried().story(pending(7)), KEYS[0], "give-up", "give-up is only for a parked one"),
        (retried().story(pending(7)), KEYS[5], "retry", f"; its steps: charge {KEYS[0]}"),
        (parked_undo().story(PARKED), KEYS[5], "retry", f"{KEYS[5]!r}; parked now: charge {KEYS[0]}; all its steps: "),
        (parked_undo().story(PARKED), KEYS[1], "retry", f"; parked now: charge {KEYS[0]}"),
        (parked_step().story(PARKED), KEYS[0], "done-by-hand", "retry or give-up"),
        (parked_undo().story(PARKED), KEYS[1], "retry", "reserve does not wait for a person"),
        (parked_undo().story(Now("PAUSED", saga_state="PARKED")), KEYS[0], "retry", "is paused"),
        (parked_undo().story(Now("TERMINATED")), KEYS[0], "retry", "has ended"),
        (parked_undo().decide(KEYS[0], "done_by_hand", "alice", "x").story(), KEYS[0], "retry", "is already undone"),
    ],
)
def test_what_cannot_be_decided_says_what_can(story: Story, key: str, action: Any, says: str) -> None:
    with pytest.raises(Problem) as raised:
        decide(story, key, action, NOW)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("action", ["retry", "done-by-hand", "give-up"])
def test_what_was_decided_names_the_thing(action: Any) -> None:
    """Whoever settles several reads which one this was."""
    undo = decide(parked_undo().story(PARKED), KEYS[0], action, NOW)
    assert "charge" in undo.done
    assert not undo.done.startswith("It ")
    if action != "done-by-hand":
        assert decide(parked_step().story(PARKED), KEYS[0], action, NOW).done.startswith("charge ")


@pytest.mark.parametrize(
    ("who", "why"),
    [
        ("", "x"),
        ("x", " "),
        ("a: b", "x"),
        ("x" * 101, "x"),
        ("x", "é" * 500),
        ("a\nb", "x"),
        ("a\x1b", "x"),
        ("\udcff", "x"),
        ("x", "\udcff"),
    ],
)
def test_who_and_why_must_fit_the_record(who: str, why: str) -> None:
    with pytest.raises(Problem):
        identity_of(who, why)
    assert identity_of("alice", "the bank has sent it back").endswith(BY_US)


@pytest.mark.parametrize(
    ("id", "parts"),
    [
        (f"a:b:do:{KEYS[0]}", ("a:b", "do", KEYS[0])),
        (f":push:{KEYS[0]}", ("", "push", KEYS[0])),
        (f"a:redo:{KEYS[0]}", None),
        ("a:do:b", None),
        ("1", None),
    ],
)
def test_ids_are_read_from_the_right(id: str, parts: object) -> None:
    assert parse_id(id) == parts


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (3.42, "3.4 s"),
        (42, "42 s"),
        (300, "5 min"),
        (7200, "2 h"),
        (2e5, "2 d"),
        (-1, "0 ms"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(timedelta(seconds=seconds)) == words
