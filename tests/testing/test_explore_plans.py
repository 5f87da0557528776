"""Which plans are tried, and how a run is shown: on points and events made by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from temporal_saga.testing.explorer._plans import (
    KINDS,
    CallPoint,
    Points,
    comes_too_late,
    events_of,
    in_any_order,
    longer,
    points_of,
)
from temporal_saga.testing.simulator._faults import (
    applies_late,
    bug_after,
    cancel,
    cancel_scope,
    cancel_with,
    delivered_late,
    delivered_twice,
    fails_after,
    fails_before,
    fails_once,
    restart,
    signal,
    slow,
    worker_lost,
)
from temporal_saga.testing.simulator._timeline import _time, timeline
from temporal_saga.testing.simulator._trace import Attempt, Call, TraceEvent

A = CallPoint("a", 1, False, 1, 2)
B = CallPoint("b", 1, False, 2, 3)
B_UNDO = CallPoint("b:undo", 1, True, 3, 4)


def test_every_fault_at_every_point() -> None:
    found = list(longer((), Points((A,), 2), KINDS))
    of_the_step = [fails_before, fails_after, bug_after, applies_late, slow, worker_lost, fails_once, delivered_twice]
    assert set(found) == {
        *(fault("a") for fault in of_the_step),
        *(fault(at=at) for fault in (cancel, cancel_scope, restart) for at in (1, 2)),
        cancel_with(at=2),  # in the first activation nothing ends
    }
    assert len(found) == len(set(found))


def test_a_second_fault_comes_with_the_first_or_after_it() -> None:
    points = Points((A, B, B_UNDO), 4)
    labels = {fault.label for fault in longer((fails_before("b"),), points, ["fails_before"])}  # type: ignore[union-attr]
    assert labels == {"b:undo"}
    assert list(longer((fails_before("b"),), points, ["cancel"])) == [cancel(at=3), cancel(at=4)]
    assert list(longer((cancel(at=2),), points, ["cancel", "fails_before"])) == [
        fails_before("b"),
        fails_before("b:undo"),
        cancel(at=3),
        cancel(at=4),
    ]


def test_a_repeat_after_all_else_may_be_of_a_call_before_the_plan() -> None:
    undone = replace(A, is_undone=True)
    points = Points((undone, B, B_UNDO), 4)
    kinds = ["delivered_late"]
    assert list(longer((), points, kinds)) == list(longer((cancel(at=3),), points, kinds)) == [delivered_late("a")]
    assert list(longer((fails_before("a"),), points, kinds)) == [], "two faults on one call"
    assert list(longer((), Points((A, B), 4), kinds)) == [], "not undone: as delivered_twice"
    assert points.start((delivered_late("a"),)) == 4


def test_a_cancel_with_a_result_is_tried_alone() -> None:
    points = Points((A, B), 4)
    found = list(longer((), points, ["cancel_with"]))
    assert found == [cancel_with(at=2), cancel_with(at=3), cancel_with(at=4)]
    assert list(longer((fails_before("a"),), points, ["cancel_with"])) == []


def test_parallel_calls_are_struck_together() -> None:
    points = Points((A, CallPoint("c", 1, False, 1, 2)), 2)
    assert fails_before("c") in longer((slow("a"),), points, ["fails_before"])
    assert slow("a") in longer((fails_before("c"),), points, ["slow"])


def test_an_undo_meets_no_bug_of_the_body() -> None:
    found = longer((), Points((B_UNDO,), 4), ["bug_after", "applies_late", "slow", "fails_once"])
    assert list(found) == [fails_once("b:undo")]


def test_kinds_and_events_are_chosen() -> None:
    events = events_of(["stop", ("pay", 1)], [])
    found = list(longer((), Points((A,), 1), ["fails_once"], events))
    assert found == [fails_once("a"), signal("stop", at=1), signal("pay", 1, at=1)]


def test_a_fault_after_a_slow_call_has_ended_changes_nothing() -> None:
    points = Points((A, B), 4)
    assert not comes_too_late((slow("a"),), points, cancel(at=2))
    assert comes_too_late((slow("a"),), points, cancel(at=3))
    assert not comes_too_late((fails_once("a"),), points, cancel(at=3))
    outlasts_a_deadline = Points((A, B, B_UNDO), 5)
    assert not comes_too_late((slow("b"),), outlasts_a_deadline, cancel(at=5))


def test_the_order_of_a_plan_tells_nothing() -> None:
    one, other = slow("a"), signal("pay", ["a list has no hash"], at=1)
    assert in_any_order((one, other)) == in_any_order((other, one)) != in_any_order((one,))


def test_points_of_a_run() -> None:
    calls = [
        Call("a", 1, "activity", "a", "1", "run", scheduled_at=1, resolved_at=2),
        Call("child", 1, "child", "Child", "2", "run", scheduled_at=2, resolved_at=3),
        Call("a:undo", 1, "activity", "a", "3", "run", scheduled_at=3, phase="undo", forward_key="key"),
    ]
    simulation: Any = SimpleNamespace(calls=calls, activations=5, trace=[], parked=[])
    undo = CallPoint("a:undo", 1, True, 3, 5)
    assert points_of(simulation) == Points((A, undo), 5)
    calls[0].phase, calls[0].forward_key = "do", "key"
    calls[0].attempts = [Attempt(1, timedelta(), ran=True)]
    assert points_of(simulation) == Points((A, undo), 5), "its undo has not run"
    calls[2].attempts = [Attempt(1, timedelta(), ran=True)]
    assert points_of(simulation) == Points((replace(A, is_undone=True), undo), 5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "+0s"), (1.5, "+1.5s"), (30, "+30s"), (90, "+1m30s"), (7 * 86400, "+7d"), (3600, "+1h"), (86461, "+1d1m1s")],
)
def test_virtual_time_for_people(seconds: float, text: str) -> None:
    assert _time(timedelta(seconds=seconds)) == text


def test_the_timeline_of_a_call_that_fails_again_and_again() -> None:
    now = timedelta()
    do = Call("a", 1, "activity", "a", "1", "run", 1, phase="do")
    do.attempts = [Attempt(number, now) for number in range(1, 10)]
    events = [TraceEvent(now, kind, "a", number, "", 1) for number in range(1, 9) for kind in ("timed_out", "retrying")]
    unknown = "x timed out (its function had not returned)"
    timed_out, again = f"         1  a  {unknown}", "         1  a  x failed, to be tried again"
    assert timeline(events, [do]).splitlines() == [
        "time  task",
        f" +0s     1  a  {unknown}",
        again,
        f"{timed_out} (attempt 2)",
        again,
        f"{timed_out} (attempt 3)",
        again,
        "         1  a    ... 4 more attempts ...",
        f"{timed_out} (attempt 8)",
        again,
    ]


def test_the_timeline() -> None:
    now, later = timedelta(), timedelta(seconds=30)
    do = Call("withdraw", 1, "activity", "withdraw", "1", "run", 1, phase="do")
    do.attempts = [Attempt(1, now, ran=True)]
    undo = Call("withdraw:undo", 1, "activity", "return_withdrawal", "2", "run", 3, phase="undo")
    undo.attempts = [Attempt(2, later, ran=True)]
    events = [
        TraceEvent(now, "started", "", None, "", 1),
        TraceEvent(now, "scheduled", "withdraw", None, "", 1),
        TraceEvent(now, "completed", "withdraw", 1, "", 1),
        TraceEvent(later, "cancel", "", None, "", 2),
        TraceEvent(later, "retrying", "withdraw:undo", 1, "Boom: no", 3),
        TraceEvent(later, "completed", "withdraw:undo", 2, "", 3),
        TraceEvent(later, "closed", "", None, "cancelled", 4),
    ]
    assert timeline(events, [do, undo]).splitlines() == [
        "time  task",
        " +0s     1                   started",
        "         1  withdraw       + applied",
        "+30s     2                 ! the workflow's cancel is requested (at=3)",
        "         3  withdraw:undo  x failed, to be tried again: Boom: no",
        "         3  withdraw:undo  - undone (attempt 2)",
        "         4                   closed: cancelled",
    ]
