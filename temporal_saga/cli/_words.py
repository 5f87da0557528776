"""The verdict on a saga, in words: names, keys, states and types of errors; nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from shlex import quote
from typing import Literal

from ._history import Call, Pending
from ._story import Step, Story

__all__ = ["Line", "became", "duration", "effect", "headline", "summary", "undoing", "verdict"]

Tone = Literal["good", "busy", "bad", "plain"]

_MOST = 20


@dataclass(frozen=True)
class Line:
    """A sentence, its tone, and a hint for the reader."""

    text: str
    tone: Tone = "plain"
    hint: str = ""


def verdict(story: Story, now: datetime) -> list[Line]:
    """Say how a workflow's sagas stand: the headline, the troubles, and the effects that stand."""
    return [headline(story), *_troubles(story, now), *_standing(story), *_children(story)]


def summary(story: Story, now: datetime) -> str:
    """Say the most urgent part in one line."""
    urgent = [line.text for each in story.family() for line in _troubles(each, now) if line.tone == "bad"]
    return " ".join([headline(story).text, *urgent[:1]])


def headline(story: Story) -> Line:
    """Say how the sagas stand, in a sentence or two."""
    due, undone = len(story.due), sum(step.undone for step in story.due)
    count = f"{undone} of {due} undone"
    applied = sum(step.state == "APPLIED" for step in story.steps)
    ended = _ended(story)
    paused = " The workflow is paused." if story.status == "PAUSED" else ""
    if not story.steps and story.state != "STUCK":
        return Line(f"{'Open' if story.is_open else ended}: its history has no steps of a saga.")
    if story.state == "OPEN":
        running = sum(step.state == "RUNNING" for step in story.steps)
        more = f", {running} {_are(running)} running" if running else ""
        undos = f" {undone} undone." if undone else " Nothing is being undone."
        return Line(f"Open: {_steps(applied)} took effect{more}.{undos}{paused}", "busy" if paused else "plain")
    if story.state == "UNWINDING":
        return Line(f"Unwinding: {count}.{paused}", "busy")
    if story.state == "PARKED":
        so_far = f" {count}." if story.has_begun else ""
        return Line(f"Parked: a person has to decide.{so_far}{paused}", "bad")
    if story.state == "STUCK":
        assert story.trouble is not None
        so_far = f" {count}." if due else ""
        return Line(
            f"Stuck: the workflow task has failed {_times(story.trouble.failures)} ({story.trouble.error}).{so_far} "
            "Nothing more is done or undone until a worker runs code that gets past it.",
            "bad",
        )
    if story.state == "CUT_OFF":
        if not story.standing:
            return Line(f"{ended}: nothing stands.{f' {count}.' if due else ''}")
        undos = count if due else "nothing is undone"
        return Line(f"{ended}: {undos}, and nothing more will be.", "bad")
    if story.state == "INCOMPLETE":
        return Line(f"{ended}, and not everything is undone: {count}.", "bad")
    if story.state == "COMPLETED":
        undos = f", {undone} {_were(undone)} undone" if undone else ""
        return Line(f"{ended}: {_steps(applied)} took effect{undos}.", "good")
    if story.state == "COMPENSATED":
        all_is = undone == due and not story.standing
        return Line(
            f"{ended}, and everything is undone ({undone} of {due})." if all_is else f"{ended}: {count}.", "good"
        )
    if not story.standing:
        return Line(f"{ended}: no step took effect.", "plain")
    return Line(f"{ended}: nothing was undone.", "busy")


def effect(step: Step) -> str:
    """Say what is known of a step's effect."""
    if step.handed_over:
        return "handed over to its parent"
    if step.undone_within and step.state == "UNKNOWN":
        return f"failed ({step.error})" if step.error else "ended badly"
    words = {
        "RUNNING": "running",
        "PARKED": "failed, parked",
        "APPLIED": "took effect",
        "NOT_APPLIED": "no effect",
        "UNKNOWN": "may have taken effect",
        None: "pushed by hand" if step.calls else "workflow code",
    }
    text = words.get(step.state, "")
    return f"{text} ({step.error})" if step.error and step.state != "APPLIED" else text


