"""What must hold after every run, whatever went wrong in it.

An effect is known by the key in its activity's id, `"{step}:{phase}:{key}"`, so that nobody has to say what
undoes what. An effect exists when its function has returned; a function that raised (`Fenced`, `Declined`) refused the
effect. Repeats under one key count once: the key is there for that, and the user's own check sees whether the key was
honored.

    a saga ended badly   each effect undone once, newest first, after it; or its undo reported as failed
    a saga ended well    nothing undone, but for a step that failed and whose error the body swallowed
    a bug                changes nothing: the fixed deployment ends as if the bug had never been there
    any run              ends; replays to the same commands; its error is true

One run does not always show whether a step has a compensation: in code by hand, none may have run. What any run has
shown about a label holds for all runs (`Known`). An objection that depends on more is decided at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from temporal_saga import SagaReport, StepReport
from temporal_saga.testing.simulator import (
    NOT_DECODED,
    WRONG,
    ActivationFault,
    ActivityFault,
    Call,
    Fault,
    Simulation,
    SimulationError,
    changed_inputs,
    varying,
)

from ._plans import is_unseen

PASSING = frozenset(
    {
        *("fails_once", "worker_lost", "worker_lost_inside", "slow", "outage", "provider_before", "provider_after"),
        *("delivered_twice", "delivered_late", "bug_after"),
    }
)
"""Faults that pass by: an undo that is tried again, or long enough, has succeeded."""

_CLOSED_BADLY = ("failed", "cancelled")
_REPORTED = ("FAILED", "PARKED", "BY_HAND", "GIVEN_UP")


@dataclass(frozen=True)
class Objection:
    """What is wrong with a run.

    Attributes:
        kind: In two or three words: the same hazard always has the same kind.
        message: In a sentence.
        if_compensated: The objection holds only if this label has a compensation.
    """

    kind: str
    message: str
    if_compensated: str | None = None


@dataclass
class Known:
    """What the runs so far have shown.

    Attributes:
        compensated: The labels that some run has undone, or armed.
        applied: The labels of steps that took effect in a run that ended badly.
        ends: What a plan's run came to, by its faults.
        parked: The labels of the calls that some run has left waiting for a person.
        plain: The plain activities that took effect in the scope of a saga that then ended badly.
        results_vary: Whether two runs without any fault gave two results, as with ids that an activity makes up.
        varying: The calls whose arguments two runs without any fault did not agree on.
    """

    compensated: set[str] = field(default_factory=lambda: set[str]())
    applied: set[str] = field(default_factory=lambda: set[str]())
    ends: dict[tuple[Any, ...], tuple[Any, ...]] = field(default_factory=lambda: dict[Any, Any]())
    parked: set[str] = field(default_factory=lambda: set[str]())
    plain: set[str] = field(default_factory=lambda: set[str]())
    results_vary: bool = False
    varying: set[str] = field(default_factory=lambda: set[str]())


@dataclass
class _Effect:
    """What the calls under one forward key did."""

    key: str
    label: str
    dos: list[Call] = field(default_factory=lambda: list["Call"]())
    undos: list[Call] = field(default_factory=lambda: list["Call"]())
    step: StepReport | None = None

    @property
    def do(self) -> Call | None:
        """The step's call: the last one, if a person has let a parked one be tried again."""
        return self.dos[-1] if self.dos else None

    @property
    def undo_calls(self) -> int:
        """How many undos there were, without those that were parked and tried again because a person said so."""
        decided = self.step is not None and self.step.who is not None
        return len(self.undos) - sum(decided and undo.was_parked for undo in self.undos[:-1])

    @property
    def is_armed(self) -> bool:
        """Whether something undoes it, or has."""
        return bool(self.undos) or (self.step is not None and self.step.undo is not None)

    @property
    def applied_at(self) -> int | None:
        """When the function first returned; late runs do not count."""
        return min((at for do in self.dos if (at := _ran_at(do, late=False)) is not None), default=None)

    @property
    def undone_at(self) -> int | None:
        return min((at for undo in self.undos if (at := _ran_at(undo, late=None)) is not None), default=None)


