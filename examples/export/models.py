"""What goes into an export and what comes out of it."""

# No `from __future__ import annotations`: the SDK would evaluate them each time it decodes a data class.

from dataclasses import dataclass


@dataclass(frozen=True)
class Export:
    """What to export. A page takes so many seconds."""

    name: str
    pages: int
    seconds_a_page: float = 0.1
