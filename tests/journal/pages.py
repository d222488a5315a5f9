"""What the tests of the journal map in other processes and on other Pythons, which know it by its source."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from aiomap import SKIP

__all__ = ["say", "visit"]


def say(line: object) -> None:
    """At once, also if the process is killed a moment later."""
    os.write(1, f"{line}\n".encode())


async def visit(page: str, lang: str = "en") -> Any:
    """Gives what stands on the page.

    "stay" never ends; "wait" ends when a line comes; "fork" leaves a process behind; "empty" and "broken" are so.
    """

    def title(*, upper: bool = False) -> str:
        # The parser of some Pythons makes another tree of a format that ends with braces.
        text = f"{page!r:>{len(page) + 4}} in {lang:{'>' if upper else '<'}4}|{'é' * 2}{{}}"
        return text.upper() if upper else text

    kind = page.partition(" ")[0]
    if kind == "stay":
        say("staying")
        await asyncio.Event().wait()
    if kind == "wait":
        say("waiting")
        await asyncio.to_thread(sys.stdin.readline)
    await asyncio.sleep(0)
    if kind == "empty":
        return SKIP
    if kind == "broken":
        raise LookupError(f"there is no {page}")
    say(f"visited {page}")
    return {"page": page, "titles": [title(), title(upper=True)], "words": len(page.split()), "share": 1 / len(page)}
