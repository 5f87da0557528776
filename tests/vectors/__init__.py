"""Test vectors of what no version may change: `vectors.json`.

A vector is what is given, and what comes of it. Code in another language that makes the same keys, reads the same
states or marks, or writes the fence's table can be checked with the same file. `python -m tests.vectors` adds the
vectors that the file lacks, and never changes one.

What is given runs through the library as users run it: here is no second implementation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporal_saga import business_key, fence
from temporal_saga._state import VERSION
from tests.vectors import activities, keys, runs, states

FILE = Path(__file__).with_name("vectors.json")


@dataclass(frozen=True)
class Format:
    """One thing that is frozen.

    Attributes:
        about: What is given, and what comes of it, for a reader in another language.
        compute: Runs what is given; it gets what is expected as well.
        given: What each vector is given.
        may_grow: Whether a later version may add fields. Those that are there stay as they are.
    """

    about: str
    compute: Callable[[Any, Any], Any]
    given: Sequence[Any]
    may_grow: bool = False

    def holds(self, vector: Any) -> bool:
        """Tell whether this version still does what a vector says."""
        computed = json.loads(json.dumps(self.compute(vector["given"], vector["expected"])))
        return contains(computed, vector["expected"]) if self.may_grow else bool(computed == vector["expected"])


def contains(found: Any, expected: Any) -> bool:
    """Tell whether all that is expected is there; a mapping may have more."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return all(name in found and contains(found[name], value) for name, value in expected.items())
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(contains, found, expected))
    return bool(found == expected)


FORMATS: dict[str, Format] = {
    "key of a step": Format(
        "The uuid5, in the anchor, of the path [saga, nth saga of that name, step, nth use or key=] as compact JSON in "
        "ASCII. `id` is the activity's or child's id, `undo_id` that of the undo. The undo's own key, `undo_key`, is "
        'the uuid5 of "undo" in the key. A savepoint shares the path of its saga.',
        keys.of_step,
        keys.STEPS,
    ),
    "saga.idempotency_key": Format(
        "The same, with the list of parts in the place of the step and its use.", keys.of_parts, keys.PARTS
    ),
    "business_key": Format(
        "The uuid5 of the parts, as compact JSON in ASCII, in 6b2f3a52-9f4e-5d0c-8a51-0f3a7c1d9e64.",
        lambda given, _: business_key(*given),
        keys.PARTS_ALONE,
    ),
    "SagaState": Format(
        "What detach() returns, as the data converter writes it, and the commands of a run that goes on with it: calls "
        "step charge once by key= and once by number, and fails. An older version has to be read for ever.",
        states.written_and_read,
        [{"version": VERSION, "saga": name} for name in states.SAGAS],
    ),
    "failure of an activity": Format(
        "An activity under classify_errors raises an error of the library, in that attempt and with those heartbeat "
        "details of the attempt before. The mark is the last detail of the failure, and of what is heartbeaten.",
        activities.failure,
        activities.FAILURES,
    ),
    "outcome of a step": Format(
        "What the failure of an activity, with those details, proves of its step.", runs.outcome, runs.DETAILS
    ),
    "fence.DDL": Format(
        "The fence's table. It is made only where there is none, so a new column would be missing where it is old.",
        lambda given, _: fence.DDL[given],
        ["sqlite", "postgresql"],
    ),
    "record of the fence": Format(
        "A call of fence.once finds that record. What the call returns or raises, whether the effect ran, and what the "
        "record is then.",
        activities.record,
        activities.RECORDS,
    ),
    "hash of a payload": Format(
        "The SHA-256 of the payload as compact JSON in ASCII, with sorted keys.", activities.hashed, activities.PAYLOADS
    ),
    "what a run shows": Format(
        "A saga parks an undo that failed, and is settled. What the server, clients and metrics see of it by name.",
        runs.shown,
        runs.SHOWN,
        may_grow=True,
    ),
}


def read() -> dict[str, Any]:
    """Return the vectors of the file, by format."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def missing(name: str, vectors: Sequence[Any]) -> list[Any]:
    """Return what is given to a format, and has no vector yet."""
    known = [vector["given"] for vector in vectors]
    return [given for given in json.loads(json.dumps(FORMATS[name].given)) if given not in known]


def text(vectors: dict[str, Any]) -> str:
    """Return the file's text: a vector a line."""
    formats = []
    for name, content in vectors.items():
        lines = ",\n".join(json.dumps(vector, sort_keys=True) for vector in content["vectors"])
        formats.append(f'{json.dumps(name)}: {{"about": {json.dumps(content["about"])}, "vectors": [\n{lines}\n]}}')
    return "{\n" + ",\n".join(formats) + "\n}\n"
