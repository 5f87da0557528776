"""How the demo looks."""

from __future__ import annotations

import os
import textwrap
from typing import TextIO

from examples.demo.verdict import Books
from examples.order.models import format_amount

_INDENT = "    "
# A path stays in one piece.
_WRAPPER = textwrap.TextWrapper(
    96, initial_indent=_INDENT, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
)
_COLUMN = 42
_GAP = "    "
_BOLD, _DIM, _RED, _GREEN = "1", "2", "31", "32"


class Terminal:
    """Prints to a stream; in colours if that is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        """Looks at what the stream can show."""
        self._stream = stream
        self._colours = stream.isatty() and not os.environ.get("NO_COLOR")
        self._rule = "─" if "utf" in stream.encoding.lower() else "-"

    def heading(self, text: str) -> None:
        """Prints a title."""
        self._print()
        self._print(self._in(_BOLD, text))

    def text(self, text: str) -> None:
        """Prints a paragraph."""
        self._print(_WRAPPER.fill(text))

    def progress(self, text: str) -> None:
        """Prints what happens now."""
        self._print(_INDENT + self._in(_DIM, text))

    def ledgers(self, saga: Books, textbook: Books) -> None:
        """Prints both ledgers, side by side, and the verdicts."""
        left = self._table("with a saga", saga)
        right = self._table("the textbook", textbook)
        self._print()
        for one, other in zip(left, right, strict=True):
            self._print(f"{_INDENT}{one:<{_COLUMN}}{_GAP}{other}")
        self._print()
        for name, books in (("ours", saga), ("textbook", textbook)):
            verdict = self._in(_GREEN if books.right else _RED, books.verdict)
            self._print(f"{_INDENT}{name + ':':<10}{verdict}")

    def failure(self, text: str) -> None:
        """Prints what should not have happened."""
        self._print(_INDENT + self._in(_RED, text))

    def _table(self, title: str, books: Books) -> list[str]:
        lines = [(row.name, row.amount) for row in books.rows]
        rows = [
            f"{name}{format_amount(amount):>{_COLUMN - len(name)}}"
            for name, amount in [*lines, (books.caption, books.total)]
        ]
        rule = self._rule * _COLUMN
        return [title, rule, *rows[:-1], rule, rows[-1], f"workflow {books.ending}"]

    def _in(self, style: str, text: str) -> str:
        return f"\033[{style}m{text}\033[0m" if self._colours else text

    def _print(self, line: str = "") -> None:
        print(line, file=self._stream, flush=True)
