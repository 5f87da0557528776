"""Reads from an exception how many requests its call has sent: from its attributes, and from its traceback.

A traceback holds the functions that an exception came through, with their local variables. A client sends a second
request in a loop that counts, or by calling itself. Both show in the traceback. If a library has changed, or is
compiled, nothing shows, and the library's row in `_libraries` decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from types import FrameType
from typing import Any, cast

from ._batches import Passed, may_be_done_in_part
from ._libraries import AROUND, HOOKS, LIBRARIES, UNKNOWN, Evidence, Frame, Library, Repeats

__all__ = ["is_proof"]


def is_proof(exception: BaseException, library: Library, *, client_retries: bool | None) -> bool:
    """Tell whether, within the call that raised, nothing but the failed request can have had an effect.

    Args:
        exception: The exception that the call raised.
        library: The library that the exception comes from.
        client_retries: Whether the client sends requests again, as the user says; None if the user does not say.
    """
    frames = list(_frames(exception))
    if _was_redirected(exception) or (frames and _is_of_another_call(frames)):
        return False
    if not _is_one(exception, frames, library, client_retries):
        return False
    if may_be_done_in_part(exception, library, frames):
        return False
    # An error of one library may have come through another one that retries, as httpx's errors come through a
    # provider's library.
    return all(_is_one(exception, frames, each, client_retries) for each in _passed(frames) if each is not library)


def _is_one(exception: BaseException, frames: Sequence[Passed], library: Library, client_retries: bool | None) -> bool:
    shown = [_read(exception, each) for each in library.evidence]
    if frames:
        shown.append(_read_traceback(frames, library))
    if False in shown:
        return False
    if type(exception).__name__ in library.before.split():
        return True
    if client_retries is not None:
        return not client_retries  # the user knows what the exception does not show
    return True in shown or library.repeats is not Repeats.YES


def _passed(frames: Sequence[Passed]) -> list[Library]:
    modules = {module for module, _, _ in frames}
    return [
        library
        for module in modules
        for library, package in _OWNERS.get(module.partition(".")[0], ())
        if module == package or module.startswith(f"{package}.")
    ]


def _was_redirected(exception: BaseException) -> bool:
    """Tell whether the answer belongs to another request. The first one may have had its effect (303 after a POST)."""
    return bool(_get(_get(exception, "response"), "history") or _get(exception, "history"))


# Each of these returns True for one request, False for several, and None if the exception does not show it.


def _read(exception: BaseException, evidence: Evidence | Frame) -> bool | None:
    if isinstance(evidence, Frame):
        return None
    try:
        return _READERS[evidence](exception)
    except Exception:  # an attribute that raises, such as the request of a response that has none
        return None


def _by_response(exception: BaseException) -> bool | None:
    response = _get(exception, "response")
    if response is None:
        return None
    raw = _get(response, "raw")
    return None if raw is None else not _get(_get(raw, "retries"), "history")  # None if it was pickled


def _by_stainless(exception: BaseException) -> bool | None:
    request = _get(_get(exception, "response"), "request") or _get(exception, "request")
    get = _get(_get(request, "headers"), "get")
    count = get("x-stainless-retry-count") if callable(get) else None
    return count == "0" if isinstance(count, str) else None


def _by_botocore(exception: BaseException) -> bool | None:
    response = _get(exception, "response")
    metadata = cast("Mapping[str, Any]", response).get("ResponseMetadata") if isinstance(response, Mapping) else None
    attempts = cast("Mapping[str, Any]", metadata).get("RetryAttempts") if isinstance(metadata, Mapping) else None
    return attempts == 0 if isinstance(attempts, int) else None


def _by_aiohttp(exception: BaseException) -> bool | None:
    # aiohttp sends PUT and DELETE again by itself when their connection is lost. The error of a connection does not say
    # which method it was, but the function that sends does.
    method = _get(_get(exception, "request_info"), "method")
    middlewares: object = None
    for module, function, frame in _frames(exception):
        if (module, function) == ("aiohttp.client", "_request"):
            method = frame.f_locals.get("method")
            middlewares = frame.f_locals.get("effective_middlewares")
            if _number(frame, "history") != 0:
                return False
    may_repeat = middlewares or not isinstance(method, str) or method.upper() in ("PUT", "DELETE")
    return None if may_repeat else True


def _by_method(exception: BaseException) -> bool | None:
    return True if _get(exception, "method") in ("PATCH", "POST") else None


_READERS: Mapping[Evidence, Callable[[BaseException], bool | None]] = {
    Evidence.RESPONSE: _by_response,
    Evidence.STAINLESS: _by_stainless,
    Evidence.BOTOCORE: _by_botocore,
    Evidence.AIOHTTP: _by_aiohttp,
    Evidence.METHOD: _by_method,
}


# --- tracebacks ---

_Seen = Mapping[tuple[str, str], Frame]


def _is_of_another_call(frames: Sequence[Passed]) -> bool:
    """Tell whether the call that failed is not the first one, or not the one that has the effect."""
    for index, (module, function, frame) in enumerate(frames):
        around = _AROUND.get((module, function)) or _AROUND.get((module, "*"))
        if around is not None and (not around.counter or (_number(frame, around.counter) or 0) > around.first):
            return True
        hook = _HOOKS.get((module, function))
        if hook is not None and _is_called_back(frame.f_locals.get(hook.counter), module, frames[index + 1 :]):
            return True
    return False


def _is_called_back(answer: object, module: str, frames: Sequence[Passed]) -> bool:
    if not frames or frames[0][0] == module:
        return False
    _, function, last = frames[-1]
    return function != "raise_for_status" or last.f_locals.get("self") is not answer


def _frames(exception: BaseException) -> Iterator[Passed]:
    # requests raises its own error from urllib3's, and passes urllib3's on as the argument.
    wrapped = exception.args[0] if exception.args else None
    seen: set[int] = set()
    for each in (exception, wrapped):
        traceback = each.__traceback__ if isinstance(each, BaseException) else None
        while traceback is not None:
            if id(traceback.tb_frame) not in seen:  # a frame that catches and raises again is there twice
                frame = traceback.tb_frame
                seen.add(id(frame))
                yield str(frame.f_globals.get("__name__")), frame.f_code.co_name, frame
            traceback = traceback.tb_next


def _read_traceback(frames: Sequence[Passed], library: Library) -> bool | None:
    counting, many = _FRAMES[library.packages]
    calls: Counter[str] = Counter()
    is_first = is_unclear = False
    for module, function, frame in frames:
        several = many.get((module, function)) or many.get((module, "*"))
        if several is not None and _is_meant(several, frame):
            return False
        expected = counting.get((module, function))
        if expected is not None and expected.counter:
            number = _number(frame, expected.counter)
            if number is None or number > expected.first:
                if number is not None and expected.is_certain:
                    return False
                is_unclear = True
            is_first = True
        elif expected is not None:
            calls[expected.modules] += 1
    if any(count > 1 for count in calls.values()):
        return False
    return True if (is_first or calls) and not is_unclear else None


def _is_meant(several: Frame, frame: FrameType) -> bool:
    if several.of:
        return type(frame.f_locals.get("self")).__name__ in several.of.split()
    if several.commands:
        arguments: Sequence[object] = frame.f_locals.get("args") or ("",)
        command = arguments[0]
        return isinstance(command, str) and command.upper() in several.commands.split()
    return True


def _number(frame: FrameType, path: str) -> int | None:
    name, *rest = path.split(".")
    value: object = frame.f_locals.get(name)
    for each in rest:
        value = _get(value, each)
    if isinstance(value, int):
        return value
    return len(value) if isinstance(value, Sized) else None


def _seen(frames: Sequence[Evidence | Frame]) -> _Seen:
    return {
        (module, function): frame
        for frame in frames
        if isinstance(frame, Frame)
        for module in frame.modules.split()
        for function in frame.functions.split()
    }


def _owners() -> Mapping[str, Sequence[tuple[Library, str]]]:
    owners: dict[str, list[tuple[Library, str]]] = {}
    for library in LIBRARIES:
        if library.repeats is Repeats.YES:
            for package in (library.sends or library.packages).split():
                owners.setdefault(package.partition(".")[0], []).append((library, package))
    return owners


_OWNERS = _owners()
_AROUND = _seen(AROUND)
_HOOKS = _seen(HOOKS)
_FRAMES: Mapping[str, tuple[_Seen, _Seen]] = {
    library.packages: (_seen(library.evidence), _seen(library.many)) for library in (*LIBRARIES, UNKNOWN)
}


def _get(source: object, name: str) -> Any:
    return getattr(source, name, None)
