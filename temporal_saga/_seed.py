"""Whether a saga may repeat, under the same keys, what it did before a reset.

After the point of a reset, a run repeats steps that it may have done before. A refusal now says nothing about the
first time. The seed of `workflow.random()` shows the point: core makes the seed from `original_execution_run_id` before
the point and from the new run's id after it, the same in each replay. `run_id` cannot show the point. It would change
decisions before the point that are in history, and the SDK's Replayer has a `run_id` of its own.
"""

from __future__ import annotations

from temporalio import workflow

_MASK = 2**64 - 1


def is_past_reset() -> bool:
    """Tell whether this moment of the run comes after the point of a reset."""
    return workflow.random_seed() != seed_of(workflow.info().original_execution_run_id)


def is_straight_from(run_id: str) -> bool:
    """Tell whether this run detached the state itself, or directly continues the run that did.

    The ids decide. A run that was reset in between continues under its new id. A workflow's retry continues the attempt
    before it, which had the state too. A child may be the second one that gets the state. All of these ids are in the
    run's first event.
    """
    info = workflow.info()
    return run_id in (info.original_execution_run_id, info.continued_run_id)


def seed_of(run_id: str) -> int:
    """Return core's seed for a run id: SipHash-1-3 without a key, over the bytes that Rust hashes for a str.

    Core may not change it (`str_to_randomness_seed`: "This must forever be `SipHasher13`").
    """
    data = run_id.encode() + b"\xff"
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    a, b, c, d = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        a, b, c, d = _round(a, b, c, d ^ word)
        a ^= word
    c ^= 0xFF
    for _ in range(3):
        a, b, c, d = _round(a, b, c, d)
    return a ^ b ^ c ^ d


def _round(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    a = (a + b) & _MASK
    b = _rotated(b, 13) ^ a
    a = _rotated(a, 32)
    c = (c + d) & _MASK
    d = _rotated(d, 16) ^ c
    a = (a + d) & _MASK
    d = _rotated(d, 21) ^ a
    c = (c + b) & _MASK
    b = _rotated(b, 17) ^ c
    c = _rotated(c, 32)
    return a, b, c, d


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK
