"""A run as lanes and marks: one lane for the workflow, one for each step, its undo on the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from temporal_saga._picture import Bar, Drawing, Mark, Shape
from temporal_saga.testing.simulator import ActivityFault, Fault, Row, Simulation, TraceEvent, rows_of

_SHAPES: Mapping[str, Shape] = {
    "failed": "failed",
    "timed_out": "failed",
    "retrying": "failed",
    "cancelled": "cancelled",
    "late": "late",
    "again": "late",
    "cancel": "fault",
    "cancel_with": "fault",
    "cancel_scope": "fault",
    "restart": "fault",
    "slow_worker": "fault",
    "bug": "fault",
    "task_failed": "failed",
    "decision": "fault",
    "by_hand": "undone",
}
_ENDS = frozenset({"completed", "failed", "timed_out", "retrying", "cancelled"})


def drawing_of(simulation: Simulation[Any]) -> Drawing:
    """Return a run as lanes and marks."""
    trace = simulation.trace
    rows = rows_of(trace, simulation.calls)
    phases = {call.label: call.phase for call in simulation.calls}
    ran = {
        (call.label, attempt.number)
        for call in simulation.calls
        for attempt in call.attempts
        if attempt.ran and not attempt.late
    }
    steps = list(dict.fromkeys(step_of_label(call.label) for call in simulation.calls))
    lane_of = {name: number for number, name in enumerate(steps, 1)}

    def lane(label: str) -> int:
        return lane_of[step_of_label(label)] if label in phases else 0

    marks = [_mark(row, trace, lane(row.label), phases.get(row.label), ran) for row in rows]
    for number in _struck(simulation.faults, rows, trace):
        marks[number] = replace(marks[number], is_struck=True)
    bars = [
        Bar(lane(event.label), begin, end, phases[event.label] in ("undo", "push"))
        for begin, end, event in _bars(rows, trace)
        if event.label in phases
    ]
    return Drawing(("workflow", *steps), tuple(marks), tuple(bars))


def step_of_label(label: str) -> str:
    """Return the step that a label is of: that of its undo, too."""
    return label.removesuffix(":undo").removesuffix(":push")


def _mark(row: Row, trace: list[TraceEvent], lane: int, phase: str | None, ran: set[tuple[str, int]]) -> Mark:
    said = row.said.strip().lstrip("+-x! ").strip()
    if row.number is None:
        return Mark(0, "note", said, "")
    event = trace[row.number]
    has_run = (event.label, event.attempt or 1) in ran
    shape: Shape = _SHAPES.get(event.kind, "note")
    if event.kind == "completed":
        shape = "done" if not has_run or phase is None else "applied" if phase == "do" else "undone"
    elif event.kind == "closed" and lane == 0:
        shape = "closed well" if event.detail == "completed" else "closed badly"
    return Mark(
        lane,
        shape,
        said,
        row.when,
        row.label,
        shape in ("failed", "cancelled") and event.attempt is not None and has_run,
    )


def _struck(faults: Sequence[Fault], rows: Sequence[Row], trace: Sequence[TraceEvent]) -> Iterator[int]:
    """Yield the columns in which a fault of a call shows: the end of its first attempt, or what came late."""
    shown: dict[tuple[str, bool], list[int]] = {}
    for column, row in enumerate(rows):
        event = trace[row.number] if row.number is not None else None
        if event is not None and (event.kind == "again" or (event.kind in _ENDS and event.attempt == 1)):
            shown.setdefault((event.label, event.kind == "again"), []).append(column)
    for fault in faults:
        if isinstance(fault, ActivityFault) and fault.kind != "decision":  # that has a mark of its own
            again = fault.kind in ("delivered_twice", "delivered_late")
            columns = shown.get((fault.label, again), [])
            yield from columns[:1] if again else columns[fault.nth - 1 : fault.nth]


def _bars(rows: list[Row], trace: list[TraceEvent]) -> list[tuple[float, float, TraceEvent]]:
    """Return where each attempt begins and ends, in columns: it begins between two marks."""
    column = {row.number: place for place, row in enumerate(rows)}
    bars: list[tuple[float, float, TraceEvent]] = []
    shown = 0
    for number, event in enumerate(trace):
        if number in column:
            shown = column[number] + 1
        if event.kind != "attempt":
            continue
        ends = (
            place
            for place, row in enumerate(rows[shown:], shown)
            if row.number is not None and _is_end(trace[row.number], event)
        )
        end = next(ends, None)
        if end is not None:
            bars.append((shown - 0.6, end, event))
    return bars


def _is_end(event: TraceEvent, attempt: TraceEvent) -> bool:
    return event.kind in _ENDS and (event.label, event.attempt) == (attempt.label, attempt.attempt)
