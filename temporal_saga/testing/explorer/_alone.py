"""What keeps a search in one process: what its runs would share, and what another process could not be given."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import stat
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any, Literal, NamedTuple

Start = Literal["fork", "spawn"]

_COLLECTIONS = (list, dict, set, bytearray)

_opened: list[str] | None = None
_is_watching = False


def cores() -> int:
    """Return how many processes a search takes by default."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # pytest-xdist has shared the cores out already.
    return max(1, count // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") or 1))


def can_fork() -> bool:
    """Whether a fork is safe: threads do not come along, and may hold locks. The SDK's runtime has threads of its own.

    Where the system does not say how many threads there are, it is not.
    """
    if multiprocessing.current_process().daemon or not sys.platform.startswith("linux"):
        return False
    with suppress(OSError):
        return threading.active_count() == 1 and len(list(Path("/proc/self/task").iterdir())) == 1
    return False


class Choice(NamedTuple):
    """In how many processes plans run, how these are started, and why it is one of itself."""

    processes: int
    start: Start
    alone: str = ""


def check_processes(processes: object) -> None:
    """Raise if it is not a number of processes."""
    if processes is not None and (not isinstance(processes, int) or isinstance(processes, bool)):
        raise TypeError(f"processes={processes!r} is not a number: give a number of processes, 1 for this one alone")
    if processes is not None and processes < 1:
        raise ValueError(f"processes={processes}: give 1 for this process alone, or more")


def choose(
    processes: int | None,
    runner: object,
    *,
    functions: Mapping[str, object],
    sent: Mapping[str, object],
    shared: Callable[[], str],
) -> Choice:
    """Choose in how many processes plans run.

    Args:
        processes: What the user says; None if nothing.
        runner: What a process that is started anew has to be given.
        functions: The user's functions, by what they are called. What they write to outside of themselves would stay
            in another process.
        sent: What goes to another process, whichever way that is started.
        shared: Returns what two worlds share.
    """
    wanted = cores() if processes is None else processes
    if wanted == 1:
        return Choice(1, "fork")
    why = "it runs in a process of a pool" if multiprocessing.current_process().daemon else ""
    why = why or next(
        (f"{name} cannot go to another process" for name, value in sent.items() if not _pickles(value)), ""
    )
    if not why and can_fork():
        why = _why_alone(functions, shared) if processes is None else ""
        return Choice(1 if why else wanted, "fork", why)
    if not why and processes is None:
        why = "threads run here, or this system cannot fork: the other processes must start from scratch"
    elif not why and not _pickles(runner):
        why = "the workflow, setup or check is local to a function, or holds something that cannot travel"
    return Choice(1 if why else wanted, "spawn", why)


def _why_alone(functions: Mapping[str, object], shared: Callable[[], str]) -> str:
    if sys.gettrace() is not None or _monitored():
        return "a debugger or coverage follows this process"
    for name, function in functions.items():
        if keeps := _keeps(function):
            return f"{name} keeps something in {keeps!r}, which another process would not see"
    what = shared()
    return f"the runs use {what}, which two of them at once may share" if what else ""


def _pickles(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def _monitored() -> bool:
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and any(monitoring.get_tool(number) for number in range(6))


def _keeps(function: Any) -> str:
    """Return the name of a variable outside of a function which it seems to collect something in; empty if none."""
    if isinstance(function, MethodType):
        function = function.__func__
    if not isinstance(function, FunctionType):
        return ""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not set yet
            if isinstance(cell.cell_contents, _COLLECTIONS):
                return name
    return next(iter(_assigned(code)), "")


def _assigned(code: CodeType) -> list[str]:
    import dis

    return [
        str(each.argval)
        for each in dis.get_instructions(code)
        if each.opname == "STORE_GLOBAL" or (each.opname == "STORE_DEREF" and each.argval in code.co_freevars)
    ]


# --- what worlds share -----------------------------------------------------------------------------------------------


@contextmanager
def watching() -> Generator[Callable[[], str], None, None]:
    """Watch what is opened in the block; what is given returns what two worlds may share, empty if nothing.

    A file or a database that two worlds share is fine for one run after the other, and not for two at once.
    """
    global _opened, _is_watching
    if not _is_watching:
        _is_watching = True
        sys.addaudithook(_audit)
    opened: list[str] = []
    before, _opened = _opened, opened
    try:
        yield lambda: next(iter(opened), "") or _connected()
    finally:
        _opened = before


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _opened is None:
        return
    if event == "sqlite3.connect":
        if str(args[0]) not in (":memory:", ""):
            _opened.append(f"the database {os.fspath(args[0])!r}")
    elif event == "socket.connect":
        _opened.append(f"a connection to {args[1]!r}")
    elif event == "open":
        path, _, flags = args
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if writes and isinstance(path, str) and "__pycache__" not in path and path != os.devnull:
            _opened.append(f"the file {path!r}")


def _connected() -> str:
    """Return what this process is connected to: drivers in C tell Python nothing."""
    with suppress(OSError):
        for each in Path("/dev/fd").iterdir():
            number = int(each.name)
            with suppress(OSError, ValueError):
                if stat.S_ISSOCK(os.fstat(number).st_mode) and (peer := _peer(number)):
                    return f"a connection to {peer!r}"
    return ""


def _peer(number: int) -> object:
    with socket.socket(fileno=os.dup(number)) as connection:
        return connection.getpeername()
