"""`SagaState`: a saga as plain data, through continue-as-new or from a child workflow into its parent.

The format is frozen. Version 2 writes options that many entries share only once. Version 1 wrote them with each entry,
and can still be read. A new version adds fields with defaults.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, cast

from temporalio.api.common.v1 import Payload
from temporalio.common import Priority, RawValue, RetryPolicy

from ._compensation import Call
from ._identity import Phase, step_id
from ._outcome import Outcome
from ._parking import Resolution
from ._step import Step, UndoState
from ._typing import Kind, Moment

VERSION = 2

MAX_BYTES = 1_572_864
"""1.5 MiB. The server refuses a payload over 2 MB (limit.blobSize.error), and the workflow task would fail forever."""

WARN_BYTES = 524_288
"""512 KiB: the server warns from here on (limit.blobSize.warn)."""


@dataclass(frozen=True)
class CompensationState:
    """A compensation as data.

    Attributes:
        kind: "activity" or "child".
        name: The registered name.
        arguments: Its arguments, each a payload as base64.
        options: The index of its options in `SagaState.options`; in version 1 the options themselves.
    """

    kind: str
    name: str
    arguments: list[str]
    options: Any


@dataclass(frozen=True)
class StepState:
    """An armed step as data."""

    name: str
    key: str
    phase: str
    place: list[int]
    ended: list[int]
    outcome: str
    raised: bool
    compensation: CompensationState


@dataclass(frozen=True)
class SagaState:
    """What `Saga.detach()` returns: the armed compensations of a saga as plain data.

    Pass it through continue-as-new to `Saga(state=...)`, or return it from a child workflow to a `compensation_from=`
    of the parent. Annotate the parameter or field that carries it as `SagaState`, so that the data converter restores
    the type. Its fields are private to the library; `version` is their format.
    """

    version: int
    name: str
    ordinal: int
    anchor: str
    ticks: int
    counts: dict[str, int]
    keyed: dict[str, list[str]]
    past_pivot: bool
    deadline: float | None
    run_id: str = ""
    repeats: bool = False
    steps: list[StepState] = field(default_factory=list[StepState])
    options: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    failed: list[StepState] = field(default_factory=list[StepState])
    cancelled: bool = False
    decided: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @property
    def size(self) -> int:
        """The size of the state in bytes, as JSON. Your own data converter may make it larger or smaller."""
        return len(json.dumps(asdict(self), separators=(",", ":")))

    @property
    def identity(self) -> tuple[str, int, str]:
        """The name, ordinal and anchor of the saga."""
        return (self.name, self.ordinal, self.anchor)


def write_steps(
    steps: Iterable[Step], activity_options: dict[str, Any]
) -> tuple[list[StepState], list[dict[str, Any]]]:
    """Return steps as data, and the options that their compensations share.

    The arguments of a compensation are written as the payloads that its receiver will get, so any converter works and
    no value changes its type.

    Args:
        steps: Steps that have settled, none of them a callback.
        activity_options: The saga's options for compensations that are activities.

    Raises:
        ValueError: If an option of a compensation cannot be written down.
    """
    written: list[StepState] = []
    options: list[dict[str, Any]] = []
    places: dict[str, int] = {}  # of each of the options, by its JSON
    for step in steps:
        compensation = step.undo_call
        assert isinstance(compensation, Call)
        assert step.outcome is not None
        is_activity = compensation.kind == "activity"
        merged = {**activity_options, **compensation.options} if is_activity else compensation.options
        encoded = {name: _encode(compensation.name, name, value) for name, value in merged.items()}
        place = places.setdefault(json.dumps(encoded), len(options))
        if place == len(options):
            options.append(encoded)
        payloads = compensation.payloads(activity_options, step_id(step.name, step.phase, step.key))
        arguments = [base64.b64encode(payload.SerializeToString(deterministic=True)).decode() for payload in payloads]
        began, ended = list(step.began), list(step.ended)
        undo = CompensationState(compensation.kind, compensation.name, arguments, place)
        written.append(StepState(step.name, step.key, step.phase, began, ended, step.outcome.value, step.raised, undo))
    return written, options


def write_decisions(steps: Iterable[Step]) -> dict[str, list[str]]:
    """Return the decisions of persons, by the keys of the steps: the state of the undo, the action, who and why."""
    return {step.key: [step.undo_state or "", *step.resolution] for step in steps if step.resolution is not None}


def steps_of(state: SagaState, states: Iterable[StepState], within: Moment) -> list[Step]:
    """Return steps that were written down. Those of a child's saga get moments within the start of the child's step."""
    steps: list[Step] = []
    for written in states:
        compensation = _read(written.compensation, state.options)
        step = Step(written.name, written.key, compensation)
        step.phase = cast(Phase, written.phase)
        step.began = (*within, *written.place)
        step.ended = (*within, *written.ended)
        step.outcome = Outcome(written.outcome)
        step.raised = written.raised
        if decided := state.decided.get(written.key):
            step.undo_state, step.resolution = cast(UndoState, decided[0]), Resolution(*decided[1:])
        steps.append(step)
    return steps


def _read(written: CompensationState, shared: list[dict[str, Any]]) -> Call:
    args = [RawValue(Payload.FromString(base64.b64decode(text))) for text in written.arguments]
    encoded: dict[str, Any] = shared[written.options] if isinstance(written.options, int) else written.options
    options = {name: _decode(name, value) for name, value in encoded.items()}
    return Call(cast(Kind, written.kind), written.name, args, options)


_STRINGS = ("task_queue", "summary", "id", "cron_schedule", "static_summary", "static_details")
_NUMBERS = ("cancellation_type", "parent_close_policy", "id_reuse_policy")
_MICROSECOND = timedelta(microseconds=1)


def _encode(target: str, name: str, value: Any) -> Any:
    if value is None or name in _STRINGS:
        return value
    if name in _NUMBERS:
        return int(value)
    if isinstance(value, timedelta):
        return value // _MICROSECOND
    if isinstance(value, Priority):
        return [value.priority_key, value.fairness_key, value.fairness_weight]
    if isinstance(value, RetryPolicy):
        longest = value.maximum_interval
        return {
            **asdict(value),
            "initial_interval": value.initial_interval // _MICROSECOND,
            "maximum_interval": None if longest is None else longest // _MICROSECOND,
            "non_retryable_error_types": list(value.non_retryable_error_types or ()),
        }
    raise ValueError(f"option {name}= of the compensation {target!r} cannot be detached: leave it out")


def _decode(name: str, value: Any) -> Any:
    if value is None or name in _STRINGS or name in _NUMBERS:
        return value
    if name == "priority":
        return Priority(*value)
    if name == "retry_policy":
        policy = dict(value)
        policy["initial_interval"] *= _MICROSECOND
        if policy["maximum_interval"] is not None:
            policy["maximum_interval"] *= _MICROSECOND
        return RetryPolicy(**policy)
    return value * _MICROSECOND


def unreadable(state: SagaState) -> str | None:
    """Return what is wrong with a state of a format that this release does not know, or None."""
    wrong = f"this SagaState has format {state.version}, and this release reads {VERSION}: upgrade temporal-saga"
    return wrong if state.version > VERSION else None


def name_of(state: SagaState, name: str) -> str:
    """Return the name of the saga that continues from a state.

    Raises:
        TypeError: If the state is not a `SagaState`.
        RuntimeError: If this release cannot read the state, or the user gave another name than the state's.
    """
    if not isinstance(state, SagaState):  # pyright: ignore[reportUnnecessaryIsInstance] - without a type it is a dict
        raise TypeError(f"state= takes a SagaState; got {type(state).__name__}: annotate what carries it as SagaState")
    if misuse := unreadable(state):
        raise RuntimeError(misuse)
    if name not in ("saga", state.name):
        raise RuntimeError(f"the state belongs to saga {state.name!r}: leave out name=, which comes with the state")
    return state.name
