"""`python -m aiomap`: the `aiomap` command, where it is not on PATH.

Invariant: a file of the user's that is called like a module of Python's, or of ours, hides nothing.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder that -m has put first; the installed command has none
    from aiomap.cli import main

    main()
