"""Compensations as data: what is armed before a step starts, and what `detach()` sends on."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, cast, overload

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import Priority, RawValue, RetryPolicy
from typing_extensions import TypeVar

from ._identity import Phase
from ._options import check_options
from ._outcome import Outcome, StepRecord
from ._typing import UNSET

if TYPE_CHECKING:
    from typing import Concatenate

    from typing_extensions import Unpack

    from ._typing import ChildCompensationOptions, CompensationOptions, P

__all__ = ["Compensation", "SagaState", "StepOutcome"]

Kind = Literal["activity", "child"]
InputT = TypeVar("InputT", covariant=True, default=Any)
ResultT = TypeVar("ResultT", covariant=True, default=Any)


@dataclass(frozen=True)
class StepOutcome(Generic[InputT, ResultT]):
    """What a `compensation_from=` function is given, once, when the outcome of its step is known.

    Attributes:
        state: APPLIED or UNKNOWN; the function is not called for NOT_APPLIED.
        result: What the step returned; None unless APPLIED. After UNKNOWN the undo finds the effect by `key`.
        input: The step's input: its argument, a list of them for several, None for none.
        key: The step's key.
    """

    state: Outcome
    result: ResultT | None
    input: InputT
    key: str


class Compensation:
    """A call that undoes a step: an activity, or a child workflow.

    Args:
        activity_or_workflow: The activity, its name, or the `@workflow.run` method of a child workflow.
        arg: Its argument.
        args: Its arguments, if there are several; not with `arg`.
        options: Options of the call, laid over the saga's `compensation_options` for an activity: those of
            `workflow.execute_activity` or `workflow.execute_child_workflow`, but for the activity's id.

    Raises:
        TypeError: If the arguments do not fit the activity, or it is not decorated; for an option that there is not, or
            of another type.
        ValueError: For a retry policy that contradicts itself.
    """

    @overload
    def __init__(self, activity_or_workflow: Callable[[], Any], **options: Unpack[CompensationOptions]) -> None: ...

    @overload
    def __init__(
        self, activity_or_workflow: Callable[[P], Any], arg: P, **options: Unpack[CompensationOptions]
    ) -> None: ...

    @overload
    def __init__(
        self, activity_or_workflow: Callable[[Any, P], Any], arg: P, **options: Unpack[CompensationOptions]
    ) -> None: ...

    @overload
    def __init__(
        self, activity_or_workflow: Callable[..., Any], *, args: Sequence[Any], **options: Unpack[CompensationOptions]
    ) -> None: ...

    @overload
    def __init__(
        self,
        activity_or_workflow: str,
        arg: Any = UNSET,
        *,
        args: Sequence[Any] = (),
        **options: Unpack[CompensationOptions],
    ) -> None: ...

    def __init__(
        self,
        activity_or_workflow: Callable[..., Any] | str,
        arg: Any = UNSET,
        *,
        args: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        self._set(kind_of(activity_or_workflow), activity_or_workflow, arguments(arg, args), options)

    def _set(
        self, kind: Kind, target: Callable[..., Any] | str, args: list[Any], options: dict[str, Any]
    ) -> Compensation:
        self._kind: Kind = kind
        self._target = target
        self._args = args
        self._options = options
        check_arguments(target, args)
        check_options(options, kind)
        return self

    @overload
    @classmethod
    def child_workflow(
        cls, workflow: Callable[[Any], Awaitable[Any]], **options: Unpack[ChildCompensationOptions]
    ) -> Compensation: ...

    @overload
    @classmethod
    def child_workflow(
        cls, workflow: Callable[[Any, P], Awaitable[Any]], arg: P, **options: Unpack[ChildCompensationOptions]
    ) -> Compensation: ...

    @overload
    @classmethod
    def child_workflow(
        cls,
        workflow: Callable[Concatenate[Any, ...], Awaitable[Any]],
        *,
        args: Sequence[Any],
        **options: Unpack[ChildCompensationOptions],
    ) -> Compensation: ...

    @overload
    @classmethod
    def child_workflow(
        cls, workflow: str, arg: Any = UNSET, *, args: Sequence[Any] = (), **options: Unpack[ChildCompensationOptions]
    ) -> Compensation: ...

    @classmethod
    def child_workflow(
        cls, workflow: Callable[..., Any] | str, arg: Any = UNSET, *, args: Sequence[Any] = (), **options: Any
    ) -> Compensation:
        """Return a compensation that is a child workflow, by its name or its `@workflow.run` method.

        Args:
            workflow: The name or the method; a bare name given to `Compensation(...)` is an activity's.
            arg: Its argument.
            args: Its arguments, if there are several; not with `arg`.
            options: Options of `workflow.execute_child_workflow`.
        """
        return cls.__new__(cls)._set("child", workflow, arguments(arg, args), options)

    def __repr__(self) -> str:
        return f"Compensation({self.name!r})"  # arguments are the user's data

    @property
    def name(self) -> str:
        """The registered name of the activity or workflow."""
        return registered_name(self._target)

    @property
    def kind(self) -> Kind:
        """Whether it is an activity or a child workflow."""
        return self._kind

    def start(self, activity_options: dict[str, Any], id: str, summary: str) -> Awaitable[Any]:
        """Start it. The call is the user's own, through their interceptors."""
        sdk: Any = workflow  # whose overloads cannot tell what the target is
        if self._kind == "child":
            options: dict[str, Any] = {
                "id": id,
                "parent_close_policy": workflow.ParentClosePolicy.ABANDON,
                "static_summary": summary,
                **self._options,
            }
            call = sdk.execute_child_workflow
        else:
            options = {"summary": summary, **activity_options, **self._options, "activity_id": id}
            call = sdk.start_activity
        return cast("Awaitable[Any]", call(self._target, args=self._args, **options))

    def to_state(self, activity_options: dict[str, Any]) -> CompensationState:
        """Return it as data, with the saga's own options laid under its options."""
        options = {**activity_options, **self._options} if self._kind == "activity" else self._options
        # As the payloads that the user's converter makes: any converter works, and nothing changes its type.
        payloads = workflow.payload_converter().to_payloads(self._args)
        return CompensationState(
            self._kind,
            self.name,
            [base64.b64encode(payload.SerializeToString()).decode() for payload in payloads],
            {name: _encode(self.name, name, value) for name, value in options.items()},
        )

    @classmethod
    def from_state(cls, state: CompensationState) -> Compensation:
        """Return the compensation that `to_state` wrote down; its arguments are never decoded."""
        args = [RawValue(Payload.FromString(base64.b64decode(text))) for text in state.arguments]
        options = {name: _decode(name, value) for name, value in state.options.items()}
        make = cls.child_workflow if state.kind == "child" else cls
        return make(state.name, args=args, **options)


