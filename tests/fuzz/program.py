"""Programs as plain data: how to write, print, generate and shrink them.

An operation is a dictionary, made by the function of its name; what a report prints is Python that makes the program
again. Times are whole seconds, so that several things often happen at once.
"""

from __future__ import annotations

import copy
import inspect
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from temporal_saga import Saga

Op = dict[str, Any]
Body = list[Op]
Program = dict[str, Any]

HAS_UNDO = hasattr(Saga, "undo")
HAS_TIMEOUT = sys.version_info >= (3, 11)

# --- operations ------------------------------------------------------------------------------------------------------


def step(
    name: str,
    *,
    takes: int = 1,
    fate: str = "ok",
    obeys: int | None = 0,
    undo: str | None = "ok",
    undo_takes: int = 1,
    up: int = 0,
    chosen: bool = False,
) -> Op:
    """A step of the innermost scope, or of the one `up` from it.

    Args:
        name: Unique in its program.
        takes: Seconds until its activity ends.
        fate: How: ok, error, timeout; and two that prove that it had no effect: declined, unstarted.
        obeys: Ends cancelled so long after its cancel was requested; None ignores the request.
        undo: How its compensation ends: ok, error; None if it has no compensation.
        undo_takes: Seconds that the compensation takes.
        up: How many scopes further out.
        chosen: By `compensation_from=` in place of `compensation=`.
    """
    return {"op": "step", **locals()}


def child(
    name: str,
    *,
    takes: int = 1,
    fate: str = "ok",
    obeys: int | None = None,
    undo: str | None = "ok",
    undo_takes: int = 1,
    up: int = 0,
    detaches: int = 0,
) -> Op:
    """A child workflow as a step. If it `detaches`, its result is the state of a saga of so many steps."""
    return {"op": "child", **locals()}


def plain(name: str, *, takes: int = 1, fate: str = "ok") -> Op:
    """An activity outside the saga, with the SDK's own `TRY_CANCEL`."""
    return {"op": "plain", **locals()}


def sleep(seconds: int = 1) -> Op:
    """`asyncio.sleep`."""
    return {"op": "sleep", **locals()}


def wait(flag: str) -> Op:
    """`workflow.wait_condition` until somebody sets the flag."""
    return {"op": "wait", **locals()}


def raise_flag(flag: str) -> Op:
    """Set a flag."""
    return {"op": "raise_flag", **locals()}


def gather(bodies: list[Body], *, settles: bool = False) -> Op:
    """`asyncio.gather`; `settles`: with `return_exceptions=True`."""
    return {"op": "gather", **locals()}


def group(bodies: list[Body]) -> Op:
    """`asyncio.TaskGroup`."""
    return {"op": "group", **locals()}


def timeout(seconds: int, body: Body) -> Op:
    """`asyncio.timeout`."""
    return {"op": "timeout", **locals()}


def wait_for(seconds: int, body: Body) -> Op:
    """`asyncio.wait_for`."""
    return {"op": "wait_for", **locals()}


def spawn(task: str, body: Body) -> Op:
    """`asyncio.create_task`: it may outlive what started it."""
    return {"op": "spawn", **locals()}


def join(task: str) -> Op:
    """Await a task that was spawned."""
    return {"op": "join", **locals()}


def cancel_task(task: str) -> Op:
    """Cancel a task that was spawned."""
    return {"op": "cancel_task", **locals()}


def shield(body: Body) -> Op:
    """`asyncio.shield`."""
    return {"op": "shield", **locals()}


def attempt(body: Body, *, catches: str = "failure", handler: Body | None = None, last: Body | None = None) -> Op:
    """`try`, with `except` (failure, cancel, any; "" for none) and `finally`."""
    return {"op": "attempt", "body": body, "catches": catches, "handler": handler or [], "last": last or []}


def fail() -> Op:
    """Raise an `ApplicationError`."""
    return {"op": "fail"}


def saga(name: str, body: Body, *, order: str = "reverse", deadline: int | None = None) -> Op:
    """A saga of its own, also inside another one."""
    return {"op": "saga", **locals()}


def savepoint(name: str, body: Body) -> Op:
    """A savepoint of the innermost scope."""
    return {"op": "savepoint", **locals()}


