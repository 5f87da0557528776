"""What plans have covered: steps by faults.

A plan counts for its last fault. The plan without it has held, or nothing would have been added to it: so the last
fault is what made the difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ._plans import KINDS

WORKFLOW = ""
"""The row of the faults that strike the workflow, and no call."""


@dataclass
class Tally:
    """How many plans that end with one fault held, broke a rule, or did not run."""

    held: int = 0
    violated: int = 0
    untried: int = 0

    def __str__(self) -> str:
        parts = (f"{self.held or ''}", f"{self.violated}x" if self.violated else "")
        return " ".join(part for part in (*parts, f"{self.untried}?" if self.untried else "") if part)


@dataclass
class Coverage:
    """The tallies, by what was struck and by the kind of fault.

    Attributes:
        cells: By the label of a call (`"withdraw"`, `"withdraw:undo"`) and the kind; the workflow's label is empty.
        labels: The labels, in the order in which runs came to them.
    """

    cells: dict[tuple[str, str], Tally] = field(default_factory=lambda: dict[tuple[str, str], Tally]())
    labels: dict[str, None] = field(default_factory=lambda: dict[str, None]())

    def at(self, label: str, kind: str) -> Tally:
        """Return the tally of a cell, which is made if there is none."""
        return self.cells.setdefault((label, kind), Tally())

    def see(self, labels: Iterable[str]) -> None:
        """Note the labels that a run came to."""
        self.labels.update(dict.fromkeys(labels))

    def rows(self) -> list[str]:
        """Return the labels that faults have struck: steps in their order, each with its undo behind it."""
        struck = {label for label, _ in self.cells if label != WORKFLOW}
        ordered = [label for label in self.labels if label in struck] + sorted(struck - self.labels.keys())
        steps = list(dict.fromkeys(label.removesuffix(":undo") for label in ordered))
        rows = [label for step in steps for label in (step, f"{step}:undo") if label in struck]
        return rows + ([WORKFLOW] if any(label == WORKFLOW for label, _ in self.cells) else [])

    def kinds(self, *, of_workflow: bool) -> list[str]:
        """Return the kinds of faults that struck the workflow, or calls."""
        struck = {kind for label, kind in self.cells if (label == WORKFLOW) is of_workflow}
        # Of a decision, a signal or an update each is a kind of its own.
        return [kind for kind in KINDS if kind in struck] + sorted(struck - set(KINDS))

    def __str__(self) -> str:
        """The table as text, without lines where there is nothing to say."""
        rows = self.rows()
        parts = [
            _table([row for row in rows if row != WORKFLOW], self.kinds(of_workflow=False), self.cells),
            _table([row for row in rows if row == WORKFLOW], self.kinds(of_workflow=True), self.cells),
        ]
        return "\n\n".join(part for part in parts if part)


def _table(rows: list[str], kinds: list[str], cells: dict[tuple[str, str], Tally]) -> str:
    if not rows:
        return ""
    heads = [_in_two(kind) for kind in kinds]
    texts = [[str(cells.get((row, kind), "")) for kind in kinds] for row in rows]
    names = [row or "the workflow" for row in rows]
    first = max(map(len, names))
    widths = [max(*map(len, head), *(len(line[number]) for line in texts)) for number, head in enumerate(heads)]
    lines = [
        " " * first + "".join(f"  {head[half]:>{width}}" for head, width in zip(heads, widths, strict=True))
        for half in (0, 1)
    ]
    lines += [
        f"{name:<{first}}" + "".join(f"  {text:>{width}}" for text, width in zip(line, widths, strict=True))
        for name, line in zip(names, texts, strict=True)
    ]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _in_two(kind: str) -> tuple[str, str]:
    if kind.startswith("decision "):
        first, _, second = kind.partition(" ")
        return first, second.replace("_", " ")
    first, _, second = kind.replace(" ", "_").rpartition("_")
    return first.replace("_", " "), second


def count_of(number: int, what: str) -> str:
    """Return a number of things in words: 1 plan, 2 plans."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
