"""A small model of what a saga promises: programs, what the world saw of a run, and the verdict.

A program is a tree that both a generic workflow (`test_property.py`) and :class:`Model` interpret.
What may have taken effect is read off the world: what each activity did, and when. So the model
never simulates time; it says of a run that is over what must have come of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

# --- programs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A step, and how its activity will end."""

    name: str
    fate: str = "ok"
    """ok, error, timeout; and two that prove that it had no effect: refused, never_started."""
    obeys: bool = True
    """Ends cancelled when asked to, instead of by its fate."""
    undo: str = "ok"
    """How its compensation ends: ok, error; none if it has no compensation."""
    swallowed: bool = False
    """The body goes on after its failure."""


@dataclass(frozen=True)
class Push:
    """A compensation that is pushed by hand."""

    name: str
    undo: str = "ok"
    callback: bool = False


@dataclass(frozen=True)
class Sleep:
    """A timer."""


@dataclass(frozen=True)
class Pivot:
    """The point of no return."""


@dataclass(frozen=True)
class Seq:
    """One after another."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Par:
    """At the same time: `gather`, `settle` (gather with return_exceptions), `group` (TaskGroup)."""

    how: str
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Savepoint:
    """A savepoint; if `caught`, the body goes on after its failure."""

    body: Node
    caught: bool = False


Node = Step | Push | Sleep | Pivot | Seq | Par | Savepoint


def walk(node: Node) -> Iterator[Node]:
    """Every node of a program, in its order."""
    yield node
    if isinstance(node, (Seq, Par)):
        for part in node.parts:
            yield from walk(part)
    elif isinstance(node, Savepoint):
        yield from walk(node.body)


# --- the world ----------------------------------------------------------------------------------

Time = tuple[int, int, int]
"""Number of the activation, 0 for its events and 1 for its commands, position."""


@dataclass
class Trace:
    """What happened to one step or push."""

    begun: Time
    rank: int
    """Its place in the order of all begins."""
    ended: Time | None = None
    outcome: str = "UNKNOWN"
    """APPLIED, NOT_APPLIED or UNKNOWN."""
    asked: bool = False
    """The saga had asked the activity to end."""
    failed: bool = False
    """Its activity failed without having been asked to."""
    undo_begun: list[Time] = field(default_factory=list)
    undo_ended: Time | None = None
    undo_failed: bool = False


@dataclass
class World:
    """What a run looked like from outside."""

    traces: dict[str, Trace]
    cancels: list[int]
    """The activations that delivered the workflow's cancel."""
    pivots: list[tuple[int, int]]
    """For each pivot that was passed: its activation, and how many steps had begun."""
    joined: dict[int, int]
    """For each savepoint that ended well, by its node's `id()`: the activation."""
    after: int | None
    """The activation that began what follows the saga."""
    result: str
    """`completed`, `caught`, `cancelled`, `CompensationError`, or the step whose error it was."""


# --- the verdict --------------------------------------------------------------------------------

ROOT: tuple[int, ...] = ()