def pivot() -> Op:
    """The point of no return; skipped where it would be misuse."""
    return {"op": "pivot"}


def push(name: str, *, undo: str = "ok", undo_takes: int = 1, up: int = 0) -> Op:
    """A compensation pushed by hand."""
    return {"op": "push", **locals()}


def callback(
    name: str, body: Body | None = None, *, undo: str = "ok", undo_takes: int = 1, up: int = 0, sync: bool = False
) -> Op:
    """A callback: runs a body, then an activity. One that is `sync` only starts the activity."""
    return {"op": "callback", **locals(), "body": body or []}


def undo(step: str) -> Op:
    """`saga.undo` of a step or child, in any task; skipped where it would be misuse."""
    return {"op": "undo", **locals()}


def forget(name: str, *, up: int = 0) -> Op:
    """Call a step, and never await it: misuse, if the scope ends well."""
    return {"op": "forget", **locals()}


def late(name: str, scope: str, *, opens: bool = False) -> Op:
    """Call a step of a scope that has ended, or open a savepoint in it; skipped while the scope is open.

    That is misuse in the main method, and fails the workflow task; a handler gets `SagaClosed`.
    """
    return {"op": "late", **locals()}


def compensate() -> Op:
    """`saga.compensate()`; skipped where it would be misuse."""
    return {"op": "compensate"}


def go_on(body: Body) -> Op:
    """Detach the innermost saga and continue as new with the rest of its body; skipped where it would be misuse."""
    return {"op": "go_on", **locals()}


def again() -> Op:
    """Continue as new, with an empty main method: for programs without sagas."""
    return {"op": "again"}


def adopt(step: str, body: Body) -> Op:
    """Enter `Saga(state=...)` with the state that a child returned."""
    return {"op": "adopt", **locals()}


def event(at: int, kind: str, body: Body) -> Op:
    """A signal or an update at that second, and what its handler does."""
    return {"op": "event", **locals()}


def program(
    main: Body,
    *,
    events: list[Op] | None = None,
    cancel_at: int | None = None,
    busy: list[list[int]] | None = None,
    ties: str = "one",
    restarts: list[int] | None = None,
    plugin: bool = True,
    single_batch: bool = False,
    hashes: int = 0,
) -> Program:
    """A program and what happens to its run.

    Args:
        main: The main method.
        events: Signals and updates.
        cancel_at: The second in which the workflow's cancel is requested.
        busy: From when to when the worker is slow: what happens meanwhile comes in one activation.
        ties: Whether what happens in one second comes one by one, together, or reversed (and together).
        restarts: Before which activations the worker dies, and another one replays.
        plugin: With `SagaPlugin`.
        single_batch: With that flag of the SDK's.
        hashes: How tasks hash in the replays; 0: as in the run.
    """
    return {
        "main": main,
        "events": events or [],
        "cancel_at": cancel_at,
        "busy": busy or [],
        "ties": ties,
        "restarts": restarts or [],
        "plugin": plugin,
        "single_batch": single_batch,
        "hashes": hashes,
    }


_MAKERS: dict[str, Callable[..., Op]] = {
    maker.__name__: maker
    for maker in (
        step, child, plain, sleep, wait, raise_flag, gather, group, timeout, wait_for, spawn, join, cancel_task, shield,
        attempt, fail, saga, savepoint, pivot, push, callback, undo, forget, late, compensate, go_on, again, adopt,
        event,
    )
}  # fmt: skip
BODIES = ("body", "handler", "last")


def inner_bodies(op: Op) -> Iterator[Body]:
    """The bodies inside an operation."""
    for key in BODIES:
        if key in op:
            yield op[key]
    yield from op.get("bodies", ())


def walk(body: Body) -> Iterator[Op]:
    """Every operation, in its order."""
    for op in body:
        yield op
        for inner in inner_bodies(op):
            yield from walk(inner)


def all_ops(program: Program) -> Iterator[Op]:
    """Every operation of a program, its handlers' included."""
    yield from walk(program["main"])
    for each in program["events"]:
        yield from walk(each["body"])


# --- printing --------------------------------------------------------------------------------------------------------


