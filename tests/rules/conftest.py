"""Fixtures of the tests of the rules."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect what the test left behind: asyncio logs a task whose error nobody saw when it is collected.

    That must not happen during a replay of another test, which insists on silence.
    """
    yield
    gc.collect()
