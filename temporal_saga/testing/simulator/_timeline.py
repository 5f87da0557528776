"""A run as a timeline, for people: what was applied, undone, cancelled, and when, in virtual time.

         time  task
                  1  started
                  1  withdraw               applied
    +30s          2  deposit                x timed out (its function had not returned): StartToClose timeout
    +30s          3  withdraw:undo          undone
    +30s          4  closed                 failed: ActivityError
    +30s          4  deposit                ! came late: its function ran

`task` counts the activations that the workflow has had.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from ._trace import FAILURE_TYPE, Attempt, Call, TraceEvent

# Left out: what says nothing that its neighbours do not. A schedule shows up as its attempt.
_QUIET = frozenset({"scheduled", "timer_cancelled", "child_scheduled"})

_MOST_LINES = 120
# Of the attempts of a call that fails again and again.
_FIRST, _LAST = 3, 2

_WORDS = {
    "completed": "done",
    "timed_out": "timed out",
    "retrying": "failed, to be tried again",
    "cancel_requested": "asked to cancel",
    "timer_started": "timer started",
    "timer_fired": "timer fired",
    "child_started": "child started",
    "child_closed": "child closed",
    "cancel": "the workflow's cancel is requested",
    "cancel_with": "the workflow's cancel is requested, and comes with what has ended",
    "cancel_scope": "the scope is cancelled",
    "restart": "the worker restarts: replayed from the history",
    "slow_worker": "the worker is slow: what comes next comes in one activation with this",
    "task_failed": "the workflow task failed",
    "late": "came late",
    "again": "delivered again",
    "bug": "a bug: TypeError out of its await",
    "continued": "continued as new",
    "parked": "is parked: it waits for a person",
    "decision": "a person decides",
    "by_hand": "by hand",
}

_FAULTS = frozenset(
    {
        "cancel",
        "cancel_with",
        "cancel_scope",
        "restart",
        "slow_worker",
        "task_failed",
        "late",
        "again",
        "bug",
        "parked",
        "decision",
    }
)
_BAD = frozenset({"failed", "timed_out", "retrying", "cancelled"})


class Row(NamedTuple):
    """One line of a timeline.

    Attributes:
        when: Its time, on the virtual clock.
        task: How many activations the workflow had had.
        label: Of which call, child, timer, signal, ...
        said: What happened.
        number: The number of its event in the trace; None if it stands for events that are left out.
    """

    when: str
    task: str
    label: str
    said: str
    number: int | None = None


def rows_of(trace: Sequence[TraceEvent], calls: Sequence[Call]) -> list[Row]:
    """Return what happened in a run, a row for each event that a person wants to see."""
    tried = _Tried(calls)
    rows: list[Row] = []
    attempts = {call.label: call.attempts[-1].number for call in calls if call.attempts}
    for number, event in enumerate(trace):
        if event.kind in _QUIET or event.kind == "attempt":
            continue
        said, left_out = _said(event, tried), attempts.get(event.label, 0) - _FIRST - _LAST
        if event.kind in ("retrying", "timed_out") and _FIRST < (event.attempt or 1) <= _FIRST + left_out:
            if event.kind == "timed_out" or event.attempt != _FIRST + 1:
                continue
            said = f"  ... {left_out} more attempts ..."
        rows.append(Row(_time(event.time), str(event.activation), event.label, said, number))
    if len(rows) > _MOST_LINES:
        cut = len(rows) - _MOST_LINES
        rows[_MOST_LINES // 2 : -_MOST_LINES // 2] = [Row("", "", "", f"... {cut} more ...")]
    return rows


def timeline(trace: Sequence[TraceEvent], calls: Sequence[Call], ending: str = "") -> str:
    """Return what happened in a run, one line for each event that a person wants to see, and one for how it ended."""
    rows = rows_of(trace, calls)
    wide = max((len(row.when) for row in rows), default=4)
    label = max((len(row.label) for row in rows), default=8)
    lines = [f"{'time':>{max(wide, 4)}}  task"]
    last = ""
    for row in rows:
        when = row.when if row.when != last else ""
        lines.append(f"{when:>{max(wide, 4)}}  {row.task:>4}  {row.label:<{label}}  {row.said}".rstrip())
        last = row.when
    if ending:
        lines.append(ending)
    return "\n".join(lines)


class _Tried:
    """Finds the attempt behind an event that says how one has ended; the events have to be asked about in order."""

    def __init__(self, calls: Sequence[Call]) -> None:
        ended = [(attempt, call) for call in calls for attempt in call.attempts if not attempt.late]
        ended.sort(key=lambda each: (each[0].ended_order is None, each[0].ended_order))
        self._left: dict[tuple[str, int], list[tuple[Call, Attempt]]] = {}
        for attempt, call in ended:
            self._left.setdefault((call.label, attempt.number), []).append((call, attempt))

    def of(self, event: TraceEvent) -> tuple[Call, Attempt] | tuple[None, None]:
        """Return the call and the attempt; the calls of one label end one by one."""
        left = self._left.get((event.label, event.attempt or 1))
        if not left:
            return None, None
        return left.pop(0) if len(left) > 1 else left[0]


def _said(event: TraceEvent, tried: _Tried) -> str:
    word = _WORDS.get(event.kind, event.kind)
    if event.kind == "completed":
        call, attempt = tried.of(event)
        phase = call.phase if call is not None and attempt is not None and attempt.ran else None
        word = {"do": "+ applied", "undo": "- undone", "push": "- undone"}.get(phase or "", "  done")
    elif event.kind == "by_hand":
        word = f"- {word}"
    elif event.kind in _FAULTS:
        word = f"! {word}"
    elif event.kind in _BAD:
        word = f"x {word}{_whether_it_ran(event, tried)}"
    else:
        word = f"  {word}"
    if event.kind in ("cancel", "cancel_with", "cancel_scope", "restart", "slow_worker"):
        word += f" (at={event.activation + 1})"
    again = f" (attempt {event.attempt})" if (event.attempt or 1) > 1 and event.kind != "retrying" else ""
    return f"{word}{again}: {event.detail}" if event.detail else f"{word}{again}"


def _whether_it_ran(event: TraceEvent, tried: _Tried) -> str:
    """Say it where the error does not: a function that raised by itself has told."""
    _, attempt = tried.of(event)
    if attempt is None:
        return ""
    if attempt.ran:
        return " (its function had run)"
    if attempt.outcome.startswith(f"failed: {FAILURE_TYPE}"):
        return " (its function had not run)"
    return " (its function had not returned)" if event.kind == "timed_out" else ""


def _time(time: timedelta) -> str:
    """Return a time since the start, in the units that matter: +0s, +1.5s, +2m30s, +7d."""
    seconds = time.total_seconds()
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{int(value)}{unit}" for value, unit in ((days, "d"), (hours, "h"), (minutes, "m")) if value]
    if rest or not parts:
        parts.append(f"{rest:.3f}".rstrip("0").rstrip(".") + "s")
    return "+" + "".join(parts)