def show(program: Program) -> str:
    """Print a program as the Python that makes it."""
    defaults = inspect.signature(globals()["program"]).parameters
    rest = [
        f"    {key}={_show_value(value, 1)},"
        for key, value in program.items()
        if key != "main" and value != defaults[key].default and (value == 0 or value)
    ]
    return "\n".join(["program(", f"    {_show_value(program['main'], 1)},", *rest, ")"])


def _show_value(value: Any, depth: int) -> str:
    pad = "    " * (depth + 1)
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)) and not _is_flat(value):
        return "[\n" + "".join(f"{pad}{_show_value(each, depth + 1)},\n" for each in value) + "    " * depth + "]"
    return _show_op(value, depth) if isinstance(value, dict) else repr(value)


def _is_flat(value: list[Any]) -> bool:
    return all(isinstance(each, list) and not any(isinstance(part, (dict, list)) for part in each) for each in value)


def _show_op(op: Op, depth: int) -> str:
    parts = []
    for key, parameter in inspect.signature(_MAKERS[op["op"]]).parameters.items():
        value = op[key]
        if value == parameter.default or (parameter.default is None and value == []):
            continue
        text = _show_value(value, depth)
        parts.append(text if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else f"{key}={text}")
    return f"{op['op']}({', '.join(parts)})"


# --- generating ------------------------------------------------------------------------------------------------------


