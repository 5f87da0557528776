"""The workflow that runs any program, and notes what a user's code can see.

It also keeps the books on cancels: who has cancelled which task, and at which await a task got a CancelledError. Two
things are wrong whatever the program is: a cancel at an await that nobody has sent, and an await that goes on although
a cancel is owed to its task. Both are noted as objections.

A `Book` belongs to a task. A `Sender` in it may cancel that task: a timeout around, the workflow, `task.cancel()`, a
deadline. What the user's code swallows is *spent*. A task may also get the cancel of a task that awaits it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception

from temporal_saga import Compensation, Saga, SagaState
from temporal_saga.errors import CompensationError, SagaClosed, SagaDeadlineExceeded

from .program import Body, Op, all_ops

OPTIONS: Any = {"start_to_close_timeout": timedelta(seconds=1000)}
COUNTS = sys.version_info >= (3, 11)
"""Whether asyncio counts cancels."""
WAITS_IN_THE_TASK = sys.version_info >= (3, 12)
"""Whether `asyncio.wait_for` runs its body in the task that calls it."""

TAKEN_BACK = -1
"""When a cancel was spent that its sender has taken back: before all others."""

_TimeoutError = asyncio.TimeoutError


def kind_of(error: BaseException) -> str:
    """Name an exception."""
    if isinstance(error, asyncio.CancelledError):
        return "cancel"
    if isinstance(error, CompensationError):
        return "incomplete"
    if isinstance(error, SagaDeadlineExceeded):
        return "deadline"
    if isinstance(error, SagaClosed):
        return "closed"
    if isinstance(error, _TimeoutError):
        return "timeout"
    if isinstance(error, FailureError):
        return "cancelled call" if is_cancelled_exception(error) else "failure"
    if isinstance(error, workflow.ContinueAsNewError):
        return "continue as new"
    if hasattr(error, "exceptions"):
        return "group"
    return f"bug {type(error).__name__}: {error}"


def history_length() -> int:
    """How long history is: the same within a workflow task."""
    return workflow.info().get_current_history_length() if workflow.in_workflow() else 0


@dataclass(eq=False)
class Sender:
    """Somebody who may cancel a task."""

    label: str
    has_sent: Callable[[], bool]
    insists: bool = False
    """Whether the next await of the task must raise it."""
    may_come_yet: Callable[[], bool] = lambda: False
    """Whether it is due in this very second, and its timer may not have fired."""
    sent_at: int | None = None
    """How long history was then, if that is known."""
    is_deadline: bool = False
    is_doubtful: bool = False
    """Whether it may not have sent, though `has_sent` says so."""


@dataclass(eq=False)
class Book:
    """What is known about the cancels of a task."""

    name: str
    waiters: list[Book] = field(default_factory=list)
    senders: list[Sender] = field(default_factory=list)
    seen: set[Sender] = field(default_factory=set)
    """The senders of the last CancelledError."""
    got: set[Sender] = field(default_factory=set)
    """All whose cancel has arrived at an await."""
    spent: dict[Sender, int] = field(default_factory=dict)
    """Whose cancel is over and done with, and how long history was then."""
    onlookers: list[Book] = field(default_factory=list)
    """Tasks that await it, and do not hand their cancel on."""
    borrowed: bool = False
    """Whether the last CancelledError may be that of a task that this one has awaited, or of a timeout inside."""
    unsure: set[Sender] = field(default_factory=set)
    """Whose cancel is over and done with, or counts on: Python tells no `except` from a `finally`, and a body may
    swallow a cancel while that of a deadline passes through it."""
    ended_cancelled: bool = False
    task: asyncio.Task[Any] | None = None

    def ever_sent(self) -> set[Sender]:
        """Who has cancelled this task, or one that awaits it."""
        if not workflow.in_workflow():  # a coroutine that was given up
            return set()
        result = {sender for sender in self.senders if sender.has_sent()}
        for waiter in self.waiters:
            result |= waiter.ever_sent()
        return result

    def sent(self) -> set[Sender]:
        """The same, without those that are over and done with.

        Not in this workflow task: what comes in one activation may arrive in several turns of the loop.
        """
        now = history_length()
        return {sender for sender in self.ever_sent() if self.spent.get(sender, now) >= now}

    def awaits(self, other: Book) -> bool:
        """Whether this task awaits the other, perhaps through a third."""
        return any(waiter is self or self.awaits(waiter) for waiter in (*other.waiters, *other.onlookers))

    def swallow(self) -> None:
        """The user's code has swallowed the last CancelledError."""
        for sender in self.seen:
            if sender.may_come_yet():
                continue
            self.spent.setdefault(sender, history_length())
            if any(each.is_deadline and each.has_sent() for each in self.senders if each is not sender):
                self.unsure.add(sender)

    def excuse(self) -> None:
        """Python, or a documented case, may have swallowed whatever was sent so far."""
        self.got |= self.ever_sent()