def check_run(simulation: Simulation[Any], plan: tuple[Fault, ...], known: Known) -> list[Objection]:
    """Return what is wrong with a run, without the user's own check; note what the run shows."""
    effects = _effects(simulation)
    for effect in effects.values():
        if effect.is_armed:
            known.compensated.add(effect.label)
    if any(report.state in ("COMPENSATED", "INCOMPLETE") for report in simulation.reports):
        known.plain |= {call.label for call in simulation.calls if call.is_plain_in_scope and _ran_at(call) is not None}
    known.parked |= set(simulation.parked)
    unlike = list(_same_as_without(simulation, plan, known))
    objections: list[Objection] = [
        *(unlike or _hangs(simulation, plan)),  # it says so in its own words
        *_sagas_left_open(simulation),
        *_undos_that_fail_by_themselves(simulation),
        *_effects_after_a_bad_end(simulation, effects, known),
        *_order(simulation, effects),
        *_overtaken(effects),
        *_late(effects),
        *_errors(simulation),
        *_misused_keys(simulation),
        *_wrong_decisions_taken(simulation),
    ]
    return list(dict.fromkeys(objections))


def undo_failed(simulation: Simulation[Any]) -> bool:
    """Tell whether compensations failed for good, each by a fault: then their effects stand."""
    failed = _failed_undos(simulation)
    return bool(failed) and not any(_fails_by_itself(simulation, call) for call in failed)


def check_replay(
    simulation: Simulation[Any], known: Known, run_again: Callable[[], Simulation[Any]] | None = None
) -> list[Objection]:
    """Return what a replay of the whole history does differently.

    Arguments that another run of the same plan makes up anew do not count: no fault has changed them.
    """
    try:
        difference = simulation.check_replay(varying=known.varying)
        if difference and run_again is not None:
            known.varying |= varying(simulation, run_again())
            difference = simulation.check_replay(varying=known.varying)
    except SimulationError as error:
        return [Objection("cannot be evicted", str(error))]
    return [Objection("replay differs", f"a replay gives other commands: {difference}")] if difference else []


def check_inputs(simulation: Simulation[Any], known: Known) -> list[Objection]:
    """Return which undos were called with something else than their steps, whose input they get.

    What two runs do not agree on does not count: after a replay the step's input is another one, too.
    """
    if not any(call.phase == "undo" for call in simulation.calls):
        return []
    return [
        Objection(
            "an undo's input changed",
            f"{label} was called with {_shown(now)}, and its step with {_shown(before)}: the workflow changed "
            "the object in between; pass a copy, or immutable data",
        )
        for label, before, now in changed_inputs(simulation)
        if known.varying.isdisjoint({label, label.removesuffix(":undo")})
    ]


def _shown(arguments: list[Any]) -> str:
    text = ", ".join(map(repr, arguments))
    return text if len(text) <= 100 else f"{text[:97]}..."


def end_of(simulation: Simulation[Any]) -> tuple[Any, ...]:
    """Return what a run came to: its status, its result, and what was undone."""
    undone = sorted(
        f"{call.label}#{call.nth}" for call in simulation.calls if call.phase == "undo" and _ran_at(call) is not None
    )
    try:
        result = repr(simulation.result())
    except Exception as error:
        result = "; ".join(f"{type(each).__name__}: {each}" for each in _chain(error))
    return simulation.status, result, tuple(undone)


# --- the checks ------------------------------------------------------------------------------------------------------


def _hangs(simulation: Simulation[Any], plan: tuple[Fault, ...]) -> Iterator[Objection]:
    undecoded = [call for call in simulation.calls if _says(call, NOT_DECODED)]
    for call in undecoded:
        yield Objection(
            "arguments do not decode", f"{call.label} got arguments that {call.type!r} cannot decode by its own types"
        )
    if simulation.status == "waiting" and not undecoded and not simulation.parked:
        bug = any(fault.kind == "bug_after" for fault in plan)
        yield Objection("a bug unwinds" if bug else "hangs", f"the run never ends: {simulation.waiting_for}")