class Generator:
    """Writes one random program."""

    MOST = 14
    """Operations that have an effect."""
    LONGEST = 60
    """Operations."""

    def __init__(self, seed: int, *, plugin: bool | None = None, sagas: bool = True) -> None:
        self.random = random.Random(seed)
        self.plugin = plugin
        self.sagas = sagas
        self.names = self.length = 0
        self.tasks: list[str] = []
        self.steps: list[str] = []
        self.ended: list[str] = []
        # Each program has a taste, so that some are wild in few ways, and others mild in many.
        self.taste = {kind: self.random.choice([0, 1, 1, 2, 5]) for kind in _WEIGHTS}

    def program(self) -> Program:
        """The program."""
        rnd = self.random
        if not self.sagas:
            return self.without_sagas()
        main = self.body(1, 1) if rnd.random() < 0.3 else []
        main += [self.saga(0)]
        if rnd.random() < 0.5:
            main = [attempt(main, catches=rnd.choice(["failure", "any", "cancel"]), last=self.body(1, 1, few=True))]
        if rnd.random() < 0.5:
            main += self.body(1, 1)
        if rnd.random() < 0.15:
            main = [gather([main, self.body(2, 2)])]
        events = [
            event(rnd.randrange(12), rnd.choice(["signal", "update"]), self.handler())
            for _ in range(rnd.choice([0, 0, 0, 1, 1, 2]))
        ]
        made = program(
            main,
            events=events,
            cancel_at=rnd.choice([None, *range(14)]) if rnd.random() < 0.7 else None,
            busy=[[start, start + rnd.randint(1, 6)] for start in (rnd.randrange(10),)] if rnd.random() < 0.4 else [],
            ties=rnd.choice(["one", "together", "reversed"]),
            restarts=[rnd.randint(1, 12)] if rnd.random() < 0.2 else [],
            plugin=self.plugin if self.plugin is not None else rnd.random() < 0.75,
            single_batch=rnd.random() < 0.3,
        )
        if may_hash_otherwise(made):
            made["hashes"] = rnd.randint(1, 1000)
        return made

    def without_sagas(self) -> Program:
        """A program whose main method and handlers meet on flags, and end in every way."""
        rnd = self.random
        main = [*self.body(1, 1), *self.end()]
        if rnd.random() < 0.3:
            main = [attempt(main, catches=rnd.choice(["failure", "any", "cancel", ""]), last=self.body(2, 1, few=True))]
        events = [
            event(rnd.randrange(6), rnd.choice(["signal", "signal", "update"]), [*self.body(2, 1), *self.end()])
            for _ in range(rnd.choice([1, 1, 2, 3]))
        ]
        if rnd.random() < 0.4:  # they do nothing else: all wake on one condition
            main = [wait("f"), *self.end()]
            events = [event(1, each["kind"], [wait("f"), *self.end()]) for each in events]
            events.append(event(rnd.randint(2, 4), "signal", [raise_flag("f")]))
        return program(
            main,
            events=events,
            cancel_at=rnd.choice([None, None, *range(8)]),
            busy=[[0, rnd.randint(1, 6)]] if rnd.random() < 0.3 else [],
            ties=rnd.choice(["one", "together", "reversed"]),
            single_batch=rnd.random() < 0.3,
            restarts=[rnd.randint(1, 6)] if rnd.random() < 0.2 else [],
        )

    def end(self) -> Body:
        """How a method ends, perhaps when somebody else does."""
        rnd = self.random
        meets = rnd.choice([[], [wait("f")], [wait("f")], [raise_flag("f")]])
        return [*meets, *rnd.choice([[], [], [fail()], [again()]])]

    def name(self, prefix: str) -> str:
        self.names += 1
        return f"{prefix}{self.names}"

    def handler(self) -> Body:
        body = self.body(2, 1)
        if self.random.random() < 0.6:
            body = [self.saga(2)]
        if self.random.random() < 0.3:
            body += [fail()]
        return body

    def saga(self, depth: int) -> Op:
        rnd = self.random
        body = [self.step(), *self.body(depth + 1, 0)] if rnd.random() < 0.7 else self.body(depth + 1, 0)
        name = self.name("saga")
        self.ended.append(name)
        return saga(
            name,
            body,
            order=rnd.choice(["reverse", "reverse", "reverse", "concurrent"]),
            deadline=rnd.randint(1, 9) if rnd.random() < 0.25 else None,
        )

    def body(self, depth: int, effects: int, *, few: bool = False) -> Body:
        """A body; `effects`: 0 in a scope, more outside."""
        count = self.random.choice([1] if few else [1, 2, 2, 3, 3, 4])
        return [op for _ in range(count) for op in self.some(depth, effects)]

    def some(self, depth: int, outside: int) -> Body:
        self.length += 1
        weights = {
            kind: weight * self.taste[kind]
            for kind, weight in _WEIGHTS.items()
            if ((depth < 5 and self.length < self.LONGEST) or kind in _LEAVES)
            and (self.names < self.MOST or kind not in _EFFECTS)
            and (HAS_TIMEOUT or kind not in ("timeout", "group"))
            and (HAS_UNDO or kind != "undo")
            and not (outside and kind in _IN_SCOPE)
            and (self.sagas or kind not in ("saga", "late"))
            and (not self.sagas or kind != "again")
        }
        kinds = [kind for kind, weight in weights.items() if weight]
        if not kinds:
            return [sleep(1)]
        kind = self.random.choices(kinds, [weights[each] for each in kinds])[0]
        made = getattr(self, f"make_{kind}")(depth, outside)
        return made if isinstance(made, list) else [made]

    def seconds(self) -> int:
        return self.random.choice([1, 1, 2, 3, 4, 5, 8])

    def up(self) -> int:
        return self.random.choice([0, 0, 0, 0, 1])

    def step(self) -> Op:
        rnd = self.random
        name = self.name("s")
        self.steps.append(name)
        return step(
            name,
            takes=self.seconds(),
            fate=rnd.choice(["ok"] * 9 + ["error", "error", "timeout", "declined", "unstarted"]),
            obeys=rnd.choice([0, 0, 1, 3, None]),
            undo=rnd.choice(["ok"] * 8 + ["error", None]),
            undo_takes=rnd.choice([1, 1, 2, 4]),
            up=self.up(),
            chosen=rnd.random() < 0.1,
        )

    def make_step(self, depth: int, outside: int) -> Op:
        return self.step()

    def make_child(self, depth: int, outside: int) -> Op:
        rnd = self.random
        name = self.name("c")
        self.steps.append(name)
        return child(
            name,
            takes=self.seconds(),
            fate=rnd.choice(["ok"] * 5 + ["error"]),
            obeys=rnd.choice([0, 1, None, None]),
            undo=rnd.choice(["ok"] * 6 + ["error"]),
            undo_takes=rnd.choice([1, 2]),
            detaches=rnd.choice([0, 0, 1, 2]),
            up=self.up(),
        )

    def make_plain(self, depth: int, outside: int) -> Op:
        return plain(self.name("p"), takes=self.seconds(), fate=self.random.choice(["ok", "ok", "ok", "error"]))

    def make_sleep(self, depth: int, outside: int) -> Op:
        return sleep(self.seconds())

    def make_wait(self, depth: int, outside: int) -> Op:
        return wait(self.random.choice("fg"))

    def make_raise_flag(self, depth: int, outside: int) -> Op:
        return raise_flag(self.random.choice("fg"))

    def bodies(self, depth: int, outside: int) -> list[Body]:
        return [self.body(depth + 1, outside) for _ in range(self.random.choice([1, 2, 2, 3]))]

    def make_gather(self, depth: int, outside: int) -> Op:
        return gather(self.bodies(depth, outside), settles=self.random.random() < 0.3)

    def make_group(self, depth: int, outside: int) -> Op:
        return group(self.bodies(depth, outside))

    def make_timeout(self, depth: int, outside: int) -> Op | Body:
        op = timeout(self.seconds(), self.body(depth + 1, outside))
        return self.swallowed(op)

    def make_wait_for(self, depth: int, outside: int) -> Op | Body:
        return self.swallowed(wait_for(self.seconds(), self.body(depth + 1, outside)))

    def swallowed(self, op: Op) -> Op:
        return attempt([op], catches=self.random.choice(["failure", "any"])) if self.random.random() < 0.6 else op

    def make_spawn(self, depth: int, outside: int) -> Op | Body:
        rnd = self.random
        task = self.name("t")
        self.tasks.append(task)
        op = spawn(task, self.body(depth + 1, outside))
        later = [*self.body(depth + 1, outside, few=True), rnd.choice([join, cancel_task])(task)]
        return [op, *later] if rnd.random() < 0.5 else op

    def make_join(self, depth: int, outside: int) -> Op | Body:
        return join(self.random.choice(self.tasks)) if self.tasks else []

    def make_cancel_task(self, depth: int, outside: int) -> Op | Body:
        return cancel_task(self.random.choice(self.tasks)) if self.tasks else []

    def make_shield(self, depth: int, outside: int) -> Op:
        return shield(self.body(depth + 1, outside))

    def make_attempt(self, depth: int, outside: int) -> Op:
        rnd = self.random
        return attempt(
            self.body(depth + 1, outside),
            catches=rnd.choice(["failure", "failure", "cancel", "any", "any", ""]),
            handler=self.body(depth + 1, outside, few=True) if rnd.random() < 0.3 else [],
            last=self.body(depth + 1, outside, few=True) if rnd.random() < 0.25 else [],
        )

    def make_fail(self, depth: int, outside: int) -> Op:
        return fail()

    def make_saga(self, depth: int, outside: int) -> Op:
        return self.saga(depth + 1)

    def make_savepoint(self, depth: int, outside: int) -> Op:
        name = self.name("way")
        body = self.body(depth + 1, outside)
        self.ended.append(name)
        return self.swallowed(savepoint(name, body))

    def make_pivot(self, depth: int, outside: int) -> Op:
        return pivot()

    def make_push(self, depth: int, outside: int) -> Op:
        return push(self.name("x"), undo=self.random.choice(["ok"] * 6 + ["error"]), up=self.up())

    def make_callback(self, depth: int, outside: int) -> Op:
        rnd = self.random
        body = [self.saga(3)] if rnd.random() < 0.2 and self.names < self.MOST else []
        sync = not body and rnd.random() < 0.4
        return callback(self.name("x"), body, undo=rnd.choice(["ok"] * 6 + ["error"]), up=self.up(), sync=sync)

    def make_undo(self, depth: int, outside: int) -> Op | Body:
        return undo(self.random.choice(self.steps)) if self.steps else []

    def make_forget(self, depth: int, outside: int) -> Op:
        return forget(self.name("s"), up=self.up())

    def make_late(self, depth: int, outside: int) -> Op | Body:
        return late(self.name("s"), self.random.choice(self.ended), opens=self.coin()) if self.ended else []

    def coin(self) -> bool:
        return self.random.random() < 0.3

    def make_compensate(self, depth: int, outside: int) -> Op:
        return compensate()

    def make_again(self, depth: int, outside: int) -> Op:
        return again()

    def make_go_on(self, depth: int, outside: int) -> Op:
        return go_on(self.body(depth + 1, outside))


