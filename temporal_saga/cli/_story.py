"""The story of a workflow's sagas, as data: its runs put together, step by step. This module asks no server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, cast

from temporal_saga._parking import MOST_NAMED

from ._history import Call, Decision, Mark, Pending, Run, Trouble

__all__ = ["Step", "Story", "tell"]

State = Literal[
    "OPEN", "UNWINDING", "PARKED", "STUCK", "COMPLETED", "COMPENSATED", "INCOMPLETE", "FAILED", "CANCELED", "CUT_OFF"
]
_CLOSED_BY_THE_SERVER = ("TERMINATED", "TIMED_OUT")
_OPEN = ("RUNNING", "PAUSED")
_UNDONE = ("DONE", "BY_HAND")


@dataclass(eq=False)
class Step:
    """One step, with all its calls.

    Attributes:
        name: The step's name.
        key: Its key.
        target: The activity or workflow that does it; None if its call is in another run.
        state: RUNNING, PARKED, APPLIED, NOT_APPLIED, UNKNOWN; None for a compensation pushed by hand.
        error: The type of its last error.
        undo: The activity or workflow that undoes it; None if it is not known.
        undo_state: PENDING (it waits for its turn), RUNNING, DONE, FAILED, PARKED, BY_HAND, GIVEN_UP, CUT_OFF (it was
            running when the server closed the run); None if there was no undo.
        who: The person who has settled it.
        stands: Whether its effect stands: "yes", "maybe" or "no".
        calls: Its calls, in order.
        handed_over: Whether it is a child whose own steps have taken its place.
        taken_over: Whether its parent's saga has taken it over, and undoes it.
        undone_within: Whether it is a child whose own saga has undone all that took effect.
        left_behind: The runs of a child that took effect before a reset repeated it, if their effects may stand.
    """

    name: str
    key: str
    target: str | None = None
    state: str | None = None
    error: str | None = None
    undo: str | None = None
    undo_state: str | None = None
    who: str | None = None
    stands: Literal["yes", "maybe", "no"] = "maybe"
    calls: list[Call] = field(default_factory=list[Call])
    handed_over: bool = False
    taken_over: bool = False
    undone_within: bool = False
    left_behind: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def id(self) -> str:
        """The id of the step's first call, its undo's only if nothing else is known."""
        if self.calls and (self.calls[0].phase != "undo" or not self.target):
            return self.calls[0].id
        return f"{self.name}:do:{self.key}" if self.target else self.name

    @property
    def last(self) -> Call | None:
        """Its last call."""
        return self.calls[-1] if self.calls else None

    @property
    def undone(self) -> bool:
        """Whether it is undone."""
        return self.undo_state in _UNDONE


@dataclass
class Story:
    """A workflow's sagas.

    Attributes:
        status: The status of the run: RUNNING, PAUSED, COMPLETED, FAILED, CANCELED, TERMINATED, TIMED_OUT.
        state: What the status means for the sagas.
        error: The type of the error that the run failed with.
        steps: The steps, in the order in which they began.
        marks: Other events that the reader wants to know.
        runs: The runs that were read.
        trouble: Why the workflow task keeps failing.
        may_be_parked: Whether something that failed for good may wait for a person. The history does not show it.
        others: How many activities and children are not steps.
        failing: The activities that are not steps and are being retried.
        children: The stories of the children.
        notes: What the reader should know about this story.
        knows_what_is_armed: Whether the saga itself was asked. The history shows an undo only once it begins.
    """

    workflow_id: str
    run_id: str
    type: str
    status: str
    state: State
    started: datetime
    ended: datetime | None
    error: str | None
    steps: list[Step]
    marks: list[Mark]
    runs: list[str]
    trouble: Trouble | None = None
    may_be_parked: bool = False
    others: int = 0
    failing: list[Pending] = field(default_factory=list[Pending])
    children: list[Story] = field(default_factory=list["Story"])
    notes: list[str] = field(default_factory=list[str])
    knows_what_is_armed: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the run is still open."""
        return self.status in _OPEN

    @property
    def standing(self) -> list[Step]:
        """The steps whose effects stand or may stand."""
        return [step for step in self.steps if step.stands != "no"]

    @property
    def due(self) -> list[Step]:
        """The steps that were undone, are being undone, or are still to be."""
        return [step for step in self.steps if self.is_due(step)]

    def is_due(self, step: Step) -> bool:
        """Tell whether a step was undone, is being undone, or is still to be."""
        if step.undo_state is not None:
            return True
        # Undoing has begun, and has not come to its own end. So an effect that stands was still to be undone, as far as
        # the history shows.
        is_cut_short = self.state in ("UNWINDING", "PARKED", "STUCK", "CUT_OFF")
        return is_cut_short and step.stands != "no" and not self.knows_what_is_armed and self.has_begun

    @property
    def has_begun(self) -> bool:
        """Whether undoing has begun."""
        return any(step.undo_state not in (None, "PENDING") for step in self.steps)

    @property
    def executions(self) -> list[tuple[str, str]]:
        """The workflow id and run id of each run that was read."""
        return [(self.workflow_id, run) for run in self.runs]

    def family(self) -> Iterable[Story]:
        """Yield this story and those of its children, and of theirs."""
        yield self
        for child in self.children:
            yield from child.family()


