"""`python -m aiomap`: the `aiomap` command, where it is not on PATH."""

from __future__ import annotations

from aiomap.cli import main

if __name__ == "__main__":
    main()
