"""A picture of lanes with marks on them, as SVG text: plain data in, nothing that a page would have to load.

    lane        one for the workflow, one for each step
    bar         something under way on a lane, from one column to another
    mark        one thing that happened, in a column of its own; its shape says what, and so does its color
    column      one thing after the other; a line between two of them where time has passed

Colors are CSS variables with a fallback, so that a page can have a dark mode and the picture alone is readable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Shape = Literal[
    "applied",
    "undone",
    "failed",
    "late",
    "cancelled",
    "running",
    "fault",
    "closed well",
    "closed badly",
    "done",
    "note",
]

SHAPES: dict[Shape, str] = {
    "applied": "took effect",
    "undone": "undone",
    "failed": "failed or timed out",
    "late": "ran late",
    "cancelled": "cancelled",
    "running": "not ended",
    "fault": "a fault strikes",
    "closed well": "the run completed",
    "closed badly": "the run ended badly",
    "done": "done",
    "note": "anything else",
}
"""What each shape means, in the order of a legend."""


@dataclass(frozen=True)
class Mark:
    """One thing that happened.

    Attributes:
        lane: The number of its lane.
        shape: What happened, in kind.
        said: What happened, in words.
        when: When, in words.
        name: Of what: a call, a timer, a signal.
        ran: Whether something failed although its function had run.
        is_struck: Whether a fault of the plan made it so.
    """

    lane: int
    shape: Shape
    said: str
    when: str
    name: str = ""
    ran: bool = False
    is_struck: bool = False


@dataclass(frozen=True)
class Bar:
    """Something under way, from one column to another: half a column stands between two marks."""

    lane: int
    begin: float
    end: float
    is_undo: bool = False


@dataclass(frozen=True)
class Drawing:
    """What a picture shows.

    Attributes:
        lanes: The names of the lanes.
        marks: What happened, in its order.
        bars: What was under way.
        is_numbered: Whether the columns have numbers, for a list beside the picture.
    """

    lanes: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    bars: tuple[Bar, ...] = ()
    is_numbered: bool = True


COLORS = """
:root {
  color-scheme: light dark;
  --back: #ffffff; --text: #1b1f24; --quiet: #5b6470; --line: #d4d8de;
  --applied: #1f7a3d; --undone: #0b5fb0; --late: #b3261e; --cancelled: #7a5200; --running: #7a5200; --failed: #b3261e;
  --done: #5b6470; --note: #5b6470; --fault: #a1359c; --closed-well: #1f7a3d; --closed-badly: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #14171b; --text: #e6e9ed; --quiet: #9aa4b0; --line: #3a424c;
    --applied: #5fc985; --undone: #6cb2f5; --late: #ff8a80; --cancelled: #e0b050; --running: #e0b050; --failed: #ff8a80;
    --done: #9aa4b0; --note: #9aa4b0; --fault: #e58ae0; --closed-well: #5fc985; --closed-badly: #ff8a80;
  }
}
"""
"""The colors of a page, light and dark, as CSS."""

_LEFT, _TOP, _LANE, _R = 22, 26, 48, 8
_NARROW, _WIDE, _WIDTH = 34, 64, 720  # a column, and what all of them may take before columns get narrow

_COLORS = {
    "applied": "#1f7a3d",
    "undone": "#0b5fb0",
    "late": "#b3261e",
    "cancelled": "#7a5200",
    "running": "#7a5200",
    "failed": "#b3261e",
    "done": "#5b6470",
    "note": "#5b6470",
    "fault": "#a1359c",
    "closed well": "#1f7a3d",
    "closed badly": "#b3261e",
}


_RAN = (
    f'<circle cx="8" cy="-8" r="4" fill="var(--applied, {_COLORS["applied"]})" stroke="var(--back, #fff)" '
    'stroke-width="1.5"/>'
)


def picture(drawing: Drawing, style: str = "") -> str:
    """Return an SVG element that shows lanes with marks; with a style, it has a background and stands alone."""
    columns = len(drawing.marks)
    across = min(max(_NARROW, _WIDTH // max(columns, 1)), _WIDE)

    def x(column: float) -> float:
        return _LEFT + across * column

    longest = max((len(lane) for lane in drawing.lanes), default=0)
    width = max(_LEFT * 2 + across * max(columns - 1, 0), _LEFT + longest * 8)
    height = _TOP + _LANE * len(drawing.lanes) + 22
    what = f"{columns} events on {len(drawing.lanes)} lanes: {', '.join(drawing.lanes)}"
    head = (
        f'<svg class="lanes" role="img" aria-label="{escape(what)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif">'
    )
    alone = (
        f'<style>{style}</style><rect width="{width}" height="{height}" rx="6" fill="var(--back)"/>' if style else ""
    )
    parts = [
        head,
        alone,
        *_times(drawing.marks, height, x),
        *(_lane(number, name, width) for number, name in enumerate(drawing.lanes)),
        *(_bar(bar, x) for bar in drawing.bars),
        *(_mark(number, mark, x(number), is_numbered=drawing.is_numbered) for number, mark in enumerate(drawing.marks)),
        *(_numbers(columns, height, x) if drawing.is_numbered else ()),
        "</svg>",
    ]
    return "".join(parts)


def symbol(shape: Shape, *, ran: bool = False) -> str:
    """Return a small SVG element with one shape, for a legend or a list."""
    drawn = f"{_shape(shape)}{_RAN if ran else ''}"
    return f'<svg class="symbol" width="22" height="22" viewBox="-11 -12 24 24" aria-hidden="true">{drawn}</svg>'


def legend_of(drawing: Drawing) -> list[tuple[str, str]]:
    """Return the symbols that a picture shows, each with what it means."""
    shown = {mark.shape for mark in drawing.marks}
    if any(mark.is_struck for mark in drawing.marks):
        shown.add("fault")
    found = [(symbol(shape), means) for shape, means in SHAPES.items() if shape in shown]
    if any(mark.ran for mark in drawing.marks):
        found.append((symbol("failed", ran=True), "failed, and its function had run"))
    return found


def _y(lane: int) -> int:
    return _TOP + _LANE * lane + 30


def _times(marks: Sequence[Mark], height: int, x_of: Callable[[float], float]) -> list[str]:
    parts: list[str] = []
    last, free_from = None, -100.0
    for number, mark in enumerate(marks):
        if not mark.when or mark.when == last:
            continue
        x = x_of(number - 0.5) if number else x_of(0) - 14
        if number:
            line = f'x1="{x:g}" y1="18" x2="{x:g}" y2="{height - 20}"'
            parts.append(f'<line {line} stroke="var(--line, #d4d8de)" stroke-dasharray="2 4"/>')
        if x >= free_from:
            parts.append(
                f'<text x="{x:g}" y="12" font-size="11" fill="var(--quiet, #5b6470)">{escape(mark.when)}</text>'
            )
            free_from = x + 8 + 7 * len(mark.when)
        last = mark.when
    return parts


def _numbers(columns: int, height: int, x_of: Callable[[float], float]) -> list[str]:
    return [
        f'<text x="{x_of(number):g}" y="{height - 5}" font-size="10" text-anchor="middle" '
        f'fill="var(--quiet, #5b6470)">{number + 1}</text>'
        for number in range(columns)
    ]


def _lane(number: int, name: str, width: int) -> str:
    y = _y(number)
    label = (
        f'<text x="6" y="{y - 15}" font-size="12" font-weight="600" fill="var(--text, #1b1f24)">{escape(name)}</text>'
    )
    return f'{label}<line x1="6" y1="{y}" x2="{width - 6}" y2="{y}" stroke="var(--line, #d4d8de)" stroke-width="1.5"/>'


def _bar(bar: Bar, x_of: Callable[[float], float]) -> str:
    begin, end = x_of(bar.begin), x_of(bar.end)
    color = _color("undone" if bar.is_undo else "done")
    return (
        f'<rect x="{begin:g}" y="{_y(bar.lane) - 4}" width="{max(end - begin, 2):g}" height="8" rx="4" '
        f'fill="{color}" opacity=".28"/>'
    )


def _mark(number: int, mark: Mark, x: float, *, is_numbered: bool) -> str:
    place = f"{number + 1}." if is_numbered else ""
    said = " ".join(part for part in (place, mark.when, mark.name, mark.said) if part)
    ran = _RAN if mark.ran else ""
    struck = f'<g transform="translate(-13 -12) scale(.85)">{_shape("fault")}</g>' if mark.is_struck else ""
    at = f'transform="translate({x:g} {_y(mark.lane)})"'
    return f"<g {at}><title>{escape(said)}</title>{_shape(mark.shape)}{ran}{struck}</g>"


def _color(shape: Shape) -> str:
    return f"var(--{shape.replace(' ', '-')}, {_COLORS[shape]})"


def _shape(shape: Shape) -> str:
    """Return a shape around the origin."""
    color, back = _color(shape), "var(--back, #fff)"
    line = f'fill="none" stroke="{back}" stroke-width="2" stroke-linecap="round"'
    stroke = f'fill="{back}" stroke="{color}" stroke-width="2.2" stroke-linecap="round" stroke-linejoin="round"'
    if shape == "applied":
        return f'<circle r="{_R}" fill="{color}"/><path d="M-4 0H4M0 -4V4" {line}/>'
    if shape == "undone":
        return f'<path d="M0 -10L10 0L0 10L-10 0Z" fill="{color}"/><path d="M-4 0H4" {line}/>'
    if shape == "late":
        return f'<path d="M0 -9L10 8H-10Z" fill="{color}"/><path d="M0 -3V2M0 5.4V5.5" {line}/>'
    if shape == "cancelled":
        return f'<circle r="{_R}" {stroke}/><path d="M-5.4 5.4L5.4 -5.4" {stroke}/>'
    if shape == "running":
        return f'<circle r="{_R}" {stroke} stroke-dasharray="3 4"/>'
    if shape == "failed":
        return f'<rect x="-8" y="-8" width="16" height="16" rx="3" {stroke}/><path d="M-4 -4L4 4M4 -4L-4 4" {stroke}/>'
    if shape == "fault":
        return f'<path d="M2 -10L-6 2H0L-2 10L6 -2H0Z" fill="{color}" stroke="{back}" stroke-width="1"/>'
    if shape == "closed well":
        return f'<rect x="-8" y="-8" width="16" height="16" fill="{color}"/><path d="M-4 0L-1 3.5L4.5 -3.5" {line}/>'
    if shape == "closed badly":
        return f'<rect x="-8" y="-8" width="16" height="16" fill="{color}"/><path d="M-4 -4L4 4M4 -4L-4 4" {line}/>'
    return f'<circle r="4" fill="{back}" stroke="{color}" stroke-width="2"/>'