def tell(
    runs: Sequence[Run],
    *,
    reports: Sequence[dict[str, Any]] = (),
    children: Sequence[Story] = (),
    notes: Sequence[str] = (),
) -> Story:
    """Put the runs of one workflow together.

    Args:
        runs: The runs, oldest first: those that were continued, those that were reset, and the one that counts, last.
        reports: What the query `saga_report` said.
        children: The stories of children.
        notes: What the reader should know.
    """
    run = runs[-1]
    forks = {later.reset_from: later.forked_at for later in runs if later.reset_from}
    steps: dict[str, Step] = {}
    for each in runs:
        is_closed = each.status not in _OPEN
        for call in each.calls:
            # Of a run that was reset, only its own events: the new run has the others too.
            if call.event >= forks.get(each.run_id, 0):
                steps.setdefault(call.key, Step(call.step, call.key)).calls.append(call)
                if is_closed and call.end == "RUNNING" and call.kind == "activity":
                    call.end = "TERMINATED"  # a child may go on after its parent has closed
    for step in steps.values():
        step.calls.sort(key=lambda call: call.scheduled)  # what a reset has copied is older than what it left behind
    known = {entry["key"]: entry for report in [*reports, *run.reports] for entry in _entries(report)}
    for key, entry in known.items():
        steps.setdefault(key, Step(entry["name"], key))  # a callback has no call
    decisions = [decision for each in runs for decision in each.decisions]
    said = [str(report.get("state")) for report in reports]
    is_open = run.status in _OPEN
    waits = is_open and ("PARKED" in said if reports else run.saga_state == "PARKED" or bool(run.parked))
    for step in steps.values():
        _judge(step, is_open)
        _apply_decisions(step, [each for each in decisions if each.key == step.key])
        if step.key in known:
            _apply_report(step, known[step.key])
    if waits and not reports:
        _park(steps.values(), decisions, run.parked)
    _join_children(steps, children)
    for step in steps.values():
        _account_of_children(step, children)
        step.stands = _stands(step)
    marks = [mark for each in runs for mark in each.marks if each is run or not _copied(mark, each, runs)]
    in_order = _in_order(steps, known, children, run.started)
    story = Story(
        run.workflow_id,
        run.run_id,
        run.type,
        run.status,
        _state(run, in_order, said, waits=waits),
        runs[0].started,
        run.ended,
        run.error,
        in_order,
        marks,
        [each.run_id for each in runs],
        run.trouble,
        _may_be_parked(run, in_order) and not reports,
        sum(each.others for each in runs),
        run.failing,
        list(children),
        list(notes),
    )
    story.knows_what_is_armed = bool(reports)
    if any(each.encoded for each in runs):
        story.notes.append("Details of failures are encoded: a proof that a step had no effect may be missed.")
    return story


