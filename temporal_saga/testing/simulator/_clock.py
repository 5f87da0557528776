"""An asyncio event loop on virtual time: when nothing is ready, the clock jumps to the next event.

Activities and the client's function run on it; so does the server, as plain callbacks. There are no threads and no
sockets: blocking code takes no virtual time, and code that needs a socket gets an error that says so.
"""

from __future__ import annotations

import asyncio
import heapq
import importlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Generator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from datetime import timedelta
from typing import Any, TypeVar, cast

from typing_extensions import TypeVarTuple, Unpack

from ._errors import SimulationError, UnsupportedError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# A loop whose clock moves more often than this counts as endless.
MAX_JUMPS = 1_000_000

_logger = logging.getLogger("asyncio")

worker: ContextVar[object] = ContextVar("temporal_saga_testing_worker", default=None)
"""The worker of the current code. Tasks and callbacks that the code starts have the same one."""


class Handle:
    """A callback that waits for its turn. It has what a handle of asyncio has outside of asyncio's debug mode.

    What the server does is in no function's context: its callbacks have none.
    """

    __slots__ = ("_args", "_callback", "_context", "_when")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None, when: float = 0.0
    ) -> None:
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._context = context
        self._when = when

    def run(self) -> None:
        """Call back."""
        if self._callback is None:
            return
        if self._context is None:
            self._callback(*self._args)
        else:
            self._context.run(self._callback, *self._args)

    @property
    def task(self) -> asyncio.Task[Any] | None:
        """The task that goes on with this callback; None of any other callback."""
        owner: asyncio.Task[Any] | None = getattr(self._callback, "__self__", None)
        return owner if isinstance(owner, asyncio.Task) else None

    def cancel(self) -> None:
        self._callback, self._args = None, ()

    def cancelled(self) -> bool:
        return self._callback is None

    def when(self) -> float:
        return self._when

    def get_context(self) -> Context | None:
        return self._context


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs what is ready in order of arrival; with nothing ready, moves its clock to the next timer."""

    def __init__(self) -> None:
        self._ready: deque[Callable[[], object]] = deque()
        # The count keeps timers that are due together in the order in which they were set.
        self._timers: list[tuple[float, int, Handle]] = []
        self._count = self._jumps = 0
        self.now: float = 0.0
        """What `time` returns."""
        self.elapsed: timedelta = timedelta(0)
        """The same, as a duration."""
        self._running = False
        self._thread = threading.get_ident()
        self._threads = threading.active_count()
        self._called_back: threading.Event | None = None  # by a thread
        self._patience = 5
        self._lost: list[object] = []
        self._left: list[tuple[Any, Context]] = []  # coroutines of dead workers, each with its context
        self.refused: UnsupportedError | None = None
        """The first use of something that does not work here: a library may catch that error and go on."""

    def run(self, on_idle: Callable[[], bool] = lambda: False) -> None:
        """Run until nothing is left to happen, or `stop` is called.

        Args:
            on_idle: Called whenever nothing is ready, before the clock moves; true if it has made something ready.

        Raises:
            BaseException: What a callback raised (not a task: that keeps its own).
        """
        ready = self._ready
        self._running = True
        try:
            with running_loop(self):
                while self._running:
                    if ready:
                        callback = ready.popleft()
                        if not self._lost or not self._is_lost(callback):
                            callback()
                    elif not on_idle() and not self._jump():
                        return
        finally:
            self._running = False

    def lose(self, lost: object, function: Any) -> None:
        """Let nothing run any more whose `worker` is this one: it has died.

        Args:
            lost: The worker.
            function: Its function, in whose task this is called.
        """
        self._lost.append(lost)
        context = copy_context()
        if sys.version_info >= (3, 12) and (task := asyncio.current_task()) is not None:
            context = task.get_context()
        self._left.append((function, context))

    def _is_lost(self, callback: Callable[[], object]) -> bool:
        """Tell whether a callback is of a worker that has died. If so, keep what its task waits in."""
        handle = getattr(callback, "__self__", None)
        context = handle.get_context() if isinstance(handle, Handle) else None
        if context is None or context.get(worker) not in self._lost:
            return False
        task = cast(Handle, handle).task
        if task is not None:
            self._left.append((task.get_coro(), context))
        return True

    def forget(self) -> None:
        """End what dead workers have left, when nobody looks at the simulation any more.

        Python would end it in an order and a context that nobody chooses, and show the errors.
        """
        left, self._left = self._left, []
        for coroutine, context in left:
            with suppress(BaseException):
                context.run(coroutine.close)

    def _stop_with(self, _done: asyncio.Future[Any]) -> None:
        self.stop()

    def stop(self) -> None:
        """Let `run` return after the callback that runs now."""
        self._running = False

    def _wait_for_threads(self) -> bool:
        """Wait in real time for a thread that somebody has begun; whether it has called back, which is refused."""
        if self._patience and threading.active_count() > self._threads:
            self._patience -= 1
            self._called_back = called_back = threading.Event()
            if not self._ready:  # else the thread may have looked for the event before that was there
                called_back.wait(0.2)
        return bool(self._ready)

    def _jump(self) -> bool:
        if self._wait_for_threads():
            return True
        while self._timers:
            when, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self.now = max(self.now, when)
                self.elapsed = timedelta(seconds=self.now)
                self._jumps += 1
                if self._jumps > MAX_JUMPS:
                    raise SimulationError(
                        f"the clock has moved {MAX_JUMPS:,} times and there is no end: "
                        "does an activity, or the client's function, wait in a loop for what never happens?"
                    )
                self._ready.append(handle.run)
                return True
        return False

    def soon(self, callback: Callable[[], object]) -> None:
        """Call back in its turn, as `call_soon` does. What the server does is in no function's context."""
        self._ready.append(callback)

    def later(self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: Unpack[Ts]) -> Handle:
        """Call back after so many seconds, as `call_later` does. What the server does is in no function's context."""
        return self._at(self.now + delay, callback, args, None)

    def _at(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> Handle:
        handle = Handle(callback, args, context, when)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    @property
    def has_timers(self) -> bool:
        """Whether anything is still to happen."""
        return any(not handle.cancelled() for _, _, handle in self._timers)

    def has_timers_besides(self, known: Collection[Handle]) -> bool:
        """Tell whether anything but these is still to happen."""
        return any(not handle.cancelled() and handle not in known for _, _, handle in self._timers)

    def run_until_complete(self, future: Any) -> Any:
        """Run until the awaitable is done; an error if it waits for something that never happens here."""
        done = asyncio.ensure_future(future, loop=self)
        done.add_done_callback(self._stop_with)
        self.run()
        if not done.done():
            raise UnsupportedError(f"{future!r} waits for something that never happens on a simulated event loop")
        return done.result()

    # --- what asyncio and its users call ---

    def time(self) -> float:
        """Return the seconds since the start, of virtual time."""
        return self.now

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: Unpack[Ts], context: Context | None = None
    ) -> Any:
        handle = Handle(callback, args, copy_context() if context is None else context)
        self._ready.append(handle.run)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: Unpack[Ts], context: Context | None = None
    ) -> Any:
        if threading.get_ident() != self._thread:
            self.refused = self.refused or UnsupportedError(
                "a thread has called back into the simulation, where no virtual time passes for a thread: "
                "call the blocking function in a sync activity, or by asyncio.to_thread(...), or give the activities a "
                "fake (anyio works if it was imported before the simulation began)"
            )
            handle = self.call_soon(callback, *args, context=context)
            if self._called_back is not None:
                self._called_back.set()
            return handle
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: Unpack[Ts], context: Context | None = None
    ) -> Any:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: Unpack[Ts], context: Context | None = None
    ) -> Any:
        return self._at(when, callback, args, copy_context() if context is None else context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], **kwargs: Any) -> asyncio.Task[T]:
        if kwargs.get("context", 0) is None:  # which Python 3.10 does not know
            del kwargs["context"]
        return asyncio.Task(coro, loop=self, **kwargs)

    def create_task_in(
        self, context: Context, coro: Coroutine[Any, Any, T], *, name: str | None = None
    ) -> asyncio.Task[T]:
        """Create a task that runs in this context, and not in a copy of it."""
        if sys.version_info >= (3, 11):
            return asyncio.Task(coro, loop=self, name=name, context=context)
        task: asyncio.Task[T] = context.run(cast(Any, asyncio.Task), coro, loop=self, name=name)
        return task

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: Unpack[Ts]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(call_as_in_a_thread(func, *args))
            except Exception as error:
                future.set_exception(error)

        self.call_soon(run)
        return future

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        task = context.get("task")
        if self._lost and task is not None and not task.done():
            return  # "Task was destroyed but it is pending!": so are the tasks of a worker that has died
        _logger.error(context.get("message"), exc_info=context.get("exception"))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_exception_handler(self) -> None:
        return None

    def get_task_factory(self) -> None:
        return None


