"""Replays in other processes: with another hash seed, another memory layout, and tasks hashed in another order.

A replay in the same process repeats what a set's order hangs on: the seed of strings' hashes, and the addresses of
objects. A workflow that goes by such an order replays here, and not on another worker.

Two processes serve all explorations of this one, and end with it. They import the workflow's module by its name.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Set
from typing import IO, Any

from temporal_saga.testing.simulator import History, Simulation, histories_of, replayer

from ._plans import Plan

__all__ = ["Elsewhere", "serve"]

_SEEDS = ("1", "2")
_PATIENCE = 60.0  # seconds; then a process counts as stuck
_OPTIONS = ("workflows", "plugins", "interceptors", "data_converter", "failure_exception_types")
_SERVE = "from temporal_saga.testing.explorer._elsewhere import serve; serve()"
_INSIDE = "TEMPORAL_SAGA_REPLAYS"

Found = list[tuple[int, str]]


class Elsewhere:
    """Collects the histories of one exploration, and has them replayed in other processes."""

    def __init__(self, workflow_run: Any, options: dict[str, Any]) -> None:
        self.note = ""
        """Why nothing was replayed elsewhere; empty if it was."""
        self._plans: list[Plan] = []
        self._histories: list[list[History]] = []
        self._worker = b""
        if os.environ.get(_INSIDE):
            self.note = "this is such a process itself"
            return
        try:
            _check_name(workflow_run)
            self._worker = pickle.dumps((workflow_run, {name: options[name] for name in _OPTIONS if name in options}))
        except Exception as error:
            self.note = str(error).partition("\n")[0]

    def add(self, plan: Plan, simulation: Simulation[Any]) -> None:
        """Take a run to be replayed."""
        if not self.note:
            self._plans.append(plan)
            self._histories.append(histories_of(simulation))

    def replay(self, varying: Set[str]) -> list[tuple[Plan, str]]:
        """Replay what has been collected; return the plans whose replay differs, and where."""
        if self.note or not self._plans:
            return []
        request = pickle.dumps((self._worker, self._histories, varying))
        found: dict[int, str] = {}
        for process in _processes():
            try:
                process.send(request)
            except OSError as error:
                self.note = f"the process has ended: {error}"
        for process in _processes():
            answer = process.receive()
            if isinstance(answer, str):
                self.note = answer
            else:
                found.update(answer)
        return [(self._plans[number], where) for number, where in sorted(found.items())]


def _check_name(workflow_run: Any) -> None:
    """Raise if another process cannot import the workflow."""
    if workflow_run.__module__ == "__main__":
        raise ValueError("the workflow is in the module that runs, __main__: move it to a module of its own")


class _Process:
    """One other process."""

    def __init__(self, seed: str) -> None:
        if seed == os.environ.get("PYTHONHASHSEED"):
            seed = "3"
        path = os.pathsep.join(each or os.getcwd() for each in sys.path)  # noqa: PTH109
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path, _INSIDE: "1"}
        self._popen = subprocess.Popen(
            [sys.executable, "-c", _SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self.owner = os.getpid()

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def send(self, request: bytes) -> None:
        assert self._popen.stdin is not None
        _write(self._popen.stdin, request)

    def receive(self) -> Found | str:
        """Return what differs, by number; or why nothing was replayed."""
        assert self._popen.stdout is not None
        stuck = threading.Timer(_PATIENCE, self._popen.kill)
        stuck.start()
        try:
            answer: Found | str = pickle.loads(_read(self._popen.stdout))
        except EOFError:
            return "the process has ended, or was stuck"
        finally:
            stuck.cancel()
            stuck.join()  # else the next search finds a thread here, and does not fork
        return answer

    def end(self) -> None:
        if self.owner != os.getpid():
            return  # a fork of the one that started it
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                stream.close()
        self._popen.kill()
        self._popen.wait()


_running: list[_Process] = []


def _end() -> None:
    for process in _running:
        process.end()


def _processes() -> list[_Process]:
    if not _running or _running[0].owner != os.getpid() or not all(process.is_alive for process in _running):
        if not _running:
            atexit.register(_end)
        _end()
        _running[:] = [_Process(seed) for seed in _SEEDS]
    return _running


# --- in the other process --------------------------------------------------------------------------------------------


def serve() -> None:
    """Replay what comes in, until nothing comes any more."""
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a module prints as it is imported must not get between the answers
    while True:
        try:
            request = _read(sys.stdin.buffer)
        except EOFError:
            return
        _write(answers, pickle.dumps(_answer(request)))


def _answer(request: bytes) -> Found | str:
    try:
        worker, histories, varying = pickle.loads(request)
        workflow_run, options = pickle.loads(worker)
        replay = replayer(workflow_run, varying=varying, **options)
        return [
            (number, where)
            for number, each in enumerate(histories)
            if (where := next(filter(None, map(replay, each)), None)) is not None
        ]
    except BaseException as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]


def _write(stream: IO[bytes], message: bytes) -> None:
    stream.write(len(message).to_bytes(8, "big") + message)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes:
    size = stream.read(8)
    message = stream.read(int.from_bytes(size, "big"))
    if len(size) < 8 or len(message) < int.from_bytes(size, "big"):
        raise EOFError
    return message
