"""The shapes of calls, shared by the typed surface and by `Compensation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final


class Unset:
    """The type of `UNSET`, which stands for an argument not given: None is one like any other."""

    def __repr__(self) -> str:
        """Return the name by which `help()` shows the default of `arg`."""
        return "UNSET"


UNSET: Final = Unset()

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias, TypeVar

    from temporalio.workflow import ActivityConfig, ChildWorkflowConfig
    from typing_extensions import ParamSpec

    from ._compensation import Compensation, SagaState, StepOutcome

    P = TypeVar("P")
    R = TypeVar("R")
    Ps = ParamSpec("Ps")

    # What undoes a step: a function of the step's input, an unbound method (a workflow's run method
    # is one), data, or a name. Checkers list the alternatives in this order: the likeliest first.
    Value: TypeAlias = Compensation | str | None
    Undo: TypeAlias = Callable[[P], Any] | Callable[[Any, P], Any] | Value
    UndoN: TypeAlias = Callable[..., Any] | Value
    Undo0: TypeAlias = Callable[[], Any] | Value
    # Only where the step is a method as well: `Callable[[Any], Any]` is also a function that waits
    # for an input.
    MethodUndo0: TypeAlias = Callable[[Any], Any] | Undo0
    FromOutcome: TypeAlias = Callable[[StepOutcome[P, R]], Compensation | SagaState | None] | None

    # `closed` makes ty reject a keyword that is no option, as the others do without it. These
    # classes must not exist at run time: below Python 3.15 a closed TypedDict cannot extend an
    # ordinary one, which is also why ty has to be told to let it pass.
    class ActivityOptions(ActivityConfig, total=False, closed=True):  # ty: ignore
        """The keywords of a step that is an activity."""

        step: str | None
        key: str | None

    class ChildOptions(ChildWorkflowConfig, total=False, closed=True):  # ty: ignore
        """The keywords of a step that is a child workflow."""

        step: str | None
        key: str | None

    class CompensationOptions(ActivityConfig, total=False, closed=True):  # ty: ignore
        """The keywords of a compensation that is an activity."""

    class ChildCompensationOptions(ChildWorkflowConfig, total=False, closed=True):  # ty: ignore
        """The keywords of a compensation that is a child workflow."""