def _without(name: str) -> Callable[..., Any]:
    def refuse(loop: VirtualLoop, *args: Any, **kwargs: Any) -> Any:
        error = UnsupportedError(
            f"asyncio's {name}() does not work in a simulation, which has no real input and output: "
            "give the activities a fake of what they talk to, or use a blocking call in a sync activity"
        )
        loop.refused = loop.refused or error
        raise error

    return refuse


_NO_SOCKETS = """
add_reader add_signal_handler add_writer connect_accepted_socket connect_read_pipe connect_write_pipe create_connection
create_datagram_endpoint create_server create_unix_connection create_unix_server getaddrinfo getnameinfo sendfile
sock_accept sock_connect sock_recv sock_recv_into sock_sendall sock_sendfile start_tls subprocess_exec subprocess_shell
"""

for _name in _NO_SOCKETS.split():
    setattr(VirtualLoop, _name, _without(_name))


def new_loop() -> VirtualLoop:
    """Return a loop whose clock stands at zero."""
    make: Any = VirtualLoop  # to a checker it is abstract: it lacks what needs sockets
    loop: VirtualLoop = make()
    return loop


# asyncio exports `_get_running_loop` and `_set_running_loop`, in its `__all__`, for those who write event loops.
_EXPORTED: Any = asyncio


