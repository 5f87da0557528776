"""The typed surface of a saga: the methods that users call, with the types of their own activities.

All behavior is in `Call`, and in the three methods at the end, which `Saga` defines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from ._compensation import Call, arguments, kind_of
from ._typing import UNSET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
    from typing import Any, Concatenate, TypeAlias

    from typing_extensions import Unpack

    from ._outcome import StepOutcome
    from ._state import SagaState
    from ._typing import ActivityOptions, ChildCompensationOptions, ChildOptions, CompensationOptions, Kind, P, Ps, R


class Compensation(Call):
    """A call that undoes a step: an activity, or a child workflow.

    Args:
        activity_or_workflow: The activity, its name, or the `@workflow.run` method of a child workflow.
        arg: Its argument.
        args: Its arguments, if there are several; not with `arg`.
        options: Options of the call: those of `workflow.execute_activity` (except the activity's id) or of
            `workflow.execute_child_workflow`. For an activity they override the saga's `compensation_options`.

    Raises:
        TypeError: If the arguments do not fit the activity, or the activity is not decorated; if an option does not
            exist, or has the wrong type.
        ValueError: If a retry policy contradicts itself.
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
        super().__init__(kind_of(activity_or_workflow), activity_or_workflow, arguments(arg, args), options)

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
        """Return a compensation that is a child workflow, given by its name or its `@workflow.run` method.

        Args:
            workflow: The name or the method. `Compensation(...)` takes a bare name for the name of an activity.
            arg: Its argument.
            args: Its arguments, if there are several; not with `arg`.
            options: Options of `workflow.execute_child_workflow`.
        """
        compensation = cls.__new__(cls)
        Call.__init__(compensation, "child", workflow, arguments(arg, args), options)
        return compensation


if TYPE_CHECKING:
    # What may undo a step: a function of the step's input, an unbound method (such as a workflow's
    # run method), data, or a name. Checkers list the alternatives in this order, so the likeliest
    # comes first.
    Value: TypeAlias = Compensation | str | None
    Undo: TypeAlias = Callable[[P], Any] | Callable[[Any, P], Any] | Value
    UndoN: TypeAlias = Callable[..., Any] | Value
    Undo0: TypeAlias = Callable[[], Any] | Value
    # Only if the step is a method as well: `Callable[[Any], Any]` also matches a function that
    # takes an input.
    MethodUndo0: TypeAlias = Callable[[Any], Any] | Undo0
    FromOutcome: TypeAlias = Callable[[StepOutcome[P, R]], Compensation | SagaState | None] | None


class Steps:
    """The methods that add to a saga: three run a step, two push a compensation.

    The overloads say `async def` and the bodies `def`. For a caller both return a coroutine. But a
    `def` runs at the call, and so a step gets its number at the call. With `asyncio.gather(...)`
    over a list, the keys then have the list's order, whichever task runs first.
    """

    @overload
    async def execute_activity(
        self,
        activity: Callable[[], Awaitable[R]],
        *,
        compensation: Undo0 = None,
        compensation_from: FromOutcome[None, R] = None,
        **options: Unpack[ActivityOptions],
    ) -> R: ...

    @overload
    async def execute_activity(
        self,
        activity: Callable[[], R],
        *,
        compensation: Undo0 = None,
        compensation_from: FromOutcome[None, R] = None,
        **options: Unpack[ActivityOptions],
    ) -> R: ...

    @overload
    async def execute_activity(
        self,
        activity: Callable[[P], Awaitable[R]],
        arg: P,
        *,
        compensation: Undo[P] = None,
        compensation_from: FromOutcome[P, R] = None,
        **options: Unpack[ActivityOptions],
    ) -> R: ...

    @overload
    async def execute_activity(
        self,
        activity: Callable[[P], R],
        arg: P,
        *,
        compensation: Undo[P] = None,
        compensation_from: FromOutcome[P, R] = None,
        **options: Unpack[ActivityOptions],
    ) -> R: ...

    @overload
    async def execute_activity(
        self,
        activity: Callable[..., Awaitable[R]],
        *,
        args: Sequence[Any],
        compensation: UndoN = None,
        compensation_from: FromOutcome[Any, Any] = None,
        **options: Unpack[ActivityOptions],
    ) -> R: ...

    @overload
    async def execute_activity(
        self,
        activity: Callable[..., R],
        *,
        args: Sequence[Any],
        compensation: UndoN = None,
        compensation_from: FromOutcome[Any, Any] = None,
        **options: Unpack[ActivityOptions],
    ) -> R: ...

    @overload
    async def execute_activity(
        self,
        activity: str,
        arg: Any = UNSET,
        *,
        args: Sequence[Any] = (),
        result_type: type | None = None,
        compensation: UndoN = None,
        compensation_from: FromOutcome[Any, Any] = None,
        **options: Unpack[ActivityOptions],
    ) -> Any: ...

    def execute_activity(
        self,
        activity: Any,
        arg: Any = UNSET,
        *,
        args: Sequence[Any] = (),
        compensation: Any = None,
        compensation_from: Any = None,
        step: str | None = None,
        key: str | None = None,
        **options: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Execute an activity as a step of this saga and wait for its result.

        Takes what `workflow.execute_activity` takes. The step's compensation is armed before the
        activity starts. It runs if the saga unwinds, unless the activity provably had no effect.

        Args:
            activity: Activity function, callable instance or activity name.
            arg: Single argument to the activity.
            args: Several arguments to the activity. Cannot be set if `arg` is.
            compensation: The call that undoes the step: an activity, a child workflow's run method
                or the name of an activity, each called with the step's own input; or a
                `Compensation` with its own input and options.
            compensation_from: A function that chooses the compensation from the step's outcome. It
                gets the `StepOutcome` and returns a `Compensation`, a `SagaState` (the detached
                saga of a child, whose compensations take the step's place) or None. It is called
                once, when the outcome is known and is not `NOT_APPLIED`. Cannot be set if
                `compensation` is.
            step: Name of the step in ids and reports, by default the activity's registered name.
                It goes into history, so treat it as persistent data.
            key: Tells this call from other steps of the same name; by default their order does. Set
                it if tasks call steps of one name in an order that can change.
            result_type: Type of the result, if the activity is given by name.
            **options: Options of the activity. They override those of the saga.

        Returns:
            The activity's result.

        Raises:
            ActivityError: The activity failed.
            asyncio.CancelledError: The step was cancelled, or its scope is unwinding. In that case
                the call waits until the unwind has ended.
            SagaClosed: The scope has ended or was detached.
            TypeError: `compensation` and `compensation_from` are both set; or `activity_id` is set.
                The activity id carries the step's key: use `key`.
            RuntimeError: Misuse of the scope. It fails the workflow task, so that a fixed
                deployment can carry on. The message names the fix.
        """
        return self._step("activity", activity, arg, args, compensation, compensation_from, step, key, options)

    @overload
    async def execute_activity_method(
        self,
        activity: Callable[[Any], Awaitable[R]],
        *,
        compensation: MethodUndo0 = None,
        compensation_from: FromOutcome[None, R] = None,
        **options: Unpack[ActivityOptions],
    ) -> R: ...

    @overload
    async def execute_activity_method(
        self,
        activity: Callable[[Any], R],
        *,
        compensation: MethodUndo0 = None,
        compensation_from: FromOutcome[None, R] = None,
        **options: Unpack[ActivityOptions],
    ) -> R: ...

    @overload
    async def execute_activity_method(
        self,
        activity: Callable[[Any, P], Awaitable[R]],
        arg: P,
        *,
        compensation: Undo[P] = None,
        compensation_from: FromOutcome[P, R] = None,
        **options: Unpack[ActivityOptions],
    ) -> R: ...

    @overload
    async def execute_activity_method(
        self,
        activity: Callable[[Any, P], R],
        arg: P,
        *,
        compensation: Undo[P] = None,
        compensation_from: FromOutcome[P, R] = None,
        **options: Unpack[ActivityOptions],
    ) -> R: ...

    @overload
    async def execute_activity_method(
        self,
        activity: Callable[Concatenate[Any, ...], Awaitable[R]],
        *,
        args: Sequence[Any],
        compensation: UndoN = None,
        compensation_from: FromOutcome[Any, Any] = None,
        **options: Unpack[ActivityOptions],
    ) -> R: ...

    @overload
    async def execute_activity_method(
        self,
        activity: Callable[Concatenate[Any, ...], R],
        *,
        args: Sequence[Any],
        compensation: UndoN = None,
        compensation_from: FromOutcome[Any, Any] = None,
        **options: Unpack[ActivityOptions],
    ) -> R: ...

    def execute_activity_method(
        self,
        activity: Any,
        arg: Any = UNSET,
        *,
        args: Sequence[Any] = (),
        compensation: Any = None,
        compensation_from: Any = None,
        step: str | None = None,
        key: str | None = None,
        **options: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Execute an activity, given as its unbound method, as a step of this saga.

        For activities that are methods: the workflow knows the class, and the worker has its
        instance. The `self` of the method does not count as an argument.

        Args:
            activity: Unbound method, such as `Bank.withdraw`.
            arg: Single argument to the activity.
            args: Several arguments to the activity. Cannot be set if `arg` is.
            compensation: As in `execute_activity`; may be an unbound method as well.
            compensation_from: As in `execute_activity`.
            step: As in `execute_activity`.
            key: As in `execute_activity`.
            **options: Options of the activity. They override those of the saga.

        Returns:
            The activity's result.

        Raises:
            ActivityError: The activity failed.
            asyncio.CancelledError: As in `execute_activity`.
            SagaClosed: The scope has ended or was detached.
            TypeError: As in `execute_activity`.
        """
        return self._step("activity", activity, arg, args, compensation, compensation_from, step, key, options)

    @overload
    async def execute_child_workflow(
        self,
        workflow: Callable[[Any], Awaitable[R]],
        *,
        compensation: MethodUndo0 = None,
        compensation_from: FromOutcome[None, R] = None,
        **options: Unpack[ChildOptions],
    ) -> R: ...

    @overload
    async def execute_child_workflow(
        self,
        workflow: Callable[[Any, P], Awaitable[R]],
        arg: P,
        *,
        compensation: Undo[P] = None,
        compensation_from: FromOutcome[P, R] = None,
        **options: Unpack[ChildOptions],
    ) -> R: ...

    @overload
    async def execute_child_workflow(
        self,
        workflow: Callable[Concatenate[Any, ...], Awaitable[R]],
        *,
        args: Sequence[Any],
        compensation: UndoN = None,
        compensation_from: FromOutcome[Any, Any] = None,
        **options: Unpack[ChildOptions],
    ) -> R: ...

    @overload
    async def execute_child_workflow(
        self,
        workflow: str,
        arg: Any = UNSET,
        *,
        args: Sequence[Any] = (),
        result_type: type | None = None,
        compensation: UndoN = None,
        compensation_from: FromOutcome[Any, Any] = None,
        **options: Unpack[ChildOptions],
    ) -> Any: ...

    def execute_child_workflow(
        self,
        workflow: Any,
        arg: Any = UNSET,
        *,
        args: Sequence[Any] = (),
        compensation: Any = None,
        compensation_from: Any = None,
        step: str | None = None,
        key: str | None = None,
        **options: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Execute a child workflow as a step of this saga and wait for its result.

        Takes what `workflow.execute_child_workflow` takes. By default the id is made from the
        step's name and key, and the parent close policy is `REQUEST_CANCEL`: a child that is
        cancelled can still unwind, and a child that is terminated cannot.

        Args:
            workflow: Run method of the workflow, such as `Ship.run`, or workflow name.
            arg: Single argument to the workflow.
            args: Several arguments to the workflow. Cannot be set if `arg` is.
            compensation: As in `execute_activity`. A bare name is the name of an activity; for a
                workflow given by name use `Compensation.child_workflow`.
            compensation_from: As in `execute_activity`.
            step: Name of the step, by default the workflow's registered name.
            key: As in `execute_activity`.
            result_type: Type of the result, if the workflow is given by name.
            **options: Options of the child workflow. The saga's options are for activities only.

        Returns:
            The workflow's result.

        Raises:
            ChildWorkflowError: The workflow failed.
            temporalio.exceptions.WorkflowAlreadyStartedError: A workflow with this id is open, or
                has run and the id reuse policy does not allow another.
            asyncio.CancelledError: As in `execute_activity`.
            SagaClosed: The scope has ended or was detached.
            TypeError: `compensation` and `compensation_from` are both set.
        """
        return self._step("child", workflow, arg, args, compensation, compensation_from, step, key, options)

    @overload
    def add_compensation(self, activity: Compensation, *, step: str | None = None, key: str | None = None) -> None: ...

    @overload
    def add_compensation(self, activity: Callable[[], Any], **options: Unpack[ActivityOptions]) -> None: ...

    @overload
    def add_compensation(self, activity: Callable[[P], Any], arg: P, **options: Unpack[ActivityOptions]) -> None: ...

    @overload
    def add_compensation(
        self, activity: Callable[[Any, P], Any], arg: P, **options: Unpack[ActivityOptions]
    ) -> None: ...

    @overload
    def add_compensation(
        self, activity: Callable[..., Any], *, args: Sequence[Any], **options: Unpack[ActivityOptions]
    ) -> None: ...

    @overload
    def add_compensation(
        self, activity: str, arg: Any = UNSET, *, args: Sequence[Any] = (), **options: Unpack[ActivityOptions]
    ) -> None: ...

    def add_compensation(
        self,
        activity: Any,
        arg: Any = UNSET,
        *,
        args: Sequence[Any] = (),
        step: str | None = None,
        key: str | None = None,
        **options: Any,
    ) -> None:
        """Push a compensation by hand, for an effect that no step of this saga makes.

        The moment of this call is its place in the order of the undos.

        Args:
            activity: Activity function, unbound method, a workflow's run method, activity name, or
                a `Compensation`, which holds its own input and options.
            arg: Single argument.
            args: Several arguments, or none (`[]`) for an unbound method that takes none. Cannot
                be set if `arg` is.
            step: As in `execute_activity`.
            key: As in `execute_activity`.
            **options: Options of the activity. They override the saga's `compensation_options`.

        Raises:
            SagaClosed: The scope has ended or was detached.
            TypeError: `activity_id` is set. The activity id carries the compensation's key: use
                `key`.
        """
        self._push(activity, arg, args, step, key, options)

    def add_callback(self, callback: Callable[Ps, object], /, *args: Ps.args, **kwargs: Ps.kwargs) -> None:
        """Push workflow code to run as a compensation.

        A callback exists only in this run, so a saga that has one cannot be detached. A callback
        must not call a step of a scope that unwinds.

        Args:
            callback: Function, sync or async, that the unwind calls.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Raises:
            SagaClosed: The scope has ended or was detached.
        """
        self._push_callback(callback, args, kwargs)

    def _step(
        self,
        kind: Kind,
        target: Any,
        arg: Any,
        args: Sequence[Any],
        compensation: Any,
        compensation_from: Any,
        step: str | None,
        key: str | None,
        options: dict[str, Any],
    ) -> Coroutine[Any, Any, Any]:
        """Count the step and return the coroutine that runs it."""
        raise NotImplementedError

    def _push(
        self, target: Any, arg: Any, args: Sequence[Any], step: str | None, key: str | None, options: dict[str, Any]
    ) -> None:
        """Push a compensation."""
        raise NotImplementedError

    def _push_callback(self, callback: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Push workflow code."""
        raise NotImplementedError
