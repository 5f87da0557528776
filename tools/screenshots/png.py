"""PNG with a palette: a picture of a page has few colors that matter, and is a fifth as large with these alone."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {2: 3, 6: 4}  # by the color type: RGB, and RGB with alpha


def with_few_colors(png: bytes, most: int = 128) -> bytes:
    """Return a picture of 8 bits a channel with its most frequent colors; each other becomes the one next to it."""
    chunks = list(_chunks(png))
    (header,) = [data for kind, data in chunks if kind == b"IHDR"]
    width, height, _, color_type = struct.unpack(">IIBB", header[:10])
    channels = _CHANNELS[color_type]
    raw = zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
    rows = list(_rows(raw, width * channels, channels))
    pixels = [[row[at : at + 3] for at in range(0, len(row), channels)] for row in rows]
    frequent = Counter(color for row in pixels for color in row)
    palette = [color for color, _ in frequent.most_common(most)]
    number = {color: _nearest(color, palette) for color in frequent}
    number.update({color: at for at, color in enumerate(palette)})
    lines = b"".join(b"\0" + bytes([number[color] for color in row]) for row in pixels)
    return _SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", b"".join(palette)),
            _chunk(b"IDAT", zlib.compress(lines, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _nearest(color: bytes, palette: list[bytes]) -> int:
    return min(range(len(palette)), key=lambda at: sum((a - b) ** 2 for a, b in zip(color, palette[at], strict=True)))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _rows(raw: bytes, length: int, channels: int) -> Iterator[bytes]:
    """Undo the filter of each row: what a byte adds to its neighbors."""
    above = bytes(length)
    for start in range(0, len(raw), length + 1):
        kind, row = raw[start], bytearray(raw[start + 1 : start + 1 + length])
        for at in range(length if kind else 0):
            left = row[at - channels] if at >= channels else 0
            corner = above[at - channels] if at >= channels else 0
            row[at] = (row[at] + _predicted(kind, left, above[at], corner)) & 0xFF
        above = bytes(row)
        yield above


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind < 4:
        return (0, left, up, (left + up) // 2)[kind]
    paeth = left + up - corner
    return min((left, up, corner), key=lambda each: abs(paeth - each))