@dataclass(eq=False)
class Scope:
    """A saga or a savepoint."""

    name: str
    saga: Saga
    parent: Scope | None
    owner: asyncio.Task[Any] | None
    book: Book
    place: str = "main"
    """Where it was entered: main, a handler, a callback."""
    due: float | None = None
    exiting: bool = False
    closed: bool = False
    left: bool = False
    past_pivot: bool = False
    cancelled_before: bool = False
    """Whether the workflow was cancelled before the pivot."""
    flying: set[str] = field(default_factory=set)
    callbacks: bool = False
    """Whether a callback was pushed."""
    deadline: Sender | None = None
    """Who sends the cancel of its deadline."""
    holds: bool = False
    """Whether it raises the workflow's cancel when it ends, though the body has met that cancel."""
    ended_well: bool | None = False
    """Once it was left; None if its end can be called either."""

    @property
    def root(self) -> Scope:
        return self if self.parent is None else self.parent.root

    def chain(self) -> list[Scope]:
        return [self, *([] if self.parent is None else self.parent.chain())]

    def is_due_now(self) -> bool:
        return workflow.in_workflow() and self.due == asyncio.get_running_loop().time()

    def passed_deadline(self) -> bool:
        return self.due is not None and asyncio.get_running_loop().time() >= self.due


@dataclass(frozen=True, eq=False)
class Env:
    """Where an operation runs."""

    book: Book
    scopes: tuple[Scope, ...] = ()
    place: str = "main"
    """main, a handler, a callback."""

    def within(self, scope: Scope) -> Env:
        return replace(self, scopes=(*self.scopes, scope))

    def in_task(self, book: Book) -> Env:
        return replace(self, book=book)


if COUNTS:

    class Timeout(asyncio.Timeout):  # type: ignore[name-defined,misc,unused-ignore]
        """`asyncio.timeout`, which notes when it expires."""

        sender: Sender

        def _on_timeout(self) -> None:
            self.sender.sent_at = history_length()
            super()._on_timeout()


@workflow.defn
class DetachingChild:
    """A child whose result is the state of a saga that goes on in its parent."""

    @workflow.run
    async def run(self, name: str, count: int) -> SagaState | None:
        async with Saga(activity_options=OPTIONS) as saga:
            for number in range(count):
                inner = f"{name}.{number}"
                await saga.execute_activity("do", inner, compensation="undo", key=inner)
            return saga.detach()