def _sagas_left_open(simulation: Simulation[Any]) -> Iterator[Objection]:
    if simulation.status in ("waiting", "terminated"):
        return  # another check says so, or somebody stopped all workflow code on purpose
    for report in simulation.reports:
        undo_states = {step.name: step.undo_state for step in report.steps if step.undo_state is not None}
        failed = [name for name, state in undo_states.items() if state in _REPORTED and state != "BY_HAND"]
        unfinished = [name for name, state in undo_states.items() if state in ("PENDING", "RUNNING")]
        if report.state in ("OPEN", "UNWINDING", "PARKED"):
            by = ": its timeout closed it" if simulation.status == "timed out" else ""
            said = f"the run closed ({simulation.status}) while saga {report.name!r} was {report.state}{by}"
            yield Objection("closed under a saga", said)
        elif report.state == "COMPENSATED" and (failed or unfinished):
            names = ", ".join(failed + unfinished)
            yield Objection("not reported", f"saga {report.name!r} says COMPENSATED, but these are not undone: {names}")
        elif report.state == "COMPLETED" and failed:
            names = ", ".join(failed)
            yield Objection("not reported", f"saga {report.name!r} says COMPLETED, but undoing failed: {names}")
    if simulation.status != "completed":
        return
    last = {call.forward_key for call in simulation.calls if call.run_id == simulation.run_ids[-1]}
    told = _told_by_updates(simulation)
    for report in simulation.reports:
        keys = {step.key for step in report.steps}
        if report.state == "INCOMPLETE" and keys & last and not keys & told:
            yield Objection("not reported", f"saga {report.name!r} is INCOMPLETE, and the run completed all the same")


def _undos_that_fail_by_themselves(simulation: Simulation[Any]) -> Iterator[Objection]:
    for call in _failed_undos(simulation):
        if not _fails_by_itself(simulation, call):
            continue
        outcome = next((each.outcome for each in reversed(call.attempts) if each.outcome), call.state)
        passing = next((fault for fault in _faults_of(simulation, call) if fault.kind in PASSING), None)
        if passing is not None:
            tried = len([each for each in call.attempts if not each.late])
            how = f"gave up after {tried} attempts" if tried > 1 else "gave up after its first attempt"
            yield Objection("an undo gives up", f"{call.label} {how}, though {passing!r} is temporary: {outcome}")
        else:
            yield Objection(
                "an undo fails by itself", f"{call.label} failed for good, and no fault struck it: {outcome}"
            )


def _effects_after_a_bad_end(
    simulation: Simulation[Any], effects: dict[str, _Effect], known: Known
) -> Iterator[Objection]:
    if simulation.status in ("waiting", "terminated", "timed out"):
        return
    states = _states(simulation)
    own = _own_keys(simulation)
    detached = {step.key for report in simulation.reports if report.state == "DETACHED" for step in report.steps}
    quiet = not any(call.phase == "do" and call.state != "completed" for call in simulation.calls) and not any(
        isinstance(fault, ActivationFault) for fault in simulation.faults
    )
    for effect in effects.values():
        if effect.undo_calls > 1:
            yield Objection("undone twice", f"{effect.label} was undone {effect.undo_calls} times")
        state = states.get(effect.key)
        if state is None or state == "DETACHED":
            ended_badly = simulation.status in _CLOSED_BADLY and effect.key in own
        else:
            ended_badly = state in ("COMPENSATED", "INCOMPLETE", "OPEN", "UNWINDING", "PARKED")
        if effect.do is None:
            continue
        swallowed = effect.do.state != "completed"
        if state == "COMPLETED" and quiet and effect.undos and () in known.ends and not known.ends[()][2]:
            yield Objection("undone for nothing", f"{effect.label} was undone, though the saga ended well")
        if effect.applied_at is None or not (ended_badly or (swallowed and state is not None)):
            continue
        if effect.undone_at is not None:
            continue
        given_away = _given_away(effect.do, effects, detached) if effect.do.kind == "child" else []
        if any(undo.workflow_id != effect.do.activity_id for each in given_away for undo in each.undos):
            known.compensated.add(effect.label)  # another saga has taken them over, and answers for each
            continue
        if ended_badly:
            known.applied.add(effect.label)
        if not effect.is_armed:
            for each in given_away:
                if states[each.key] == "DETACHED":
                    said = f"{each.label} stands: {effect.label} has detached its saga, and no saga has taken it over"
                    yield Objection("not undone", said)
        yield from _stands(simulation, effect, swallowed)


