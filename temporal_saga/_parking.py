"""Waiting for a person: a step or an undo that has failed for good, and the update that settles it.

fails for good ── park ──> waits ── saga_resolve ──> retry           it runs again, under the same key and id
done_by_hand    an undo: counts as done
give_up         it has failed
"""

# No `from __future__ import annotations`: the SDK evaluates those of an update handler.

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, NamedTuple, cast

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from ._compensation import check_arguments, registered_name
from ._identity import checked_name
from ._metrics import count
from ._typing import Reminder
from ._waiting import UntilDone

UPDATE = "saga_resolve"
MEMO = "saga_parked"

# The memo is written again with each decision, and the names of a thousand steps would fill the history.
MOST_NAMED = 20

# The possible decisions. A step has a result, and nobody can type in a result by hand.
_ACTIONS = {"undo": ("retry", "done_by_hand", "give_up"), "step": ("retry", "give_up")}


@dataclass(frozen=True)
class Parked:
    """A step or an undo that waits for a person. A `park_reminder=` activity gets it as its argument.

    Attributes:
        saga: The saga's name.
        step: The step's name.
        key: The step's key, which `saga_resolve` takes.
        what: "step" if the step itself has failed, "undo" if its compensation has.
        error: The type of the error that it failed with.
        reminder: Which reminder this is, from 1.
    """

    saga: str
    step: str
    key: str
    what: Literal["step", "undo"]
    error: str
    reminder: int = 1


class Resolution(NamedTuple):
    """A person's decision."""

    action: str
    who: str
    why: str


class Ticket:
    """One step or undo that waits.

    Args:
        parked: What it is.
        show: Shows its saga in the UI.
    """

    def __init__(self, parked: Parked, show: Callable[[], object]) -> None:
        self.parked = parked
        self.show = show
        self.decision: asyncio.Future[Resolution | None] = asyncio.get_running_loop().create_future()
        # The length of the history. 0 in a replay: then the history has the parking.
        self.parked_at = 0 if workflow.unsafe.is_replaying() else workflow.info().get_current_history_length()

    def settle(self, resolution: Resolution | None) -> None:
        """Settle the ticket with a decision, or with None if a cancel ends the waiting of a step."""
        if not self.decision.done():
            self.decision.set_result(resolution)


