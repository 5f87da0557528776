"""A process killed between any two statements, and what Temporal does then: a new attempt, or the undo at once."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from .player import Call, Phase
from .referee import Player, Referee, Round, referee, timeline
from .scene import STYLES, Style
from .test_race import find

DEATHS = 2
"""In each gap, while the other runs."""

OFFSETS = (0.0, -0.004, 0.001, 0.004, -0.001, 0.012, 0.03)
"""Seconds by which the other starts after the one that is killed."""

PLACES = ("sqlite", "READ COMMITTED", "SERIALIZABLE")


class Story(NamedTuple):
    """What has happened, whose process is killed, and what comes then."""

    before: tuple[Phase, ...]
    killed: Phase
    then: tuple[Phase, ...]

    def __str__(self) -> str:
        return f"{'-'.join(self.before) or 'nothing'}, {self.killed} killed, {'-'.join(self.then)}"


STORIES = (
    Story((), "do", ("do", "undo", "do")),
    Story((), "do", ("undo", "do")),
    Story(("do",), "do", ("do", "undo", "do")),
    Story(("do",), "do", ("undo", "do")),
    Story(("undo",), "do", ("do", "undo")),
    Story((), "undo", ("undo", "do")),
    Story((), "undo", ("do", "undo", "do")),
    Story(("do",), "undo", ("undo", "do")),
    Story(("do",), "undo", ("do", "undo", "do")),
    Story(("do", "undo"), "undo", ("undo", "do")),
)


def tell(referee: Referee, story: Story, call: Call, round: Round) -> int:
    """Play a story, and return how many statements the process sent that was to be killed."""
    for phase in story.before:
        referee.send(round, referee.call(round, phase))
    victim = Player(referee.place)
    answer = referee.send(round, call, victim)
    code = victim.leave()
    if call.dies_before is not None:
        assert answer is None, "it has an answer, so it was not killed"
        assert code == -signal.SIGKILL
    for attempt, phase in enumerate(story.then, 2):
        last = referee.send(round, referee.call(round, phase, attempt=attempt))
    if story.then[-1] == "do" and last is not None and last.error != "Fenced":
        round.problems.append("the step was let through after its undo")
    return sum(not line.text.startswith("--") for line in victim.lines)


def every_gap(referee: Referee, story: Story, styles: tuple[Style, ...] = STYLES) -> Iterator[Round]:
    """Play a story in each style without a kill, to count the statements; then kill before each, and after the last."""
    for style in styles:
        statements = None
        gap = 0
        while statements is None or gap <= statements:
            round = referee.new_round()
            call = dataclasses.replace(referee.call(round, story.killed), style=style)
            if statements is None:
                statements = tell(referee, story, call, round)
            else:
                sent = tell(referee, story, dataclasses.replace(call, dies_before=gap), round)
                assert sent == gap, timeline(round.lines)
                gap += 1
            yield referee.judge(round)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "place",
    [
        "sqlite",
        "READ COMMITTED",
        pytest.param("async sqlite", marks=pytest.mark.deep),
        pytest.param("async READ COMMITTED", marks=pytest.mark.deep),
    ],
)
def test_a_process_killed_between_any_two_statements(place: str, request: pytest.FixtureRequest) -> None:
    # With a BEGIN of the user's, there is a gap after each BEGIN as well.
    styles: tuple[Style, ...] = ("explicit",) if place.startswith("async ") else STYLES
    with referee(find(place, request), "real", place) as judge:
        for story in STORIES:
            rounds = list(every_gap(judge, story, styles))
            show(rounds)
            print(f"{place}: {story}: {len(rounds) - len(styles)} gaps")


def race(referee: Referee, killed: Phase, style: Style, gap: int | None, offset: float) -> Round:
    """Play a round in which one of the two is killed while the other runs, and gets a new attempt.

    Without a gap it is killed at any moment, in the midst of a statement too.
    """
    round = referee.new_round()
    other: Phase = "undo" if killed == "do" else "do"
    victim = Player(referee.place)
    call = dataclasses.replace(
        referee.call(round, killed, pauses=True), style=style, dies_before=gap, tells_at_once=gap is None
    )
    moment = None if gap is not None else referee.dice.uniform(0, 0.006)
    referee.race(round, offset, (call, victim), (referee.call(round, other), referee.players[other]), kill_after=moment)
    victim.leave()
    referee.send(round, referee.call(round, killed, attempt=2))
    late = referee.send(round, referee.call(round, "do", attempt=3))
    if late is not None and late.error != "Fenced":
        round.problems.append("the step was let through after its undo")
    return referee.judge(round)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("place", [PLACES[0], *[pytest.param(each, marks=pytest.mark.deep) for each in PLACES[1:]]])
def test_a_process_killed_while_the_other_runs(place: str, request: pytest.FixtureRequest) -> None:
    with referee(find(place, request), "real", f"{place}, killed") as judge:
        phases: tuple[Phase, Phase] = ("do", "undo")
        for killed in phases:
            for style in STYLES:
                quiet = Story(() if killed == "do" else ("do",), killed, ("undo", "do"))
                round = judge.new_round()
                statements = tell(judge, quiet, dataclasses.replace(judge.call(round, killed), style=style), round)
                for gap in range(statements + 1):
                    rounds: list[Round] = []
                    # Not every round gets so far: the other may leave it less to do.
                    while sum((killed, None) in round.answers for round in rounds) < DEATHS:
                        rounds.append(race(judge, killed, style, gap, OFFSETS[len(rounds) % len(OFFSETS)]))
                        assert len(rounds) < 50, f"{killed}, {style}: gap {gap} of {statements} is never reached"
                    show(rounds)
                print(f"{place}: {killed}, {style}: {statements + 1} gaps")
        offsets = [judge.dice.uniform(-0.003, 0.003) for _ in range(40)]
        show([race(judge, judge.dice.choice(phases), judge.dice.choice(STYLES), None, offset) for offset in offsets])


def show(rounds: list[Round]) -> None:
    """Fail with the first round that went wrong."""
    wrong = [round for round in rounds if round.problems]
    assert not wrong, str(wrong[0])


@pytest.mark.parametrize("fence", ["none", "record_first", "no_tombstone"])
@pytest.mark.parametrize("place", ["sqlite", "READ COMMITTED"])
def test_the_harness_sees_what_a_kill_costs_a_broken_fence(
    place: str, fence: str, request: pytest.FixtureRequest
) -> None:
    with referee(find(place, request), fence, f"{place}, {fence}") as judge:
        rounds = (round for story in STORIES for round in every_gap(judge, story))
        killed = (round for round in rounds if any(answer is None for _, answer in round.answers))
        lost = next((round for round in killed if round.has_lost_money), None)
    assert lost is not None
    print(lost)
