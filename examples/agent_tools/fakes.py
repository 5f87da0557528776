"""What the fake models think, so that the example runs offline."""

from __future__ import annotations

Call = tuple[str, str, str]
"""The id of a tool call, and the arguments: a kind and a name."""


def think(results: dict[str, str]) -> list[Call] | str:
    """What a model would do, given the results of its tool calls: the next calls, or the answer."""
    if not results:
        return [("call-1", "flight", "Rome"), ("call-2", "hotel", "Plaza")]  # in parallel
    if "full" in results["call-2"] and "call-3" not in results:
        return [("call-3", "hotel", "Astoria")]
    return "; ".join(results.values())
