"""Ids and keys of steps: the same for each attempt, after a crash, a reset and continue-as-new.

A key is the uuid5 of an anchor and a path. The anchor is the run's `original_execution_run_id`: a reset keeps it, and
`SagaState` carries it through continue-as-new. The namespace, workflow id, run id and clock are not part of a key: the
SDK's Replayer changes the first two, and Temporal's core compares activity ids on replay.

The derivation is frozen: a change would break every open run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha1
from json.encoder import encode_basestring_ascii as _as_json
from typing import Literal
from uuid import UUID, uuid5

from temporalio import activity

Phase = Literal["do", "undo", "push"]

_VARIANT: dict[str, str] = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
_BUSINESS = UUID("6b2f3a52-9f4e-5d0c-8a51-0f3a7c1d9e64")


class Keys:
    """Derives the keys of one saga: the uuid5 of a path as compact JSON, with the anchor as the namespace.

    Each step needs a key, and `uuid.uuid5` and `json.dumps` of the whole path are slow. So `of_use` does by hand what
    they do.
    """

    __slots__ = ("_prefix",)

    def __init__(self, anchor: str, saga: str, ordinal: int) -> None:
        self._prefix = sha1(bytes.fromhex(anchor.replace("-", "")), usedforsecurity=False)
        self._prefix.update(f"[{_as_json(saga)},{ordinal},".encode())

    def of_use(self, step: str, number: int) -> str:
        """Return the key of the nth call of a step."""
        hash = self._prefix.copy()
        hash.update(f"{_as_json(step)},{number}]".encode())
        digits = hash.hexdigest()
        # RFC 9562: version 5, variant 10xx
        return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:32]}"

    def of_key(self, step: str, key: str) -> str:
        """Return the key of the call of a step that `key=` names."""
        return self._uuid5(f"{_as_json(step)},{_as_json(key)}]")

    def of_parts(self, parts: Sequence[str | int]) -> str:
        """Return the key of a user's own effect. Its path has a list in place of a step's name, so no step has it."""
        return self._uuid5(f"{_parts_as_json(parts)}]")

    def _uuid5(self, path: str) -> str:
        hash = self._prefix.copy()
        hash.update(path.encode())
        return str(UUID(bytes=hash.digest()[:16], version=5))


def checked_name(what: str, name: object, fix: str) -> str:
    """Return a part of a key, if it is a string that is not empty; else raise TypeError.

    Args:
        what: The part, as the user wrote it, such as "key=".
        name: The value.
        fix: What to write instead.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"{what} must be a non-empty string; got {name!r}. Write {fix}")
    return str.__str__(name)  # str() of an Enum of strings differs between Python versions


def step_id(name: str, phase: Phase, key: str) -> str:
    """Return the activity id or child workflow id of a step. `key` is the forward key; a push has its own key."""
    return f"{name}:{phase}:{key}"


def _parts_as_json(parts: Sequence[str | int]) -> str:
    """Return the parts of a key as JSON. Raise ValueError for no parts, TypeError for one that is not str or int."""
    if not parts:
        raise ValueError("a key needs at least one part")
    for part in parts:
        # A float or a datetime has more than one spelling. A bool is an int, but nobody means it as one.
        if type(part) not in (str, int):
            raise TypeError(f"a part of a key must be a str or an int, not {type(part).__name__}: write str(...)")
    return json.dumps(parts, separators=(",", ":"))


def business_key(*parts: str | int) -> str:
    """Return a key made only from business data: the same in every run and process.

    Use it for an effect that must happen at most once, ever (`business_key("invoice", invoice_id)`). Elsewhere the key
    of `current_step()` is safer, since a new run of the workflow gets a new key.

    Args:
        parts: The data that names the effect; at least one part.

    Returns:
        A UUID, as 36 characters.

    Raises:
        ValueError: If there are no parts.
        TypeError: If a part is neither a str nor an int.
    """
    return str(uuid5(_BUSINESS, _parts_as_json(parts)))


@dataclass(frozen=True)
class Step:
    """The step that an activity runs for.

    Attributes:
        name: The step's name; in a compensation, the name of the step that it undoes.
        phase: `do` for a step, `undo` for its compensation, `push` for one pushed by `add_compensation`.
        key: The idempotency key, 36 characters; a compensation has its own key.
        forward_key: The key of the step; in an undo, the key of the step that it undoes; None in a push.
        attempt: The activity's attempt, from 1. It is never part of a key.
    """

    name: str
    phase: Phase
    key: str
    forward_key: str | None
    attempt: int

    @property
    def is_compensation(self) -> bool:
        """Whether the activity undoes something."""
        return self.phase != "do"


def current_step() -> Step:
    """Return the step that the running activity belongs to.

    Raises:
        RuntimeError: Outside an activity, or in an activity that no saga started (its id is not one of a saga's).
    """
    if not activity.in_activity():
        raise RuntimeError(
            "current_step() outside of an activity: workflow code has saga.idempotency_key(...), "
            "a test has temporal_saga.testing.step_environment(...)"
        )
    info = activity.info()
    # Read from the right: a step's name may contain colons.
    with suppress(ValueError):
        name, phase, key = info.activity_id.rsplit(":", 2)
        forward = UUID(key)
        if phase == "do":
            return Step(name, "do", key, key, info.attempt)
        if phase == "undo":
            return Step(name, "undo", str(uuid5(forward, "undo")), key, info.attempt)
        if phase == "push":
            return Step(name, "push", key, None, info.attempt)
    raise RuntimeError(
        f"activity {info.activity_type!r} is not a step of a saga: start it with saga.execute_activity(...), or as a "
        "compensation; a test has temporal_saga.testing.step_environment(...)"
    )
