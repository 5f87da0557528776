"""What an entry of the corpus consists of."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from temporal_saga.testing import Simulation

Check = Callable[[Any, Simulation[Any]], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A workflow in its world.

    Attributes:
        name: Its name in the tests.
        run: The workflow's run method.
        args: Its arguments.
        setup: Makes the world.
        check: What its author asks of the world after each run.
        options: Further options for `explore`.
    """

    name: str
    run: Callable[..., Awaitable[Any]]
    args: tuple[Any, ...] = ()
    setup: Callable[[], Any]
    check: Check | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Correct(Case):
    """A workflow without a bug.

    Attributes:
        without_compensation: What `Exploration.without_compensation` should list: steps that need no compensation, and
            those after a pivot.
    """

    without_compensation: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Buggy(Case):
    """A workflow with one bug.

    Attributes:
        bug: What is wrong.
        culprit: The step, undo or event that is to blame: the first violation has to have one of these texts in its
            message or in its plan.
        expected: What a user expects the first violation to say.
        listed: Whether it is not a violation, but a step that `without_compensation` has to list.
    """

    bug: str
    culprit: tuple[str, ...]
    expected: str
    listed: bool = False
