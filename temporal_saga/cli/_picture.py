"""A story as lanes, as SVG text: one lane for the workflow, one for each step, with its undo on the same lane.

    column      one thing after the other: a call begins, a call ends, something happens
    bar         a call, from its beginning to its end
    mark        what happened; its shape says what, and so does its color

Colors are CSS variables with a fallback, so that a page can have a dark mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Literal

from ._history import Call
from ._story import Step, Story
from ._words import became, duration

__all__ = ["LEGEND", "picture", "symbol"]

Shape = Literal["applied", "undone", "failed", "cancelled", "running", "closed", "note"]

LEGEND: dict[Shape, str] = {
    "applied": "took effect",
    "undone": "undone",
    "failed": "failed or timed out",
    "cancelled": "cancelled or cut off",
    "running": "not ended",
    "closed": "the workflow has ended",
    "note": "anything else",
}
"""What each shape means, in the order of a legend."""

_LEFT, _COLUMN, _TOP, _LANE = 22, 40, 30, 46
_MOST_LANES = 200
_COLORS: dict[Shape, str] = {
    "applied": "#1f7a3d",
    "undone": "#0b5fb0",
    "failed": "#b3261e",
    "cancelled": "#7a5200",
    "running": "#7a5200",
    "closed": "#5b6470",
    "note": "#5b6470",
}


@dataclass(frozen=True)
class _Mark:
    at: datetime
    lane: int
    shape: Shape
    said: str
    call: Call | None = None


def picture(story: Story, now: datetime) -> str:
    """Return an SVG element."""
    steps = story.steps[:_MOST_LANES]
    marks = sorted(_marks(story, steps, now), key=lambda mark: mark.at)
    width = max(_LEFT * 2 + _COLUMN * len(marks), _LEFT * 2 + 9 * max((len(step.name) for step in steps), default=8))
    height = _TOP + _LANE * (len(steps) + 1) + 8
    names = ["workflow", *(step.name for step in steps)]
    head = (
        f'<svg class="lanes" role="img" aria-label="{len(steps)} steps and what became of them" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" '
        'font-family="system-ui, sans-serif">'
    )
    parts = _times(story.started, marks, height)
    parts += [_lane(number, name, width) for number, name in enumerate(names)]
    parts += [_bar(column, marks, now) for column, mark in enumerate(marks) if mark.call]
    parts += [_drawn(column, mark) for column, mark in enumerate(marks) if mark.said]
    return "".join([head, *parts, "</svg>"])


def symbol(shape: Shape) -> str:
    """Return a small SVG element with one shape, for a legend."""
    return f'<svg width="20" height="20" viewBox="-11 -11 22 22" aria-hidden="true">{_shape(shape)}</svg>'


def _marks(story: Story, steps: Sequence[Step], now: datetime) -> list[_Mark]:
    """Return a mark for what happened; one with a call, and nothing said, for where a call begins."""
    marks = [_Mark(story.started, 0, "note", "the workflow starts")]
    marks += [_Mark(mark.at, 0, "note", mark.text) for mark in story.marks]
    if story.ended is not None:
        marks.append(_Mark(story.ended, 0, "closed", f"workflow: {story.status.lower().replace('_', ' ')}"))
    for lane, step in enumerate(steps, 1):
        for call in step.calls:
            marks.append(_Mark(call.scheduled, lane, "note", "", call))
            end = call.ended or (now if story.ended is None else max(story.ended, call.scheduled))
            what = "" if call.phase == "do" else "undo "
            marks.append(_Mark(end, lane, _shape_of(call), f"{what}{step.name} ({call.target}): {became(call, now)}"))
    return marks


def _shape_of(call: Call) -> Shape:
    if call.end == "RUNNING":
        return "failed" if call.pending is not None and call.pending.failures else "running"
    if call.end == "COMPLETED":
        return "applied" if call.phase == "do" else "undone"
    return "cancelled" if call.end in ("CANCELED", "TERMINATED") else "failed"


def _x(column: float) -> float:
    return _LEFT + _COLUMN * (column + 0.5)


def _y(lane: int) -> int:
    return _TOP + _LANE * lane + 28


def _times(started: datetime, marks: Sequence[_Mark], height: int) -> list[str]:
    parts: list[str] = []
    free_from, last = 0.0, ""
    for column, mark in enumerate(marks):
        x, text = _x(column), f"+{duration(mark.at - started)}"
        if x < free_from or text == last:
            continue
        parts.append(
            f'<line x1="{x:g}" y1="18" x2="{x:g}" y2="{height - 6}" stroke="var(--line, #d4d8de)" '
            'stroke-dasharray="2 4"/>'
            f'<text x="{x:g}" y="13" font-size="11" text-anchor="middle" fill="var(--quiet, #5b6470)">{text}</text>'
        )
        free_from, last = x + 12 + 7 * len(text), text
    return parts


def _lane(number: int, name: str, width: int) -> str:
    y = _y(number)
    return (
        f'<text x="6" y="{y - 14}" font-size="12" font-weight="600" fill="var(--text, #1b1f24)">{escape(name)}</text>'
        f'<line x1="6" y1="{y}" x2="{width - 6}" y2="{y}" stroke="var(--line, #d4d8de)" stroke-width="1.5"/>'
    )


def _bar(column: int, marks: Sequence[_Mark], now: datetime) -> str:
    mark = marks[column]
    assert mark.call is not None
    said = f"({mark.call.target}): {became(mark.call, now)}"
    ends = (
        at for at, other in enumerate(marks) if at > column and other.lane == mark.lane and other.said.endswith(said)
    )
    begin, end = _x(column), _x(next(ends, column))
    color = _color("undone" if mark.call.phase != "do" else "note")
    return (
        f'<rect x="{begin:g}" y="{_y(mark.lane) - 4}" width="{max(end - begin, 4):g}" height="8" rx="4" '
        f'fill="{color}" opacity=".3"/>'
    )


def _drawn(column: int, mark: _Mark) -> str:
    place = f'transform="translate({_x(column):g} {_y(mark.lane)})"'
    return f"<g {place}><title>{escape(mark.said)}</title>{_shape(mark.shape)}</g>"


def _color(shape: Shape) -> str:
    return f"var(--{shape}, {_COLORS[shape]})"


def _shape(shape: Shape) -> str:
    """Return a shape around the origin."""
    color, back = _color(shape), "var(--back, #fff)"
    line = f'fill="none" stroke="{back}" stroke-width="2" stroke-linecap="round"'
    stroke = f'fill="{back}" stroke="{color}" stroke-width="2.2" stroke-linecap="round" stroke-linejoin="round"'
    if shape == "applied":
        return f'<circle r="8" fill="{color}"/><path d="M-4 0H4M0 -4V4" {line}/>'
    if shape == "undone":
        return f'<path d="M0 -10L10 0L0 10L-10 0Z" fill="{color}"/><path d="M-4 0H4" {line}/>'
    if shape == "failed":
        return f'<rect x="-8" y="-8" width="16" height="16" rx="3" {stroke}/><path d="M-4 -4L4 4M4 -4L-4 4" {stroke}/>'
    if shape == "cancelled":
        return f'<circle r="8" {stroke}/><path d="M-5.4 5.4L5.4 -5.4" {stroke}/>'
    if shape == "running":
        return f'<circle r="8" {stroke} stroke-dasharray="3 4"/>'
    if shape == "closed":
        return f'<rect x="-7" y="-7" width="14" height="14" fill="{color}"/>'
    return f'<circle r="4" {stroke}/>'
