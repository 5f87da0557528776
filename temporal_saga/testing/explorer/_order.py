"""In which order plans run: by what they cover, so that a search which is cut short has seen something of everything.

What a plan covers is its last fault: a kind of fault at a step or its undo, or at an activation. The plans of one
length run in rounds. In each round each such pair has one plan, and no place in the workflow comes before another for
long. Pairs with an undo come first, then those with a step: their plans name a culprit, as a cancel does not. Under a
bound on time each round is shuffled, by a seed: what is left out at the end is not always at the end of the workflow.
"""

from __future__ import annotations

import random  # noqa: TID251 - not in a workflow
from collections.abc import Collection, Iterable, Sequence
from typing import overload

from temporal_saga.testing.simulator import ActivityFault, Fault

from ._plans import Plan

Pair = tuple[str, str]

Candidate = tuple[int, int, int, bool]
"""A plan that may run: the number of the plan that it makes longer, the number of the fault, the number of what is
struck there, and whether that is an undo. Plain numbers, since there are many: the garbage collector passes them by."""


class Plans(Sequence[Plan]):
    """The plans of candidates, each made when it is asked for."""

    def __init__(self, shorter: Sequence[Plan], faults: Sequence[Fault], found: Sequence[Candidate]) -> None:
        self._shorter = shorter
        self._faults = faults
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, place: int) -> Plan: ...
    @overload
    def __getitem__(self, place: slice) -> Plans: ...
    def __getitem__(self, place: int | slice) -> Plan | Plans:
        if isinstance(place, slice):
            return Plans(self._shorter, self._faults, self._found[place])
        shorter, fault, _, _ = self._found[place]
        return (*self._shorter[shorter], self._faults[fault])


def pair_of(fault: Fault) -> Pair:
    """Return what a fault covers: the label of the call that it strikes, or nothing for the workflow; and its kind."""
    if isinstance(fault, ActivityFault):
        return fault.label, f"{fault.kind} {fault.action}" if fault.action else fault.kind
    return "", f"{fault.kind} {fault.name}" if fault.name else fault.kind


def _place(fault: Fault) -> tuple[str, str, int]:
    return (*pair_of(fault), 0 if isinstance(fault, ActivityFault) else fault.at)


def in_rounds(
    found: Iterable[Candidate], faults: Sequence[Fault], shuffled: random.Random | None = None
) -> list[Candidate]:
    """Return plans in the order in which they run; faults are those that their numbers stand for."""
    rounds: list[tuple[list[Candidate], list[Candidate], list[Candidate]]] = []
    count: dict[tuple[str, str, int], int] = {}
    for each in found:
        _, fault, _, is_undo = each
        place = _place(faults[fault])
        number = count[place] = count.get(place, -1) + 1
        if number == len(rounds):
            rounds.append(([], [], []))
        of_a_step = isinstance(faults[fault], ActivityFault)
        rounds[number][0 if is_undo else 1 if of_a_step else 2].append(each)
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
    last = {rest: number for number, (_, _, rest, _) in enumerate(found)}
    met = set(seen)
    kept: list[Candidate] = []
    for number, each in enumerate(found):
        rest = each[2]
        if rest not in met or last[rest] == number:
            kept.append(each)
        met.add(rest)
    return kept, len(found) - len(kept)
