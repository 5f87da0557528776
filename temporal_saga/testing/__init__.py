"""Tests for workflows: runs them in this process, on virtual time, and lets things go wrong on purpose."""

# Lazy: pytest loads the plugin in this package in every run, and most have nothing to do with it.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._environment import step_environment
    from ._errors import SimulationError, UnsupportedError
    from ._explore import Exploration, Violation, ViolationError, explore
    from ._faults import (
        ActivationFault,
        ActivityFault,
        Fault,
        applies_late,
        bug_after,
        cancel,
        cancel_scope,
        cancel_with,
        delivered_late,
        delivered_twice,
        fails_after,
        fails_before,
        fails_once,
        restart,
        signal,
        slow,
        update,
        worker_lost,
    )
    from ._hypothesis import fault_plans
    from ._simulation import SimulatedHandle, SimulatedUpdate, Simulation, simulate
    from ._trace import Attempt, Call, TraceEvent

_MODULES = {
    "_environment": ("step_environment",),
    "_errors": ("SimulationError", "UnsupportedError"),
    "_explore": ("Exploration", "Violation", "ViolationError", "explore"),
    "_faults": (
        "ActivationFault",
        "ActivityFault",
        "Fault",
        "applies_late",
        "bug_after",
        "cancel",
        "cancel_scope",
        "cancel_with",
        "delivered_late",
        "delivered_twice",
        "fails_after",
        "fails_before",
        "fails_once",
        "restart",
        "signal",
        "slow",
        "update",
        "worker_lost",
    ),
    "_hypothesis": ("fault_plans",),
    "_simulation": ("SimulatedHandle", "SimulatedUpdate", "Simulation", "simulate"),
    "_trace": ("Attempt", "Call", "TraceEvent"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ActivationFault",
    "ActivityFault",
    "Attempt",
    "Call",
    "Exploration",
    "Fault",
    "SimulatedHandle",
    "SimulatedUpdate",
    "Simulation",
    "SimulationError",
    "TraceEvent",
    "UnsupportedError",
    "Violation",
    "ViolationError",
    "applies_late",
    "bug_after",
    "cancel",
    "cancel_scope",
    "cancel_with",
    "delivered_late",
    "delivered_twice",
    "explore",
    "fails_after",
    "fails_before",
    "fails_once",
    "fault_plans",
    "restart",
    "signal",
    "simulate",
    "slow",
    "step_environment",
    "update",
    "worker_lost",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
