"""`provider_call`: lets a fault strike inside an activity's function, in a fake of a provider."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["provider", "provider_call"]

provider: ContextVar[Callable[[str], bool] | None] = ContextVar("temporal_saga_testing_provider", default=None)
"""Tells if a fault strikes the current attempt `before` or `after` its provider's work; None outside an attempt."""


@contextmanager
def provider_call(
    *,
    before: Callable[[], BaseException] = ConnectionRefusedError,
    after: Callable[[], BaseException] = ConnectionResetError,
) -> Generator[None, None, None]:
    """Let a `provider_fault` strike here, before or after the work of a fake provider.

        class FakeStripe:
            def charge(self, key: str, amount: int) -> None:
                with provider_call():
                    self.charges.setdefault(key, amount)

    Without such a fault, and outside a simulation, this does nothing. If the function of an activity uses
    `provider_call`, `explore` tries both faults on each call of the activity.

    Args:
        before: Makes the error to raise instead of the block: the provider has done nothing.
        after: Makes the error to raise after the block: the provider has done its work, and its answer is lost.
    """
    fails = provider.get()
    if fails is not None and fails("before"):
        raise before()
    yield
    if fails is not None and fails("after"):
        raise after()