def undoing(step: Step, story: Story, now: datetime) -> str:
    """Say how far the undo of a step is."""
    if step.undone_within:
        return "by the child itself"
    if step.undo_state is None:
        if not story.is_due(step):
            return "-"
        return "not undone" if story.state == "CUT_OFF" else "not yet"
    name = step.undo or "its undo"
    if step.undo_state == "RUNNING":
        return f"{name}: {_progress(step.last, now) or 'running'}"
    words = {
        "PENDING": "not yet" if story.has_begun else "armed",
        "DONE": f"done, by {step.last.by}" if step.last and step.last.by else "done",
        "FAILED": "failed for good",
        "PARKED": "parked",
        "BY_HAND": f"done by hand, by {step.who or 'someone'}",
        "GIVEN_UP": f"given up, by {step.who or 'someone'}",
        "CUT_OFF": "cut off",
    }
    error = step.last.error if step.last and step.undo_state in ("FAILED", "PARKED") else None
    return f"{name}: {words.get(step.undo_state, step.undo_state)}" + (f" ({error})" if error else "")


def became(call: Call, now: datetime) -> str:
    """Say how a call ended, and how long it took."""
    took = f" after {duration(call.ended - call.scheduled)}" if call.ended else ""
    if call.end == "RUNNING":
        return _progress(call, now) or ("running" if call.kind == "activity" else "running, as a workflow of its own")
    if call.end == "COMPLETED":
        by = f" {'by hand' if call.by_hand else 'from outside'}, by {call.by}" if call.by else ""
        return f"done{by}{took}"
    words = {
        "FAILED": "failed",
        "TIMED_OUT": "timed out",
        "CANCELED": "cancelled",
        "NOT_STARTED": "not started",
        "TERMINATED": "cut off",
    }
    attempts = f", {_times(call.attempts, 'attempt')}" if call.attempts > 1 else ""
    proof = ", no effect" if call.refused else ""
    error = f": {call.error}" if call.error else ""
    return f"{words[call.end]}{took}{attempts}{error}{proof}"


