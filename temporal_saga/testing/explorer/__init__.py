"""The explorer: tries faults at every point of a workflow, with the simulator. What stands here is its door.

Imports inside point down this list, and to the simulator:

    _hypothesis _explore     `fault_plans`, `explore`
    _determinism             what other processes and the sandbox show
    _search                  which plans run
    _processes _alone        in which process, and what keeps a search in one
    _findings                what is wrong, one violation for each way to fail
    _look                    what is kept of one run
    _order _rest             which plans come first, and which show nothing new
    _elsewhere               replays in other processes
    _runner                  one plan in a fresh world
    _checks                  what must hold after every run
    _bar _exploration        what people see
    _page                    the same as HTML
    _lanes                   a run as a picture
    _coverage _plans         data and small tools
"""

from __future__ import annotations

from ._exploration import Cause, Exploration, Violation, ViolationError, page_of
from ._explore import explore, listeners
from ._hypothesis import fault_plans
from ._page import index_of, picture_file

__all__ = [
    "Cause",
    "Exploration",
    "Violation",
    "ViolationError",
    "explore",
    "fault_plans",
    "index_of",
    "listeners",
    "page_of",
    "picture_file",
]
