"""Add the vectors that the file lacks: `python -m tests.vectors`. None is ever changed."""

from __future__ import annotations

import logging
import sys

from tests.vectors import FILE, FORMATS, missing, read, text


def main() -> None:
    """Check what is there, and add what is not."""
    vectors = read()
    broken = [
        f"{name}: {vector['given']}"
        for name, content in vectors.items()
        for vector in content["vectors"]
        if not FORMATS[name].holds(vector)
    ]
    if broken:
        sys.exit(
            "These vectors do not hold any more. They are frozen: change the code, not the vectors.\n"
            + "\n".join(broken)
        )
    for name, format in FORMATS.items():
        content = vectors.setdefault(name, {"about": format.about, "vectors": []})
        content["about"] = format.about
        added = missing(name, content["vectors"])
        content["vectors"] += [{"given": given, "expected": format.compute(given, None)} for given in added]
        print(f"{name}: {len(content['vectors'])} vectors, {len(added)} of them new")
    FILE.write_text(text(vectors), encoding="utf-8")


if __name__ == "__main__":
    logging.disable(logging.ERROR)  # undos fail on purpose
    main()