@dataclass(frozen=True)
class Callback:
    """Workflow code pushed by `add_callback`."""

    function: Callable[..., Awaitable[object]]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)


def arguments(arg: Any, args: Sequence[Any]) -> list[Any]:
    """Return the arguments of a call as a list; raise TypeError if both ways to give them are used."""
    if arg is UNSET:
        return list(args)
    if args:
        raise TypeError("give one argument as arg, or several as args=[...], not both")
    return [arg]


def kind_of(target: Callable[..., Any] | str) -> Kind:
    """Tell a `@workflow.run` method from an activity."""
    return "child" if hasattr(target, "__temporal_workflow_run") else "activity"


def registered_name(target: Any) -> str:
    """Return the name that an activity or workflow is registered by, without the cost of the SDK's own lookup.

    Raises:
        TypeError: If it is neither a name nor decorated.
    """
    if isinstance(target, str):
        return target
    definition = getattr(target, "__temporal_activity_definition", None)
    if definition is None and hasattr(target, "__temporal_workflow_run"):
        return workflow._Definition.get_name_and_result_type(target)[0]
    if definition is None:
        raise TypeError(
            f"{getattr(target, '__qualname__', type(target).__name__)!r} is no activity: decorate it with "
            "@activity.defn, or give saga.add_callback(...) workflow code"
        )
    if definition.name is None:
        raise TypeError("a dynamic activity has no name of its own: call it by the name that you want")
    return cast(str, definition.name)


def check_arguments(target: Any, args: Sequence[Any]) -> None:
    """Raise TypeError if a decorated function cannot take the arguments: found now, not when the undo is needed."""
    if isinstance(target, str):
        return
    definition = getattr(target, "__temporal_activity_definition", None)
    if definition is not None and definition.arg_types and len(definition.arg_types) == len(args):
        return
    registered_name(target)
    least, most = _arity(target)
    if not least <= len(args) <= most:
        raise TypeError(
            f"{registered_name(target)!r} takes {most} argument(s) and would be called with {len(args)}: "
            "give compensation_from=lambda outcome: Compensation(...) to choose them"
        )


def _arity(target: Any) -> tuple[int, float]:
    parameters = list(inspect.signature(target).parameters.values())
    # An unbound method is called with its instance on the worker; a function of a class body has a dotted name.
    if inspect.isfunction(target) and "." in target.__qualname__.rsplit("<locals>.", 1)[-1]:
        parameters = parameters[1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 0, float("inf")
    return sum(parameter.default is parameter.empty for parameter in parameters), len(parameters)


# --- SagaState: frozen format, version 1 -----------------------------------------------------------------------------


@dataclass(frozen=True)
class CompensationState:
    """A compensation as data."""

    kind: str
    name: str
    arguments: list[str]
    options: dict[str, Any]


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
    of its parent. Annotate what carries it as `SagaState`, so that the data converter restores the type. Its fields are
    the library's own; `version` is their format.
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


VERSION = 1


def state_of(record: StepRecord, activity_options: dict[str, Any]) -> StepState:
    """Return an armed step as data."""
    assert isinstance(record.compensation, Compensation)
    assert record.outcome is not None
    return StepState(
        record.name,
        record.key,
        record.phase,
        list(record.place),
        list(record.ended),
        record.outcome.value,
        record.raised,
        record.compensation.to_state(activity_options),
    )


def records_of(state: SagaState, place: tuple[int, ...] = ()) -> list[StepRecord]:
    """Return the armed steps of a state; those of a child take the place of the step that ran it."""
    records: list[StepRecord] = []
    for step in state.steps:
        record = StepRecord(
            step.name, step.key, phase=cast(Phase, step.phase), compensation=Compensation.from_state(step.compensation)
        )
        record.place = (*place, *step.place)
        record.ended = (*place, *step.ended)
        record.outcome = Outcome(step.outcome)
        record.raised = step.raised
        records.append(record)
    return records


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
