"""What went wrong and what was tried as one page of HTML: nothing to load, light and dark, and no wider than a phone.

`page` is the frame and the style, and `figure` a run, for whatever shows pictures of lanes. `page_of` fills a page with
explorations, which it gets as plain data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from temporal_saga._picture import COLORS, Drawing, Mark, legend_of, picture, symbol

from ._coverage import WORKFLOW, Coverage, Tally, count_of

_TONES = """
:root {
  --soft: #f3f5f7; --link: #0b5fb0; --held-back: #e3f3e8; --violated-back: #fbe3e1; --untried-back: #fdf1d3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --soft: #1f242a; --link: #7db7f2; --held-back: #17331f; --violated-back: #4a1f1d; --untried-back: #3f330f;
  }
}
"""

_STYLE = (
    COLORS
    + _TONES
    + """* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.25rem 1rem 4rem; max-width: 62rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.25rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p, ul { margin: .4rem 0; }
ul { padding-left: 1.2rem; }
a { color: var(--link); }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
.quiet { color: var(--quiet); font-size: .9rem; }
.verdict { font-weight: 600; }
.verdict.held { color: var(--closed-well); }
.verdict.violated { color: var(--closed-badly); }
.scroll { overflow-x: auto; max-width: 100%; }
.card { border: 1px solid var(--line); border-radius: 8px; margin: 1rem 0; padding: .75rem .9rem; }
.card > :first-child { margin-top: 0; }
code, pre { font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { background: var(--soft); border-radius: 4px; padding: .1em .3em; }
pre { background: var(--soft); border-radius: 6px; margin: .5rem 0; padding: .6rem .75rem; overflow-x: auto; }
pre code { background: none; padding: 0; }
pre.wrap { white-space: pre-wrap; }
table { border-collapse: separate; border-spacing: 2px; font-size: .82rem; }
th {
  color: var(--quiet); font-weight: 500; line-height: 1.25; overflow-wrap: normal; padding: .2rem .4rem;
  text-align: center; vertical-align: bottom;
}
tbody th { background: var(--back); color: var(--text); left: 0; position: sticky; text-align: left; }
tbody th span { display: inline-block; max-width: 9rem; overflow-wrap: anywhere; width: max-content; }
td small { color: var(--quiet); font-size: 1em; }
td { border-radius: 4px; min-width: 3.1rem; padding: .25rem .4rem; text-align: center; white-space: nowrap; }
td.held { background: var(--held-back); }
td.violated { background: var(--violated-back); font-weight: 600; }
td.untried { background: var(--untried-back); }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1rem; list-style: none; margin: .75rem 0; padding: 0; }
.legend li { align-items: center; display: inline-flex; font-size: .82rem; gap: .35rem; }
.legend td, .swatch { border-radius: 3px; display: inline-block; height: .9rem; width: 1.4rem; }
.swatch.held { background: var(--held-back); outline: 1px solid var(--closed-well); }
.swatch.violated { background: var(--violated-back); outline: 1px solid var(--closed-badly); }
.swatch.untried { background: var(--untried-back); outline: 1px solid var(--cancelled); }
figure { margin: .75rem 0; }
svg.lanes { display: block; }
svg.symbol { flex: none; }
ol.events { font-size: .85rem; list-style: none; margin: .5rem 0; padding: 0; }
ol.events li { align-items: start; border-top: 1px solid var(--line); display: grid; gap: 0 .5rem; padding: .25rem 0;
  grid-template-columns: 1.6rem 22px 4.2rem 1fr; }
ol.events b { font-weight: 600; }
ol.events .number, ol.events .when { color: var(--quiet); font-variant-numeric: tabular-nums; }
summary { cursor: pointer; }
"""
)


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page: a title, and parts of a body that are HTML already."""
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
    )
    return f"{head}{''.join(body)}\n</body></html>\n"


def picture_file(drawing: Drawing) -> str:
    """Return a picture as a file of its own, light and dark."""
    return f"{picture(drawing, COLORS)}\n"


def figure(drawing: Drawing) -> str:
    """Return a picture of lanes that scrolls by itself where it is wider than the page, and its events as a list."""
    events = "".join(_event(number, mark) for number, mark in enumerate(drawing.marks, 1))
    listed = f"<details open><summary>The {count_of(len(drawing.marks), 'event')} in words</summary>"
    shown = f'<figure><div class="scroll" tabindex="0">{picture(drawing)}</div></figure>'
    return f'{shown}{legend(drawing)}{listed}<ol class="events">{events}</ol></details>'


def _event(number: int, mark: Mark) -> str:
    return (
        f'<li><span class="number">{number}</span>{symbol(mark.shape, ran=mark.ran)}'
        f'<span class="when">{escape(mark.when)}</span>'
        f"<span><b>{escape(mark.name)}</b> {escape(mark.said)}</span></li>"
    )


def legend(drawing: Drawing) -> str:
    """Return what the shapes of a picture mean."""
    shapes = "".join(f"<li>{shape}{escape(means)}</li>" for shape, means in legend_of(drawing))
    return f'<ul class="legend" aria-label="shapes">{shapes}</ul>'