class running_loop:  # noqa: N801
    """Let `asyncio.get_running_loop()` find this loop for a while."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        self._before = _EXPORTED._get_running_loop()
        _EXPORTED._set_running_loop(self._loop)

    def __exit__(self, *_: object) -> None:
        _EXPORTED._set_running_loop(self._before)


def call_as_in_a_thread(func: Callable[[Unpack[Ts]], T], *args: Unpack[Ts]) -> T:
    """Call a function that may block, without a running event loop, as in a thread of its own."""
    before = _EXPORTED._get_running_loop()
    _EXPORTED._set_running_loop(None)
    try:
        return func(*args)
    finally:
        _EXPORTED._set_running_loop(before)


@contextmanager
def anyio_threads_inline() -> Generator[None, None, None]:
    """Let anyio's `to_thread.run_sync` run its function at once on a virtual loop, as `asyncio.to_thread` does."""
    if "anyio" not in sys.modules:
        yield
        return
    backend: Any = importlib.import_module("anyio._backends._asyncio").AsyncIOBackend
    real = backend.__dict__["run_sync_in_worker_thread"]

    async def inline(cls: Any, func: Callable[..., Any], args: Any, *more: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            return await real.__get__(None, cls)(func, args, *more, **options)
        await asyncio.sleep(0)
        return copy_context().run(call_as_in_a_thread, func, *args)

    backend.run_sync_in_worker_thread = classmethod(inline)
    try:
        yield
    finally:
        backend.run_sync_in_worker_thread = real
