"""Sends a step and its undo to two processes, steers how they meet, and looks at what happened to the money."""

from __future__ import annotations

import multiprocessing
import random
import time
import uuid
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from .fences import Connection
from .player import Answer, Call, Line, Phase, play
from .scene import STYLES, Place

# A process costs 10 ms, since it is the fork of one that has imported everything.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["pytest", play.__module__])

PATIENCE = 30
"""Seconds without a word from a player."""

Order = Literal["step first", "undo first", "overlapping"]
ORDERS: tuple[Order, ...] = ("step first", "undo first", "overlapping")


class Player:
    """The referee's end of a player's process."""

    def __init__(self, place: Place) -> None:
        self._pipe, theirs = _PROCESSES.Pipe()
        self.process = _PROCESSES.Process(target=play, args=(theirs, place), daemon=True)
        self.process.start()
        theirs.close()
        self.lines: list[Line] = []

    def get_ready(self, call: Call) -> None:
        self.lines = []
        self._pipe.send(call)

    def wait_until_ready(self) -> None:
        assert self._hear() == "ready"

    def start(self, at: float) -> None:
        self._pipe.send(at)

    def finish(self) -> Answer | None:
        """Return the answer; None if the process died."""
        try:
            while not isinstance(said := self._hear(), Answer):
                self.lines += said if isinstance(said, list) else []
        except (EOFError, ConnectionResetError):  # the latter if it had not even read all that was sent to it
            return None
        return said

    def leave(self) -> int | None:
        """Let the process end by itself, wait for it, and return its exit code."""
        self._pipe.close()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        code = self.process.exitcode
        self.process.close()
        return code

    def _hear(self) -> object:
        if not self._pipe.poll(PATIENCE):
            raise TimeoutError(f"no word from a player for {PATIENCE} s; so far:\n{timeline(self.lines)}")
        return self._pipe.recv()


class Transaction(NamedTuple):
    """A player's transaction, as its lines show it."""

    began: float
    """Before its first statement was sent."""
    ending: float
    """Before its COMMIT or ROLLBACK was sent."""
    ended: float


def transactions(lines: Iterable[Line]) -> list[Transaction]:
    """Return the transactions that came to their end."""
    found: list[Transaction] = []
    began = ending = None
    for line in lines:
        began = began or line.at
        if line.text in ("COMMIT", "ROLLBACK"):
            ending = line.at
        if line.text.startswith("--"):
            found.append(Transaction(began, ending or line.at, line.at))
            began = ending = None
    return found


def how_they_met(step: list[Transaction], undo: list[Transaction]) -> Order | None:
    """Return how they met: one after the other, or each began before the other sent its COMMIT; else None."""
    if any(one.began < other.ending and other.began < one.ending for one in step for other in undo):
        return "overlapping"
    if step[-1].ended < undo[0].began:
        return "step first"
    if undo[-1].ended < step[0].began:
        return "undo first"
    return None  # one began while the other's COMMIT was under way


class Steering:
    """Chooses when the two start: towards the order that is seldom yet, by how long they took so far."""

    def __init__(self, dice: random.Random) -> None:
        self.seen: Counter[Order] = Counter()
        self._dice = dice
        self._took: dict[Phase, float] = {"do": 0.002, "undo": 0.002}
        self._stretch: dict[Order, float] = dict.fromkeys(ORDERS, 1.0)

    def aim(self) -> tuple[Order, float]:
        """Return an order, and by how many seconds the undo starts after the step."""
        aim = min(ORDERS, key=lambda order: (self.seen[order], self._dice.random()))
        if aim == "overlapping":
            reach = min(self._took.values()) * self._stretch[aim]
            return aim, self._dice.uniform(-reach, reach)
        late = self._took["do" if aim == "step first" else "undo"] * self._stretch[aim] * self._dice.uniform(1, 1.3)
        return aim, late if aim == "step first" else -late

    def learn(self, aim: Order, seen: Order | None, took: dict[Phase, float]) -> None:
        """Take in what came of it."""
        if seen is not None:
            self.seen[seen] += 1
        for phase, seconds in took.items():
            self._took[phase] += 0.1 * (min(seconds, 0.05) - self._took[phase])
        factor = (1.02 if seen == aim else 0.9) if aim == "overlapping" else (0.98 if seen == aim else 1.2)
        self._stretch[aim] = min(4.0, max(0.1, self._stretch[aim] * factor))