class Model:
    """What must have come of a run of `program`, given what the world saw."""

    def __init__(self, program: Node, world: World, *, catches: bool, concurrent: bool) -> None:
        self.world = world
        self.catches = catches
        self.concurrent = concurrent
        self.steps: dict[str, Step | Push] = {}
        self.scope_of: dict[str, tuple[int, ...]] = {}
        """The innermost scope of a step: the path of savepoints that leads to it."""
        self.parallel: set[tuple[int, ...]] = set()
        """Scopes opened in a branch."""
        self.in_branch: set[str] = set()
        self._place(program, ROOT, in_branch=False)
        self.bad: set[tuple[int, ...]] = set()
        """Scopes that ended badly."""
        self.bad_bodies: set[tuple[int, ...]] = set()
        """Scopes whose body failed: others ended well until the undo of a swallowed step failed."""
        self.hit = self._is_hit()
        self.errors = self._leave(ROOT, self._judge(program, ROOT))
        if self.hit:
            self.bad.add(ROOT)
        self.kept = self._kept()

    def _place(self, node: Node, scope: tuple[int, ...], *, in_branch: bool) -> None:
        if isinstance(node, (Step, Push)):
            self.steps[node.name], self.scope_of[node.name] = node, scope
            if in_branch:
                self.in_branch.add(node.name)
        elif isinstance(node, (Seq, Par)):
            for part in node.parts:
                self._place(part, scope, in_branch=in_branch or isinstance(node, Par))
        elif isinstance(node, Savepoint):
            inner = self._inner(node, scope)
            if in_branch:
                self.parallel.add(inner)
            self._place(node.body, inner, in_branch=in_branch)

    @staticmethod
    def _inner(node: Savepoint, scope: tuple[int, ...]) -> tuple[int, ...]:
        return (*scope, id(node))

    def _is_hit(self) -> bool:
        """Whether the workflow's cancel reached the saga: before its pivot, while it was open."""
        pivot = min((activation for activation, _ in self.world.pivots), default=None)
        return any(
            (pivot is None or cancel <= pivot) and (self.world.after is None or cancel <= self.world.after)
            for cancel in self.world.cancels
        )

    # --- which scopes ended badly, and by what ---

    def _judge(self, node: Node, scope: tuple[int, ...]) -> set[str]:
        """The errors that left a node, by the name of their step."""
        if isinstance(node, Step):
            trace = self.world.traces.get(node.name)
            return {node.name} if trace and trace.failed and not node.swallowed else set()
        if isinstance(node, Seq):
            for part in node.parts:
                if errors := self._judge(part, scope):
                    return errors
        elif isinstance(node, Par):
            errors = set().union(*[self._judge(part, scope) for part in node.parts])
            if errors and node.how == "group":
                self._cancelled(node, scope)
            return set() if node.how == "settle" else errors
        elif isinstance(node, Savepoint):
            errors = self._leave(inner := self._inner(node, scope), self._judge(node.body, scope=inner))
            return set() if node.caught else errors
        return set()

    def _cancelled(self, node: Node, scope: tuple[int, ...]) -> None:
        """Savepoints that were open when a TaskGroup cancelled its branches ended badly."""
        if isinstance(node, (Seq, Par)):
            for part in node.parts:
                self._cancelled(part, scope)
        elif isinstance(node, Savepoint):
            inner = self._inner(node, scope)
            if id(node) not in self.world.joined:
                self.bad.add(inner)
            self._cancelled(node.body, inner)

    def _leave(self, scope: tuple[int, ...], errors: set[str]) -> set[str]:
        """The errors that leave a scope whose body ended with `errors`."""
        # What a savepoint failed to undo is the whole saga's, whoever caught the savepoint's error.
        swallowed_stands = any(
            trace.undo_failed and (scope == ROOT or (self.scope_of[name] == scope and trace.outcome == "UNKNOWN"))
            for name, trace in self.world.traces.items()
        )
        if not errors and not swallowed_stands:
            return set()
        self.bad.add(scope)
        if errors:
            self.bad_bodies.add(scope)
        stands = any(trace.undo_failed and self._is_in(name, scope) for name, trace in self.world.traces.items())
        return {"CompensationError"} if stands else errors

    def _is_in(self, name: str, scope: tuple[int, ...]) -> bool:
        return self.scope_of[name][: len(scope)] == scope

    def _chain(self, name: str) -> list[tuple[int, ...]]:
        scope = self.scope_of[name]
        return [scope[:length] for length in range(len(scope), -1, -1)]

    def _kept(self) -> set[str]:
        """What a pivot keeps for good: what had succeeded, but for savepoints that had failed."""
        kept = set()
        for _, begun in self.world.pivots:
            for name, trace in self.world.traces.items():
                if trace.rank >= begun or trace.undo_begun:
                    continue
                if trace.outcome == "APPLIED" and not trace.asked:
                    kept.add(name)
        return kept

    # --- what must hold ---

    def must_undo(self) -> set[str]:
        """The steps that must have been undone."""
        result = set()
        for name, trace in self.world.traces.items():
            if self.steps[name].undo == "none" or trace.outcome == "NOT_APPLIED":
                continue
            # One that was asked to end has raised, even if it applied: nobody has its result.
            raised = trace.outcome == "UNKNOWN" or trace.asked
            ended_badly = name not in self.kept and any(s in self.bad for s in self._chain(name))
            if raised or ended_badly:
                result.add(name)
        return result - self._undecided()

    def must_not_undo(self) -> set[str]:
        """The steps that must not have been undone."""
        return set(self.world.traces) - self.must_undo() - self._undecided()

    def _undecided(self) -> set[str]:
        """Applied steps of branches of which the world cannot tell whether they raised.

        The result may have come together with what cancelled the branch.
        """
        trouble = {t.ended[0] for t in self.world.traces.values() if t.failed and t.ended}
        return {
            name
            for name in self.in_branch
            if (trace := self.world.traces.get(name))
            and trace.outcome == "APPLIED"
            and trace.ended
            and trace.ended[0] in trouble
        }

    def results(self) -> set[str]:
        """The ways in which the run may have ended."""
        cancelled = bool(self.world.cancels)
        if ROOT not in self.bad:
            return {"cancelled"} if cancelled else {"completed"}
        if any(trace.undo_failed for trace in self.world.traces.values()):
            ends = {"CompensationError"}
        else:
            # A savepoint that is cancelled while it unwinds raises that instead of its own error.
            ends = self.errors | ({"cancelled"} if self.hit else set())
        if not self.catches:
            return ends
        unwinds = [
            trace.undo_begun[0][0]
            for name, trace in self.world.traces.items()
            if trace.undo_begun and self._unwind_of(name) == (ROOT, False)
        ]
        caught = {"cancelled"} if cancelled else {"caught"}
        if cancelled and (self.in_branch or not unwinds or min(self.world.cancels) <= min(unwinds)):
            # The body met the cancel, and it ended in another error: a TaskGroup prefers those
            # (before Python 3.13), and an incomplete unwind raises CompensationError.
            caught.add("caught")
        return (ends & {"cancelled"}) | (caught if ends - {"cancelled"} else set())

    def violations(self) -> list[str]:
        """What did not hold, in words."""
        return [
            *self._undone_wrongly(),
            *self._out_of_order(),
            *self._not_drained(),
            *(
                [f"ended {self.world.result}, not one of {sorted(self.results())}"]
                if self.world.result not in self.results()
                else []
            ),
        ]

    def _undone_wrongly(self) -> Iterator[str]:
        must, must_not = self.must_undo(), self.must_not_undo()
        for name, trace in self.world.traces.items():
            times = len(trace.undo_begun)
            if times > 1:
                yield f"{name} was undone {times} times"
            if name in must and not times:
                yield f"{name} ({trace.outcome}) stands"
            if name in must_not and times:
                yield f"{name} ({trace.outcome}) was undone"
            if times and trace.undo_ended is None:
                yield f"the undo of {name} was left running"

    def _unwind_of(self, name: str) -> tuple[tuple[int, ...], bool]:
        """The scope whose unwind undid a step, or one inside: what it undid was in order.

        A savepoint in a branch may have unwound by itself, next to the others, once something had
        gone wrong. And what was swallowed is undone when its scope ends well.
        """
        trouble = min(
            [*(t.ended[0] for t in self.world.traces.values() if t.failed and t.ended), *self.world.cancels], default=0
        )
        swallowed = self.world.traces[name].outcome == "UNKNOWN"
        for scope in self._chain(name):
            if scope in self.bad_bodies:
                return scope, False
            closed = bool(scope) and self.world.joined.get(scope[-1], trouble) < trouble
            if swallowed or (scope in self.parallel and not closed):
                return scope, swallowed
        return ROOT, False

    def _out_of_order(self) -> Iterator[str]:
        undone = [(n, t) for n, t in self.world.traces.items() if t.undo_begun]
        for older, first in undone:
            for newer, second in undone:
                if first.rank >= second.rank or self._unwind_of(older) != self._unwind_of(newer):
                    continue
                begun = first.undo_begun[0]
                if second.begun > begun:
                    continue  # registered during the unwind
                if self.concurrent and self._may_overlap(first, second):
                    continue
                if second.undo_ended is None or second.undo_ended > begun:
                    yield f"{older} was undone before the undo of {newer} had ended"

    @staticmethod
    def _may_overlap(older: Trace, newer: Trace) -> bool:
        # Within one activation the world cannot tell which came first.
        return older.ended is None or older.ended[0] >= newer.begun[0]

    def _not_drained(self) -> Iterator[str]:
        for undone, trace in self.world.traces.items():
            for begun in trace.undo_begun:
                scope, _ = self._unwind_of(undone)
                for name, other in self.world.traces.items():
                    if isinstance(self.steps[name], Push) or not self._is_in(name, scope):
                        continue
                    if other.begun < begun and (other.ended is None or other.ended > begun):
                        yield f"{undone} was undone while {name} was in flight"
                    if other.begun > begun and scope in self.bad:
                        yield f"{name} began after {undone} was undone"
