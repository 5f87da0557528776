"""A story as text for a terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ._history import Call, Mark
from ._look import Kind
from ._story import Story
from ._words import Line, became, duration, effect, undoing, verdict

__all__ = [
    "as_json",
    "cell",
    "console",
    "list_as_json",
    "moments",
    "printable",
    "say",
    "show",
    "styled",
    "table",
    "title",
    "whole",
]

_STYLES = {"good": "green", "busy": "yellow", "bad": "bold red", "plain": ""}
_CLOSED = {
    "COMPLETED": "the workflow has completed",
    "FAILED": "the workflow has failed",
    "CANCELED": "the workflow has ended as canceled",
    "TERMINATED": "the workflow is terminated",
    "TIMED_OUT": "the workflow has timed out",
    "CONTINUED_AS_NEW": "the workflow continues in a new run",
}
_NARROW = 100  # a key takes 36 columns: on a narrower terminal it goes under its step
_WIDE = 1000  # if the output is not a terminal: a key that is broken in two cannot be copied


def console(*, stderr: bool = False) -> Console:
    """Return a console. If it is not a terminal, it does not break lines."""
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = _WIDE
    return made


def say(out: Console, text: str, style: str = "") -> None:
    """Write a line without breaking it."""
    out.print(cell(text, style), soft_wrap=True)


def printable(text: str) -> str:
    """Return a text with its control characters escaped: ids and names may come from anyone."""
    return "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text)


def cell(text: str, style: str = "") -> Text:
    """Return a text in one line, with its control characters escaped."""
    return Text(printable(text).replace("\n", "\\n"), style)


def table(out: Console, content: RenderableType) -> None:
    """Write columns. If the output is not a terminal, drop the spaces at the ends of lines."""
    if out.is_terminal:
        out.print(content)
        return
    with out.capture() as captured:
        out.print(content)
    for line in captured.get().splitlines():
        say(out, line.rstrip())


def whole(rows: Table) -> None:
    """Let a narrow terminal break a name in two: what is cut off is lost."""
    for column in rows.columns:
        column.overflow = "fold"


def styled(line: Line) -> Text:
    """Return a line of a verdict in its color."""
    text = cell(line.text, _STYLES[line.tone])
    return text.append("\n  ").append_text(cell(line.hint, "not bold")) if line.hint else text


def title(story: Story) -> str:
    """Name a workflow."""
    return f"{story.workflow_id} ({story.type})"


def show(out: Console, story: Story, now: datetime) -> None:
    """Write a story, and those of its children."""
    for number, each in enumerate(story.family()):
        if number:
            out.print()
        what = "Child workflow " if number else ""
        out.print(cell(f"{what}{title(each)}", "bold"), cell(f"run {each.run_id}", "dim"), soft_wrap=True)
        for line in verdict(each, now):
            out.print(styled(line), soft_wrap=True)
        if each.steps:
            steps = _steps(each, now) if out.width >= _NARROW else _narrow_steps(each, now)
            table(out, Padding(Group("", steps, "", _timeline(each, now)), (0, 0, 0, 2)))
        for note in _notes(each):
            say(out, note, "dim")


def _notes(story: Story) -> Iterable[str]:
    if any(undoing(step, story, story.started) == "not yet" and step.undo_state is None for step in story.steps):
        yield "not yet: before an undo begins, the history does not show whether the step has one."
    if story.others:
        what = "activity or child is not a step" if story.others == 1 else "activities or children are not steps"
        yield f"{story.others} more {what} of a saga."
    yield from story.notes


def _steps(story: Story, now: datetime) -> RenderableType:
    rows = Table("step", "effect", "undo", "key", box=None, padding=(0, 2, 0, 0), header_style="dim")
    whole(rows)
    rows.columns[3].no_wrap = True
    for step in story.steps:
        bad = step.undo_state in ("FAILED", "PARKED", "GIVEN_UP", "CUT_OFF") or step.state == "PARKED"
        style = "red" if bad else "green" if step.undone else ""
        rows.add_row(cell(step.name), cell(effect(step)), cell(undoing(step, story, now), style), cell(step.key, "dim"))
    return rows


def _narrow_steps(story: Story, now: datetime) -> RenderableType:
    lines: list[Text] = []
    for step in story.steps:
        lines += [cell(f"{step.name}: {effect(step)}; undo: {undoing(step, story, now)}"), cell(f"  {step.key}", "dim")]
    return Group(*lines)


def _timeline(story: Story, now: datetime) -> RenderableType:
    rows = Table("time", "", "what", "", box=None, padding=(0, 2, 0, 0), header_style="dim")
    whole(rows)
    rows.columns[0].justify = "right"
    for at, item in moments(story):
        since = cell(f"+{duration(at - story.started)}", "dim")
        if isinstance(item, Call):
            bad = item.end not in ("COMPLETED", "RUNNING") or (item.pending is not None and item.pending.failures > 0)
            by = f" ({item.target})" if item.target != item.step else ""
            rows.add_row(since, item.phase, cell(f"{item.step}{by}"), cell(became(item, now), "red" if bad else ""))
        else:
            rows.add_row(since, "", cell(item.text, "italic"), "")
    return Group(cell(f"{story.started:%Y-%m-%d %H:%M:%S} UTC", "dim"), rows)


def moments(story: Story) -> list[tuple[datetime, Call | Mark]]:
    """Return what happened, in order."""
    found: list[tuple[datetime, Call | Mark]] = [(call.scheduled, call) for step in story.steps for call in step.calls]
    found += [(mark.at, mark) for mark in story.marks]
    if story.ended is not None:
        found.append((story.ended, Mark(story.ended, _CLOSED.get(story.status, "the workflow has ended"))))
    return sorted(found, key=lambda each: each[0])


def as_json(story: Story, now: datetime) -> str:
    """Return a story as JSON."""
    return json.dumps(_story(story, now), indent=2, default=_encode)


def list_as_json(stories: Iterable[tuple[list[Kind], Story]], now: datetime) -> str:
    """Return a work list as JSON."""
    found = [
        {
            "kinds": kinds,
            "workflow_id": story.workflow_id,
            "run_id": story.run_id,
            "type": story.type,
            "status": story.status,
            "state": story.state,
            "started": story.started,
            "verdict": [" ".join(filter(None, (line.text, line.hint))) for line in verdict(story, now)],
            "standing": [step.id for step in story.standing],
        }
        for kinds, story in stories
    ]
    return json.dumps(found, indent=2, default=_encode)


def _story(story: Story, now: datetime) -> dict[str, Any]:
    return {
        "version": 1,
        "workflow_id": story.workflow_id,
        "run_id": story.run_id,
        "runs": story.runs,
        "type": story.type,
        "status": story.status,
        "state": story.state,
        "error": story.error,
        "started": story.started,
        "ended": story.ended,
        "verdict": [" ".join(filter(None, (line.text, line.hint))) for line in verdict(story, now)],
        "workflow_task": None if story.trouble is None else asdict(story.trouble),
        "steps": [
            {
                "name": step.name,
                "key": step.key,
                "do": step.target,
                "state": step.state,
                "error": step.error,
                "undo": step.undo,
                "undo_state": step.undo_state,
                "who": step.who,
                "stands": step.stands,
                "calls": [asdict(call) for call in step.calls],
            }
            for step in story.steps
        ],
        "marks": [asdict(mark) for mark in story.marks],
        "children": [_story(child, now) for child in story.children],
        "notes": story.notes,
    }


def _encode(value: object) -> str:
    assert isinstance(value, datetime), type(value)
    return value.isoformat()
