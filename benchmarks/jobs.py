"""The functions that the command line is given: `letters`, which costs nothing, and `ask`, which asks a server.

Invariant: `letters.py` does the same as `letters`, and the cookbook's script the same as `ask`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any


async def letters(item: dict[str, Any]) -> dict[str, int]:
    """Count them, at once. It says of which item: others may be done before it."""
    return {"id": item["id"], "letters": len(item["text"])}


@asynccontextmanager
async def session() -> AsyncGenerator[Any]:
    """Give the connections that all requests share."""
    import aiohttp  # only where there is something to ask

    async with aiohttp.ClientSession() as opened:
        yield opened


async def ask(item: dict[str, Any], session: Any) -> list[Any]:
    """Post the item; give it back with the answer, as the cookbook's script does."""
    async with session.post(os.environ["ASKED"], headers={"Authorization": "Bearer none"}, json=item) as response:
        return [item, await response.json()]
