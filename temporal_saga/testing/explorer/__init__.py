"""The explorer: tries faults at every point of a workflow, with the simulator. What stands here is its door.

Imports inside point down this list, and to the simulator:

    _hypothesis _explore     `fault_plans`, `explore`
    _determinism             what other processes and the sandbox show
    _search                  which plans run, in which order
    _findings                what is wrong, one violation for each way to fail
    _elsewhere               replays in other processes
    _runner                  one plan in a fresh world
    _checks                  what must hold after every run
    _bar _exploration _plans data and small tools
"""

from __future__ import annotations

from ._exploration import Exploration, Violation, ViolationError
from ._explore import explore
from ._hypothesis import fault_plans

__all__ = ["Exploration", "Violation", "ViolationError", "explore", "fault_plans"]