def _entries(report: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield a report's steps; of anything else that somebody called so, nothing."""
    steps: object = report.get("steps")
    for entry in cast("list[object]", steps) if isinstance(steps, list) else ():
        if isinstance(entry, dict):
            texts = {name: value for name, value in cast("dict[str, object]", entry).items() if isinstance(value, str)}
            if {"name", "key"} <= set(texts):
                yield texts


def _copied(mark: Mark, run: Run, runs: Sequence[Run]) -> bool:
    """Tell whether a reset has copied it into a later run, which shows it."""
    return any(later.reset_from == run.run_id and mark in later.marks for later in runs)


def _judge(step: Step, is_open: bool) -> None:
    """Read a step's states from its calls."""
    does = [call for call in step.calls if call.phase == "do"]
    if does:
        step.target = does[0].target
        step.state = _outcome(does, is_open)
        step.error = does[-1].error
    elif step.calls and all(call.phase == "undo" for call in step.calls):
        step.state = "UNKNOWN"  # it was done in a run that was not read
    # A reset may do a step again that was undone: what counts comes after the last do.
    since = step.calls.index(does[-1]) if does else 0
    undos = [call for call in step.calls[since:] if call.phase != "do"]
    if not undos:
        return
    last = undos[-1]
    step.undo = last.target
    if last.end == "COMPLETED":
        step.undo_state = "BY_HAND" if last.by_hand else "DONE"
        step.who = last.by
    elif last.end == "RUNNING":
        step.undo_state = "RUNNING"  # a child that was abandoned runs on after its parent has closed
    else:
        step.undo_state = "CUT_OFF" if last.end == "TERMINATED" and last.kind == "activity" else "FAILED"


def _outcome(does: list[Call], is_open: bool) -> str:
    if any(call.end == "COMPLETED" for call in does):
        return "APPLIED"
    if does[-1].end == "RUNNING" and is_open:
        return "RUNNING"
    return "NOT_APPLIED" if all(call.refused for call in does) else "UNKNOWN"


def _park(steps: Iterable[Step], decisions: Sequence[Decision], names: Sequence[str] | None) -> None:
    """Say which steps are parked, as far as the memo, or the search attribute alone, tells that something is."""
    unsure = [step for step in steps if not names or step.name in names or len(names) > MOST_NAMED]
    undos = [step for step in unsure if step.undo_state is not None]
    for step in undos:
        if step.undo_state == "FAILED":
            step.undo_state = "PARKED"
    if undos and not names:
        return  # once undoing has begun, steps do not wait any more: not those of the same saga
    given_up = {decision.key for decision in decisions if decision.action == "give_up"}
    for step in unsure:
        if step.undo_state is None and step.key not in given_up and _failed_without_an_answer(step):
            step.state = "PARKED"


def _failed_without_an_answer(step: Step) -> bool:
    does = [call for call in step.calls if call.phase == "do"]
    return bool(does) and does[-1].end in ("FAILED", "TIMED_OUT", "TERMINATED", "NOT_STARTED") and not does[-1].answered


def _apply_decisions(step: Step, decisions: Sequence[Decision]) -> None:
    if not decisions:
        return
    last = decisions[-1]
    step.who = step.who or last.who  # who has completed the undo comes after who decided about the step
    if step.undo_state == "FAILED" and step.last is not None and last.at >= step.last.scheduled:
        step.undo_state = {"done_by_hand": "BY_HAND", "give_up": "GIVEN_UP"}.get(last.action, step.undo_state)


def _apply_report(step: Step, entry: dict[str, Any]) -> None:
    """Take what only the saga itself knows: what is armed, what is parked, and callbacks."""
    step.undo = entry.get("undo") or step.undo
    step.who = step.who or entry.get("who")
    if step.undo_state not in _UNDONE:
        step.undo_state = entry.get("undo_state") or step.undo_state
    if step.calls and step.calls[0].phase != "push":
        step.state = entry.get("state") or step.state


def _join_children(steps: dict[str, Step], children: Sequence[Story]) -> None:
    """Let the steps of a child whose saga was handed over be undone by this one."""
    for child in children:
        own = {step.key: step for step in child.steps}
        taken = [step for key, step in steps.items() if key in own]
        for step in taken:
            theirs = own[step.key]
            step.state, step.target, step.error = theirs.state, theirs.target, theirs.error
            theirs.undo, theirs.undo_state, theirs.who, theirs.stands = step.undo, step.undo_state, step.who, "no"
            theirs.taken_over = True
        if taken:
            for key, theirs in own.items():
                if key not in steps and theirs.stands != "no":  # also handed over, and not undone
                    steps[key] = replace(theirs, calls=[])
                    theirs.stands, theirs.taken_over = "no", True
            for step in steps.values():
                if any(call.child in child.executions for call in step.calls if call.phase == "do"):
                    step.handed_over = True


def _account_of_children(step: Step, children: Sequence[Story]) -> None:
    """See what the child workflows of a step have undone themselves, and which run of a child is left behind."""
    ran = [call.child for call in step.calls if call.phase == "do" and call.child is not None]
    whole = {run: child for child in children if _is_whole(child) for run in child.executions}
    # A reset starts the child again under its workflow id. Its keys come from its run id: the effects happen twice.
    step.left_behind = [run for run in dict.fromkeys(ran) if run != ran[-1] and run not in whole]
    if not ran or step.handed_over or step.undo_state is not None or not whole.keys() >= set(ran):
        return
    step.undone_within = any(each.undone or each.undone_within for run in ran for each in whole[run].steps)
    if not step.undone_within and step.state == "UNKNOWN":
        step.state = "NOT_APPLIED"  # it ended badly, and none of its own steps had an effect


def _is_whole(child: Story) -> bool:
    """Tell whether a workflow has ended and nothing of it stands, as far as its sagas can tell."""
    return not child.is_open and bool(child.steps) and not child.others and not child.standing


def _in_order(steps: dict[str, Step], known: Iterable[str], children: Sequence[Story], started: datetime) -> list[Step]:
    """Return the steps in the order in which they began, as far as their calls, the report and the children tell."""
    after: dict[str, str] = {}
    for child in children:
        giver = next((step.key for step in steps.values() if _is_from(step, child)), None)
        for key in (step.key for step in child.steps if giver is not None):
            if key in steps:
                if not any(call.phase == "do" for call in steps[key].calls):
                    after.setdefault(key, cast(str, giver))
                giver = key
    before: str | None = None
    for key in known:  # a callback has no call
        if before is not None and not steps[key].calls:
            after.setdefault(key, before)
        before = key
    rest = sorted(
        (step for step in steps.values() if step.key not in after),
        key=lambda step: step.calls[0].scheduled if step.calls else started,
        reverse=True,
    )
    followers: dict[str, list[Step]] = {}
    for key in steps:
        if key in after:
            followers.setdefault(after[key], []).insert(0, steps[key])
    found: list[Step] = []
    while rest:
        found.append(rest.pop())
        rest += followers.get(found[-1].key, ())
    return found


def _is_from(step: Step, child: Story) -> bool:
    return step.handed_over and any(call.child in child.executions for call in step.calls if call.phase == "do")


def _stands(step: Step) -> Literal["yes", "maybe", "no"]:
    if step.state == "NOT_APPLIED" or step.undone or step.handed_over or step.undone_within:
        return "no"
    if step.state is None and step.undo_state is None:
        return "no"
    return "yes" if step.state == "APPLIED" and step.undo_state in (None, "PENDING", "GIVEN_UP") else "maybe"


def _may_be_parked(run: Run, steps: Sequence[Step]) -> bool:
    """Tell whether an undo has failed for good, and the run is open and waits for nothing of the server."""
    is_idle = not run.waits_for_task and all(step.last is None or step.last.ended for step in steps)
    failed = any(step.undo_state == "FAILED" for step in steps)
    is_untold = run.saga_state is None and run.parked is None
    return run.status in _OPEN and run.trouble is None and is_idle and failed and is_untold


def _state(run: Run, steps: Sequence[Step], said: Sequence[str], *, waits: bool) -> State:
    failed = any(step.undo_state in ("FAILED", "GIVEN_UP", "CUT_OFF") for step in steps)
    undone = any(step.undo_state is not None and step.undo_state != "PENDING" for step in steps)
    if run.status in _OPEN:
        if run.trouble is not None:
            return "STUCK"
        if waits or any("PARKED" in (step.state, step.undo_state) for step in steps):
            return "PARKED"
        if said:
            return "UNWINDING" if "UNWINDING" in said else "OPEN"
        last = max((call for step in steps for call in step.calls), key=lambda call: call.scheduled, default=None)
        # Between two undos, nothing but the workflow task is pending. One that failed for good may be parked, where the
        # memo does not tell.
        goes_on = last is not None and (last.end == "RUNNING" or (last.end != "COMPLETED" and run.parked is None))
        unwinds = last is not None and last.phase != "do" and (run.waits_for_task or goes_on)
        return "UNWINDING" if unwinds or any(step.undo_state == "RUNNING" for step in steps) else "OPEN"
    if run.status in _CLOSED_BY_THE_SERVER:
        return "CUT_OFF"
    if failed or run.is_incomplete:
        return "INCOMPLETE"
    if run.status in ("COMPLETED", "CONTINUED_AS_NEW"):
        return "COMPLETED"
    if undone:
        return "COMPENSATED"
    return "CANCELED" if run.status == "CANCELED" else "FAILED"