_WEIGHTS = {
    "step": 12, "child": 2, "plain": 2, "sleep": 3, "wait": 1, "raise_flag": 0.6, "gather": 2, "group": 2, "timeout": 3,
    "wait_for": 0.7, "spawn": 2, "join": 0.7, "cancel_task": 0.5, "shield": 0.5, "attempt": 4, "fail": 1.5, "saga": 0.7,
    "savepoint": 3, "pivot": 1, "push": 1, "callback": 0.5, "undo": 1, "compensate": 0.3, "go_on": 0.4, "again": 0.7,
    "forget": 0.1, "late": 0.3,
}  # fmt: skip
_LEAVES = {
    "step", "child", "plain", "sleep", "wait", "raise_flag", "join", "cancel_task", "fail", "pivot", "push", "callback",
    "undo", "compensate", "again", "forget", "late",
}  # fmt: skip
_EFFECTS = {"step", "child", "plain", "spawn", "saga", "savepoint", "push", "callback", "forget", "late"}
_IN_SCOPE = {"forget", "step", "child", "savepoint", "pivot", "push", "callback", "undo", "compensate", "go_on"}


def may_hash_otherwise(program: Program) -> bool:
    """Whether the order in which a TaskGroup cancels its tasks is the library's affair alone.

    Timers and activities of a hand-written workflow are cancelled in the order of the set, with or without a saga; so
    is what an `except` or a `finally` of each task does.
    """
    groups = [op for op in all_ops(program) if op["op"] == "group"]
    harmless = {"step", "savepoint", "saga", "wait", "push"}
    return bool(groups) and all(op["op"] in harmless for each in groups for body in each["bodies"] for op in walk(body))


