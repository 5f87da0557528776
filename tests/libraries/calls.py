"""How the tests of the libraries call: what fails, and what has to be awaited."""

from __future__ import annotations

import asyncio
import urllib.error
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

__all__ = ["failure", "wait_for"]


def failure(call: Callable[..., object], *arguments: Any, **options: Any) -> Exception:
    """Return what a call raises."""
    with pytest.raises(Exception) as raised:  # noqa: PT011  # which one is what the tables know
        call(*arguments, **options)
    if isinstance(raised.value, urllib.error.HTTPError):
        raised.value.close()  # it is the response
    return raised.value


def wait_for(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call, and return the result of what is to be awaited."""

    async def run() -> Any:
        return await call()

    loop = asyncio.new_event_loop()  # not `asyncio.run`, which would take the loop of the async tests away
    try:
        return loop.run_until_complete(run())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
