"""One of the two processes: runs attempts of a step or of its undo, and tells of every statement as it is sent."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import signal
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, Literal, NamedTuple

from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from . import fences
from .scene import AMOUNT, Place, Session, Style, finish, is_transient

Phase = Literal["do", "undo"]

PATIENCE = 40
"""Attempts, with a wait of some milliseconds between them, before a lock counts as one that nobody lets go."""


@dataclass(frozen=True)
class Call:
    """An activity to run, with its retries."""

    phase: Phase
    key: str
    fence: str
    style: Style
    seed: str
    """Of the pauses between the statements."""
    attempt: int = 1
    dies_before: int | None = None
    """The process kills itself before this statement, from 0; the one after the last is the answer."""
    tells_at_once: bool = False
    """Each line, since the process may be killed at any moment; else all lines with the answer."""


class Line(NamedTuple):
    """A statement that is about to be sent, or how a transaction ended."""

    at: float
    """CLOCK_MONOTONIC, which all processes of a machine share."""
    phase: Phase
    attempt: int
    text: str


class Answer(NamedTuple):
    """What became of the activity: its result, or the type of the error that it failed with."""

    at: float
    result: object
    error: str | None


def play(pipe: Pipe, place: Place) -> None:
    """Run calls until the other end closes."""
    player = _AsyncPlayer(pipe, place) if place.asyncio else _Player(pipe, place)
    try:
        while True:
            call = pipe.recv()
            player.get_ready(call)
            pipe.send("ready")
            start = pipe.recv()
            time.sleep(max(0.0, start - time.monotonic()))
            answer = player.run(call)
            player.flush()
            pipe.send(answer)
    except (EOFError, ConnectionError):
        player.leave()


class _Player:
    def __init__(self, pipe: Pipe, place: Place) -> None:
        self._pipe = pipe
        self._place = place
        self._sessions: dict[str, Session] = {}
        self._environment = ActivityEnvironment()
        self._call: Call
        self._attempt = 0
        self._told = 0
        self._lines: list[Line] = []
        self._dice = random.Random()

    def get_ready(self, call: Call) -> None:
        self._call = call
        self._told = 0
        self._dice.seed(call.seed)
        if call.style not in self._sessions:
            self._sessions[call.style] = Session(self._place, call.style)
            self._finish(self._sessions[call.style].open(self._tell))

    def leave(self) -> None:
        for session in self._sessions.values():
            self._finish(session.close())

    def flush(self) -> None:
        """Send the lines that are not sent yet."""
        if self._lines:
            self._pipe.send(self._lines)
        self._lines = []

    def run(self, call: Call) -> Answer:
        """Run attempts until one succeeds or fails for good, as Temporal does."""
        for attempt in range(call.attempt, call.attempt + PATIENCE):
            self._attempt = attempt
            self._environment.info = dataclasses.replace(
                ActivityEnvironment.default_info(), activity_id=f"withdraw:{call.phase}:{call.key}", attempt=attempt
            )
            try:
                result = self._activity(call)
            except ApplicationError as error:
                answer = Answer(time.monotonic(), None, error.type)
            except Exception as error:
                if not is_transient(error):
                    answer = Answer(time.monotonic(), None, repr(error))
                else:
                    time.sleep(self._dice.uniform(0.0005, 0.002) * (attempt - call.attempt + 1))
                    continue
            else:
                answer = Answer(time.monotonic(), result, None)
            self._die_or_pause()
            return answer
        return Answer(time.monotonic(), None, "gave up")

    def _finish(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return finish(coroutine)

    def _activity(self, call: Call) -> object:
        return self._environment.run(lambda: finish(self._transaction(call)))

    async def _transaction(self, call: Call) -> object:
        session = self._sessions[call.style]
        try:
            await session.begin()
            result = await self._once(session, call)
            await session.commit()
        except BaseException as error:
            await session.rollback()
            self._note(f"-- rolled back: {type(error).__name__}: {error}")
            raise
        self._note("-- committed")
        return result

    async def _once(self, session: Session, call: Call) -> object:
        return fences.FENCES[call.fence](session.connection, lambda: finish(self._effect(session, call)))

    async def _effect(self, session: Session, call: Call) -> str:
        await session.move(call.key, call.phase, AMOUNT if call.phase == "do" else -AMOUNT)
        return f"{call.phase} in attempt {self._attempt} of {os.getpid()}"

    def _tell(self, statement: str) -> None:
        self._die_or_pause()
        self._note(statement)

    def _note(self, text: str) -> None:
        self._lines.append(Line(time.monotonic(), self._call.phase, self._attempt, text))
        if self._call.tells_at_once:
            self.flush()

    def _die_or_pause(self) -> None:
        if self._told == self._call.dies_before:
            self.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        self._told += 1
        if self._call.seed and self._dice.random() < 0.3:
            time.sleep(self._dice.uniform(0, 0.0003))


class _AsyncPlayer(_Player):
    def __init__(self, pipe: Pipe, place: Place) -> None:
        super().__init__(pipe, place)
        self._loop = asyncio.new_event_loop()

    def leave(self) -> None:
        super().leave()
        self._loop.close()

    def _finish(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)

    def _activity(self, call: Call) -> object:
        async def activity() -> object:
            return await self._environment.run(self._transaction, call)

        return self._finish(activity())

    async def _once(self, session: Session, call: Call) -> object:
        return await fences.real_async(session.connection, lambda: self._effect(session, call))
