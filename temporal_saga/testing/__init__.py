"""Tests for workflows: run them in this process, on virtual time, and make things go wrong on purpose."""

# Lazy: pytest loads the plugin in this package in every run, and most have nothing to do with it.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._environment import step_environment
    from .explorer import Cause, Exploration, Violation, ViolationError, explore, fault_plans
    from .simulator import (
        ActivationFault,
        ActivityFault,
        Attempt,
        Call,
        Fault,
        SimulatedHandle,
        SimulatedUpdate,
        Simulation,
        SimulationError,
        TraceEvent,
        UnsupportedError,
        applies_late,
        bug_after,
        cancel,
        cancel_scope,
        cancel_with,
        decision,
        delivered_late,
        delivered_twice,
        fails_after,
        fails_before,
        fails_once,
        outage,
        provider_call,
        provider_fault,
        restart,
        signal,
        simulate,
        slow,
        slow_worker,
        update,
        worker_lost,
        worker_lost_inside,
    )

_OF_THE_EXPLORER = frozenset({"Cause", "Exploration", "Violation", "ViolationError", "explore", "fault_plans"})

_OTHERS = {"step_environment": "_environment"}

__all__ = [
    "ActivationFault",
    "ActivityFault",
    "Attempt",
    "Call",
    "Cause",
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
    "decision",
    "delivered_late",
    "delivered_twice",
    "explore",
    "fails_after",
    "fails_before",
    "fails_once",
    "fault_plans",
    "outage",
    "provider_call",
    "provider_fault",
    "restart",
    "signal",
    "simulate",
    "slow",
    "slow_worker",
    "step_environment",
    "update",
    "worker_lost",
    "worker_lost_inside",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = "explorer" if name in _OF_THE_EXPLORER else _OTHERS.get(name, "simulator")
    return getattr(importlib.import_module(f"{__name__}.{room}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
