"""What the simulator says when it cannot go on."""

from __future__ import annotations

__all__ = ["SimulationError", "UnsupportedError"]


class SimulationError(Exception):
    """The simulation cannot go on, or its workflow never ended: the message says why."""


class UnusedFaultsError(SimulationError, ValueError):
    """Faults found nothing to strike."""


class UnsupportedError(SimulationError):
    """The workflow, or an activity, uses something that the simulator does not have."""
