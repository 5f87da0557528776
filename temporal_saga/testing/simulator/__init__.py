"""The simulator: one run of a workflow in this process, on virtual time. What stands here is its door.

Imports inside point down this list:

    _simulation                     `simulate`
    _handle _result _outcome        what the client's function sees, and what is seen afterwards
    _server                         workflow ids and their chains of runs
    _run                            one run: its begin, its commands, its end
    _activities _children ...       what takes the commands of one kind: _timers, _externals, _messages
    _parked                         what waits for a person
    _activity _attempt              one activity on the server, one attempt on the worker
    _tasks                          the workflow tasks of one run
    _elsewhere                      histories that travel to another process
    _cached                         the workflow's instance, its history, replays
    _run_state _jobs _workflows     what the parts of a run share
    _world _journal _pending        what all workflows share: the clock, the faults, what has been seen
    _sagas                          the library's insides
    _around                         what plugins run around a worker
    _sdk                            the SDK's insides
    _clock _converter _provider ... data and small tools
"""

from __future__ import annotations

from ._attempt import NOT_DECODED
from ._elsewhere import History
from ._errors import SimulationError, UnsupportedError, UnusedFaultsError
from ._faults import (
    Action,
    ActivationFault,
    ActivationFaultKind,
    ActivityFault,
    ActivityFaultKind,
    Fault,
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
    provider_fault,
    restart,
    signal,
    slow,
    slow_worker,
    update,
    worker_lost,
    worker_lost_inside,
)
from ._handle import SimulatedHandle, SimulatedUpdate
from ._parked import WRONG
from ._pending import check_faults
from ._provider import provider_call
from ._result import (
    End,
    Simulation,
    Status,
    add_to_world,
    changed_inputs,
    ended_at,
    histories_of,
    inputs_of,
    told_of,
    varying,
    why,
)
from ._simulation import replayer, simulate
from ._timeline import Row, rows_of
from ._trace import FAILURE_TYPE, Attempt, Call, TraceEvent

__all__ = [
    "FAILURE_TYPE",
    "NOT_DECODED",
    "WRONG",
    "Action",
    "ActivationFault",
    "ActivationFaultKind",
    "ActivityFault",
    "ActivityFaultKind",
    "Attempt",
    "Call",
    "End",
    "Fault",
    "History",
    "Row",
    "SimulatedHandle",
    "SimulatedUpdate",
    "Simulation",
    "SimulationError",
    "Status",
    "TraceEvent",
    "UnsupportedError",
    "UnusedFaultsError",
    "add_to_world",
    "applies_late",
    "bug_after",
    "cancel",
    "cancel_scope",
    "cancel_with",
    "changed_inputs",
    "check_faults",
    "decision",
    "delivered_late",
    "delivered_twice",
    "ended_at",
    "fails_after",
    "fails_before",
    "fails_once",
    "histories_of",
    "inputs_of",
    "outage",
    "provider_call",
    "provider_fault",
    "replayer",
    "restart",
    "rows_of",
    "signal",
    "simulate",
    "slow",
    "slow_worker",
    "told_of",
    "update",
    "varying",
    "why",
    "worker_lost",
    "worker_lost_inside",
]
