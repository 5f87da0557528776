"""A new colleague gets accounts: what depends on what, and what differs from one execution to the next."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import Rejected, Saga, business_key, current_step, presets
from temporal_saga.testing import Simulation
from tests.kit.corpus.case import Buggy, Correct
from tests.kit.corpus.ledger import Ledger, step_key

STANDARD = presets.standard()


@dataclass
class Task:
    who: str
    due: str


class Office:
    """A directory with accounts, mailboxes in them, tasks and badges. Ada has been here for years."""

    def __init__(self) -> None:
        self.accounts = {"ada"}
        self.mailboxes: dict[str, str] = {}
        self.made: set[str] = set()
        self.gone: set[str] = set()
        self.books = Ledger()
        self.activities: list[Callable[..., Any]] = [self.create_account, self.delete_account, self.create_mailbox]
        self.activities += [self.delete_mailbox, self.assign, self.withdraw_task, self.join, self.leave, self.note]

    def _is_late(self) -> None:
        if current_step().key in self.gone:
            raise Rejected("it has been deleted before it came")

    @activity.defn
    async def create_account(self, name: str) -> None:
        self._is_late()
        if current_step().key not in self.made and name not in self.accounts:
            self.accounts.add(name)
            self.made.add(current_step().key)

    @activity.defn
    async def delete_account(self, name: str) -> None:
        if step_key() in self.made - self.gone:
            if name in self.mailboxes:
                raise ApplicationError(f"{name} still has a mailbox", non_retryable=True)
            self.accounts.remove(name)
        self.gone.add(step_key())

    @activity.defn
    async def create_mailbox(self, name: str) -> None:
        self._is_late()
        self.mailboxes[name] = current_step().key

    @activity.defn
    async def delete_mailbox(self, name: str) -> None:
        self.gone.add(step_key())
        if self.mailboxes.get(name) == step_key():
            del self.mailboxes[name]

    @activity.defn
    async def assign(self, task: Task) -> None:
        self.books.enter("tasks", 1)

    @activity.defn
    async def withdraw_task(self, task: Task) -> None:
        self.books.reverse()

    @activity.defn
    async def join(self, team: str) -> None:
        self.books.enter("teams", 1)

    @activity.defn
    async def leave(self, team: str) -> None:
        self.books.reverse()

    @activity.defn
    async def note(self, text: str) -> None: ...


def here_or_not(office: Office, simulation: Simulation[Any]) -> None:
    here = simulation.status == "completed"
    assert ("grace" in office.accounts, "grace" in office.mailboxes) == (here, here)
    assert "ada" in office.accounts, "ada was here before, and has no account any more"


def tasks_or_none(office: Office, simulation: Simulation[Any]) -> None:
    assert office.books["tasks"] == (simulation.status == "completed")


def teams_or_none(office: Office, simulation: Simulation[Any]) -> None:
    assert office.books["teams"] == (2 if simulation.status == "completed" else 0)


@workflow.defn
class Onboard:
    @workflow.run
    async def run(self, name: str) -> None:
        async with Saga("onboard", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Office.create_account, name, compensation=Office.delete_account)
            if name != "ada":
                await saga.execute_activity_method(Office.create_mailbox, name, compensation=Office.delete_mailbox)
            await saga.execute_activity_method(Office.note, f"welcome {name}")


@workflow.defn
class AssignByLot:
    """Draws lots by the SDK's random, and dates by its clock."""

    @workflow.run
    async def run(self) -> None:
        who = workflow.random().choice(["ada", "grace", "barbara", "katherine"])
        async with Saga("assign", activity_options=STANDARD) as saga:
            task = Task(f"{who} {workflow.uuid4()}", workflow.now().isoformat())
            await saga.execute_activity_method(Office.assign, task, compensation=Office.withdraw_task)
            await saga.execute_activity_method(Office.note, task.who)


@workflow.defn
class JoinsTeams:
    @workflow.run
    async def run(self, teams: list[str]) -> None:
        async with Saga("join", activity_options=STANDARD) as saga:
            for team in dict.fromkeys(teams):
                await saga.execute_activity_method(Office.join, team, compensation=Office.leave)


