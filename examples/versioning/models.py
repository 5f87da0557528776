"""What goes into a booking."""

# No `from __future__ import annotations`: the SDK would evaluate them each time it decodes a data class.

from dataclasses import dataclass


@dataclass(frozen=True)
class Trip:
    """A traveler, and where to."""

    traveler: str
    city: str
