"""The hash of a payload: the same in each process and Python, for equal data.

The hash is stored, and later attempts compare their hash with it. So its derivation is frozen, like that of the keys.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from typing import Any, cast
from uuid import UUID


def payload_hash(payload: object) -> str:
    """Return the SHA-256 of a payload's canonical JSON, as 64 hexadecimal digits.

    Raises:
        TypeError: If the fence cannot read a value as data.
    """
    text = json.dumps(_canonical(payload), sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, type):
        raise TypeError(f"a payload cannot hold the class {value.__qualname__}")
    if isinstance(value, Enum):  # before str and int, since an Enum may be one of these too
        return _canonical(value.value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, Any]", value)  # pyright does not know its types, mypy does
        return {_key(key): _canonical(item) for key, item in mapping.items()}
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", value)).hex()
    if callable(dump := getattr(value, "model_dump", None)):  # pydantic's, which is not imported
        return _canonical(dump(mode="json"))
    if dataclasses.is_dataclass(value):
        return {field.name: _canonical(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise TypeError(
        f"a payload cannot hold a {type(value).__module__}.{type(value).__qualname__}: pass the value as "
        "JSON types, a dataclass, a pydantic model, Decimal, datetime, UUID, Enum or bytes"
    )


def _key(key: object) -> str:
    plain = _canonical(key)
    if not isinstance(plain, str):
        raise TypeError(f"a key of a mapping in a payload must be a str, not {type(key).__qualname__}")
    return plain