@workflow.defn
class Traced:
    """Sends a time stamp along that no one decides by: it differs in a replay by design."""

    @workflow.run
    async def run(self) -> None:
        async with Saga("assign", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(
                Office.assign, Task("ada", _time_stamp()), compensation=Office.withdraw_task
            )
            await saga.execute_activity_method(Office.note, _time_stamp())


def _time_stamp() -> str:
    with workflow.unsafe.sandbox_unrestricted():
        return datetime.now(timezone.utc).isoformat()


# What follows has a bug each.


class DeletesTwice(Office):
    @activity.defn
    async def delete_account(self, name: str) -> None:
        self.gone.add(step_key())
        if step_key() in self.made:
            if name not in self.accounts:
                raise ApplicationError(f"there is no account {name}", non_retryable=True)
            self.accounts.remove(name)


class DeletesWhatWasThere(Office):
    """The step is fine with an account that exists, and the undo deletes it."""

    @activity.defn
    async def delete_account(self, name: str) -> None:
        self.gone.add(step_key())
        self.accounts.discard(name)


class Cascades(Office):
    """Deleting the mailbox deletes the account around it, as the vendor's form does by default."""

    @activity.defn
    async def delete_mailbox(self, name: str) -> None:
        await super().delete_mailbox(name)
        self.accounts.discard(name)

    @activity.defn
    async def delete_account(self, name: str) -> None:
        if step_key() in self.made - self.gone:
            if name not in self.accounts:
                raise ApplicationError(f"there is no account {name}", non_retryable=True)
            self.accounts.remove(name)
        self.gone.add(step_key())


@workflow.defn
class PushesInTheWrongOrder:
    """Pushes the account's undo last, so that it runs while the mailbox is still there."""

    @workflow.run
    async def run(self, name: str) -> None:
        async with Saga("onboard", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Office.create_mailbox, name, compensation=Office.delete_mailbox)
            saga.add_compensation("close_account", name)
            await saga.execute_activity("open_account", name)
            await saga.execute_activity_method(Office.note, f"welcome {name}")


class OpensByName(Office):
    """Accounts by name: safe to repeat. An account is closed only if no mailbox is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: set[str] = set()
        self.activities += [self.open_account, self.close_account]

    @activity.defn
    async def open_account(self, name: str) -> None:
        if name in self.closed:
            raise Rejected("it was closed before it came")
        self.accounts.add(name)

    @activity.defn
    async def close_account(self, name: str) -> None:
        if name in self.mailboxes:
            raise ApplicationError(f"{name} still has a mailbox", non_retryable=True)
        self.closed.add(name)
        self.accounts.discard(name)


class RemembersOneTitle(Office):
    """A title's undo restores the one before, of which only one is kept for each person."""

    def __init__(self) -> None:
        super().__init__()
        self.title = "guest"
        self.before = ""
        self.seen: set[str] = set()
        self.activities += [self.set_title, self.restore_title]

    @activity.defn
    async def set_title(self, title: str) -> None:
        self._is_late()
        if current_step().key not in self.seen:
            self.seen.add(current_step().key)
            self.before, self.title = self.title, title

    @activity.defn
    async def restore_title(self, title: str) -> None:
        if step_key() in self.seen - self.gone:
            self.title = self.before
        self.gone.add(step_key())


@workflow.defn
class Promotes:
    @workflow.run
    async def run(self) -> None:
        async with Saga("promote", activity_options=STANDARD) as saga:
            await saga.execute_activity("set_title", "engineer", compensation="restore_title")
            await saga.execute_activity("set_title", "lead", compensation="restore_title")


def _lead_or_guest(office: RemembersOneTitle, simulation: Simulation[Any]) -> None:
    assert office.title == ("lead" if simulation.status == "completed" else "guest")


@workflow.defn
class DrawsLots:
    @workflow.run
    async def run(self) -> None:
        who = random.choice([f"colleague {n}" for n in range(1000)])
        async with Saga("assign", activity_options=STANDARD) as saga:
            task = Task(who, "tomorrow")
            await saga.execute_activity_method(Office.assign, task, compensation=Office.withdraw_task)


@workflow.defn
class LooksAtTheClock:
    @workflow.run
    async def run(self) -> None:
        async with Saga("assign", activity_options=STANDARD) as saga:
            task = Task("ada", datetime.now(timezone.utc).isoformat())
            await saga.execute_activity_method(Office.assign, task, compensation=Office.withdraw_task)


@workflow.defn
class JoinsASet:
    @workflow.run
    async def run(self, teams: list[str]) -> None:
        async with Saga("join", activity_options=STANDARD) as saga:
            for team in set(teams):
                await saga.execute_activity_method(Office.join, team, compensation=Office.leave)


_HELPED: list[str] = []


@workflow.defn(sandboxed=False)
class TakesTurns:
    """Whose turn it is stands in a global of the module, which all runs share without the sandbox."""

    @workflow.run
    async def run(self) -> None:
        async with Saga("assign", activity_options=STANDARD) as saga:
            task = Task(f"colleague {len(_HELPED)}", "tomorrow")
            _HELPED.append(task.who)
            await saga.execute_activity_method(Office.assign, task, compensation=Office.withdraw_task)


@workflow.defn
class NotesOnce:
    """Leaves a step out in a replay, "since it has been done"."""

    @workflow.run
    async def run(self) -> None:
        async with Saga("assign", activity_options=STANDARD) as saga:
            if not workflow.unsafe.is_replaying():
                await saga.execute_activity_method(Office.note, "a task is coming")
            await saga.execute_activity_method(
                Office.assign, Task("ada", "tomorrow"), compensation=Office.withdraw_task
            )


class OneTaskForAll(Office):
    """The task's key is made of the person alone: a second task of theirs is the first."""

    @activity.defn
    async def assign(self, task: Task) -> None:
        self._is_late()
        key = business_key("task", task.who)
        if key not in self.books.applied:
            self.books.applied[key] = ("tasks", 1)
            self.books.add("tasks", 1)

    @activity.defn
    async def withdraw_task(self, task: Task) -> None:
        self.gone.add(step_key())
        self.books.reverse(business_key("task", task.who))


@workflow.defn
class AssignsTwo:
    @workflow.run
    async def run(self) -> None:
        async with Saga("assign", activity_options=STANDARD) as saga:
            for due in ("today", "tomorrow"):
                task = Task("ada", due)
                await saga.execute_activity_method(Office.assign, task, compensation=Office.withdraw_task)


def _two_tasks(office: Office, simulation: Simulation[Any]) -> None:
    assert office.books["tasks"] == (2 if simulation.status == "completed" else 0), "tasks of ada"


def _correct(name: str, **changes: Any) -> Correct:
    base: dict[str, Any] = {"setup": Office, "check": tasks_or_none, "without_compensation": ("note",)}
    return Correct(name=name, **(base | changes))


CORRECT = [
    _correct("onboard", run=Onboard.run, args=("grace",), check=here_or_not),
    _correct("assign-by-lot", run=AssignByLot.run),
    _correct("join-teams", run=JoinsTeams.run, args=(["b", "a", "b"],), check=teams_or_none, without_compensation=()),
    _correct("traced", run=Traced.run),
    _correct("assign-two", run=AssignsTwo.run, check=_two_tasks, without_compensation=()),
]


def _buggy(name: str, culprit: tuple[str, ...], bug: str, expected: str, **changes: Any) -> Buggy:
    base: dict[str, Any] = {"setup": Office, "check": tasks_or_none}
    return Buggy(name=name, culprit=culprit, bug=bug, expected=expected, **(base | changes))


_ONBOARD: dict[str, Any] = {"run": Onboard.run, "args": ("grace",), "check": here_or_not}

BUGGY = [
    _buggy(
        "undo-fails-on-a-second-call",
        ("create_account:undo", "delete_account"),
        "The undo fails for good if the account is gone already, as it is on a second attempt.",
        "the undo of create_account fails by itself on its second attempt",
        **(_ONBOARD | {"setup": DeletesTwice}),
    ),
    _buggy(
        "undo-deletes-what-was-there",
        ("create_account", "note", "ada"),
        "The step finds an account that exists, and its undo deletes that.",
        "the check objects once create_account has been undone",
        **(
            _ONBOARD
            | {"args": ("ada",), "setup": DeletesWhatWasThere, "check": lambda office, _: "ada" in office.accounts}
        ),
    ),
    _buggy(
        "undo-cascades",
        ("create_account:undo", "create_mailbox", "delete_account"),
        "The undo of the mailbox deletes the account too: the account's undo then fails for good.",
        "the undo of create_account fails by itself",
        **(_ONBOARD | {"setup": Cascades}),
    ),
    _buggy(
        "undos-in-the-wrong-order",
        ("close_account",),
        "An undo is pushed after what depends on it: it refuses, as the mailbox is still there.",
        "the compensation close_account fails by itself",
        run=PushesInTheWrongOrder.run,
        args=("grace",),
        setup=OpensByName,
        check=here_or_not,
    ),
    _buggy(
        "one-value-before",
        ("set_title",),
        "Two steps keep the value before in one place: the undo of the first restores the first one's own.",
        "the check objects once both have been undone",
        run=Promotes.run,
        setup=RemembersOneTitle,
        check=_lead_or_guest,
    ),
    _buggy(
        "random-in-the-workflow",
        ("assign", "random"),
        "`random.choice` in the workflow: a replay assigns the task to someone else.",
        "a replay gives other arguments for assign; or, in the sandbox, random.choice is forbidden",
        run=DrawsLots.run,
    ),
    _buggy(
        "clock-in-the-workflow",
        ("assign", "datetime"),
        "`datetime.now()` in the workflow: a replay gives another time.",
        "a replay gives other arguments for assign; or, in the sandbox, datetime.now is forbidden",
        run=LooksAtTheClock.run,
    ),
    _buggy(
        "order-of-a-set",
        ("join",),
        "Steps in the order of a set of strings: another process has another order.",
        "a replay in another process gives other commands for join",
        run=JoinsASet.run,
        args=(["design", "platform"],),
        check=teams_or_none,
    ),
    _buggy(
        "global-in-the-workflow",
        ("assign",),
        "Whose turn it is stands in a global: a replay finds another value.",
        "a replay gives other arguments for assign",
        run=TakesTurns.run,
    ),
    _buggy(
        "skips-in-a-replay",
        ("note",),
        "`is_replaying()` decides whether a step is run.",
        "a replay gives other commands: note is missing",
        run=NotesOnce.run,
    ),
    _buggy(
        "business-key-collides",
        ("assign", "tasks of ada"),
        "The business key has not all that names the effect: the second task is taken for the first.",
        "the check objects without any fault: one task in place of two",
        run=AssignsTwo.run,
        setup=OneTaskForAll,
        check=_two_tasks,
    ),
]