@workflow.defn
class Interpreter:
    """Runs a program."""

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []
        self.objections: list[str] = []
        self.flags: set[str] = set()
        self.waiting = 0
        self.released = False
        self.scopes: list[Scope] = []
        self.tasks: dict[str, tuple[asyncio.Task[Any], Book]] = {}
        self.states: dict[str, SagaState] = {}
        self.forgotten: list[Any] = []
        self.ending = False
        """The main method has ended, or a signal handler has failed."""
        self.program: dict[str, Any] = {}
        self.main = Book("main")

    # --- the run ---

    @workflow.query
    def seen(self) -> list[Any]:
        """What the body has noted, what it objects to, and whether it waits for a flag."""
        return [self.notes, self.objections, self.waiting]

    @workflow.run
    async def run(self, program: dict[str, Any], state: SagaState | None = None, carried: str = "") -> str:
        self.program = program
        self.main.task = asyncio.current_task()
        self.main.senders.append(Sender("the workflow", self._workflow_was_cancelled, insists=True))
        if carried:
            self.main.senders.append(Sender("the workflow, in the run before", lambda: True))
        env = Env(self.main)
        how = "ok"
        try:
            if state is not None:
                again = Saga(state=state, activity_options=OPTIONS)
                past, left = program["past_pivot"], program["left"]
                await self.scope(program["saga"], again, program["main"], env, deadline=left, past_pivot=past)
            else:
                await self.body(program["main"], env)
            if carried == "must" and not any(sender.label.endswith("before") for sender in self.main.got):
                self.objects("the workflow's cancel, held past the pivot, is lost in continue-as-new")
            return "done"
        except BaseException as error:
            how = kind_of(error)
            if how == "group" and not (program["plugin"] and self.scopes):
                raise leaf_of(error) from None  # the SDK takes a group for a bug, and the plugin does not
            raise
        finally:
            self.ending = True
            self.note("main", how=how)

    # A run may close over a handler: the SDK would warn.
    @workflow.signal(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def signalled(self, number: int) -> None:
        await self.handle("signal", number)

    @workflow.update(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def updated(self, number: int) -> None:
        await self.handle("update", number)

    @workflow.signal
    def release(self) -> None:
        """The harness has nothing else to offer: whoever waits goes on."""
        self.released = True

    async def handle(self, kind: str, number: int) -> None:
        book = Book(f"{kind} {number}", task=asyncio.current_task())
        main = tuple(scope for scope in self.scopes[:1] if not scope.left)
        how = "ok"
        try:
            await self.body(self.program["events"][number]["body"], Env(book, main, "a handler"))
        except BaseException as error:
            how = kind_of(error)
            if how == "group":
                raise leaf_of(error) from None  # the SDK takes a group for a bug
            raise
        finally:
            if kind == "signal" and how != "ok":
                self.ending = True
            self.note("handler", kind=kind, number=number, how=how)

    async def body(self, body: Body, env: Env) -> None:
        for op in body:
            await getattr(self, f"op_{op['op']}")(op, env)

    def is_alive(self) -> bool:
        """Whether this runs in its own run; the garbage collector closes coroutines anywhere."""
        return workflow.in_workflow() and workflow.instance() is self

    def note(self, what: str, **more: Any) -> None:
        if self.is_alive():
            self.notes.append({"what": what, "length": history_length(), **more})

    def objects(self, text: str) -> None:
        self.objections.append(text)

    # --- cancels ---

    def _workflow_was_cancelled(self) -> bool:
        return workflow.in_workflow() and workflow.cancellation_reason() is not None

    def plausible(self, env: Env) -> set[Sender]:
        """Who may have sent a cancel to the task that gets one now."""
        result = env.book.sent()
        if any(scope.past_pivot for scope in self.scopes):
            # The saga has held it, though another cancel came meanwhile, and gives it back when it ends.
            result |= {sender for sender in self.main.senders[:1] if sender in env.book.ever_sent()}
        if not COUNTS and any(sender.is_deadline and sender.has_sent() for sender in env.book.senders):
            # A saga inside may have kept it during its unwind, and given it back. Nobody can tell whose it was.
            result.add(Sender("a deadline that has passed", lambda: True, is_doubtful=True))
        if self.ending:
            result.add(Sender("the end of the run", lambda: True, is_doubtful=True))
        if any(scope.exiting for scope in env.scopes):
            result.add(Sender("an unwind", lambda: True, is_doubtful=True))
        return result

    def is_past(self, sender: Sender, book: Book) -> bool:
        """Whether a timeout or deadline has taken its cancel back, as `uncancel()` does."""
        return book.spent.get(sender) == TAKEN_BACK

    def sighted(self, env: Env, where: str, *, task_ended: bool = False) -> None:
        """A CancelledError came out of an await."""
        senders = self.plausible(env)
        if not senders and not task_ended:
            self.objects(f"{env.book.name} gets a cancel that nobody has sent, at {where}")
        if self.holds_the_cancel():
            # The workflow's is held: this is somebody else's, if there is one.
            others = {sender for sender in senders if sender.label != "the workflow"}
            senders = senders if all(sender.is_doubtful for sender in others) else others
        env.book.seen, env.book.borrowed = senders, task_ended
        env.book.got |= senders

    def confuses_senders(self) -> bool:
        """Without the plugin, a timeout that expires with the workflow's cancel may be held in its place."""
        if self.program["plugin"] or not self._workflow_was_cancelled():
            return False
        return any(scope.past_pivot for scope in self.scopes)

    def holds_the_cancel(self) -> bool:
        """Whether a saga of the main method is past its pivot, and the workflow's cancel waits for it."""
        return any(scope.root.past_pivot and not scope.root.left for scope in self.scopes if scope.place == "main")

    def owed(self, env: Env) -> str | None:
        """Whose cancel the next await must raise."""
        if self.confuses_senders():
            return None
        held = {"the workflow"} if self.holds_the_cancel() else set()
        for sender in env.book.senders:
            is_open = sender not in env.book.got and sender not in env.book.spent
            if is_open and sender.insists and sender.label not in held and sender.has_sent():
                return sender.label
        return None

    async def leaf(self, env: Env, where: str, awaitable: Any, *, must: bool = True, of: Scope | None = None) -> Any:
        """Await; look at what cancels do."""
        owed, since = self.owed(env) if must else None, history_length()
        try:
            result = await awaitable
        except BaseException as error:
            kind = kind_of(error)
            if kind in ("cancel", "cancelled call"):
                self.sighted(env, where)
                if env.book is self.main and of is not None and of.root.owner is self.main.task and not of.exiting:
                    is_held = of.root.past_pivot and not of.root.cancelled_before and not self.ending
                    if is_held and {sender.label for sender in self.main.seen} == {"the workflow"}:
                        self.objects(f"the workflow's cancel comes out of {where}, past the pivot of {of.root.name}")
            elif owed and kind == "failure":
                self.objects(f"{env.book.name} goes on at {where}, though {owed} had cancelled it before")
            raise
        owed = owed or self.overdue(env)
        if owed:
            self.objects(f"{env.book.name} goes on at {where}, though {owed} had cancelled it before")
        if env.book is self.main and must:
            self.note("went on", name=where, since=since)
        return result

    def overdue(self, env: Env) -> str | None:
        """Which timeout has cancelled this await in an earlier workflow task."""
        if self.confuses_senders():
            return None
        for sender in env.book.senders:
            is_open = sender not in env.book.got and sender not in env.book.spent
            if is_open and sender.sent_at is not None and sender.sent_at < history_length():
                return sender.label
        return None

    # --- leaves ---

    async def op_sleep(self, op: Op, env: Env) -> None:
        await self.leaf(env, "sleep", asyncio.sleep(op["seconds"]))

    async def op_wait(self, op: Op, env: Env) -> None:
        flag = op["flag"]
        self.waiting += 1
        if self.program["single_batch"] and not self._workflow_was_cancelled():
            # With that flag the SDK raises the workflow's cancel here in any task.
            env.book.senders.append(Sender("wait_condition", self._workflow_was_cancelled, is_doubtful=True))
        try:
            condition = workflow.wait_condition(lambda: self.released or flag in self.flags)
            await self.leaf(env, "wait", condition, must=False)
        finally:
            self.waiting -= 1

    async def op_raise_flag(self, op: Op, env: Env) -> None:
        self.flags.add(op["flag"])

    async def op_plain(self, op: Op, env: Env) -> None:
        name = op["name"]
        before = env.book.ever_sent()
        try:
            await self.leaf(env, name, workflow.execute_activity("plain", name, activity_id=name, **OPTIONS))
        except FailureError as error:
            if kind_of(error) == "failure":
                self.met_the_end(before, env)
            raise
        self.met_the_end(before, env)

    def met_the_end(self, before: set[Sender], env: Env) -> None:
        """Take a cancel that came in the activation in which a plain activity ended for swallowed: the SDK does that.

        In an earlier activation the cancel would have ended the activity.
        """
        env.book.got |= {sender for sender in env.book.ever_sent() - before if sender.label == "task.cancel()"}

    async def op_fail(self, op: Op, env: Env) -> None:
        raise ApplicationError("fail", type="Fail", non_retryable=True)

    def scope_of(self, op: Op, env: Env) -> Scope | None:
        """The scope of a step, unless calling it would be misuse."""
        if not env.scopes:
            return None
        scope = env.scopes[max(0, len(env.scopes) - 1 - op.get("up", 0))]
        return None if scope.left or scope.closed else scope

    def call(self, op: Op, env: Env) -> tuple[str, Coroutine[Any, Any, Any]] | None:
        """Call a step, without awaiting it."""
        scope = self.scope_of(op, env)
        if scope is None:
            return None
        name = op["name"]
        scope.root.flying.add(name)
        self.note("call", name=name, scope=scope.name)
        if op["op"] == "step":
            options: dict[str, Any] = {"compensation": None if op["undo"] is None else "undo"}
            if op["chosen"] and op["undo"] is not None:
                options = {"compensation_from": lambda _outcome: Compensation("undo", name)}
            return name, scope.saga.execute_activity("do", name, key=name, **options)
        if op["detaches"]:
            args = [name, op["detaches"]]
            coroutine: Any = scope.saga.execute_child_workflow(
                DetachingChild.run, args=args, key=name, compensation_from=lambda outcome: outcome.result
            )
            return name, coroutine
        undo = None if op["undo"] is None else "undo"
        return name, scope.saga.execute_child_workflow("Child", name, key=name, compensation=undo)

    async def op_step(self, op: Op, env: Env) -> None:
        if called := self.call(op, env):
            name, call = called
            how = "ok"
            try:
                result = await self.leaf(env, name, call, of=self.scope_of(op, env))
                if isinstance(result, SagaState):
                    self.states[name] = result
            except BaseException as error:
                how = kind_of(error)
                raise
            finally:
                self.step_ended(name, how, env)

    op_child = op_step

    def step_ended(self, name: str, how: str, env: Env) -> None:
        for scope in self.scopes:
            scope.flying.discard(name)
        self.note("returned" if how == "ok" else "raised", name=name, how=how)

    # --- tasks ---

    def start(self, name: str, body: Body, env: Env, *, waiter: Book | None, create: Any = None) -> Any:
        """Run a body in a task. A single step is handed to the task as `create_task(saga.execute_activity(...))`."""
        book = Book(name, waiters=[] if waiter is None else [waiter])
        create = create or asyncio.create_task
        if len(body) == 1 and body[0]["op"] in ("step", "child") and (called := self.call(body[0], env)):
            step, call = called
            task = create(call)

            def ended(task: asyncio.Task[Any]) -> None:
                error = None if task.cancelled() else task.exception()
                how = "cancel" if task.cancelled() else "ok" if error is None else kind_of(error)
                book.ended_cancelled = task.cancelled()
                self.step_ended(step, how, env)

            task.add_done_callback(ended)
        else:
            task = create(self.in_task(body, env.in_task(book), book))
        book.task = task
        return task, book

    async def in_task(self, body: Body, env: Env, book: Book) -> None:
        try:
            await self.body(body, env)
        except BaseException as error:
            book.ended_cancelled = isinstance(error, asyncio.CancelledError)
            raise

    async def op_gather(self, op: Op, env: Env) -> None:
        name = env.book.name
        started = [self.start(f"{name}/{index}", body, env, waiter=env.book) for index, body in enumerate(op["bodies"])]
        try:
            await asyncio.gather(*[task for task, _ in started], return_exceptions=op["settles"])
        except asyncio.CancelledError:
            self.sighted(env, "gather", task_ended=any(has_ended_cancelled(book) for _, book in started))
            raise
        except BaseException:
            env.book.excuse()  # the error of a task comes before the cancel that was handed to it
            raise

    async def op_group(self, op: Op, env: Env) -> None:
        failed = Sender("a sibling in a group", lambda: any(has_failed(book) for book in books))
        books: list[Book] = []
        name = env.book.name
        try:
            async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]
                for index, body in enumerate(op["bodies"]):
                    _, book = self.start(f"{name}/{index}", body, env, waiter=env.book, create=group.create_task)
                    book.senders.append(failed)
                    books.append(book)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                # It may have come long before: a group raises it when its tasks have ended.
                self.sighted(env, "group", task_ended=bool(env.book.ever_sent()))
            else:
                env.book.excuse()  # before 3.13 a group prefers its errors, and the cancel is lost
                if self.is_alive() and is_being_cancelled(asyncio.current_task()):
                    # From 3.13 on a group with errors sends it again, one that was swallowed long before too.
                    env.book.senders.append(Sender("a group", lambda: True, is_doubtful=True))
            raise

    async def op_timeout(self, op: Op, env: Env) -> None:
        book = env.book
        manager = Timeout(asyncio.get_running_loop().time() + op["seconds"])
        mine = manager.sender = Sender(f"a timeout of {op['seconds']} s", manager.expired, insists=True)
        book.senders.append(mine)
        inside = outside = "ok"
        try:
            async with manager:
                try:
                    await self.body(op["body"], env)
                except BaseException as error:
                    inside = kind_of(error)
                    raise
        except BaseException as error:
            outside = kind_of(error)
            raise
        finally:
            others = [each for each in book.ever_sent() if each is not mine and not self.is_past(each, book)]
            if inside == outside == "cancel" and manager.expired() and not self.ending and not others:
                self.objects(f"a timeout in {book.name} has expired, and a CancelledError leaves it")
            if inside == outside == "cancel" and manager.expired():
                book.borrowed = True  # it is the timeout's own, which counts for a cancel that came before it
            # Another task that it had cancelled may get that later.
            book.spent[mine] = TAKEN_BACK

    async def op_wait_for(self, op: Op, env: Env) -> None:
        now = asyncio.get_running_loop().time
        due = now() + op["seconds"]
        book = Book(f"{env.book.name}/wait_for", waiters=[env.book])
        book.senders.append(Sender("wait_for", lambda: now() >= due, may_come_yet=lambda: now() == due))
        try:
            await asyncio.wait_for(self.in_task(op["body"], env.in_task(book), book), op["seconds"])
        except asyncio.CancelledError:
            self.sighted(env, "wait_for", task_ended=book.ended_cancelled)
            raise
        finally:
            env.book.excuse()
            if WAITS_IN_THE_TASK:  # what the body has swallowed is over and done with for this task
                env.book.spent.update(book.spent)
                env.book.unsure |= book.unsure
            env.book.senders += [sender for sender in book.senders if sender.label == "a group"]

    async def op_spawn(self, op: Op, env: Env) -> None:
        task, book = self.start(op["task"], op["body"], env, waiter=None)
        task.add_done_callback(retrieve)
        self.tasks[op["task"]] = task, book

    async def op_join(self, op: Op, env: Env) -> None:
        task, book = self.tasks.get(op["task"], (None, env.book))
        # A callback that awaits a task of the body may wait for itself.
        if task is None or book is env.book or book.awaits(env.book) or env.place == "a callback":
            return
        book.waiters.append(env.book)
        try:
            await task
        except asyncio.CancelledError:
            self.sighted(env, "join", task_ended=has_ended_cancelled(book))
            raise
        finally:
            book.waiters.remove(env.book)
            mine = env.book.ever_sent()  # what the task has swallowed of them is over and done with
            if mine:  # it went to the task, and what the task awaits may get it turns later
                book.senders.append(Sender("one who joined", lambda: True, is_doubtful=True))
            env.book.spent.update({sender: when for sender, when in book.spent.items() if sender in mine})
            env.book.excuse()  # the cancel went to the task, which may have swallowed it

    async def op_cancel_task(self, op: Op, env: Env) -> None:
        task, book = self.tasks.get(op["task"], (None, env.book))
        if task is not None and task.cancel():
            book.senders.append(Sender("task.cancel()", lambda: True, insists=COUNTS))

    async def op_shield(self, op: Op, env: Env) -> None:
        task, book = self.start(f"{env.book.name}/shield", op["body"], env, waiter=None)
        book.onlookers.append(env.book)
        task.add_done_callback(retrieve)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self.sighted(env, "shield", task_ended=has_ended_cancelled(book))
            raise

    # --- blocks ---

    async def op_attempt(self, op: Op, env: Env) -> None:
        inside: BaseException | None = None
        try:
            try:
                await self.body(op["body"], env)
            except BaseException as error:
                inside = error
                if not is_caught(error, op["catches"]):
                    raise
                self.note("caught", how=kind_of(error))
                if kind_of(error) in ("cancel", "cancelled call"):
                    env.book.swallow()
                handled = set(env.book.seen)
                try:
                    await self.body(op["handler"], env)
                except asyncio.CancelledError:
                    env.book.unsure |= handled  # Python tells no `except` from a `finally`
                    raise
            finally:
                if self.is_alive():
                    await self.last(op["last"], env, inside)
        except BaseException as outside:
            if inside is not None and outside is not inside:
                self.note("caught", how=kind_of(inside))
                if kind_of(outside) != "cancel" and self.is_alive():
                    env.book.excuse()
            raise

    async def last(self, body: Body, env: Env, passing: BaseException | None) -> None:
        """Run a `finally`. A cancel that passes through goes on, whatever the body swallows meanwhile."""
        book = env.book
        seen, spent = book.seen, dict(book.spent)
        await self.body(body, env)
        if passing is not None and kind_of(passing) in ("cancel", "cancelled call"):
            book.seen = seen
            for sender in seen - spent.keys():
                book.spent.pop(sender, None)

    async def op_saga(self, op: Op, env: Env) -> None:
        deadline = op["deadline"]
        made = Saga(
            op["name"],
            order=op["order"],
            activity_options=OPTIONS,
            deadline=None if deadline is None else timedelta(seconds=deadline),
        )
        await self.scope(op["name"], made, op["body"], env, deadline=deadline)

    async def op_savepoint(self, op: Op, env: Env) -> None:
        if (scope := self.scope_of(op, env)) is not None:
            await self.scope(op["name"], scope.saga.savepoint(), op["body"], env, parent=scope)

    async def op_adopt(self, op: Op, env: Env) -> None:
        if (state := self.states.get(op["step"])) is not None:
            await self.scope(f"{op['step']}'s", Saga(state=state, activity_options=OPTIONS), op["body"], env)

    async def scope(
        self,
        name: str,
        made: Saga,
        body: Body,
        env: Env,
        *,
        parent: Scope | None = None,
        deadline: float | None = None,
        past_pivot: bool = False,
    ) -> None:
        scope = Scope(name, made, parent, asyncio.current_task(), env.book, env.place, past_pivot=past_pivot)
        own = Sender(f"the deadline of {name}", scope.passed_deadline, insists=COUNTS, may_come_yet=scope.is_due_now)
        own.is_deadline = True
        entered, got_before = False, set(env.book.got)
        inside = outside = "ok"
        first: BaseException | None = None
        last: BaseException | None = None
        try:
            async with made:
                entered = True
                self.scopes.append(scope)
                outer = None if parent is None else parent.name
                self.note("enter", name=name, parent=outer, book=env.book.name)
                if deadline is not None:
                    scope.due = asyncio.get_running_loop().time() + max(deadline, 0)
                    scope.deadline = own
                    env.book.senders.append(own)
                try:
                    await self.body(body, env.within(scope))
                except BaseException as error:
                    inside, first = kind_of(error), error
                    raise
                finally:
                    scope.exiting = True
                    self.note("end", name=name, how=inside)
        except BaseException as error:
            outside, last = kind_of(error), error
            if has_circle(error):
                self.objects(f"{name} raises {outside}, which is among its own causes: no failure can be made of it")
            if outside == "cancel" and inside != "cancel":
                self.sighted(env, f"the {'end' if entered else 'start'} of {name}")
            elif outside == "cancel":
                # One that came during the unwind goes on with the one that began it.
                env.book.seen |= env.book.sent()
                env.book.got |= env.book.sent() - {own}
            elif outside == "incomplete" and parent is None:
                # A documented case: a saga raises CompensationError in place of the cancel.
                env.book.excuse()
            raise
        finally:
            # What an eviction throws through the scope has not ended it.
            if entered and self.is_alive() and not outside.startswith("bug"):
                self.look_at_the_end(scope, env, own, inside, outside)
                if outside == "deadline" and inside == "cancel":
                    # Whoever else has cancelled meanwhile still counts on it, unless the body has swallowed that.
                    env.book.got -= env.book.seen - {own} - env.book.spent.keys() - got_before
                if self.holds_at_its_exit(scope, inside):
                    scope.root.holds = True
                    if outside == "incomplete":
                        env.book.got -= set(self.main.senders[:1])  # it has not left the savepoint
                scope.left = True
                is_held = scope.root.past_pivot and outside in ("cancel", "cancelled call")
                scope.ended_well = None if is_held else outside == "ok" and not scope.closed
                self.note("left", name=name, how=outside, same=first is last, report=made.report().state)
                env.book.spent[own] = TAKEN_BACK

    def holds_at_its_exit(self, scope: Scope, inside: str) -> bool:
        """Whether a savepoint past the pivot has met the workflow's cancel, which its saga raises again when it ends.

        Only without the plugin. With the plugin the cancel never comes to the body.
        """
        return (
            not self.program["plugin"]
            and scope.parent is not None
            and scope.root.past_pivot
            and not scope.root.cancelled_before
            and scope.root.owner is scope.owner is self.main.task
            and inside in ("cancel", "cancelled call")
            and self.main.senders[0] in self.main.seen
        )

    def look_at_the_end(self, scope: Scope, env: Env, own: Sender, inside: str, outside: str) -> None:
        """What a scope makes of a cancel."""
        book = env.book
        of_workflow = {sender for sender in book.seen if sender.label == "the workflow"} - book.spent.keys()
        others = {
            sender
            for sender in book.ever_sent()
            if sender is not own
            and not self.is_past(sender, book)
            and not (
                # In the activation in which it comes, it may come once more than was swallowed: from the gate.
                book.spent.get(sender, history_length()) < history_length()
                and sender not in book.unsure
                and sender.label == "the workflow"
            )
        }
        around = any(each.exiting for each in env.scopes) or self.ending
        if inside == outside == "cancel" and own in book.seen and not (others or around or book.borrowed):
            self.objects(f"the cancel of its own deadline leaves {scope.name}")
        is_lost = outside == "incomplete" and inside in ("cancel", "cancelled call")
        if scope.parent is not None and is_lost and of_workflow and not self.holds_at_its_exit(scope, inside):
            self.objects(f"{scope.name}, cancelled by the workflow, raises CompensationError and no cancel")

    async def op_pivot(self, op: Op, env: Env) -> None:
        scope = self.owned(env)
        if scope is None or scope.root.flying:
            return
        try:
            scope.saga.pivot()
        except asyncio.CancelledError:
            # With the workflow's cancel on its way to other tasks, it does not wait to see which these are.
            self.sighted(env, "pivot", task_ended=self._workflow_was_cancelled())
            env.book.seen = set()  # the gate hands the cancel on later: to swallow this one is not to swallow that
            if scope.root.past_pivot:
                self.objects(f"a cancel comes out of a pivot of {scope.name}, past the pivot of {scope.root.name}")
            raise
        self.note("pivot", name=scope.name)
        if not scope.root.past_pivot:
            scope.root.cancelled_before = self._workflow_was_cancelled()
        for each in scope.chain():
            each.past_pivot = True
            self.stop_deadline(each)

    def stop_deadline(self, scope: Scope) -> None:
        """A pivot or an unwind stops the deadline, if it has not passed."""
        if not scope.passed_deadline():
            scope.due = None
        elif scope.is_due_now() and scope.deadline is not None:
            scope.deadline.insists, scope.deadline.is_doubtful = False, True  # its timer was stopped, or has fired

    def owned(self, env: Env) -> Scope | None:
        """The innermost scope, if it is open and this task has entered it."""
        if not env.scopes:
            return None
        scope = env.scopes[-1]
        mine = scope.owner is asyncio.current_task()
        is_open = not any(each.exiting or each.closed or each.left for each in scope.chain())
        return scope if mine and is_open else None

    async def op_push(self, op: Op, env: Env) -> None:
        if (scope := self.scope_of(op, env)) is not None:
            name = op["name"]
            scope.saga.add_compensation("undo", name, step=name)
            self.note("push", name=name, scope=scope.name)

    async def op_callback(self, op: Op, env: Env) -> None:
        if (scope := self.scope_of(op, env)) is not None:
            name = op["name"]
            scope.root.callbacks = True
            scope.saga.add_callback(self.called_back_at_once if op["sync"] else self.called_back, op)
            self.note("push", name=name, scope=scope.name)

    async def called_back(self, op: Op) -> None:
        name, how = op["name"], "ok"
        book = Book(f"callback {name}", task=asyncio.current_task())
        self.note("calls back", name=name)
        try:
            await self.body(op["body"], Env(book, place="a callback"))
            await workflow.execute_activity("undo", name, activity_id=f"callback {name}", **OPTIONS)
        except BaseException as error:
            how = kind_of(error)
            raise
        finally:
            self.note("callback", name=name, how=how)

    def called_back_at_once(self, op: Op) -> None:
        name, fails = op["name"], op["undo"] != "ok"
        workflow.start_activity("undo", name, activity_id=f"callback {name}", **OPTIONS)
        self.note("callback", name=name, how="failure" if fails else "ok")
        if fails:
            raise ApplicationError("fail", type="Fail", non_retryable=True)

    async def op_undo(self, op: Op, env: Env) -> None:
        name, scope = op["step"], env.scopes[-1] if env.scopes else None
        if scope is None or any(each.exiting or each.closed or each.left for each in scope.chain()):
            return
        if not self.is_armed(name, scope):
            return
        self.note("undo", name=name)
        scope.root.flying.add(f"undo of {name}")
        how = "ok"
        kind = next(each["op"] for each in all_ops(self.program) if each.get("name") == name)
        try:
            await scope.saga.undo("do" if kind == "step" else "Child", key=name)
        except BaseException as error:
            how = kind_of(error)
            if how == "cancel":
                self.sighted(env, "undo")
            raise
        finally:
            scope.root.flying.discard(f"undo of {name}")
            self.note("undo ended", name=name, how=how)

    def is_armed(self, name: str, scope: Scope) -> bool:
        """Whether a step has ended, and `saga.undo` finds it in this scope."""
        op = next((op for op in all_ops(self.program) if op.get("name") == name), None)
        notes = {note["what"]: note for note in self.notes if note.get("name") == name}
        end = notes.get("returned") or notes.get("raised")
        if (
            op is None
            or end is None
            or "undo" in notes
            or op["undo"] is None
            or op.get("detaches")
            or scope.root.past_pivot
        ):
            return False
        if end["what"] == "raised" and (end["how"] != "failure" or op["fate"] not in ("error", "timeout")):
            return False  # nobody knows whether there was an effect
        scopes = {each.name: each for each in self.scopes}
        holder: Scope | None = scopes.get(notes["call"]["scope"])
        while holder is not None and holder is not scope:
            # A savepoint that ends well undoes the steps whose failure its body has swallowed.
            holder = holder.parent if holder.left and holder.ended_well and end["what"] == "returned" else None
        return holder is scope

    async def op_forget(self, op: Op, env: Env) -> None:
        if (scope := self.scope_of(op, env)) is not None:
            self.forgotten.append(scope.saga.execute_activity("do", op["name"], key=op["name"], compensation="undo"))
            self.note("forget", name=op["name"], scope=scope.name)

    async def op_late(self, op: Op, env: Env) -> None:
        name = op["name"]
        scope = next((each for each in self.scopes if each.name == op["scope"]), None)
        if scope is None or not (scope.left or scope.closed) or env.place == "a callback":
            return
        is_owner = scope.owner is asyncio.current_task()
        allowed = {"closed"}
        if env.place == "main" and scope.left:
            ends = [each.ended_well and not each.closed for each in scope.chain() if each.left or each.closed]
            if is_owner or all(ends):
                allowed = {"misuse"}
            elif ends[0] is not False:
                allowed = {"misuse", "closed"}
        if not self.program["plugin"] and not (is_owner and env.place == "main"):
            allowed = {"misuse", "closed"}  # a handler is told from the main method as well as can be
        self.note("late", name=name, allowed=sorted(allowed))
        how = "ok"
        try:
            if op["opens"]:
                async with scope.saga.savepoint():
                    pass
            else:
                await scope.saga.execute_activity("do", name, key=name, compensation="undo")
        except BaseException as error:
            how = kind_of(error)
            if how == "cancel":
                # It may be held until the unwind of a scope around has ended.
                self.sighted(env, "a late step", task_ended=any(each.exiting for each in scope.chain()))
            raise
        finally:
            if self.is_alive() and how not in ("cancel", *allowed):
                self.objects(f"{name}, called after the end of {scope.name}, ended {how}, not {sorted(allowed)}")

    async def op_compensate(self, op: Op, env: Env) -> None:
        scope = self.owned(env)
        if scope is None:
            return
        scope.exiting = scope.closed = True
        self.stop_deadline(scope)
        how = "ok"
        self.note("compensate", name=scope.name)
        try:
            await scope.saga.compensate()
        except BaseException as error:
            how = kind_of(error)
            if how == "cancel":
                self.sighted(env, "compensate")
            raise
        finally:
            self.note("compensated", name=scope.name, how=how)

    async def op_again(self, op: Op, env: Env) -> None:
        workflow.continue_as_new(args=[{**self.program, "main": [], "events": []}])

    async def op_go_on(self, op: Op, env: Env) -> None:
        scope = self.owned(env)
        if scope is None or scope.parent or scope.root.flying or scope.callbacks or env.place != "main":
            return
        if asyncio.current_task() is not self.main.task or not all(s.left for s in self.scopes if s is not scope):
            return
        try:
            state = scope.saga.detach()
        except asyncio.CancelledError:
            self.sighted(env, "detach")
            raise
        self.note("detach", name=scope.name)
        scope.closed = True
        of_workflow = self.main.senders[0]
        is_held = scope.past_pivot and not scope.cancelled_before
        carried = ""
        if is_held and of_workflow.has_sent():
            carried = "must" if of_workflow not in self.main.got else "may" if scope.holds else ""
        left = None if scope.due is None else scope.due - asyncio.get_running_loop().time()
        rest = {"main": op["body"], "saga": scope.name, "left": left, "past_pivot": scope.past_pivot}
        workflow.continue_as_new(args=[{**self.program, **rest}, state, carried])


def is_caught(error: BaseException, catches: str) -> bool:
    """Whether a `try` of that kind catches an error."""
    kind = kind_of(error)
    if kind == "group":
        leaves: Any = getattr(error, "exceptions", ())
        return all(is_caught(each, catches) for each in leaves)
    if kind == "continue as new" or kind.startswith("bug"):
        return False
    is_cancel = kind == "cancel"
    return catches == "any" or (catches == "cancel" and is_cancel) or (catches == "failure" and not is_cancel)


def has_circle(error: BaseException) -> bool:
    """Whether an error is one of its own causes, or one of its causes is."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__
    return cause is not None


def leaf_of(error: BaseException) -> BaseException:
    """The first error in a group."""
    while leaves := getattr(error, "exceptions", ()):
        error = leaves[0]
    return error


def has_ended_cancelled(book: Book) -> bool:
    """Whether the task of a book has ended cancelled."""
    return book.ended_cancelled or (book.task is not None and book.task.cancelled())


def has_failed(book: Book) -> bool:
    """Whether the task of a book has failed."""
    task = book.task
    return task is not None and task.done() and not task.cancelled() and task.exception() is not None


def is_being_cancelled(task: Any) -> bool:
    """Whether asyncio still counts a cancel of a task."""
    return bool(task is not None and task.cancelling())


def retrieve(task: asyncio.Task[Any]) -> None:
    """Let nobody log that the error of a task was never retrieved."""
    if not task.cancelled():
        task.exception()