def duration(time: timedelta) -> str:
    """Write a duration: 12 ms, 3.4 s, 5 min, 2 h, 3 d."""
    seconds = max(0.0, time.total_seconds())
    for limit, unit, size in ((1, "ms", 0.001), (60, "s", 1), (3600, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            number = seconds / size
            return f"{number:.1f} {unit}" if unit == "s" and number < 10 else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _troubles(story: Story, now: datetime) -> Iterable[Line]:
    for step in story.steps:
        if step.taken_over:
            continue  # its parent's account has it
        last, name = step.last, step.undo or "its undo"
        error = f" ({last.error})" if last and last.error else ""
        how = f"temporal-saga resolve {quote(story.workflow_id)} {step.key}"
        if step.undo_state == "RUNNING":
            yield Line(f"{name}, which undoes {step.name}: {_progress(last, now) or 'running'}.", _tone(last))
        elif step.undo_state == "FAILED":
            hint = f"If it is parked: {how}" if story.may_be_parked else ""
            yield Line(f"{name}, which undoes {step.name}, failed for good{error}.", "bad", hint)
        elif step.undo_state == "PARKED":
            text = f"{name}, which undoes {step.name}, failed for good{error}, and waits for a person."
            yield Line(text, "bad", f"{how} retry|done-by-hand|give-up")
        elif step.undo_state == "GIVEN_UP":
            yield Line(f"{name}, which undoes {step.name}, was given up by {step.who or 'someone'}.", "bad")
        elif step.undo_state == "CUT_OFF":
            yield Line(f"{name}, which undoes {step.name}, was cut off: it may have done its work.", "bad")
        elif step.state == "PARKED":
            text = f"{step.name} failed for good{error}, and waits for a person."
            yield Line(text, "bad", f"{how} retry|give-up")
        elif step.state == "RUNNING" and _progress(last, now):
            yield Line(f"{step.name}: {_progress(last, now)}.", _tone(last))
        if step.undo_state == "BY_HAND":
            yield Line(f"{step.name} was undone by hand, by {step.who or 'someone'}.")
    for pending in story.failing:
        yield Line(f"{pending.activity}, which is not a step of a saga: {_retries(pending, now)}.", "bad")


def _standing(story: Story) -> Iterable[Line]:
    if story.state == "COMPLETED":
        return
    found = story.standing
    if story.state == "OPEN":
        found = [step for step in found if step.undo_state in ("FAILED", "GIVEN_UP")]
    if story.state in ("UNWINDING", "PARKED"):  # steps that are still to be undone are not a problem
        found = [step for step in found if _is_bad(step)]
    if story.state in ("COMPENSATED", "INCOMPLETE", "FAILED", "CANCELED"):
        without = [step for step in found if step.undo_state is None]
        found = [step for step in found if step.undo_state is not None]
        if without:
            reasons = "no compensation, past a pivot, given up by detach(), or nothing was undone at all"
            yield Line(f"Not undone ({reasons}): {_ids(without)}")
    sure = [step for step in found if step.stands == "yes"]
    unsure = [step for step in found if step.stands == "maybe"]
    if sure:
        yield Line(f"Stands: {_ids(sure)}", "bad")
    if unsure:
        yield Line(f"May stand: {_ids(unsure)}", "bad")


def _children(story: Story) -> Iterable[Line]:
    for step in story.steps:
        if step.undone_within:
            yield Line(f"The child workflow of {step.name} has undone its steps itself: nothing of it stands.")
        for id, run in step.left_behind:
            yield Line(
                f"A reset has run the child workflow of {step.name} again, with new keys. The effects of its earlier "
                "run may stand as well.",
                "bad",
                f"temporal-saga show {quote(id)} --run-id {run}",
            )


def _is_bad(step: Step) -> bool:
    failed = step.undo_state in ("FAILED", "PARKED", "GIVEN_UP") or step.state == "PARKED"
    return failed or _tone(step.last) == "bad"


def _progress(call: Call | None, now: datetime) -> str:
    """Say how an activity that is retried is doing; an empty str if it is in its first attempt."""
    if call is None or call.pending is None or not (call.pending.failures or call.pending.paused):
        return ""
    return _retries(call.pending, now)


def _retries(pending: Pending, now: datetime) -> str:
    failed = f"has failed {_times(pending.failures)} ({pending.error or 'no error known'})" if pending.failures else ""
    if pending.paused:
        then = "is paused"
    elif pending.next_try is None:
        then = "an attempt is running"
    else:
        wait = pending.next_try - now
        then = f"next try in {duration(wait)}" if wait > timedelta(0) else "the next try is due"
    return ", ".join(part for part in (failed, then) if part)


def _tone(call: Call | None) -> Tone:
    return "bad" if call is not None and call.pending is not None and call.pending.failures else "busy"


def _ended(story: Story) -> str:
    words = {"TIMED_OUT": "Timed out", "CONTINUED_AS_NEW": "Continued as new"}
    word = words.get(story.status, story.status.capitalize())
    return f"{word} ({story.error})" if story.error else word


def _ids(steps: list[Step]) -> str:
    more = f" and {len(steps) - _MOST} more" if len(steps) > _MOST else ""
    return ", ".join(step.id for step in steps[:_MOST]) + more


def _times(number: int, unit: str = "time") -> str:
    return "once" if number == 1 and unit == "time" else f"{number} {unit}{'' if number == 1 else 's'}"


def _steps(number: int) -> str:
    return "1 step" if number == 1 else f"{number or 'no'} steps"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"
