"""What a fake of a provider asks, so that a fault can strike inside of an activity's function."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["provider", "provider_call"]

provider: ContextVar[Callable[[str], bool] | None] = ContextVar("temporal_saga_testing_provider", default=None)
"""Whether a fault strikes the current attempt `before` or `after` what its provider does; None outside of one."""


@contextmanager
def provider_call(
    *,
    before: Callable[[], BaseException] = ConnectionRefusedError,
    after: Callable[[], BaseException] = ConnectionResetError,
) -> Generator[None, None, None]:
    """Let a `provider_fault` strike here: around what a fake provider does.

        class FakeStripe:
            def charge(self, key: str, amount: int) -> None:
                with provider_call():
                    self.charges.setdefault(key, amount)

    Without such a fault, and outside of a simulation, this does nothing. `explore` tries both faults on each call of an
    activity whose function passes here.

    Args:
        before: Makes the error to raise in place of the block: the provider has done nothing.
        after: Makes the error to raise behind the block: the provider has done it, and its answer is lost.
    """
    fails = provider.get()
    if fails is not None and fails("before"):
        raise before()
    yield
    if fails is not None and fails("after"):
        raise after()
