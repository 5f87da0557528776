"""A story as lanes and marks: one lane for the workflow, one for each step, its undo on the same."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import datetime

from temporal_saga._picture import Bar, Drawing, Mark, Shape

from ._history import Call
from ._story import Story
from ._words import became, duration

__all__ = ["drawing_of"]

_MOST_LANES = 200


def drawing_of(story: Story, now: datetime) -> Drawing:
    """Return a story as lanes and marks."""
    moments = sorted(_moments(story, now), key=lambda moment: moment[0])
    times = [at for at, _, _ in moments]
    bars = [
        Bar(mark.lane, min(bisect_right(times, call.scheduled), column) - 0.5, column, call.phase != "do")
        for column, (_, mark, call) in enumerate(moments)
        if call is not None
    ]
    names = [step.name for step in story.steps[:_MOST_LANES]]
    return Drawing(("workflow", *names), tuple(mark for _, mark, _ in moments), tuple(bars), is_numbered=False)


def _moments(story: Story, now: datetime) -> Iterator[tuple[datetime, Mark, Call | None]]:
    """Yield what happened, each with its call, if it is the end of one."""

    def when(at: datetime) -> str:
        return f"+{duration(at - story.started)}"

    yield story.started, Mark(0, "note", "the workflow starts", when(story.started)), None
    for mark in story.marks:
        yield mark.at, Mark(0, "note", mark.text, when(mark.at)), None
    if story.ended is not None:
        shape: Shape = "closed well" if story.status in ("COMPLETED", "CONTINUED_AS_NEW") else "closed badly"
        status = story.status.lower().replace("_", " ")
        yield story.ended, Mark(0, shape, status, when(story.ended), "workflow:"), None
    for lane, step in enumerate(story.steps[:_MOST_LANES], 1):
        for call in step.calls:
            end = call.ended or (now if story.ended is None else max(story.ended, call.scheduled))
            what = f"{'' if call.phase == 'do' else 'undo '}{step.name} ({call.target}):"
            yield end, Mark(lane, _shape_of(call), became(call, now), when(end), what), call


def _shape_of(call: Call) -> Shape:
    if call.end == "RUNNING":
        return "failed" if call.pending is not None and call.pending.failures else "running"
    if call.end == "COMPLETED":
        return "applied" if call.phase == "do" else "undone"
    return "cancelled" if call.end in ("CANCELED", "TERMINATED") else "failed"
