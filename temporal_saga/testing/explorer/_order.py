"""In which order plans run: by what they cover, so that a search which is cut short has seen something of everything.

What a plan covers is its last fault: a kind of fault at a step or its undo, or at an activation. The plans of one
length run in rounds. In each round each such pair has one plan, pairs with an undo come first, and no place in the
workflow comes before another for long. Under a bound on time each round is shuffled, by a seed: what is left out at the
end is not always at the end of the workflow.
"""

from __future__ import annotations

import random  # noqa: TID251 - not in a workflow
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from temporal_saga.testing.simulator import ActivityFault, Fault

from ._plans import Plan

Pair = tuple[str, str]


class Candidate(NamedTuple):
    """A plan that may run, and the number of what it strikes."""

    plan: Plan
    rest: int
    is_undo: bool


def pair_of(fault: Fault) -> Pair:
    """Return what a fault covers: the label of the call that it strikes, or nothing for the workflow; and its kind."""
    if isinstance(fault, ActivityFault):
        return fault.label, fault.kind
    return "", f"{fault.kind} {fault.name}" if fault.name else fault.kind


def _place(fault: Fault) -> tuple[str, str, int]:
    return (*pair_of(fault), 0 if isinstance(fault, ActivityFault) else fault.at)


def in_rounds(found: Iterable[Candidate], shuffled: random.Random | None) -> list[Candidate]:
    """Return plans in the order in which they run."""
    rounds: list[tuple[list[Candidate], list[Candidate]]] = []
    count: dict[tuple[str, str, int], int] = {}
    for each in found:
        place = _place(each.plan[-1])
        number = count[place] = count.get(place, -1) + 1
        if number == len(rounds):
            rounds.append(([], []))
        rounds[number][0 if each.is_undo else 1].append(each)
    if shuffled is not None:
        for parts in rounds:
            for part in parts:
                shuffled.shuffle(part)
    return [each for parts in rounds for part in parts for each in part]


def ends_of_each(found: Sequence[Candidate], seen: Collection[int]) -> tuple[list[Candidate], int]:
    """Keep the first and the last of the plans that strike the same rest; the last only, if a shorter one was seen.

    Returns:
        The plans that are kept, in their order, and how many are not.
    """
    last = {each.rest: number for number, each in enumerate(found)}
    met = set(seen)
    kept: list[Candidate] = []
    for number, each in enumerate(found):
        if each.rest not in met or last[each.rest] == number:
            kept.append(each)
        met.add(each.rest)
    return kept, len(found) - len(kept)
