"""The demonstration: fetches a whole web site, is interrupted half-way, goes on, and checks what came out.

    python3 dev demo [PAGES]

The site is a process on this machine (`demo/site.py`), so nobody else is bothered, and the limits that protect the
hosts of other people are lifted. It says 429 to who asks for too much at once; the command finds out how much that is.
What comes out stays in `demo-output`, to look at. Ends with exit code 0 if every link has its line, only the pages that
fail have failed, no page was asked for again, and nothing was asked for while the site wanted to be left alone, or
where its robots.txt forbids it.
"""

from __future__ import annotations

import json
import shutil
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
COMMAND = [
    "aiomap",
    "fetch",
    "links.txt",
    "-o",
    "pages.jsonl",
    "--allow-private",
    "--per-key",
    "none",
    "--retries",
    "2",
]
INTERRUPTED = 128 + signal.SIGINT


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


def lines_of(name: str) -> list[str]:
    path = FOLDER / name
    return path.read_text().splitlines() if path.exists() else []


def fetch(stop_at: int | None = None) -> int:
    """Runs the command, and gives its exit code. stop_at: presses Ctrl-C when there are so many lines."""
    print("$", *COMMAND, flush=True)
    with subprocess.Popen([sys.executable, "-m", *COMMAND], cwd=FOLDER) as process:
        while stop_at is not None:
            try:
                process.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                if len(lines_of("pages.jsonl")) >= stop_at:
                    process.send_signal(signal.SIGINT)
                    stop_at = None
        return process.wait()


def say(*, as_it_should: bool, text: str) -> bool:
    print(f"{'ok    ' if as_it_should else 'WRONG '} {text}")
    return as_it_should


def check(links: list[str], failing: int, halfway: list[str]) -> bool:
    """Says whether every link has exactly one line, and as many failed as the site has pages that fail."""
    pages = [json.loads(line) for line in lines_of("pages.jsonl")]
    failed = [json.loads(line) for line in lines_of("pages.failed.jsonl")]
    once = Counter(record["key"] for record in [*pages, *failed]) == Counter(links)
    kinds = Counter(record["error"]["class"] for record in failed)
    expected = kinds.total() == failing and set(kinds) <= {"http_4xx", "http_5xx", "robots"}
    kept = lines_of("pages.jsonl")[: len(halfway)] == halfway
    how = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return all(
        [
            say(
                as_it_should=once,
                text=f"{len(links):,} links, {len(pages):,} pages and {len(failed):,} failures: each link exactly once",
            ),
            say(
                as_it_should=expected, text=f"{failing:,} pages are missing, broken or private, and these failed: {how}"
            ),
            say(as_it_should=kept, text=f"the {len(halfway):,} lines of the first sitting stand as they were"),
        ]
    )


def check_manners(stats: dict[str, int]) -> bool:
    """Says how the site was treated, whether every `Retry-After` was kept to, and robots.txt."""
    return all(
        [
            say(
                as_it_should=not stats["again"], text=f"{stats['again']} pages were asked for again that had been given"
            ),
            say(
                as_it_should=not stats["too_early"],
                text=f"{stats['requests']:,} requests, at most {stats['most_in_flight']} at once and "
                f"{stats['fullest_second']:,} in a second; {stats['refused']} were answered 429, "
                f"{stats['too_early']} came before a Retry-After had passed",
            ),
            say(as_it_should=not stats["forbidden"], text=f"{stats['forbidden']} came where robots.txt forbids it"),
        ]
    )


def main(pages: int) -> int:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    with running_site(pages) as address:
        print(f"A web site of {pages:,} pages runs on this machine, at {address}\n")
        links, failing = read(f"{address}/links.txt"), int(read(f"{address}/failing"))
        (FOLDER / "links.txt").write_text(links)
        first = fetch(stop_at=pages // 2)
        halfway = lines_of("pages.jsonl")
        stopped = first == INTERRUPTED and len(halfway) < pages // 2  # by whoever watches
        if not stopped:
            print("\nThat was Ctrl-C, half-way. The same command again:\n")
        code = first if stopped else fetch()
        stats = json.loads(read(f"{address}/stats"))
    if code == INTERRUPTED:
        print(f"\nStopped. What was done by then is in {FOLDER.name}.")
        return code
    complete, polite = check(links.split(), failing, halfway), check_manners(stats)
    interrupted = say(
        as_it_should=first == INTERRUPTED, text=f"the first sitting ended with {first}, the second with {code}"
    )
    program = Path(sys.executable).with_name("aiomap")
    program = program.relative_to(ROOT) if program.is_relative_to(ROOT) else program
    print(f"\nThe files are in {FOLDER.name}. Now with a list of your own, a link to a line:")
    print(f"  {program} fetch my-links.txt -o my-pages.jsonl")
    return 0 if complete and polite and interrupted and code == (1 if failing else 0) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: None)  # the fetching reacts; a handler, unlike SIG_IGN, is not inherited
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8_000))
