"""A story as one HTML page that loads nothing: the verdict, a picture, the steps and the timeline."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from html import escape

from temporal_saga._picture import COLORS, Drawing, legend_of, picture

from ._history import Call
from ._lanes import drawing_of
from ._story import Story
from ._text import moments, title
from ._words import became, duration, effect, undoing, verdict

__all__ = ["page"]

_STYLE = (
    COLORS
    + """
:root { --panel: #f5f6f8; } @media (prefers-color-scheme: dark) { :root { --panel: #1d2126; } }
body { margin: 0 auto; padding: 24px; max-width: 1100px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 20px; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 16px; margin: 28px 0 8px; }
.quiet { color: var(--quiet); } .scroll { overflow-x: auto; }
.verdict { border-left: 4px solid var(--line); background: var(--panel); padding: 10px 14px; margin: 14px 0; }
.verdict p { margin: 2px 0; overflow-wrap: anywhere; } .verdict p:first-child { font-weight: 600; }
.good { color: var(--applied); } .busy { color: var(--cancelled); } .bad { color: var(--failed); }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: 4px 14px 4px 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 500; }
code { font: 13px/1.5 ui-monospace, monospace; white-space: nowrap; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; }
.legend span { display: inline-flex; align-items: center; gap: 6px; color: var(--quiet); font-size: 13px; }
"""
)


def page(story: Story, now: datetime) -> str:
    """Return the page."""
    body = "".join(_section(each, now, is_child=number > 0) for number, each in enumerate(story.family()))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title(story))}</title><style>{_STYLE}</style></head>\n<body>{body}"
        f'<p class="quiet">As of {now:%Y-%m-%d %H:%M:%S} UTC, by temporal-saga.</p></body></html>\n'
    )


def _section(story: Story, now: datetime, *, is_child: bool) -> str:
    head = f"{'Child workflow ' if is_child else ''}{escape(title(story))}"
    lines = "".join(
        f'<p class="{line.tone}">{escape(line.text)}</p>'
        + (f"<p><code>{escape(line.hint)}</code></p>" if line.hint else "")
        for line in verdict(story, now)
    )
    run = f"run <code>{escape(story.run_id)}</code>, since {story.started:%Y-%m-%d %H:%M:%S} UTC"
    parts = [
        f"<h{1 + is_child}>{head}</h{1 + is_child}>",
        f'<div class="quiet">{run}</div>',
        f'<div class="verdict">{lines}</div>',
    ]
    if story.steps:
        drawing = drawing_of(story, now)
        parts += [
            f'<div class="scroll">{picture(drawing)}</div>{_legend(drawing)}',
            "<h2>Steps</h2>",
            _table(("step", "effect", "undo", "key"), _steps(story, now)),
            "<h2>Timeline</h2>",
            _table(("time", "", "what", ""), _timeline(story, now)),
        ]
    parts += [f'<p class="quiet">{escape(note)}</p>' for note in story.notes]
    return "".join(parts)


def _legend(drawing: Drawing) -> str:
    shapes = "".join(f"<span>{shape}{escape(meaning)}</span>" for shape, meaning in legend_of(drawing))
    return f'<div class="legend">{shapes}</div>'


def _steps(story: Story, now: datetime) -> Iterable[Iterable[str]]:
    for step in story.steps:
        texts = (step.name, effect(step), undoing(step, story, now))
        yield (*map(escape, texts), f"<code>{escape(step.key)}</code>")


def _timeline(story: Story, now: datetime) -> Iterable[Iterable[str]]:
    for at, item in moments(story):
        since = f"+{duration(at - story.started)}"
        if isinstance(item, Call):
            what = item.step if item.target == item.step else f"{item.step} ({item.target})"
            yield (since, item.phase, escape(what), escape(became(item, now)))
        else:
            yield (since, "", f"<em>{escape(item.text)}</em>", "")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    first = "".join(f"<th>{cell}</th>" for cell in head)
    rest = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{first}</tr>{rest}</table></div>'
