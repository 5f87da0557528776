"""Looks at many plans, in several processes once that takes long; what it yields is the same in any number of them.

Each process looks at one batch of plans after another. What they have seen is handed on in the order of the plans, and
whoever judges them sits in this process. So nothing depends on who was quicker.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from ._alone import Start
from ._checks import Known
from ._look import Look, Looker
from ._plans import Plan

_PATIENCE = 0.4  # seconds: a search that ends sooner starts no process
_WORTH_IT = 40  # plans
_BATCH = 4


class Looks:
    """Looks at plans, in their order."""

    def __init__(self, looker: Looker[Any, Any], processes: int, start: Start) -> None:
        self.processes = 1
        """How many processes have looked at plans."""
        self._looker = looker
        self._wanted = processes
        self._start: Start = start
        self._spent = 0.0
        self._pool: _Pool | None = None

    def __enter__(self) -> Looks:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()

    def each(self, plans: Sequence[Plan], is_over: Callable[[], bool]) -> Iterator[Look]:
        """Yield what plans have shown, in their order, until it is over. All shorter plans have been judged."""
        for number, plan in enumerate(plans):
            if is_over():
                return
            if self._wanted > 1 and self._spent > _PATIENCE and len(plans) - number > _WORTH_IT:
                if self._pool is None:
                    self._pool = _Pool(self._looker, self._wanted, self._start)
                    self.processes = self._wanted
                yield from self._pool.each(plans[number:], is_over)
                return
            began = time.perf_counter()
            look = self._looker.look(plan)
            self._spent += time.perf_counter() - began
            yield look


class _Pool:
    def __init__(self, looker: Looker[Any, Any], processes: int, start: Start) -> None:
        self._looker = looker
        self._processes: dict[Connection, Any] = {}
        context: Any = multiprocessing.get_context(start)
        for _ in range(processes):
            ours, theirs = context.Pipe()
            inherited = [*self._processes, ours] if start == "fork" else []
            process = context.Process(target=_work, args=(theirs, looker, inherited), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process

    def close(self) -> None:
        for connection, process in self._processes.items():
            connection.close()
            process.join(1)
            if process.is_alive():
                process.kill()
                process.join()

    def each(self, plans: Sequence[Plan], is_over: Callable[[], bool]) -> Iterator[Look]:
        known: Known = self._looker.runner.known
        told: set[Connection] = set()
        idle = list(self._processes)
        busy: dict[Connection, int] = {}
        done: dict[int, list[Look | None]] = {}
        given = taken = 0
        try:
            while True:
                while idle and given < len(plans) and not is_over():
                    connection = idle.pop()
                    # What is known of shorter plans; of plans of this length nobody asks.
                    connection.send((None if connection in told else known, list(plans[given : given + _BATCH])))
                    told.add(connection)
                    busy[connection] = given
                    given += _BATCH
                if not busy:
                    return
                for ready in cast("list[Connection]", wait(list(busy))):
                    done[busy[ready]] = self._receive(ready, plans[busy[ready]])
                    del busy[ready]
                    idle.append(ready)
                while taken in done:
                    for number, look in enumerate(done.pop(taken), taken):
                        # Whatever was raised is raised here, where people can see where it comes from.
                        yield self._looker.look(plans[number]) if look is None else look
                    taken += _BATCH
        finally:
            for connection in busy:
                with suppress(EOFError, OSError):
                    connection.recv()

    def _receive(self, connection: Connection, plan: Plan) -> list[Look | None]:
        try:
            looks: list[Look | None] = connection.recv()
        except (EOFError, OSError):
            raise RuntimeError(
                f"the process that ran {list(plan)} and what comes next has died: explore(..., processes=1) shows more"
            ) from None
        return looks


def _work(connection: Connection, looker: Looker[Any, Any], inherited: Sequence[Connection]) -> None:
    for each in inherited:
        each.close()  # else a process would not see that this one's parent is gone
    gc.freeze()  # a collection passes over what came along from the parent, and does not copy that
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops, and this one with it
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            known, plans = connection.recv()
            if known is not None:
                looker.runner.known = known
            looks = [_try(looker, plan) for plan in plans]
            try:
                connection.send(looks)
            except (OSError, EOFError):
                raise
            except Exception:
                connection.send([None] * len(looks))  # something in them cannot travel


def _try(looker: Looker[Any, Any], plan: Plan) -> Look | None:
    try:
        return looker.look(plan)
    except BaseException:
        return None