@dataclass
class Round:
    """A step and its undo: all that was sent, said and done."""

    seed: str
    place: Place
    key: str
    fence: str
    order: Order | None = None
    applied_before: bool = False
    applied: bool = False
    lines: list[Line] = field(default_factory=list)
    answers: list[tuple[Phase, Answer | None]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def has_lost_money(self) -> bool:
        return any("money" in problem for problem in self.problems)

    def __str__(self) -> str:
        said = (f"  {phase:4} answered {answer}" for phase, answer in self.answers)
        return "\n".join(
            [
                f"round {self.seed!r}, fence {self.fence!r}, {self.place}: {'; '.join(self.problems) or 'all right'}",
                timeline(self.lines),
                *said,
            ]
        )


def timeline(lines: Iterable[Line]) -> str:
    """Return statements in the order of their times, the undo's to the right."""
    ordered = sorted(lines)
    start = ordered[0].at if ordered else 0.0
    return "\n".join(
        f"{1000 * (line.at - start):10.3f} ms  {'' if line.phase == 'do' else ' ' * 12}"
        f"{line.phase} {line.attempt}: {' '.join(line.text.split())}"
        for line in ordered
    )


class Referee:
    """Two players that stay for all rounds, and the money."""

    def __init__(self, place: Place, fence: str, seed: str, book: Book) -> None:
        self.place = place
        self.players: dict[Phase, Player] = {"do": Player(place), "undo": Player(place)}
        self.dice = random.Random(seed)
        self._fence = fence
        self._seed = seed
        self._rounds = 0
        self._book = book

    def leave(self) -> None:
        for player in self.players.values():
            player.leave()

    def new_round(self) -> Round:
        self._rounds += 1
        seed = f"{self._seed}/{self._rounds}"
        return Round(seed, self.place, str(uuid.UUID(int=self.dice.getrandbits(128), version=5)), self._fence)

    def call(self, round: Round, phase: Phase, *, attempt: int = 1, pauses: bool = False) -> Call:
        """Return a call of the round, its transaction begun in any of the styles."""
        seed = f"{round.seed}/{phase}" if pauses else ""
        return Call(phase, round.key, self._fence, self.dice.choice(STYLES), seed, attempt)

    def send(self, round: Round, call: Call, player: Player | None = None) -> Answer | None:
        """Run one call, alone."""
        player = player or self.players[call.phase]
        player.get_ready(call)
        player.start(0)
        return self.hear(round, call, player)

    def hear(self, round: Round, call: Call, player: Player) -> Answer | None:
        """Take down what a player says."""
        answer = player.finish()
        round.lines += player.lines
        round.answers.append((call.phase, answer))
        return answer

    def race(
        self, round: Round, offset: float, *calls: tuple[Call, Player], kill_after: float | None = None
    ) -> list[list[Transaction]]:
        """Run two calls at once, and return the transactions of each.

        Args:
            round: Takes down what they say.
            offset: Seconds by which the second starts after the first; negative if it is to start before.
            calls: Theirs.
            kill_after: Seconds after which the first is killed, if it is then still running.
        """
        for call, player in calls:
            player.get_ready(call)
        for _, player in calls:
            player.wait_until_ready()
        start = time.monotonic() + 0.0005 + max(0.0, -offset)
        for delay, (_, player) in zip((0, offset), calls, strict=True):
            player.start(start + delay)
        if kill_after is not None:
            time.sleep(kill_after)
            calls[0][1].process.kill()
        for call, player in calls:
            self.hear(round, call, player)
        return [transactions(player.lines) for _, player in calls]

    def judge(self, round: Round) -> Round:
        """Look at the money, the step and its undo having come to their ends."""
        problems = round.problems
        moved, undone, balances = self._book.look(round.key)
        round.applied = moved > 0
        if moved > 1:
            problems.append(f"the money was moved {moved} times")
        if undone > 1:
            problems.append(f"the money was moved back {undone} times")
        if moved > undone:
            problems.append("the money was left where the step moved it")
        if moved < undone:
            problems.append("money was moved back that had not been moved")
        if balances != {"customer": 100, "in transit": 0}:
            problems.append(f"the balances are {balances}")
            self._book.mend()
        for phase in ("do", "undo"):
            answers = [answer for said, answer in round.answers if said == phase and answer is not None]
            results = {answer.result for answer in answers if answer.error is None and answer.result is not None}
            errors = {answer.error for answer in answers if answer.error is not None}
            if len(results) > 1:
                problems.append(f"the {phase} gave different results: {results}")
            if len(results) > (moved if phase == "do" else undone):
                problems.append(f"the {phase} gave a result and moved nothing")
            if errors - ({"Fenced"} if phase == "do" else set()):
                problems.append(f"the {phase} failed: {errors}")
        return round


class Book:
    """The bank's books, seen by the referee."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def look(self, key: str) -> tuple[int, int, dict[str, int]]:
        """Return how often money was moved under a key and moved back, and the balances."""
        execute = self._connection.execute
        moves = Counter(phase for (phase,) in execute(f"SELECT phase FROM moves WHERE key = '{key}'").fetchall())
        return moves["do"], moves["undo"], dict(execute("SELECT name, balance FROM accounts").fetchall())

    def mend(self) -> None:
        """Put the money back where it was."""
        self._connection.execute("UPDATE accounts SET balance = 100 WHERE name = 'customer'")
        self._connection.execute("UPDATE accounts SET balance = 0 WHERE name = 'in transit'")


@contextmanager
def referee(place: Place, fence: str, seed: str) -> Generator[Referee, None, None]:
    """Build the bank, and start two players."""
    with place.built() as connection:
        referee = Referee(place, fence, seed, Book(connection))
        try:
            yield referee
        finally:
            referee.leave()
