"""Runs a program that uses Temporal's client."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_program(program: Coroutine[Any, Any, T]) -> T:
    """Runs a program to its end, and gives the SDK's threads time to come to rest.

    Where the interpreter ends at once, it may crash: one in ten did, none after this wait
    (github.com/temporalio/sdk-python/issues/300).
    """

    async def run() -> T:
        try:
            return await program
        finally:
            await asyncio.sleep(0.3)

    return asyncio.run(run())
