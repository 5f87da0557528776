"""The types that the signatures share: kinds of steps, and the options that a call takes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

Kind = Literal["activity", "child"]
Order = Literal["reverse", "concurrent"]
OnStepFailure = Literal["raise", "park"]
OnCompensationFailure = Literal["continue", "park"]

Reminder = tuple[Callable[..., Any] | str, timedelta]
"""An activity that is called with a `Parked`, at once and then each time the interval has passed."""

Moment = tuple[int, ...]
"""A moment on a saga's clock of events. The steps of a child's saga lie within the moment of the step that ran it."""


class Options(NamedTuple):
    """The options of a saga.

    Attributes:
        order: The order of the undos.
        activity: Options of steps that are activities.
        compensation: Options of compensations that are activities.
        parks_steps: Whether a step that has failed for good waits for a person.
        parks_undos: Whether a compensation that has failed for good waits for a person.
        reminder: The activity that reminds somebody of what waits, and its interval.
    """

    order: Order
    activity: dict[str, Any]
    compensation: dict[str, Any]
    parks_steps: bool
    parks_undos: bool
    reminder: Reminder | None


class Unset:
    """The type of `UNSET`, the default of an argument that was not given. None is an argument like any other."""

    def __repr__(self) -> str:
        """Return the name by which `help()` shows the default of `arg`."""
        return "UNSET"


UNSET: Final = Unset()

if TYPE_CHECKING:
    from typing import TypeVar

    from temporalio.workflow import ActivityConfig, ChildWorkflowConfig
    from typing_extensions import ParamSpec

    P = TypeVar("P")
    R = TypeVar("R")
    Ps = ParamSpec("Ps")

    # `closed` makes ty reject a keyword that is not an option, as the others do without it. These
    # classes must not exist at run time: below Python 3.15 a closed TypedDict cannot extend an
    # ordinary one, which is also why ty has to be told to let it pass.
    class ActivityOptions(ActivityConfig, total=False, closed=True):  # ty: ignore
        """The keywords of a step that is an activity."""

        step: str | None
        key: str | None
        on_step_failure: OnStepFailure

    class ChildOptions(ChildWorkflowConfig, total=False, closed=True):  # ty: ignore
        """The keywords of a step that is a child workflow."""

        step: str | None
        key: str | None
        on_step_failure: OnStepFailure

    class CompensationOptions(ActivityConfig, total=False, closed=True):  # ty: ignore
        """The keywords of a compensation that is an activity."""

    class ChildCompensationOptions(ChildWorkflowConfig, total=False, closed=True):  # ty: ignore
        """The keywords of a compensation that is a child workflow."""