def _given_away(child: Call, effects: dict[str, _Effect], detached: Container[str]) -> list[_Effect]:
    """Return what took effect in a child that has detached its saga, for another saga to take over."""
    return [
        each
        for key, each in effects.items()
        if key in detached and each.applied_at is not None and each.do and each.do.workflow_id == child.activity_id
    ]


def _stands(simulation: Simulation[Any], effect: _Effect, swallowed: bool) -> Iterator[Objection]:
    """Judge an effect that was not undone, after a bad end."""
    step = effect.step
    if step is not None and step.undo_state in _REPORTED:
        if "INCOMPLETE" not in {report.state for report in simulation.reports}:
            yield Objection("not reported", f"{effect.label} stands, its undo failed, and no saga says INCOMPLETE")
        return
    if step is None and simulation.status == "failed" and any(undo.state == "failed" for undo in effect.undos):
        return  # by hand: the run failed with the error of the undo
    if step is not None and step.undo is None and step.state == "APPLIED" and not swallowed:
        return  # kept for good at the pivot
    kind, why = "not undone", "it took effect and nothing undid it"
    if step is not None and step.state == "NOT_APPLIED":
        why = "it took effect, and its saga says NOT_APPLIED"
    elif any(call.phase == "undo" for call in simulation.calls):
        kind, why = (
            "half undone",
            ("the unwind stopped at its undo" if effect.undos else "others were undone, it was not"),
        )
    yield Objection(kind, f"{effect.label} stands: {why}", if_compensated=effect.label)


def _order(simulation: Simulation[Any], effects: dict[str, _Effect]) -> Iterator[Objection]:
    """Newest first: of two that stood at once, the one that began later is undone before the other."""
    sagas = {step.key: number for number, report in enumerate(simulation.reports) for step in report.steps}
    place = {id(call): number for number, call in enumerate(simulation.calls)}
    undone = [effect for effect in effects.values() if effect.do is not None and effect.undos]
    undone.sort(key=lambda effect: place[id(effect.dos[0])])
    for number, older in enumerate(undone):
        assert older.do is not None
        for newer in undone[number + 1 :]:
            assert newer.do is not None
            if sagas.get(older.key) != sagas.get(newer.key) or older.do.run_id != newer.do.run_id:
                continue
            if place[id(older.undos[0])] < place[id(newer.dos[0])]:
                continue  # undone before the newer one began: a savepoint
            if older.undos[0].undone_in_open_saga:
                continue  # that one alone, by `saga.undo()`
            if older.do.state != "completed" and newer.do.state == "completed":
                continue  # swallowed: undone at a good end, before that turned into a bad one
            overlapped = _ended_at(older.do) is None or _began_at(newer.dos[0]) < (_ended_at(older.do) or 0)
            began = _began_at(older.undos[0])
            if not overlapped and began < (_ended_at(newer.undos[0]) or began + 1):
                yield Objection("wrong order", f"{older.label} was undone before {newer.label}, which began after it")


def _overtaken(effects: dict[str, _Effect]) -> Iterator[Objection]:
    """An undo begins when its step has ended."""
    for effect in effects.values():
        if effect.do is None or not effect.undos or not effect.undos[0].attempts:
            continue
        began = _began_at(effect.undos[0])
        attempts = [each for do in effect.dos for each in do.attempts if not each.late]
        if any(each.ended_order is None or each.ended_order > began for each in attempts):
            yield Objection("undone too early", f"{effect.label} was still running when its undo began")


def _late(effects: dict[str, _Effect]) -> Iterator[Objection]:
    """An effect that comes after its undo stands, unless something refuses it."""
    for effect in effects.values():
        late = _ran_at(effect.do, late=True)
        if effect.applied_at is not None:
            continue  # a repeat
        if late is not None and effect.undone_at is not None and late > effect.undone_at:
            yield Objection(
                "applied after its undo",
                f"{effect.label} took effect after its undo and stands: nothing refused it (a fence does)",
            )


def _misused_keys(simulation: Simulation[Any]) -> Iterator[Objection]:
    """Each attempt of a call asks for the same."""
    for call in simulation.calls:
        for attempt in call.attempts:
            if attempt.outcome.split(": ")[1:2] == ["KeyMisuse"]:
                yield Objection("key misused", f"{call.label} asked for something else under the same key")


