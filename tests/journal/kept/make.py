"""Makes version-1.db, the journal of format 1 that is kept; `python -m tests.journal.kept.make FILE`.

On virtual time and with the names of no machine, so that the same code makes the same rows again. A kept file is
never made anew: a change of the format is a new version, and a new file beside it.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from aiomap import amap
from aiomap.testing import simulate
from tests.journal.kept.work import MIXED, RETRY, fetch_en, keyed, plain, world

__all__ = ["make"]


def make(path: Path) -> None:
    """Two sittings: one with a key, in which some fail, one without and with the same key again, when one is well."""
    with ExitStack() as stack:
        for name, value in {
            "importlib.metadata.version": "0.1.0",
            "os.getpid": 4321,
            "platform.python_version": "3.11.7",
            "socket.gethostname": "somewhere",
            "random.uniform": 0.25,
            "time.time": 1_800_000_000.5,
        }.items():
            stack.enter_context(patch(name, return_value=value))
        world.ill = True
        for journal in (keyed(path), plain(path)):
            simulate(lambda: amap(fetch_en, MIXED, 3, on_error="skip", retry=RETRY, journal=journal))  # noqa: B023
        world.ill = False
        simulate(lambda: amap(fetch_en, MIXED, 3, on_error="skip", retry=RETRY, journal=keyed(path)))
    path.with_name(path.name + ".lock").unlink()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
