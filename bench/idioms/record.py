"""Explores an idiom, and counts the plans that end badly with an effect standing.

What stands is read from the providers' books after each run; how the workflow remembers its compensations does not
matter. Left out of the count is an effect whose own undo a fault has broken for good, if the run's error names that
undo: no code can undo it, and a person is told.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

from temporalio.exceptions import ActivityError

from bench.idioms import (
    appended_after,
    appended_before,
    completed_flags,
    java_saga,
    retry_loop,
    retry_policy,
    shielded,
    with_saga,
)
from bench.idioms.providers import Fenced, FencedByTheLibrary, Idempotent
from bench.idioms.steps import UNDOES, Bank, Order, Shop, Transfer
from temporal_saga.testing import Simulation, explore

Story = Literal["transfer", "order"]
Provider = Literal["idempotent", "fenced"]

STORIES: tuple[Story, ...] = get_args(Story)
PROVIDERS: tuple[Provider, ...] = get_args(Provider)

BADLY = ("failed", "cancelled")

KINDS: tuple[Any, ...] = tuple(inspect.signature(explore).parameters["kinds"].default)
# A call that takes effect after all else, its undo included: only whoever is called can refuse it.
ONLY_FENCED = ("applies_late",)


@dataclass(frozen=True)
class Idiom:
    """A way to write a saga.

    Attributes:
        name: For the command line.
        title: For the table.
        module: Where it is written, as `TransferWorkflow` and `OrderWorkflow`.
        is_ours: Whether it is the library's.
    """

    name: str
    title: str
    module: ModuleType
    is_ours: bool = False


IDIOMS: dict[str, Idiom] = {
    idiom.name: idiom
    for idiom in (
        Idiom("appended-after", "compensation appended after its step", appended_after),
        Idiom("appended-before", "compensation appended before its step", appended_before),
        Idiom("shielded", "closures under `asyncio.shield`", shielded),
        Idiom("java-saga", "a class like Java's `Saga`", java_saga),
        Idiom("completed-flags", "rollback of the steps marked as completed", completed_flags),
        Idiom("retry-loop", "each undo in a retry loop", retry_loop),
        Idiom("retry-policy", "each undo with a maximum of attempts", retry_policy),
        Idiom("saga", "`temporal_saga.Saga`", with_saga, is_ours=True),
    )
}


@dataclass(frozen=True)
class Count:
    """What an exploration of one idiom came to.

    Attributes:
        plans: How many plans ran.
        standing: The plans that ended badly with an effect standing, in the order in which they ran.
    """

    plans: int
    standing: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.standing)} of {self.plans}"


class World:
    """Fresh books, and the activities that write to them."""

    def __init__(self, story: Story, books: Idempotent | Fenced) -> None:
        self.books = books
        self.activities: list[Callable[..., Any]] = (Bank(books) if story == "transfer" else Shop(books)).activities
        self.close = books.close


def count(name: str, story: Story, provider: Provider, depth: int, *, kinds: Collection[Any] | None = None) -> Count:
    """Explore an idiom with up to `depth` faults at once, of the kinds that its provider can stand by default."""
    idiom = IDIOMS[name]
    standing: list[str] = []

    def look(world: World, simulation: Simulation[Any]) -> None:
        if simulation.status in BADLY and unaccounted(world.books.standing(), simulation):
            standing.append(repr(simulation.faults))

    workflow: Any = idiom.module.TransferWorkflow if story == "transfer" else idiom.module.OrderWorkflow
    argument = Transfer("t-1", "A", "B", 30) if story == "transfer" else Order("o-1", "4242", "teapot", 30)
    exploration = explore(
        workflow.run,
        argument,
        setup=lambda: World(story, _books(idiom, provider)),
        check=look,
        faults=depth,
        kinds=_kinds(provider) if kinds is None else kinds,
        fail=False,
        elsewhere=False,
        processes=1,
        progress=False,
    )
    if idiom.is_ours:
        # The explorer does not call the check where a fault broke an undo for good. It then checks by itself that all
        # else was undone, and that the run tells.
        standing += [repr([*violation.plan]) for violation in exploration.violations]
    assert exploration.untried == 0
    return Count(exploration.tried, tuple(dict.fromkeys(standing)))


def unaccounted(standing: Collection[str], simulation: Simulation[Any]) -> set[str]:
    """Return the steps that stand, but for those whose undo failed for good and is named by the run's error."""
    if not standing:
        return set()
    failed = {call.type for call in simulation.calls if call.state in ("failed", "timed out")}
    return {step for step in standing if UNDOES[step] not in failed & _named(simulation)}


def _named(simulation: Simulation[Any]) -> set[str]:
    """Return the activities that the run's error and its causes name."""
    named: set[str] = set()
    try:
        simulation.result()
    except Exception as raised:
        error: BaseException | None = raised
        while error is not None:
            if isinstance(error, ActivityError):
                named.add(error.activity_type)
            error = getattr(error, "cause", None) or error.__cause__
    return named


def _books(idiom: Idiom, provider: Provider) -> Idempotent | Fenced:
    if provider == "idempotent":
        return Idempotent()
    return FencedByTheLibrary() if idiom.is_ours else Fenced()


def _kinds(provider: Provider) -> Collection[Any]:
    return KINDS if provider == "fenced" else [kind for kind in KINDS if kind not in ONLY_FENCED]
