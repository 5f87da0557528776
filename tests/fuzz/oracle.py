"""Says what must have come of a run, given the ledger, the commands and what the body saw.

It knows the contract, and nothing of the library. Where the world cannot tell what is right, it says nothing: a false
objection costs more than a missed one, since other programs show the same fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from .harness import Entry, Undo, World
from .program import Op, all_ops


@dataclass
class Part:
    """A scope, as the body saw it."""

    name: str
    parent: str | None
    book: str = "main"
    """The task that entered it."""
    inside: str | None = None
    """How its body ended."""
    ended_in: int = 0
    """The activation in which its body ended."""
    outside: str | None = None
    """How it ended itself; None: it never has."""
    same: bool = True
    report: str = ""
    entered_at: int = 0
    late: bool = False
    """Whether it was entered when the main method had ended."""
    left_at: int | None = None
    """Index among the notes."""
    left_in: int = 0
    """The activation in which it was left."""
    detached: bool = False
    compensated_at: int | None = None
    compensated: str | None = None
    pivots: list[int] = field(default_factory=list)

    @property
    def ended_well(self) -> bool:
        return self.outside == "ok" and self.compensated_at is None


@dataclass
class Item:
    """A step or a push, as the body saw it."""

    name: str
    scope: str
    rank: int
    pushed: bool = False
    activation: int = 0
    ended_at: int | None = None
    how: str | None = None
    """How it ended for its caller; None: nobody has learned of it."""
    undo_at: int | None = None
    undo_how: str | None = None


class Oracle:
    """The verdict on one run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ops: dict[str, Op] = {op["name"]: op for op in all_ops(world.program) if "name" in op}
        self.plugin: bool = world.program["plugin"]
        self.parts: dict[str, Part] = {}
        self.items: dict[str, Item] = {}
        self.callbacks: dict[str, str] = {}
        self.called_back_in: dict[str, int] = {}
        self.main: str | None = None
        self.run_is_over = False
        self.handlers: list[tuple[int, str, str]] = []
        self.caught: set[str] = set()
        self.went_on: list[tuple[int, str, int, int]] = []
        self.forgotten: dict[str, str] = {}
        self.forgotten_at: dict[str, int] = {}
        self.forgot_at_the_end = False
        self.late: list[dict[str, Any]] = []
        for index, note in enumerate(world.notes):
            self._read(index, note)
        self._take_children_in()

    def _read(self, index: int, note: dict[str, Any]) -> None:
        what, name, how = note["what"], note.get("name", ""), note.get("how")
        if what == "enter":
            if name in self.parts:  # in the next run
                self.parts[name].outside = self.parts[name].inside = None
                self.parts[name].detached = False
                self.run_is_over = False
            else:
                self.parts[name] = Part(name, note["parent"], note["book"], entered_at=index, late=self.run_is_over)
        elif what == "end":
            self.parts[name].inside, self.parts[name].ended_in = how, note.get("activation", 0)
        elif what == "left":
            part = self.parts[name]
            part.outside, part.same, part.report, part.left_at = how, note["same"], note["report"], index
            part.left_in = note.get("activation", 0)
        elif what == "pivot":
            self.parts[name].pivots.append(index)
        elif what == "detach":
            self.parts[name].detached = True
        elif what == "compensate":
            self.parts[name].compensated_at = index
        elif what == "compensated":
            self.parts[name].compensated = how
        elif what in ("call", "push"):
            self.items[name] = Item(name, note["scope"], index, what == "push", note.get("activation", 0))
            if what == "push":
                self.items[name].ended_at, self.items[name].how = index, "ok"
        elif what in ("returned", "raised"):
            self.items[name].ended_at, self.items[name].how = index, how
        elif what == "undo":
            self.items[name].undo_at = index
        elif what == "undo ended":
            self.items[name].undo_how = how
        elif what == "calls back":
            self.called_back_in[name] = note.get("activation", 0)
        elif what == "callback":
            self.callbacks[name] = how or ""
        elif what == "went on":
            self.went_on.append((index, name, note["since"], note.get("activation", 0)))
        elif what == "forget":
            if self.parts[note["scope"]].inside is not None:
                self.forgot_at_the_end = True  # a call finds a scope that ends
            else:
                self.forgotten[name], self.forgotten_at[name] = note["scope"], index
        elif what == "late":
            self.late.append(note)
        elif what == "caught":
            self.caught.add(how or "")
        elif what == "main":
            self.main, self.run_is_over = how, True
        elif what == "handler":
            self.handlers.append((index, note["kind"], how or ""))

    def _take_children_in(self) -> None:
        """What a child has handed over takes the place of its step."""
        for entry in list(self.world.ledger.values()):
            item = self.items.get(entry.name)
            for number, name in enumerate(entry.entries):
                if item is not None:
                    self.items[name] = replace(item, name=name, pushed=False)
                    self.ops[name] = {**self.ops[entry.name], "op": "entry", "number": number}

    # --- looking ---

    def chain(self, scope: str | None) -> list[Part]:
        """A scope and those around it."""
        result = []
        while scope is not None:
            result.append(self.parts[scope])
            scope = self.parts[scope].parent
        return result

    def is_within(self, scope: str, outer: str) -> bool:
        return any(part.name == outer for part in self.chain(scope))

    def undos(self, name: str) -> list[Undo]:
        entry = self.world.ledger.get(name)
        return [] if entry is None else entry.undos

    def undo_failed(self, name: str) -> bool:
        return any(undo.ended is not None and not undo.ok for undo in self.undos(name)) or (
            self.callbacks.get(name, "ok") != "ok"
        )

    def may_have_applied(self, item: Item) -> bool | None:
        """Whether there may be an effect; None if nobody can tell."""
        if item.pushed:
            return True
        entry = self.world.ledger.get(item.name)
        return entry is not None and entry.outcome != "NOT_APPLIED"

    def is_kept(self, item: Item) -> bool | None:
        """Whether a pivot has kept a step for good; None if nobody can tell."""
        if item.how != "ok" or item.ended_at is None:
            return False
        verdict: bool | None = False
        for part in self.parts.values():
            for pivot in part.pivots:
                if pivot < item.ended_at or self.root_of(part.name) != self.root_of(item.scope):
                    continue
                pivoting = {each.name for each in self.chain(part.name)}
                for scope in self.chain(item.scope):
                    if scope.name in pivoting:
                        return True
                    if scope.left_at is None or scope.left_at > pivot:
                        verdict = None  # open in another task
                        break
                    if scope.outside != "ok" or (scope.compensated_at or pivot) < pivot:
                        break  # it had unwound before
        return verdict

    def root_of(self, scope: str) -> Part:
        return self.chain(scope)[-1]

    def is_past_pivot(self, scope: str) -> bool:
        root = self.root_of(scope)
        return any(part.pivots for part in self.parts.values() if self.root_of(part.name) is root)

    def ends(self, item: Item) -> str:
        """How the scopes of an item have ended: well, badly, unknown."""
        verdict = "well"
        for part in self.chain(item.scope):
            if part.detached:
                return "unknown"  # no run goes on with it: the body has lost the state
            if part.compensated_at is not None:
                return "badly" if part.compensated is not None or self.plugin else "unknown"
            if part.outside is None or part.outside == "continue as new":
                return "unknown" if verdict == "well" else verdict
            if part.outside != "ok":
                # After the pivot, the workflow's cancel is held, and raised when all has ended well.
                if part.outside in ("cancel", "cancelled call") and self.is_past_pivot(part.name):
                    verdict = "unknown"
                    continue
                return "badly"
        return verdict

    def must_be_undone(self, item: Item) -> bool | None:
        """Whether it must have been undone; None if nobody can tell."""
        op = self.ops[item.name]
        if op.get("undo", "ok") is None or (op["op"] == "child" and op["detaches"]):
            return False
        if not self.may_have_applied(item):
            return False
        if op["op"] == "entry" and self.world.ledger[item.name.rpartition(".")[0]].outcome != "APPLIED":
            return False
        if item.undo_at is not None:
            return True
        ends = self.ends(item)
        if item.how is None:  # its caller has not gone on
            return True if ends == "badly" else None
        kept = self.is_kept(item)
        if item.how != "ok":
            if item.how == "cancel" and not self.plugin and self.world.cancelled and self.is_past_pivot(item.scope):
                return None  # the workflow's cancel, handed on: it undoes nothing of what came after the pivot
            has_left = self.chain(item.scope)[0].outside not in (None, "continue as new")
            return True if ends != "unknown" or (has_left and not self.chain(item.scope)[0].detached) else None
        if ends == "well":
            return False
        if kept is None or ends == "unknown":
            return False if kept else None
        return not kept

    def unwound_by(self, item: Item) -> tuple[str, str]:
        """The scope whose unwind undoes an item, at least, and in which way."""
        if item.undo_at is not None:
            return item.name, "undo()"
        chain = self.chain(item.scope)
        if item.how not in ("ok", None) and chain[0].ended_well:
            return chain[0].name, "at a good end"
        for part in chain:
            if not part.ended_well:
                return part.name, "unwind"
        return chain[-1].name, "unwind"

    # --- the verdict ---

    def objections(self) -> list[str]:
        """What did not hold, in words; the first word or two name its kind."""
        world = self.world
        result = [text for text in world.objections if not self._is_misuse(text)]
        if len(result) < len(world.objections):
            return result
        if any(text.startswith(("task failed", "driver", "no end", "stuck")) for text in result):
            return result
        result += self._undone_wrongly()
        result += self._out_of_order()
        result += self._not_drained()
        result += self._scopes()
        result += self._went_on()
        result += self._close()
        result += self._forgotten()
        return result

    def _is_misuse(self, text: str) -> bool:
        """Whether the program has failed its workflow task itself."""
        if not text.startswith("task failed: RuntimeError"):
            return False
        if "never awaited" in text:
            scopes = [self.parts[scope] for scope in self.forgotten.values()]
            return self.forgot_at_the_end or any(
                part.inside not in (None, "failure") or part.detached for part in scopes
            )
        if "which is not armed in saga" in text:  # it has been undone at the good end of a savepoint
            return any(op["op"] == "undo" for op in all_ops(self.world.program))
        # Documented: a scope does not wait for a task that has not called its step when the block ends.
        spawns = any(op["op"] == "spawn" for op in all_ops(self.world.program))
        return "had ended, where nothing would undo it" in text and (
            spawns or any("misuse" in each["allowed"] for each in self.late)
        )

    def _forgotten(self) -> Iterator[str]:
        for name, scope in self.forgotten.items():
            part = self.parts[scope]
            if part.ended_well and not part.detached and not self._may_be_given_up(name):
                yield f"forgotten: {scope} ended well, and {name} was never awaited"

    def _may_be_given_up(self, name: str) -> bool:
        """Whether a step of the scope failed after a call was made: the body may have given up the call.

        A call that was made after the failure is forgotten.
        """
        return any(
            item.scope == self.forgotten[name]
            and item.how not in ("ok", "closed", None)
            and (item.ended_at or 0) > self.forgotten_at[name]
            for item in self.items.values()
        )

    def _undone_wrongly(self) -> Iterator[str]:
        for item in self.items.values():
            entry = self.world.ledger.get(item.name) or Entry(item.name)
            times = len(entry.undos)
            if times > 1:
                yield f"undone twice: {item.name}, {times} times"
            if any(undo.cancelled for undo in entry.undos):
                yield f"undo cancelled: that of {item.name}"
            left = [part for part in self.chain(item.scope) if part.left_at is not None]
            # A scope that has ended is left some turns later: within an activation nobody can tell.
            if item.how == "closed" and not any(
                (part.left_at or 0) < item.rank or part.left_in == item.activation for part in left
            ):
                yield f"refused: {item.name}, which was called before its scope had ended"
            must = self.must_be_undone(item)
            if must and not times and self.callbacks.get(item.name, "ok") == "ok":
                yield f"stands: {item.name} ({entry.outcome}, {item.how}) was not undone"
            if must is False and times:
                yield f"undone wrongly: {item.name} ({entry.outcome}, {item.how})"
            if times and entry.undos[-1].ended is None and self.world.closed is not None and self.plugin:
                yield f"undo left running: that of {item.name}"

    def _out_of_order(self) -> Iterator[str]:
        undone = [
            (item, self.world.ledger[item.name].undos[0]) for item in self.items.values() if self.undos(item.name)
        ]
        for older, first in undone:
            for newer, second in undone:
                if not self._began_before(older, newer) or self.unwound_by(older) != self.unwound_by(newer):
                    continue
                if self._registered_later(newer, self.called_back_in.get(older.name, first.begun[0])):
                    continue
                if self._is_concurrent(older.scope) and self._may_overlap(older, newer):
                    continue
                if self.ops[older.name]["op"] == self.ops[newer.name]["op"] == "entry" and older.rank == newer.rank:
                    continue
                if not self._was_known_to_end_badly(older, newer, first):
                    continue
                if second.ended is None or second.ended > first.begun:
                    yield f"order: {older.name} was undone before the undo of {newer.name} had ended"

    def _was_known_to_end_badly(self, older: Item, newer: Item, first: Undo) -> bool:
        """Whether an undo that began at a good end could know that the scope ends badly after all."""
        part = self.parts[older.scope]
        if part.inside != "ok" or older.how in ("ok", None) or newer.how != "ok":
            return True
        cancelled = self.world.cancelled
        if (
            cancelled is not None
            and not self.is_past_pivot(part.name)
            and part.ended_in <= cancelled[0] < first.begun[0]
        ):
            return True
        if part.parent is not None:
            return False  # a savepoint ends well, whatever a savepoint inside has raised
        inside = (item for item in self.items.values() if self.is_within(item.scope, older.scope))
        others = (undo for item in inside for undo in self.undos(item.name))
        return any(undo.ended is not None and not undo.ok and undo.ended < first.begun for undo in others)

    def _began_before(self, older: Item, newer: Item) -> bool:
        begun = self.world.ledger[older.name].begun, self.world.ledger[newer.name].begun
        if "entry" in (self.ops[older.name]["op"], self.ops[newer.name]["op"]) or None in begun:
            return older.rank < newer.rank and older.activation < newer.activation
        # A child's start comes a turn after its step has begun.
        turn = 1 if "child" in (self.ops[older.name]["op"], self.ops[newer.name]["op"]) else 3
        return begun[0][:turn] < begun[1][:turn]  # type: ignore[index]

    def _registered_later(self, newer: Item, activation: int) -> bool:
        begun = self.world.ledger[newer.name].begun
        return (begun[0] if begun and not newer.pushed else newer.activation) >= activation

    def _is_concurrent(self, scope: str) -> bool:
        op = self.ops.get(self.root_of(scope).name)
        return op is not None and op.get("order") == "concurrent"

    def _may_overlap(self, older: Item, newer: Item) -> bool:
        # Within one activation the world cannot tell which came first.
        if older.pushed or self.ops[older.name]["op"] == "entry" or self.ops[newer.name]["op"] == "entry":
            return not older.pushed or older.activation >= newer.activation
        ended = self.world.ledger[older.name].ended
        begun = self.world.ledger[newer.name].begun
        start = begun[0] if begun is not None else newer.activation
        return ended is None or ended[0] >= start

    def _not_drained(self) -> Iterator[str]:
        for item in self.items.values():
            scope, way = self.unwound_by(item)
            if way == "undo()" or scope not in self.parts:
                continue
            for undo in self.undos(item.name)[:1]:
                for other in self.items.values():
                    entry = self.world.ledger.get(other.name)
                    if entry is None or other.pushed or entry.begun is None or not self.is_within(other.scope, scope):
                        continue
                    if self.ops[other.name]["op"] == "entry":
                        continue
                    if entry.begun < undo.begun and (entry.ended is None or entry.ended > undo.begun):
                        yield f"not drained: {item.name} was undone while {other.name} was in flight"
                    if entry.begun > undo.begun:
                        yield f"not drained: {other.name} began after {item.name} was undone"

    def _scopes(self) -> Iterator[str]:
        for part in self.parts.values():
            failed = [
                item.name
                for item in self.items.values()
                if self.undo_failed(item.name) and self.is_within(item.scope, part.name)
            ]
            inside, outside = part.inside, part.outside
            if outside is None:
                # A task may go on, and enter one, in the activation that has closed the run.
                ends = [index for index, kind, how in self.handlers if kind == "signal" and how != "ok"]
                too_late = part.late or any(part.entered_at > end for end in ends)
                has_ended = part.parent is not None or part.detached or part.compensated is not None or too_late
                if self.plugin and self.world.closed is not None and not has_ended:
                    yield f"scope left open: the run closed over {part.name}"
                continue
            has_said_so = "incomplete" in (outside, part.compensated)
            if part.parent is None and failed and not has_said_so and not part.detached:
                yield f"incomplete in silence: {part.name} ended {outside}, the undo of {failed[0]} having failed"
            # Of a group its first leaf goes on, which may be that of a saga in it.
            is_leaf = inside == "group" and any(
                each.outside == "incomplete" for each in self.parts.values() if each is not part
            )
            # A cancel that a savepoint has raised in place of an error: of a saga inside, or of a task that was joined.
            has_failed = any(self.undo_failed(name) for name in self.items)
            is_hidden = part.parent is None and inside == "cancel" and has_failed
            if outside == "incomplete" and inside != "incomplete" and not failed and not is_leaf and not is_hidden:
                yield f"false CompensationError: out of {part.name}"
            if inside in ("failure", "timeout") and outside in ("failure", "timeout") and not part.same:
                yield f"error replaced: {part.name} met {inside} and raised another {outside}"
            if inside in ("failure", "timeout") and outside == "ok":
                yield f"error lost: {part.name} met {inside} and ended well"
            if inside == "ok" and outside in ("failure", "timeout", "group", "closed"):
                yield f"error from nowhere: {part.name} raised {outside}"
            if part.parent is None and not part.detached:
                expected = self._expected_report(part, failed)
                if expected and part.report not in expected:
                    yield f"report: {part.name} says {part.report}, not {expected}"

    def _expected_report(self, part: Part, failed: list[str]) -> set[str]:
        if failed:
            return {"INCOMPLETE"}
        if part.outside == "ok" and part.compensated_at is None:
            return {"COMPLETED"}
        if part.outside in ("failure", "timeout", "deadline") or part.compensated_at is not None:
            return {"COMPENSATED"}
        return set()

    def _went_on(self) -> Iterator[str]:
        """An await of the main method's that does not get the workflow's cancel."""
        if self.world.cancelled is None:
            return
        cancel, _ = self.world.cancelled
        for index, where, since, now in self.went_on:
            pivots = (pivot for part in self.parts.values() for pivot in part.pivots)
            if since < cancel < now and not any(pivot < index for pivot in pivots):
                yield f"went on: the main method at {where}, though the workflow was cancelled meanwhile"

    def _close(self) -> Iterator[str]:
        world, closed = self.world, self.world.closed
        if closed is None:
            return
        how = closed[0]
        # A run ends Cancelled only if that very run was cancelled: a cancel that `detach()` hands on fails the next.
        is_cancelled = world.cancelled is not None and world.cancelled[1] == world.generation
        if how == "cancel" and not is_cancelled:
            yield "close: the run ended Cancelled, and nobody has cancelled it"
        lost = [
            part.name
            for part in self.parts.values()
            if part.parent is None
            and part.outside == "incomplete"
            and part.book.startswith(("main", "signal"))
            and "/" not in part.book
        ]
        if how == "cancel" and self.plugin and "incomplete" not in self.caught and lost:
            yield f"close: the run ended Cancelled, over {lost[0]}, which had raised CompensationError"
        signals = [handler for _, kind, handler in self.handlers if kind == "signal" and handler != "ok"]
        if signals:
            if self.plugin and self.main == "incomplete" and how != "fail":
                yield f"close: the main method raised CompensationError, and the run ended with {how}"
            return
        expected = {
            "ok": "complete",
            "cancel": "cancel",
            "cancelled call": "cancel",
            "continue as new": "continue_as_new",
        }
        wanted = expected.get(self.main or "", "fail")
        if self.main in ("cancel", "cancelled call") and not is_cancelled:
            wanted = "fail"
        if self.main == "group" and how == "cancel" and is_cancelled:
            return
        if self.main is not None and how != wanted:
            yield f"close: the main method ended with {self.main}, and the run with {how}"
        if self.main == "incomplete" and how == "fail" and getattr(closed[1], "type", "") != "CompensationError":
            yield "close: the main method raised CompensationError, and the run failed with something else"


def judge(world: World) -> list[str]:
    """What did not hold."""
    return Oracle(world).objections()


def kind_of_objection(text: str) -> str:
    """What one objection has in common with others of its kind: its words, without names and numbers."""
    head = text.split(":")[0] if ":" in text else text
    return " ".join(word for word in head.split() if not any(char.isdigit() for char in word) and word != "main")