@dataclass(frozen=True)
class Finding:
    """What one bug may explain.

    Attributes:
        title: What it is called.
        kind: What is wrong, in two or three words.
        message: In a sentence.
        plan: The faults that show it, as they are written.
        timeline: What happened, as text.
        drawing: What happened, as lanes with marks.
        line: The call that shows it again.
        others: What else it may explain: kind, message and plan of each.
    """

    title: str
    kind: str
    message: str
    plan: str
    timeline: str
    drawing: Drawing
    line: str
    others: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Chapter:
    """An exploration: its title, how much was tried and found in a line, the table if there is one, and the rest."""

    title: str
    summary: str
    coverage: Coverage | None = None
    remarks: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def page_of(chapters: Sequence[Chapter], title: str = "") -> str:
    """Return explorations as a page."""
    broken = sum(bool(each.findings) for each in chapters)
    title = title or (chapters[0].title if len(chapters) == 1 else "Explorations")
    parts = [f"<h1>{escape(title)}</h1>"]
    if len(chapters) > 1:
        found = f"{broken} of {len(chapters)} with violations" if broken else f"{len(chapters)}, no violation"
        parts.append(f'<p class="verdict {"violated" if broken else "held"}">{found}</p>')
    for number, chapter in enumerate(chapters):
        parts.append("<section>" if len(chapters) > 1 else "<div>")
        if len(chapters) > 1:
            parts.append(f"<h2>{escape(chapter.title)}</h2>")
        parts += _chapter(chapter, number)
        parts.append("</section>" if len(chapters) > 1 else "</div>")
    return page(title, parts)


def _chapter(chapter: Chapter, number: int) -> list[str]:
    verdict = "violated" if chapter.findings else "held"
    parts = [f'<p class="verdict {verdict}">{escape(chapter.summary)}</p>']
    if chapter.findings:
        parts.append("<h3>What is wrong</h3><ul>")
        parts += [
            f'<li><a href="#finding-{number}-{place}">{escape(found.title)}</a>: {escape(found.message)}</li>'
            for place, found in enumerate(chapter.findings)
        ]
        parts.append("</ul>")
    if chapter.coverage is not None:
        parts.append("<h3>What was tried</h3>")
        parts += _coverage(chapter.coverage)
    if chapter.remarks:
        remarks = "".join(f"<li>{escape(remark)}</li>" for remark in chapter.remarks)
        summary = "<summary>What was left out, and why</summary>"
        parts.append(f'<details class="quiet">{summary}<ul>{remarks}</ul></details>')
    for place, found in enumerate(chapter.findings):
        parts += _finding(found, f"finding-{number}-{place}", place + 1)
    return parts


def _coverage(coverage: Coverage) -> list[str]:
    steps = [row for row in coverage.rows() if row != WORKFLOW]
    return [
        _table(coverage, steps, coverage.kinds(of_workflow=False)),
        _table(coverage, [WORKFLOW], coverage.kinds(of_workflow=True)),
        _LEGEND,
        '<p class="quiet">Each plan counts where its last fault strikes.</p>',
    ]


_LEGEND = (
    '<ul class="legend"><li><span class="swatch held"></span>plans that held</li>'
    '<li><span class="swatch violated"></span>✗ broke a rule</li>'
    '<li><span class="swatch untried"></span>? not tried</li></ul>'
)


def _table(coverage: Coverage, rows: Sequence[str], kinds: Sequence[str]) -> str:
    if not kinds or not rows:
        return ""
    heads = "".join(f'<th scope="col">{escape(kind.replace("_", " "))}</th>' for kind in kinds)
    lines = [
        f'<tr><th scope="row"><span>{escape(row or "the workflow")}</span></th>'
        + "".join(_cell(coverage.cells.get((row, kind))) for kind in kinds)
        + "</tr>"
        for row in rows
    ]
    body = "".join(lines)
    table = f"<table><thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _cell(tally: Tally | None) -> str:
    if tally is None:
        return "<td></td>"
    kind = "violated" if tally.violated else "untried" if tally.untried else "held"
    said = f"{tally.held} held, {tally.violated} broke a rule, {tally.untried} not tried"
    parts = (
        f"{tally.held}" if tally.held else "",
        f"{tally.violated}\u2009✗" if tally.violated else "",
        f"<small>{tally.untried}\u2009?</small>" if tally.untried else "",
    )
    return f'<td class="{kind}" title="{said}">{" ".join(part for part in parts if part)}</td>'


def _finding(found: Finding, id: str, number: int) -> list[str]:
    parts = [
        f'<section id="{id}"><h2>{number}. {escape(found.title)}</h2>',
        f"<p><b>{escape(found.kind)}</b>: {escape(found.message)}</p>",
        f'<pre class="wrap"><code>{escape(found.plan)}</code></pre>',
        figure(found.drawing) if found.drawing.marks else "",
        f"<details><summary>The timeline as text</summary><pre>{escape(found.timeline)}</pre></details>",
        f'<p class="quiet">To run it again:</p><pre class="wrap"><code>{escape(found.line)}</code></pre>',
    ]
    if found.others:
        parts.append("<h3>What else it may explain</h3><ul>")
        parts += [
            f"<li><b>{escape(kind)}</b>: {escape(message)}<br><code>{escape(plan)}</code></li>"
            for kind, message, plan in found.others
        ]
        parts.append("</ul>")
    parts.append("</section>")
    return parts


def index_of(pages: Sequence[tuple[str, str, bool]]) -> str:
    """Return a page that leads to others: of each its address, its title, and whether it has violations."""
    broken = sum(has for _, _, has in pages)
    found = f"{broken} of {count_of(len(pages), 'test')} with violations" if broken else "no violation"
    lines = [
        f'<li><a href="{escape(address)}">{escape(title)}</a> '
        f'<span class="verdict {"violated" if has else "held"}">{"✗ violations" if has else "✓ held"}</span></li>'
        for address, title, has in sorted(pages, key=lambda each: (not each[2], each[1]))
    ]
    verdict = f'<p class="verdict {"violated" if broken else "held"}">{found}</p>'
    return page("Explorations", [f"<h1>Explorations</h1>{verdict}<ul>", *lines, "</ul>"])
