"""Plays the server and a worker for a program, and keeps the ledger: what was sent, how it ended, what took effect."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from temporalio.exceptions import ApplicationError, TimeoutType

from temporal_saga.plugin import SagaPlugin
from tests import driver
from tests.driver import (
    Activity,
    Child,
    Command,
    Event,
    cancel,
    cancelled,
    child_cancelled,
    child_completed,
    child_failed,
    child_started,
    completed,
    failed,
    signal,
    timed_out,
    timer,
    update,
)

from .interpreter import DetachingChild, Interpreter
from .program import Program, all_ops

Time = tuple[int, int, int]
"""Number of the activation, 0 for its events and 1 for its commands, position."""

_LIMIT = 400
"""Activations of a run; more is an endless one."""

_EVICTIONS = 8
"""At about so many points of a run a copy is evicted."""


@dataclass
class Undo:
    """One run of a compensation."""

    begun: Time
    ended: Time | None = None
    ok: bool = True
    cancelled: bool = False


@dataclass
class Entry:
    """What the world knows of one step or push."""

    name: str
    begun: Time | None = None
    ended: Time | None = None
    outcome: str = "UNKNOWN"
    """APPLIED, NOT_APPLIED or UNKNOWN."""
    undos: list[Undo] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)
    """What a child that succeeded has handed over."""


@dataclass
class World:
    """What a run of a program looked like from outside."""

    program: Program
    ledger: dict[str, Entry] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)
    objections: list[str] = field(default_factory=list)
    cancelled: tuple[int, int] | None = None
    """The activation that delivered the workflow's cancel, and which run (by continue-as-new) it was."""
    last_run: int = 0
    """Which run (by continue-as-new) was the last."""
    closed: Command | None = None
    generation: int = 0
    """Which run it was that closed."""
    commands: list[list[Command]] = field(default_factory=list)
    """By activation."""
    story: list[str] = field(default_factory=list)


class _Task(asyncio.Task[Any]):
    """A task that hashes as it is told to: a set of tasks has the order that a test wants."""

    number = 0
    __eq__ = object.__eq__

    def __hash__(self) -> int:
        return self.number