# --- shrinking -------------------------------------------------------------------------------------------------------


def shrink(program: Program, still_fails: Callable[[Program], bool], *, seconds: float = 30) -> Program:
    """The smallest program found in so many seconds that fails in the same way."""
    end, progress = time.monotonic() + seconds, True
    while progress:
        progress = False
        for candidate in _smaller(program):
            if time.monotonic() > end:
                return program
            if still_fails(candidate):
                program, progress = candidate, True
                break
    return program


def _smaller(program: Program) -> Iterator[Program]:
    for key, value in (
        ("cancel_at", None), ("busy", []), ("restarts", []), ("single_batch", False), ("hashes", 0), ("ties", "one"),
    ):  # fmt: skip
        if program[key] != value:
            yield {**program, key: value}
    for index in range(len(program["events"])):
        yield {**program, "events": program["events"][:index] + program["events"][index + 1 :]}
    for main in _smaller_bodies(program["main"]):
        yield {**program, "main": main}
    for index, each in enumerate(program["events"]):
        for body in _smaller_bodies(each["body"]):
            events = copy.copy(program["events"])
            events[index] = {**each, "body": body}
            yield {**program, "events": events}


def _smaller_bodies(body: Body) -> Iterator[Body]:
    for index, op in enumerate(body):
        before, after = body[:index], body[index + 1 :]
        yield before + after
        for inner in inner_bodies(op):
            if op["op"] != "callback":
                yield before + inner + after
        for smaller in _smaller_ops(op):
            yield [*before, smaller, *after]


def _smaller_ops(op: Op) -> Iterator[Op]:
    for key in BODIES:
        for smaller in _smaller_bodies(op.get(key, [])):
            yield {**op, key: smaller}
    bodies = op.get("bodies", [])
    for index, inner in enumerate(bodies):
        yield {**op, "bodies": bodies[:index] + bodies[index + 1 :]}
        for smaller in _smaller_bodies(inner):
            yield {**op, "bodies": [*bodies[:index], smaller, *bodies[index + 1 :]]}
    for key, parameter in inspect.signature(_MAKERS[op["op"]]).parameters.items():
        is_optional = parameter.default is not inspect.Parameter.empty and key not in (*BODIES, "catches")
        if is_optional and op[key] != parameter.default:
            yield {**op, key: parameter.default}
