"""Prints the known libraries as a table: `python -m temporal_saga.classification`."""

from __future__ import annotations

import sys

from ._libraries import LIBRARIES, UNKNOWN, Evidence, Frame, Library

__all__ = ["table"]

_HEADER = ("library", "sends again by itself", "where its errors show that", "the switch")


def table() -> str:
    """Return the table, in Markdown."""
    known = sorted(LIBRARIES, key=lambda library: library.packages.lower())
    rows = [_HEADER, tuple("---" for _ in _HEADER), *(_row(library) for library in (*known, UNKNOWN))]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(library: Library) -> tuple[str, ...]:
    name = ", ".join(library.packages.split()) if library is not UNKNOWN else library.packages
    repeats = library.repeats.value + (f": {library.why}" if library.why else "")
    shown = dict.fromkeys(_says(each) for each in library.evidence)
    return name, repeats, ", ".join(shown) or "-", library.switch or "-"


def _says(evidence: Evidence | Frame) -> str:
    return "its traceback" if isinstance(evidence, Frame) else evidence.value


if __name__ == "__main__":
    sys.stdout.write(table())
