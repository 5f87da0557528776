"""The record as a table: plain columns, or Markdown, also in place of the one that a file quotes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.idioms.record import IDIOMS, PROVIDERS, STORIES, Count, Provider, Story

Cell = tuple[str, Story, Provider]
"""An idiom, a story and a provider."""

COLUMNS: list[tuple[Story, Provider]] = [(story, provider) for story in STORIES for provider in PROVIDERS]


def heading(depth: int) -> str:
    """Say what a table counts."""
    return f"up to {depth} {'fault' if depth == 1 else 'faults'} at once"


def rows(counts: Mapping[Cell, Count], names: Sequence[str], depth: int) -> list[list[str]]:
    """Return the table's cells, its header first."""
    header = [heading(depth), *[f"{story}, {provider}" for story, provider in COLUMNS]]
    return [header, *[[IDIOMS[name].title, *[str(counts[name, story, by]) for story, by in COLUMNS]] for name in names]]


def plain(table: list[list[str]]) -> str:
    """Return the table in columns."""
    texts = [[cell.replace("`", "") for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines: list[str] = []
    for first, *others in texts:
        aligned = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("   ".join([f"{first:<{widths[0]}}", *aligned]))
    return "\n".join(lines)


def markdown(table: list[list[str]]) -> str:
    """Return the table as Markdown."""
    header, *others = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([header, "|---|" + "---:|" * (len(table[0]) - 1), *others])


def quoted(text: str, depth: int) -> str:
    """Return the table of a depth that a page quotes; empty if it quotes none."""
    found = _place(depth).search(text)
    return found.group(1).rstrip("\n") if found else ""


def write(path: Path, tables: Mapping[int, str]) -> None:
    """Put the tables, by their depths, in place of those that a page quotes."""
    text = path.read_text("utf-8")
    for depth, table in tables.items():
        found = _place(depth).search(text)
        if found:
            text = text[: found.start(1)] + table + "\n" + text[found.end(1) :]
    path.write_text(text, "utf-8")


def _place(depth: int) -> re.Pattern[str]:
    return re.compile(rf"<!-- make idioms: {depth} -->\n(.*?)<!-- end -->", re.DOTALL)