def _wrong_decisions_taken(simulation: Simulation[Any]) -> Iterator[Objection]:
    """What nobody may decide is rejected."""
    for command in simulation.commands:
        if command[0] == "update_accepted" and command[1].startswith(WRONG):
            yield Objection("wrong decision taken", "a parked call took a decision that does not fit")


def _errors(simulation: Simulation[Any]) -> Iterator[Objection]:
    """The run's error says what happened."""
    if simulation.status == "cancelled" and not simulation.cancel_requested:
        yield Objection("untrue error", "the run ended Cancelled, and nobody cancelled it")
    if simulation.status not in _CLOSED_BADLY:
        return
    try:
        simulation.result()
        return
    except Exception as error:
        chain = list(_chain(error))
    own = _own_keys(simulation)  # a child's saga has failed its child, and its parent undoes that
    told = _told_by_updates(simulation)
    incomplete = [
        report.name
        for report in simulation.reports
        if report.state == "INCOMPLETE"
        and any(step.key in own for step in report.steps)
        and not any(step.key in told for step in report.steps)
    ]
    errors = [each for each in chain if isinstance(each, ApplicationError) and each.type == "CompensationError"]
    if errors and simulation.reports and not any(report.state == "INCOMPLETE" for report in simulation.reports):
        yield Objection("untrue error", "the run failed with CompensationError, and every compensation succeeded")
    # What failed in an earlier run is not known in this one: a state has no errors in it.
    a_step_failed = any(
        call.phase == "do" and call.state in ("failed", "timed out") and call.run_id == simulation.run_ids[-1]
        for call in simulation.calls
    )
    if errors and errors[0].cause is None and a_step_failed:  # it has none after compensate()
        yield Objection("untrue error", "CompensationError has no cause: the error that made the saga unwind is lost")
    if incomplete and not errors:
        names = ", ".join(incomplete)
        yield Objection("not reported", f"saga {names} is INCOMPLETE, and its error is not a CompensationError")


def _same_as_without(simulation: Simulation[Any], plan: tuple[Fault, ...], known: Known) -> Iterator[Objection]:
    """Faults that the workflow cannot see change nothing; neither does a bug that was fixed."""
    rest = tuple(fault for fault in plan if not is_unseen(fault) and fault.kind != "bug_after")
    if len(rest) == len(plan) or any(isinstance(fault, ActivationFault) for fault in rest):
        return  # a bug adds an activation, so that the rest would strike elsewhere
    expected = known.ends.get(rest)
    if expected is None:
        return
    found = end_of(simulation)
    bug = any(isinstance(fault, ActivityFault) and fault.kind == "bug_after" for fault in plan)
    kind, because = ("a bug unwinds", "of a bug that was fixed") if bug else ("not neutral", "of it")
    undone = f"; undone: {', '.join(found[2])}" if found[2] else ""
    if found[0] != expected[0]:
        ended = "never ends" if found[0] == "waiting" else f"ended {found[0]}"
        yield Objection(kind, f"because {because} the run {ended} instead of {expected[0]}{undone}")
    elif found[2] != expected[2] and bug and found[0] == "completed":
        yield Objection(
            kind,
            "the body caught a bug, so that the step was undone and the run went on: "
            f"let it catch ActivityError (or FailureError) only{undone}",
        )
    elif found[2] != expected[2]:
        yield Objection(kind, f"because {because} the run undid other steps{undone or '; undone: nothing'}")
    elif found[1] != expected[1] and not known.results_vary:
        yield Objection(kind, f"because {because} the run came to {found[1]} instead of {expected[1]}")


# --- reading a run ---------------------------------------------------------------------------------------------------


def _effects(simulation: Simulation[Any]) -> dict[str, _Effect]:
    effects: dict[str, _Effect] = {}
    steps = {step.key: step for report in _last_reports(simulation) for step in report.steps}
    for call in simulation.calls:
        key = call.forward_key
        if key is None or call.phase not in ("do", "undo"):
            continue
        effect = effects.setdefault(key, _Effect(key, call.label.removesuffix(":undo"), step=steps.get(key)))
        if call.phase == "undo":
            effect.undos.append(call)
        else:
            effect.dos.append(call)
    return effects


