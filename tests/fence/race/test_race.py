"""A step that comes late and its undo, in two processes at once: the money is neither moved twice nor left."""

from __future__ import annotations

from collections import Counter

import pytest

from .player import Call, Phase
from .referee import ORDERS, Player, Referee, Round, Steering, how_they_met, referee
from .scene import Place, with_schema

ROUNDS = 2000
"""At least, and a tenth of them in each order."""
ENOUGH = 3
"""Rounds gone wrong to show, after which no more are played."""


def both(referee: Referee, round: Round, *phases: Phase) -> list[tuple[Call, Player]]:
    """Return a call for each of the two players."""
    calls = (referee.call(round, phase, attempt=2, pauses=True) for phase in phases)
    return list(zip(calls, referee.players.values(), strict=True))


def play(referee: Referee, steering: Steering) -> Round:
    """Play one round: the step may have applied before, its reply lost, and may come again at the end."""
    round = referee.new_round()
    dice = referee.dice
    if dice.random() < 0.2:
        referee.send(round, referee.call(round, "do"))
        round.applied_before = True
    aim, offset = steering.aim()
    step, undo = referee.race(round, offset, *both(referee, round, "do", "undo"))
    round.order = how_they_met(step, undo)
    steering.learn(aim, round.order, {"do": step[-1].ended - step[0].began, "undo": undo[-1].ended - undo[0].began})
    if dice.random() < 0.2:
        referee.send(round, referee.call(round, "undo", attempt=3))
    if dice.random() < 0.2:
        late = referee.send(round, referee.call(round, "do", attempt=3))
        if late is not None and late.error != "Fenced":
            round.problems.append("the step was let through after its undo")
    return referee.judge(round)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("place", "least"),
    [
        ("sqlite", 150),
        ("READ COMMITTED", 150),
        ("SERIALIZABLE", 150),
        pytest.param("sqlite", ROUNDS, marks=pytest.mark.deep),
        pytest.param("READ COMMITTED", ROUNDS, marks=pytest.mark.deep),
        ("REPEATABLE READ", 100),
        ("async sqlite", 100),
        ("async READ COMMITTED", 100),
    ],
)
def test_money_is_neither_moved_twice_nor_left(place: str, least: int, request: pytest.FixtureRequest) -> None:
    where = find(place, request)
    with referee(where, "real", place) as judge:
        steering = Steering(judge.dice)
        rounds: list[Round] = []
        wrong: list[Round] = []
        while len(rounds) < least or min(steering.seen[order] for order in ORDERS) < least // 10:
            rounds.append(play(judge, steering))
            wrong += [rounds[-1]] if rounds[-1].problems else []
            assert len(wrong) < ENOUGH, "\n".join(map(str, wrong))
            assert len(rounds) < 3 * least, steering.seen
    assert not wrong, "\n".join(map(str, wrong))
    overlapping = Counter(
        round.applied for round in rounds if round.order == "overlapping" and not round.applied_before
    )
    retried = sum(
        any("rolled back" in line.text and "Fenced" not in line.text for line in round.lines) for round in rounds
    )
    print(f"{place}: {len(rounds)} rounds, {dict(steering.seen)}; where they met, the step", end=" ")
    print(f"applied in {overlapping[True]} and was refused in {overlapping[False]}; tried again in {retried}")
    assert min(overlapping[True], overlapping[False]) >= least // 100, (
        "one of the two always wins: they do not really meet"
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("phase", ["do", "undo"])
@pytest.mark.parametrize("place", ["sqlite", "READ COMMITTED", "SERIALIZABLE"])
def test_an_attempt_that_comes_late_and_the_next_one(place: str, phase: Phase, request: pytest.FixtureRequest) -> None:
    """Both of the same step, or of the same undo: one moves the money, and both have its result."""
    with referee(find(place, request), "real", f"{place}, {phase} twice") as judge:
        for _ in range(100):
            round = judge.new_round()
            if phase == "undo":
                judge.send(round, judge.call(round, "do"))
            judge.race(round, judge.dice.uniform(-0.002, 0.002), *both(judge, round, phase, phase))
            first, second = (answer for said, answer in round.answers[-2:])
            if phase == "do":
                judge.send(round, judge.call(round, "undo"))
            judge.judge(round)
            assert first is not None, str(round)
            assert second is not None, str(round)
            assert first.result == second.result is not None, str(round)
            assert not round.problems, str(round)


BROKEN = [
    ("sqlite", "none"),
    ("sqlite", "no_tombstone"),
    ("sqlite", "forgets_the_undo"),
    ("sqlite", "trusts_the_undo"),
    ("READ COMMITTED", "none"),
    ("READ COMMITTED", "no_tombstone"),
    ("READ COMMITTED", "forgets_the_undo"),
    ("READ COMMITTED", "trusts_the_undo"),
    ("READ COMMITTED", "looks_first"),
]


@pytest.mark.parametrize(("place", "fence"), BROKEN)
def test_the_harness_sees_what_a_broken_fence_loses(place: str, fence: str, request: pytest.FixtureRequest) -> None:
    with referee(find(place, request), fence, f"{place}, {fence}") as judge:
        steering = Steering(judge.dice)
        rounds = (play(judge, steering) for _ in range(600))
        lost = next((round for round in rounds if round.has_lost_money), None)
    assert lost is not None
    print(lost)


def find(place: str, request: pytest.FixtureRequest) -> Place:
    """Return the database of that name."""
    name = place.removeprefix("async ")
    if name == "sqlite":
        return Place("sqlite", str(request.getfixturevalue("tmp_path") / "bank.db"), asyncio=name != place)
    return Place("postgresql", with_schema(request.getfixturevalue("postgres")), name, asyncio=name != place)