class Parking:
    """The steps and undos of one run that wait for a person. The first of them registers the update handler."""

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}
        self._is_registered = False
        self._noted: list[Ticket] = []

    def __bool__(self) -> bool:
        return bool(self._tickets)

    def check_name_is_free(self) -> None:
        """Raise if the workflow has its own update handler named `saga_resolve`."""
        if not self._is_registered and cast(Any, workflow).get_update_handler(UPDATE) is not None:
            raise RuntimeError(
                f"the workflow has an update handler named {UPDATE!r} of its own: rename the handler, a saga takes the "
                "decisions about what is parked under that name"
            )

    def park(self, ticket: Ticket) -> None:
        """Let something wait."""
        parked = ticket.parked
        if not self._is_registered:
            self.check_name_is_free()
            self._is_registered = True
            cast(Any, workflow).set_update_handler(UPDATE, self.resolve, validator=self.check)
        self._tickets[parked.key] = ticket
        which = "undo of step" if parked.what == "undo" else "step"
        message = (
            "Saga %s: the %s %r (key %s) has failed for good with %s. It is parked until a person decides: send the "
            f"update {UPDATE}, or run `temporal-saga resolve`"
        )
        extra = {"saga": parked.saga, "step": parked.step, "key": parked.key}
        workflow.logger.error(message, parked.saga, which, parked.step, parked.key, parked.error, extra=extra)
        count("parked", "Steps and compensations that wait for a person.", saga=parked.saga, step=parked.step)

    def show(self) -> None:
        """Show the saga of the newest ticket again, if there is one, after another saga was shown."""
        if self._tickets:
            [*self._tickets.values()][-1].show()

    def note(self) -> None:
        """Note in the run's memo which steps have something parked.

        The list of workflows shows the memo. The command is also needed to end the workflow task. If a task has no
        command and an update comes next, another worker's core (1.35) merges the two on replay, and the update comes
        first. A decision would then be rejected forever, or fail to replay.
        """
        if self._noted != (tickets := [*self._tickets.values()]):
            self._noted = tickets
            names = _some([ticket.parked.step for ticket in tickets])
            cast(Any, workflow).upsert_memo({MEMO: names or None})

    def forget(self) -> None:
        """Take no more decisions: the run closes. Continue-as-new would hand on the memo."""
        self._tickets.clear()
        self.note()

    async def decision(self, ticket: Ticket, reminder: Reminder | None) -> Resolution | None:
        """Wait for the decision. Return None if a cancel ended the waiting."""
        reminding = None if reminder is None else asyncio.create_task(_remind(ticket, reminder))
        try:
            return await ticket.decision
        finally:
            self._tickets.pop(ticket.parked.key, None)
            if reminding is not None:
                reminding.cancel()

    def check(self, key: str, action: str, who: str, why: str) -> None:
        """Reject a decision that is not possible. The message names the possible ones."""
        actions = _ACTIONS[(ticket := self._waiting(key)).parked.what]
        if action not in actions:
            hint = "; a step has a result, which nobody can give by hand" if action == "done_by_hand" else ""
            raise _rejected(f"action must be one of {', '.join(actions)}; got {action!r}{hint}")
        for name, value, most in (("who", who, 100), ("why", why, 800)):  # the failure of the run carries both
            if not (value or "").strip():  # a client may send null
                raise _rejected(f"say {name}: it goes on record, in the history and in the saga's report")
            if len(value) > most:
                raise _rejected(f"{name} has {len(value):,} characters, and may have {most}")
        if not who.isprintable():
            raise _rejected("who must be a name, without line breaks and control characters: the UI shows it")
        # A query may have taken the run ahead of its history (`_ahead.py`). A decision that came with the workflow task
        # that parks the step would come before the parking on a replay, and the run would be stuck. So wait until the
        # history has the parking: then a completed task, a command of that task, and the scheduling and the start of
        # the task of the update come between.
        if workflow.info().get_current_history_length() - ticket.parked_at < 4:
            raise _rejected(f"{ticket.parked.step!r} is not on record as parked yet: decide again in a moment")

    def resolve(self, key: str, action: str, who: str, why: str) -> None:
        """Carry out a person's decision."""
        ticket = self._waiting(key)  # an interceptor may have waited since the check, and another decision came first
        count("resolved", "Decisions on what was parked.", saga=ticket.parked.saga, action=action)
        ticket.settle(Resolution(action, who, why))

    def _waiting(self, key: str) -> Ticket:
        ticket = self._tickets.get(key)
        if ticket is not None and not ticket.decision.done():
            return ticket
        waiting = ", ".join(_some([f"{each.parked.step} ({key})" for key, each in self._tickets.items()]))
        raise _rejected(f"nothing is parked under the key {key!r}; parked now: {waiting or 'nothing'}")


def check_reminder(reminder: object) -> None:
    """Raise unless it is a pair of an activity that takes one argument, and an interval."""
    pair: Any = reminder
    fix = "(tell_us, timedelta(hours=1))"
    if not isinstance(reminder, tuple) or len(pair) != 2 or not isinstance(pair[1], timedelta):
        raise TypeError(f"park_reminder= must be an activity and an interval, as in {fix}; got {pair!r}")
    if pair[1] <= timedelta(0):
        raise ValueError(f"the interval of park_reminder= must be positive; got {pair[1]}")
    checked_name("the activity of park_reminder=", registered_name(pair[0]), fix)
    check_arguments(pair[0], ("a Parked",))


async def _remind(ticket: Ticket, reminder: Reminder) -> None:
    activity, interval = reminder
    parked = ticket.parked
    while True:
        try:
            await _send(activity, parked, max(interval, timedelta(minutes=1)))
        except Exception:  # even if a data converter cannot write a Parked: parking must not depend on the reminder
            if not ticket.decision.done():
                message = "Saga %s: the reminder that step %r (key %s) is parked has failed"
                workflow.logger.warning(message, parked.saga, parked.step, parked.key)
        await asyncio.sleep(interval.total_seconds())
        parked = replace(parked, reminder=parked.reminder + 1)


async def _send(activity: Any, parked: Parked, lasts: timedelta) -> None:
    # Not `await call`: a cancel that comes with its end loses its error, and asyncio logs the details of that.
    call: asyncio.Task[Any] = cast(Any, workflow).start_activity(activity, parked, schedule_to_close_timeout=lasts)
    call.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        await UntilDone(call)
    finally:
        call.cancel()
    call.result()


def _some(texts: list[str]) -> list[str]:
    return texts if len(texts) <= MOST_NAMED else [*texts[:MOST_NAMED], f"and {len(texts) - MOST_NAMED} more"]


def _rejected(message: str) -> ApplicationError:
    return ApplicationError(message, type="SagaNotResolved", non_retryable=True)