class Run(driver.Run):
    """A run in which a set of tasks has the order in which they joined it; by `hashes`, another one."""

    hashes = 0

    def _new_instance(self, *args: Any, **kwargs: Any) -> Any:
        instance: Any = super()._new_instance(*args, **kwargs)
        salt, created = self.hashes, 0

        def create_task(coroutine: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
            nonlocal created
            options: dict[str, Any] = {} if context is None else {"context": context}
            task = _Task(coroutine, loop=instance, **options)
            created += 1
            task.number = hash((salt, created)) if salt else 0
            instance._register_task(task, name=name)
            return task

        instance.create_task = create_task
        return instance


def _refusal() -> ApplicationError:
    mark = {"temporal_saga": {"v": 1, "kind": "DECLINED", "effect": "none"}}
    return ApplicationError("no", mark, type="Declined", non_retryable=True)


def _error() -> ApplicationError:
    return ApplicationError("boom", type="Boom")


@functools.cache
def _state_of(name: str, count: int) -> Any:
    """What a child that detaches returns."""
    run = driver.Run(DetachingChild, name, count, workflow_id=name, run_id=str(uuid.uuid5(uuid.NAMESPACE_OID, name)))
    return run.autopilot({}).result


class Harness:
    """Drives one run of a program to its end."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ops = {op["name"]: op for op in all_ops(program) if "name" in op}
        self.world = World(program)
        self.generation = 0
        self.run = self._new_run(program)
        self.offset = 0
        """The activations of the runs before."""
        self.noted = 0
        self.since: dict[tuple[int, int], datetime] = {}
        """When an activity or child was scheduled, started; by generation and number."""
        self.asked: dict[tuple[int, int], datetime] = {}
        self.events = sorted(range(len(program["events"])), key=lambda index: program["events"][index]["at"])
        self.cancel_at: int | None = program["cancel_at"]
        self.restarts = set(program["restarts"])
        self.epoch = self.run.now
        self.released = 0

    def _new_run(self, *args: Any, now: datetime | None = None) -> Run:
        plugins = [SagaPlugin()] if self.program["plugin"] else []
        run_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"run {self.generation}"))
        run = Run(
            Interpreter,
            *args,
            run_id=run_id,
            continued_run_id=self.run.run_id if self.generation else None,
            plugins=plugins,
            single_batch=self.program["single_batch"],
        )
        run.now = now or run.now
        return run

    def play(self) -> World:
        """Drive to the end; return what it looked like."""
        world = self.world
        try:
            self._activate([], start=True)
            while self._goes_on():
                if len(self.run.activations) > _LIMIT:
                    world.objections.append("no end: it goes on and on")
                    break
                if len(self.run.activations) in self.restarts:
                    self.restarts.discard(len(self.run.activations))
                    self.run.restart()
                if not self._turn():
                    world.objections.append("stuck: it waits for ever")
                    break
        except AssertionError as error:
            world.objections.append(f"driver: {_short(error)}")
        if self.run.task_failure is not None:
            world.objections.append(f"task failed: {self.run.task_failure[1]}: {self.run.task_failure[2]}")
            with contextlib.suppress(AssertionError, ValueError):  # if it cannot answer any more
                world.notes += self.run.query("seen")[0]
            if not world.notes:
                world.notes += self.run.workflow_object().notes
        else:
            self._ask()
            self._replay()
        world.closed, world.generation = self.run.closed, self.generation
        return world

    def _goes_on(self) -> bool:
        """Whether there is a next activation; follows continue-as-new."""
        run = self.run
        if run.task_failure is not None:
            return False
        if run.closed is None:
            return True
        if run.closed[0] != "continue_as_new":
            return False
        self._ask()
        self._replay()
        self.offset += len(run.activations)
        self.generation += 1
        self.world.last_run = self.generation
        self.noted = 0
        self.run = self._new_run(*run.closed[1], now=run.now)
        self.world.story.append("--- continued as new")
        self._activate([], start=True)
        return self._goes_on()

    def _ask(self) -> None:
        notes, objections, _ = self.run.query("seen")
        lengths = [done.request.history_length for done in self.run.activations]
        for note in notes:
            note["activation"] = self.offset + lengths.index(note["length"])
            if "since" in note:
                note["since"] = self.offset + lengths.index(note["since"])
        self.world.notes += notes
        self.world.objections += objections

    def _replay(self) -> None:
        """It replays to the same commands, whatever order tasks hash in, and leaves no trace when it is evicted."""
        run = self.run
        try:
            if self.program["hashes"]:
                run.hashes = self.program["hashes"]
                run.replay()
                run.hashes = 0
            run.replay()
        except AssertionError as error:
            # asyncio's own words, when an error reaches a `gather` that was given up.
            if "exception was never retrieved" not in str(error):
                self.world.objections.append(f"replay: {_short(error)}")
        for count in range(0, len(run.activations), 1 + len(run.activations) // _EVICTIONS):
            try:
                run.evict_copy(count)
            except (AssertionError, RuntimeError) as error:
                self.world.objections.append(f"eviction: {_short(error)}")
                break

    # --- what happens next ---

    def _agenda(self) -> list[tuple[datetime, Callable[[], list[Event]]]]:
        """What will happen, each with its time."""
        run = self.run
        agenda: list[tuple[datetime, Callable[[], list[Event]]]] = [
            *(self._end_of(activity) for activity in run.activities),
            *(self._end_of_child(child) for child in run.children),
            *((each.due, lambda: [timer()]) for each in sorted(run.timers, key=lambda each: (each.due, each.seq))),
            *((self._at(self.program["events"][i]["at"]), functools.partial(self._event, i)) for i in self.events),
        ]
        if self.cancel_at is not None:
            agenda.append((self._at(self.cancel_at), self._cancel))
        agenda.sort(key=lambda each: each[0])
        return agenda

    def _at(self, second: int) -> datetime:
        return self.epoch + timedelta(seconds=second)

    def _turn(self) -> bool:
        """One activation. Return whether there was anything to happen."""
        agenda = self._agenda()
        if not agenda:
            return self._release()
        first = agenda[0][0]
        now = first
        together = self.program["ties"] != "one"
        for start, end in self.program["busy"]:
            if self._at(start) <= first < self._at(end):
                now, together = self._at(end), True
        happens = [what for when, what in agenda if when <= now] if together else [agenda[0][1]]
        if self.program["ties"] == "reversed" and now == first:
            happens.reverse()
        self.run.now = max(self.run.now, now)
        self._activate([event for what in happens for event in what()])
        return True

    def _release(self) -> bool:
        """Nothing will happen: let those go on that wait for a flag."""
        _, _, waiting = self.run.query("seen")
        if not waiting or self.released > 2:
            return False
        self.released += 1
        self._activate([signal("release")])
        return True

    def _event(self, index: int) -> list[Event]:
        self.events.remove(index)
        if self.program["events"][index]["kind"] == "signal":
            return [signal("signalled", index)]
        return [update("updated", index, update_id=f"update {index}")]

    def _cancel(self) -> list[Event]:
        self.cancel_at = None
        self.world.cancelled = self._next_events()[0], self.generation
        return [cancel()]

    def _end_of(self, activity: Activity) -> tuple[datetime, Callable[[], list[Event]]]:
        name = activity.args[0]
        op, entry = self._op(name), self.world.ledger[name]
        key = (self.generation, activity.seq)
        if activity.name == "undo":
            due = self.since[key] + timedelta(seconds=op.get("undo_takes", 1))
            return due, lambda: self._undo_ends(activity, entry, op)
        due = self.since[key] + timedelta(seconds=op["takes"])
        asked = self.asked.get(key)
        if asked is not None and op.get("obeys") is not None and asked + timedelta(seconds=op["obeys"]) <= due:
            obeyed = asked + timedelta(seconds=op["obeys"])
            return obeyed, lambda: self._ends(entry, "UNKNOWN", cancelled(activity.id))
        return due, lambda: self._do_ends(activity, entry, op)

    def _op(self, name: str) -> dict[str, Any]:
        """The operation of a name; what a child has handed over is undone as the child says."""
        return self.ops[name] if name in self.ops else self.ops[name.rpartition(".")[0]]

    def _undo_ends(self, activity: Activity, entry: Entry, op: dict[str, Any]) -> list[Event]:
        undo = entry.undos[-1]
        if op.get("sync"):
            return [completed(activity.id)]
        undo.ended = self._next_events()
        undo.ok = op["undo"] == "ok"
        return [completed(activity.id) if undo.ok else failed(activity.id, _error())]

    def _do_ends(self, activity: Activity, entry: Entry, op: dict[str, Any]) -> list[Event]:
        fate, id = op["fate"], activity.id
        if fate == "ok":
            return self._ends(entry, "APPLIED", completed(id, op["name"]))
        if fate == "declined":
            return self._ends(entry, "NOT_APPLIED", failed(id, _refusal()))
        if fate == "unstarted":
            return self._ends(entry, "NOT_APPLIED", timed_out(id, TimeoutType.SCHEDULE_TO_START))
        return self._ends(entry, "UNKNOWN", timed_out(id) if fate == "timeout" else failed(id, _error()))

    def _end_of_child(self, child: Child) -> tuple[datetime, Callable[[], list[Event]]]:
        name = child.args[0]
        op, entry = self.ops[name], self.world.ledger[name]
        key = (self.generation, -child.seq)
        if not child.started:
            return self.since[key], lambda: self._child_starts(child, key)
        due = self.since[key] + timedelta(seconds=op["takes"])
        asked = self.asked.get(key)
        if asked is not None and op["obeys"] is not None and asked + timedelta(seconds=op["obeys"]) <= due:
            obeyed = asked + timedelta(seconds=op["obeys"])
            return obeyed, lambda: self._ends(entry, "UNKNOWN", child_cancelled(child.id))
        return due, lambda: self._child_ends(child, entry, op)

    def _child_starts(self, child: Child, key: tuple[int, int]) -> list[Event]:
        self.since[key] = self.run.now
        return [child_started(child.id)]

    def _child_ends(self, child: Child, entry: Entry, op: dict[str, Any]) -> list[Event]:
        if op["fate"] != "ok":
            return self._ends(entry, "UNKNOWN", child_failed(child.id, _error()))
        if not op["detaches"]:
            return self._ends(entry, "APPLIED", child_completed(child.id, op["name"]))
        entry.entries = [f"{op['name']}.{number}" for number in range(op["detaches"])]
        for name in entry.entries:
            self.world.ledger[name] = Entry(name, self._next_events(), self._next_events(), "APPLIED")
        return self._ends(entry, "APPLIED", child_completed(child.id, _state_of(op["name"], op["detaches"])))

    def _ends(self, entry: Entry, outcome: str, event: Event) -> list[Event]:
        entry.outcome, entry.ended = outcome, self._next_events()
        return [event]

    def _next_events(self) -> Time:
        return (self.offset + len(self.run.activations), 0, 0)

    # --- the ledger ---

    def _activate(self, events: list[Event], *, start: bool = False) -> None:
        if start:
            early = self._cancel() if self.cancel_at == 0 and not self.generation else []
            self.run.start(*early)
        else:
            self.run.activate(*events)
        self._note()

    def _note(self) -> None:
        """Read the new commands."""
        run = self.run
        for number in range(self.noted, len(run.activations)):
            done = run.activations[number]
            for position, command in enumerate(done.commands):
                self._read((self.offset + number, 1, position), command)
            self.world.commands.append(done.commands)
            jobs = ", ".join(str(job.WhichOneof("variant")) for job in done.request.jobs)
            seconds = (run.now - self.epoch).total_seconds()
            self.world.story.append(f"{self.offset + number:3} at {seconds:3.0f} s: {jobs} -> {done.commands}")
        self.noted = len(run.activations)
        for activity in run.scheduled:
            key = (self.generation, activity.seq)
            self.since.setdefault(key, run.now)
            if activity.cancel_requested:
                self.asked.setdefault(key, run.now)
            # What Core has resolved by itself.
            if activity not in run.activities and activity.name == "do":
                entry = self.world.ledger[activity.args[0]]
                if entry.ended is None:
                    entry.ended = (self.offset + len(run.activations) - 1, 0, 0)
                    entry.outcome = "UNKNOWN" if activity.sent else "NOT_APPLIED"
        for child in run.children:
            key = (self.generation, -child.seq)
            self.since.setdefault(key, run.now)
            if child.cancel_requested:
                self.asked.setdefault(key, run.now)
        pending = {child.args[0] for child in run.children}
        for entry in self.world.ledger.values():
            # A child that was cancelled in the task that started it never existed.
            op = self.ops.get(entry.name)
            if op and op["op"] == "child" and entry.ended is None and entry.name not in pending:
                entry.ended, entry.outcome = (self.offset + len(run.activations) - 1, 0, 0), "NOT_APPLIED"

    def _read(self, now: Time, command: Command) -> None:
        ledger = self.world.ledger
        if command[0] == "schedule_activity":
            _, _, kind, args = command
            entry = ledger.setdefault(args[0], Entry(args[0]))
            if kind == "undo":
                op = self._op(args[0])
                sync = op.get("sync", False)  # it has ended when it has given the command
                entry.undos.append(Undo(now, now if sync else None, ok=not sync or op["undo"] == "ok"))
            else:
                entry.begun = now
        elif command[0] == "start_child":
            ledger[command[3][0]] = Entry(command[3][0], now)
        elif command[0] == "request_cancel_activity":
            activity = next(a for a in self.run.scheduled if a.id == command[1])
            if activity.name == "undo":
                ledger[activity.args[0]].undos[-1].cancelled = True


def _short(error: BaseException) -> str:
    return str(error).replace("\n", " ")[:600]


def play(program: Program) -> World:
    """Run a program."""
    return Harness(program).play()