def _says(call: Call, message: str) -> bool:
    return any(attempt.outcome.endswith(message) for attempt in call.attempts)


def _failed_undos(simulation: Simulation[Any]) -> list[Call]:
    """Return the undos that have failed for good, and that nobody has made good since."""
    last = {call.activity_id: call for call in simulation.calls if call.phase in ("undo", "push")}
    by_hand = {step.key for report in simulation.reports for step in report.steps if step.undo_state == "BY_HAND"}
    return [
        call
        for call in last.values()
        if call.state in ("failed", "timed out") and by_hand.isdisjoint({call.key, call.forward_key})
    ]


def _faults_of(simulation: Simulation[Any], call: Call) -> list[ActivityFault]:
    """Return the faults that lie on a call; if it is of a child, those of what a child did, or a child of that."""
    calls = [call]
    if call.kind == "child":
        calls += [each for each in simulation.calls if each.workflow_id != call.workflow_id]
    return [
        fault
        for fault in simulation.faults
        if isinstance(fault, ActivityFault) and fault.kind != "decision" and any(fault.names(each) for each in calls)
    ]


def _fails_by_itself(simulation: Simulation[Any], call: Call) -> bool:
    """Tell whether nothing excuses an undo that has failed for good.

    A fault that makes it fail for good does; so does one that has done that to another undo of the saga before: this
    one may depend on that one, and rightly refuse. A fault that passes by excuses an undo only if that is parked: a
    person may let it be tried again.
    """
    saga = _saga_of(simulation, call)
    ended = _ended_at(call)
    for other in _failed_undos(simulation):
        if other is not call:
            before = _ended_at(other)
            if _saga_of(simulation, other) != saga or before is None or (ended is not None and before > ended):
                continue
        if any(other.was_parked or fault.kind not in PASSING for fault in _faults_of(simulation, other)):
            return False
    return True


def _saga_of(simulation: Simulation[Any], call: Call) -> object:
    """Return which saga a call belongs to; for code by hand, which run."""
    for number, report in enumerate(simulation.reports):
        if any(step.key in (call.forward_key, call.key) for step in report.steps):
            return number
    return call.run_id


def _told_by_updates(simulation: Simulation[Any]) -> set[str]:
    """Return the keys of the steps whose saga has told the caller of an update that it is incomplete."""
    told: set[str] = set()
    for command in simulation.commands:
        if command[0] != "update_rejected":
            continue
        for error in _chain(command[2]):
            if isinstance(error, ApplicationError) and error.type == "CompensationError" and error.details:
                report: Any = error.details[0]  # as JSON has it
                told.update(step["key"] for step in report["steps"])
    return told


def _own_keys(simulation: Simulation[Any]) -> set[str]:
    """Return the keys of the steps that the workflow itself began; those of its children are not among them."""
    return {
        call.forward_key
        for call in simulation.calls
        if call.forward_key is not None and call.run_id in simulation.run_ids
    }


def _last_reports(simulation: Simulation[Any]) -> list[SagaReport]:
    """Return the sagas as they ended: first the detached ones, so that a saga which took over their steps wins."""
    return sorted(simulation.reports, key=lambda report: report.state != "DETACHED")


def _states(simulation: Simulation[Any]) -> dict[str, str]:
    return {step.key: report.state for report in _last_reports(simulation) for step in report.steps}


def _ran_at(call: Call | None, *, late: bool | None = False) -> int | None:
    """Return when the function of a call first returned, counting late runs only, the others only, or all (None)."""
    if call is None:
        return None
    ran = [each.ran_order for each in call.attempts if each.ran and (late is None or each.late is late)]
    return min((order for order in ran if order is not None), default=None)


def _began_at(call: Call) -> int:
    return min((each.began_order for each in call.attempts), default=0)


def _ended_at(call: Call) -> int | None:
    """Return when the last attempt of a call ended, without late runs; None if one has not ended."""
    ends = [each.ended_order for each in call.attempts if not each.late]
    return None if None in ends else max((end for end in ends if end is not None), default=0)


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        if not isinstance(error, WorkflowFailureError):
            yield error
        error = getattr(error, "cause", None) or error.__cause__
