"""The demonstration: fetches a whole web site with the real command, and checks what came out.

    python3 dev demo [PAGES]

The site is a process on this machine (`demo/site.py`), so nobody else is bothered, and the limits that protect the
hosts of other people are lifted. It says 429 to who asks for too much at once; the command finds out how much that is.
What comes out stays in `demo-output`, to look at. Ends with exit code 0 if every link has its line, only the pages that
fail have failed, and nothing was asked for while the site wanted to be left alone.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "demo-output"
COMMAND = ["aiomap", "fetch", "links.txt", "-o", "pages.jsonl", "-j", "auto", "--per-key", "none", "--retries", "2"]


@contextmanager
def running_site(pages: int) -> Iterator[str]:
    """The address of a site of so many pages, which ends with the block."""
    command = [sys.executable, str(ROOT / "demo" / "site.py"), str(pages)]
    # A session of its own: Ctrl-C is for the fetching alone, which goes on until it has finished what is in flight.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as site:
        yield cast("IO[bytes]", site.stdout).readline().decode().strip()
        site.communicate()  # closes its standard input, at which it ends


def read(address: str) -> str:
    with urlopen(address) as answer:  # noqa: S310  (the site that was just started)
        text: bytes = answer.read()
        return text.decode()


def fetch(links: str) -> tuple[int, list[str]]:
    """Runs the command for these links; its exit code and the lines it wrote."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "links.txt").write_text(links)
    output = FOLDER / "pages.jsonl"
    output.unlink(missing_ok=True)
    print("$", *COMMAND, flush=True)
    code = subprocess.run([sys.executable, "-m", *COMMAND], cwd=FOLDER, check=False).returncode
    return code, output.read_text().splitlines() if output.exists() else []


def check(links: list[str], lines: list[str], failing: int) -> bool:
    """Says whether every link has exactly one line, and as many failed as the site has pages that fail."""
    records = [json.loads(line) for line in lines]
    once = Counter(record["key"] for record in records) == Counter(links)
    failed = Counter(record["error"]["class"] for record in records if "error" in record)
    as_expected = failed.total() == failing and set(failed) <= {"http_4xx", "http_5xx"}
    print(
        f"{'ok    ' if once else 'WRONG '} {len(links):,} links, {len(lines):,} lines, each link exactly once: {once}"
    )
    print(f"{'ok    ' if as_expected else 'WRONG '} {failing:,} pages are missing or broken, {failed.total():,} failed")
    return once and as_expected


def check_manners(stats: dict[str, int], lines: int) -> bool:
    """Says how the site was treated, and whether every `Retry-After` was kept to."""
    polite = stats["too_early"] == 0
    print(
        f"{'ok    ' if polite else 'WRONG '} {stats['requests']:,} requests, at most {stats['most_in_flight']} at once "
        f"and {stats['fullest_second']:,} in a second; {stats['refused']} were answered 429, "
        f"{100 * stats['refused'] / max(1, lines):.1f} for 100 pages; "
        f"{stats['too_early']} came before a Retry-After had passed"
    )
    return polite


def main(pages: int) -> int:
    with running_site(pages) as address:
        print(f"A web site of {pages:,} pages runs on this machine, at {address}\n")
        links, failing = read(f"{address}/links.txt"), int(read(f"{address}/failing"))
        code, lines = fetch(links)
        stats = json.loads(read(f"{address}/stats"))
    if code == 128 + signal.SIGINT:
        print(f"\nStopped. What was done by then is in {FOLDER.name}/pages.jsonl: {len(lines):,} lines.")
        return code
    print("\nThe first line of pages.jsonl:")
    print(lines[0][:400] + "..." if lines else "(there is none)", end="\n\n")
    complete, polite = check(links.split(), lines, failing), check_manners(stats, len(lines))
    expected = complete and polite and code == (1 if failing else 0)
    program = Path(sys.executable).with_name("aiomap")
    program = program.relative_to(ROOT) if program.is_relative_to(ROOT) else program
    print(f"\nThe files are in {FOLDER.name}. Now with a list of your own, a link to a line:")
    print(f"  {program} fetch my-links.txt -o my-pages.jsonl -j 10")
    return 0 if expected else 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: None)  # the fetching reacts; a handler, unlike SIG_IGN, is not inherited
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
