"""Compensations: the calls that undo steps, as data."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.converter import ActivitySerializationContext, WithSerializationContext, WorkflowSerializationContext

from ._options import check_options
from ._typing import UNSET, Kind


class Call:
    """The call of an activity or a child workflow. `Compensation` is its typed face.

    Args:
        kind: Whether it is an activity or a child workflow.
        target: The activity or workflow, or its registered name.
        args: Its arguments.
        options: The options of the call, without those of the saga.
    """

    def __init__(
        self, kind: Kind, target: Callable[..., Any] | str, args: Sequence[Any], options: dict[str, Any]
    ) -> None:
        self.kind: Kind = kind
        self.options = options
        self._target = target
        self._args = args
        check_arguments(target, args)
        check_options(options, kind)

    def __repr__(self) -> str:
        return f"Compensation({self.name!r})"  # arguments are the user's data

    @property
    def name(self) -> str:
        """The registered name of the activity or workflow."""
        return registered_name(self._target)

    def start(self, activity_options: dict[str, Any], id: str, summary: str) -> Awaitable[Any]:
        """Start the call. It goes through the user's interceptors."""
        sdk: Any = workflow  # the SDK's overloads do not fit a target of either kind
        if self.kind == "child":
            options: dict[str, Any] = {
                "id": id,
                "parent_close_policy": workflow.ParentClosePolicy.ABANDON,
                "static_summary": summary,
                **self.options,
            }
            call = sdk.execute_child_workflow
        else:
            options = {"summary": summary, **activity_options, **self.options, "activity_id": id}
            call = sdk.start_activity
        return cast("Awaitable[Any]", call(self._target, args=[*self._args], **options))

    def payloads(self, activity_options: dict[str, Any], id: str) -> Sequence[Payload]:
        """Return the arguments as the SDK will send them, made by the converter bound to the receiver of the call."""
        converter: Any = workflow.payload_converter()
        if isinstance(converter, WithSerializationContext):
            info = workflow.info()
            if self.kind == "child":
                receiver: Any = WorkflowSerializationContext(info.namespace, self.options.get("id") or id)
            else:
                receiver = ActivitySerializationContext(
                    namespace=info.namespace,
                    activity_id=id,
                    activity_type=self.name,
                    activity_task_queue={**activity_options, **self.options}.get("task_queue") or info.task_queue,
                    workflow_id=info.workflow_id,
                    workflow_type=info.workflow_type,
                    is_local=False,
                )
            converter = converter.with_context(receiver)
        payloads: Sequence[Payload] = converter.to_payloads(self._args)
        return payloads


@dataclass(frozen=True)
class Callback:
    """Workflow code pushed by `add_callback`, sync or async."""

    function: Callable[..., object]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __post_init__(self) -> None:
        """Raise TypeError if the function cannot be called, now and not when the undo is needed."""
        function = _not_called(self.function)
        if not callable(cast("object", function)):
            raise TypeError(f"a callback must be a function; got {type(function).__name__}")
        if _is_registered(function):
            name = registered_name(function)
            raise TypeError(f"{name!r} is not workflow code: write saga.add_compensation({name}, ...)")
        try:
            signature = inspect.signature(function, follow_wrapped=False)
        except (TypeError, ValueError):
            return  # some functions written in C have none
        try:
            signature.bind(*self.args, **self.kwargs)
        except TypeError as error:
            raise TypeError(
                f"callback {self.name!r} cannot be called as it was given ({error}): write "
                f"saga.add_callback({self.name}, ...) with its arguments"
            ) from None

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    async def run(self) -> None:
        """Call the function, and wait for what it returns if that can be awaited."""
        try:
            result = self.function(*self.args, **self.kwargs)
            if inspect.isawaitable(result):
                await result
        except workflow.ContinueAsNewError as error:
            raise RuntimeError("continue_as_new in a callback of an unwind would cut off the unwind") from error


