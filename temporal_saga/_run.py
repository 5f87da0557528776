"""The sagas of one workflow run: their ordinals, their order, their room, and the query that shows them."""

# No `from __future__ import annotations`: the SDK would evaluate the annotations of a query handler in each run, which
# is slow.

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cached_property
from inspect import Parameter, Signature
from typing import Any, Protocol, cast

from temporalio import workflow
from temporalio.common import SearchAttributeKey

from ._cancels import Arrivals, Cancels
from ._parking import Parking
from ._report import SagaReport
from ._state import SagaState
from ._waiting import until_idle
from .errors import CompensationError

QUERY = "saga_report"

_MOST_BYTES = 1024 * 1024  # the server ends a run whose workflow task exceeds 4 MB (GrpcMessageTooLarge, measured)

# The server fails a workflow task that would leave more than 2,000 activities pending (limit.numPendingActivities).
# The rest of the run needs some of them.
_MOST_AT_ONCE = 500

search_attribute: ContextVar[str | None] = ContextVar("temporal_saga_search_attribute", default=None)
"""The search attribute that shows the state of a run's sagas, as given to the plugin; None if none was given."""

in_main_method: ContextVar[bool] = ContextVar("temporal_saga_in_main_method", default=False)
"""Whether the current code belongs to the main method or to one of its tasks, and not to a handler.

The plugin sets it. Without the plugin, entering a saga sets it, for the current task and the tasks that it starts.
"""


class OpenSaga(Protocol):
    """A saga, as its run knows it."""

    owner: asyncio.Task[Any]
    """The task that entered the saga."""
    cancels: Cancels
    """The cancels of the owner."""
    raised: CompensationError | None
    """The error that says that an undo failed for good."""

    @property
    def ends_by_itself(self) -> bool: ...  # whether the plugin must not cancel the saga

    def has_steps_of(self, identity: tuple[str, int, str]) -> bool: ...

    def holds_compensations(self) -> bool: ...

    def report(self) -> SagaReport: ...


class Room:
    """How much the undos of a run may ask of the server at once, and in one workflow task."""

    def __init__(self) -> None:
        self._running = 0
        self._bytes = 0
        self._task = 0  # the workflow task that sent `_bytes`, as the length of the history

    def has(self, size: int) -> bool:
        """Tell whether one more undo with `size` bytes of arguments fits. The first of a workflow task always fits."""
        spent = self._bytes if self._task == workflow.info().get_current_history_length() else 0
        return self._running < _MOST_AT_ONCE and (not spent or spent + size <= _MOST_BYTES)

    async def wait(self, size: int) -> None:
        """Wait until one more undo fits."""
        await workflow.wait_condition(lambda: self.has(size))

    def take(self, size: int) -> None:
        """Take the room of an undo that begins."""
        now = workflow.info().get_current_history_length()
        self._bytes = size + (self._bytes if self._task == now else 0)
        self._task = now
        self._running += 1

    def leave(self) -> None:
        """Give back the place of one undo. Its bytes stay spent, unless no undo is left to bring the next task."""
        self._running -= 1
        if not self._running:
            self._bytes = 0


class Run(Arrivals):
    """The sagas of one run, in order of entry. It is the run's query handler, so that nothing is global.

    Attributes:
        sagas: All of them.
        open_sagas: Those that have not ended.
        entries: How many scopes have been entered.
        unwinding: How many scopes unwind.
        details: The text that the UI showed before it showed a saga. It is restored later.
        is_incomplete: Whether an undo has failed for good: then its saga ends incomplete, perhaps much later.
    """

    entries = 0
    unwinding = 0
    details = ""
    is_incomplete = False
    _shown: str | None = None  # the value of the search attribute

    joined: Sequence[tuple[str, int, str]] = ()  # the sagas of children whose entries another saga has taken over
    _when_idle: list[tuple[tuple[Any, ...], Callable[[], object]]] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.sagas: list[OpenSaga] = []
        self.open_sagas: list[OpenSaga] = []
        self._ordinals: dict[str, int] = {}

    @cached_property
    def room(self) -> Room:
        """What its undos may ask of the server."""
        return Room()

    @cached_property
    def parking(self) -> Parking:
        """What waits for a person."""
        return Parking()

    def keep_details(self) -> None:
        """Keep the text that the UI shows, unless the UI shows a saga."""
        if not (self.parking or self.unwinding):
            self.details = workflow.get_current_details()

    def show_state(self) -> None:
        """Set the search attribute: something unwinds, is parked, or could not be undone."""
        name = search_attribute.get()
        if name is None:
            return
        state = "INCOMPLETE" if self.is_incomplete else None
        state = "PARKED" if self.parking else "UNWINDING" if self.unwinding else state
        if state == self._shown or not workflow.patched("temporal-saga-search-attribute"):
            return
        self._shown = state
        key = SearchAttributeKey.for_keyword(name)
        cast(Any, workflow).upsert_search_attributes([key.value_unset() if state is None else key.value_set(state)])

    @staticmethod
    def find() -> "Run | None":
        """Return the current run's `Run`; None if no saga was entered yet."""
        handler: object = cast(Any, workflow).get_query_handler(QUERY)
        return handler if isinstance(handler, Run) else None

    @classmethod
    def current(cls) -> "Run":
        """Return the current run's `Run`. The first saga makes it."""
        run = cls.find()
        if run is None:
            if cast(Any, workflow).get_query_handler(QUERY) is not None:
                raise RuntimeError(
                    f"the workflow has a query handler named {QUERY!r} of its own: rename the handler, "
                    "a saga shows its report under that name"
                )
            run = cls()
            cast(Any, workflow).set_query_handler(QUERY, run)
        return run

    def next_ordinal(self, name: str) -> int:
        """Return the number of the next saga of this name in the run, from 1."""
        self._ordinals[name] = ordinal = self._ordinals.get(name, 0) + 1
        return ordinal

    def in_use(self, state: SagaState) -> str | None:
        """If a saga of this run has, or had, the steps of a state, return the message that refuses the state."""
        identity = state.identity
        if identity not in self.joined and not any(saga.has_steps_of(identity) for saga in self.sagas):
            return None
        return (
            f"the state of saga {state.name!r} is in use in this run: give it to Saga(state=...), or return it from "
            "compensation_from=, once"
        )

    def when_idle(self, rank: tuple[Any, ...], do: Callable[[], object]) -> None:
        """Call `do` when nothing else of this activation is left to run. Several calls run in the order of their rank.

        A `TaskGroup` cancels its tasks in the order of a set, which differs from one process to the next. The commands
        that follow must not depend on that order.
        """
        if self._when_idle is None:
            self._when_idle = []
            self._sweeper = asyncio.create_task(self._sweep())
        self._when_idle.append((rank, do))

    async def _sweep(self) -> None:
        await until_idle()
        waiting, self._when_idle = self._when_idle, None
        for _, do in sorted(waiting or (), key=lambda each: each[0]):
            do()

    async def turn(self, rank: tuple[Any, ...]) -> None:
        """Wait until nothing else of this activation is left to run, and then for the turn of this rank."""
        turn = asyncio.get_running_loop().create_future()
        self.when_idle(rank, lambda: turn.set_result(None))
        await turn

    def __call__(self) -> list[SagaReport]:
        """Answer the query."""
        return [saga.report() for saga in self.sagas]

    # The SDK would work these out again in each run, at half of the cost of a whole saga.
    cast(Any, __call__).__signature__ = Signature([Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)])
    cast(Any, __call__).__no_type_check__ = True