def arguments(arg: Any, args: Sequence[Any]) -> tuple[Any, ...]:
    """Return the arguments of a call. Raise TypeError if they were given both as `arg` and as `args`."""
    if arg is UNSET:
        if isinstance(args, (str, bytes)) or not isinstance(cast("object", args), Iterable):
            raise TypeError(f"args= must be a list of the arguments, as in args=[...]; got {type(args).__name__}")
        return tuple(args)
    if args:
        raise TypeError("give one argument as arg, or several as args=[...], not both")
    return (arg,)


def kind_of(target: Callable[..., Any] | str) -> Kind:
    """Tell a `@workflow.run` method from an activity."""
    return "child" if hasattr(target, "__temporal_workflow_run") else "activity"


def registered_name(target: Any) -> str:
    """Return the registered name of an activity or workflow, without the cost of the SDK's own lookup.

    Raises:
        TypeError: If it is neither a name nor decorated.
    """
    definition = getattr(target, "__temporal_activity_definition", None)
    if definition is None:
        if isinstance(target, str):
            return target
        if kind_of(target) == "child":
            return workflow._Definition.get_name_and_result_type(target)[0]
        raise TypeError(
            f"{getattr(_not_called(target), '__qualname__', type(target).__name__)!r} is not an activity: decorate it "
            "with @activity.defn, or give workflow code to saga.add_callback(...)"
        )
    name: str | None = definition.name
    if name is None:
        raise TypeError("a dynamic activity has no name of its own: call it by the name that you want")
    return name


def check_chooser(function: Any) -> None:
    """Raise TypeError if a `compensation_from=` cannot be called when the outcome is known."""
    if _is_registered(function):
        raise TypeError(f"compensation_from= takes a function that chooses: write compensation={function.__name__}")
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise TypeError(
            "compensation_from= must be a function with `def`, which returns a Compensation and awaits nothing"
        )


def _is_registered(target: Any) -> bool:
    """Tell whether this is an activity or a `@workflow.run` method, and not a mock, or a helper that wraps one."""
    definition = getattr(target, "__temporal_activity_definition", None)
    is_activity = definition is not None and getattr(definition, "fn", None) is getattr(target, "__func__", target)
    return is_activity or getattr(target, "__temporal_workflow_run", None) is True


def _not_called(target: Any) -> Any:
    """Return the target of a call. Raise TypeError if it was called where it should only be named."""
    if inspect.iscoroutine(target):
        raise TypeError(
            f"{target.__qualname__!r} was called: give the function without calling it, and its arguments after it, "
            "or in Compensation(...)"
        )
    return target


def check_arguments(target: Any, args: Sequence[Any], *, of_step: bool = False) -> None:
    """Raise TypeError if a decorated function cannot take the arguments, now and not when the undo is needed.

    Args:
        target: The activity or workflow.
        args: Its arguments.
        of_step: Whether these are the arguments of the step that `target` undoes.
    """
    definition = getattr(target, "__temporal_activity_definition", None)
    if definition is not None and definition.arg_types and len(definition.arg_types) == len(args):
        return
    if isinstance(target, str):
        return
    name = registered_name(target)
    least, most = _arity(target)
    if least <= len(args) <= most:
        return
    takes = f"{least}" if least == most else f"{least} to {most}"
    if not of_step:
        fix = "give its arguments with it, several as args=[...]"
    elif least == 0:
        fix = f"write compensation=Compensation({name})"
    else:
        fix = (
            f"write compensation=Compensation({name}, ...) with its arguments, or "
            f"compensation_from=lambda outcome: Compensation({name}, ...) if they depend on the step's result"
        )
    given = f"the {len(args)} of its step" if of_step else f"{len(args)}"
    raise TypeError(f"{name!r} takes {takes} argument(s) and would be called with {given}: {fix}")


def _arity(target: Any) -> tuple[int, float]:
    parameters = list(inspect.signature(target).parameters.values())
    # On the worker an unbound method is called with its instance. A function in a class body has a dotted name.
    if inspect.isfunction(target) and "." in target.__qualname__.rsplit("<locals>.", 1)[-1]:
        parameters = parameters[1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 0, float("inf")
    return sum(parameter.default is parameter.empty for parameter in parameters), len(parameters)
