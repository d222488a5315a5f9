"""`aiomap fetch` as it is typed, seen from the servers: nasty inputs, signals, kills, pauses, and hosts that say no."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aiomap.journal.reading import read_rows
from aiomap.journal.rows import DONE
from tests.loopback import answer
from tests.nasty import NASTY
from tests.nasty.case import GOOD, says
from tests.nasty.server import HOSTS, Exchange, Sites

pytestmark = NASTY

A = HOSTS[0]
# Long enough for any machine: what is waited for comes, or the process has ended.
PATIENCE = 60.0
# What makes a run of many links at one host a short one.
QUICKLY = ("--no-robots", "--per-key", "none")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: bytes
    err: str


class Held:
    """A play that answers when it is told to."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await self.released.wait()
        await exchange.say(answer(GOOD))


@dataclass(frozen=True)
class Folder:
    """A folder in which commands are typed, and the sites that they ask."""

    path: Path
    sites: Sites

    def links(self, *paths: str, name: str = "links.txt") -> list[str]:
        """Writes a file with a link a line; a path is one of the first site."""
        links = [self.sites.url(A, path) if path.startswith("/") else path for path in paths]
        (self.path / name).write_text("".join(f"{link}\n" for link in links))
        return links

    async def start(self, *arguments: str, stdin: int = DEVNULL) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aiomap", "fetch", *arguments, "--allow-private"),
            cwd=self.path,
            stdin=stdin,
            stdout=PIPE,
            stderr=PIPE,
        )

    async def run(self, *arguments: str, given: bytes | None = None) -> Ended:
        process = await self.start(*arguments, stdin=DEVNULL if given is None else PIPE)
        return await ended(process, given)

    def records(self, name: str = "out.jsonl") -> list[Any]:
        return [json.loads(line) for line in (self.path / name).read_bytes().split(b"\n") if line]

    def paths(self) -> list[str]:
        """The paths of the pages that OUT has."""
        return [record["value"]["url"].partition(str(self.sites.port))[2] for record in self.records()]


async def ended(process: Process, given: bytes | None = None) -> Ended:
    out, err = await asyncio.wait_for(process.communicate(given), PATIENCE)
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return Ended(process.returncode, out, err.decode())


def play(path: Path, main: Callable[[Folder], Awaitable[None]]) -> None:
    async def with_sites() -> None:
        async with Sites() as sites:
            sites.plays["good"] = says(answer(GOOD))
            await main(Folder(path, sites))

    asyncio.run(with_sites())


def test_88_a_file_that_people_wrote_by_hand(tmp_path: Path) -> None:
    async def main(folder: Folder) -> None:
        good = [folder.sites.url(A, f"/good/{number}").encode() for number in range(4)]
        lines = [
            b"\xef\xbb\xbf" + good[0] + b"\r\n",
            b"\r\n  \r\n",
            good[1] + b"\r\n",
            b"http://caf\xe9/\r\n",
            b"javascript:alert(1)\n",
            good[2] + b"  \n",
            good[2] + b"\n",
            b"http://good.invalid/" + b"x" * 1_000_000 + b"\n",
            good[3],
        ]
        (folder.path / "links.txt").write_bytes(b"".join(lines))
        first = await folder.run("links.txt", "-o", "out.jsonl", *QUICKLY)
        assert first.code == 1, first.err
        paths = Counter(asked.path for asked in folder.sites.log.asked)
        assert paths == {"/good/0": 1, "/good/1": 1, "/good/2": 2, "/good/3": 1}
        assert Counter(folder.paths()) == paths
        failed = folder.records("out.failed.jsonl")
        assert [(one["error"]["class"], one["index"]) for one in failed] == [("bad_input", at) for at in (2, 3, 6)]

    play(tmp_path, main)


def test_92_a_pipe_that_cannot_be_read_again_is_gone_on_with_and_equal_links_are_one(tmp_path: Path) -> None:
    async def main(folder: Folder) -> None:
        links = [folder.sites.url(A, f"/good/{number}").encode() for number in range(8)]
        run = ("-", "-o", "out.jsonl", "--dedupe", *QUICKLY)
        assert (await folder.run(*run, given=b"\n".join(links[:5] * 3))).code == 0
        assert len(folder.sites.log.asked) == 5
        assert (await folder.run(*run, given=b"\n".join(links))).code == 0
        assert sorted(asked.path for asked in folder.sites.log.asked) == [f"/good/{number}" for number in range(8)]
        assert len(folder.records()) == 8

    play(tmp_path, main)


def test_93_a_file_that_is_gzip_and_has_ids_with_line_ends_and_links_with_nasty_names(tmp_path: Path) -> None:
    """39 as well; and where --save writes is never for a link to say."""

    async def main(folder: Folder) -> None:
        paths = ["/good/..%2f..%2fpasswd", "/good/%00", "/good/CON", f"/good/{'n' * 2000}", "/good/a\\b", "/good/"]
        rows = [
            {"sku": f"a\nb{number}", "url": folder.sites.url(A, path), "note": 'x,"\n'}
            for number, path in enumerate(paths)
        ]
        packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
        (folder.path / "rows.jsonl.gz").write_bytes(packed)
        run = await folder.run("rows.jsonl.gz", "-o", "out.jsonl", "--id", "sku", "--save", "pages", *QUICKLY)
        assert run.code == 0, run.err
        assert sorted(record["key"] for record in folder.records()) == [row["sku"] for row in rows]
        saved = [folder.path / "pages" / record["value"]["file"] for record in folder.records()]
        assert len(set(saved)) == len(rows)
        for file in saved:
            assert file.read_bytes() == GOOD
            assert file.resolve().is_relative_to((folder.path / "pages").resolve())
        assert {file.name for file in folder.path.iterdir()} <= {
            *("rows.jsonl.gz", "out.jsonl", "out.jsonl.run", "out.jsonl.run.lock", "pages")
        }

    play(tmp_path, main)


def test_90_a_spreadsheet_with_requests_in_it(tmp_path: Path) -> None:
    async def main(folder: Folder) -> None:
        url = folder.sites.url(A, "/good/")
        rows = [
            "sku,url,note,method,headers,data",
            f'007,{url}1,"two\nlines, ""quoted""",,,',
            f'8,{url}2,,put,"{{""X-A"": ""b""}}",a=1',
            f'9,{url}3,,,"not json",',
            f"10,{url}4",
            "1e3,,,,,",
        ]
        (folder.path / "rows.csv").write_text("\r\n".join(rows), newline="")
        run = await folder.run("rows.csv", "-o", "out.jsonl", "--id", "sku", *QUICKLY)
        assert run.code == 1, run.err
        assert "007" in {record["key"] for record in folder.records()}
        asked = {one.path: one for one in folder.sites.log.asked}
        assert asked["/good/1"].method == "GET"
        assert (asked["/good/2"].method, asked["/good/2"].body, asked["/good/2"].headers["x-a"]) == ("PUT", b"a=1", "b")
        assert "/good/3" not in asked
        failed = {one["key"]: one["error"]["class"] for one in folder.records("out.failed.jsonl")}
        assert failed["9"] == failed["1e3"] == "bad_input"

    play(tmp_path, main)


def test_94_nothing_to_do_is_done(tmp_path: Path) -> None:
    async def main(folder: Folder) -> None:
        (folder.path / "links.txt").write_bytes(b"\n\r\n")
        run = await folder.run("links.txt", "-o", "out.jsonl")
        assert (run.code, folder.records()) == (0, [])
        assert folder.sites.log.connected == []

    play(tmp_path, main)


def test_99_a_second_command_for_the_same_out_is_refused_and_asks_for_nothing(tmp_path: Path) -> None:
    async def main(folder: Folder) -> None:
        held = folder.sites.plays["held"] = Held()
        folder.links("/held/1", "/held/2")
        first = await folder.start("links.txt", "-o", "out.jsonl", *QUICKLY)
        await folder.sites.was_asked(2)
        second = await folder.run("links.txt", "-o", "out.jsonl", *QUICKLY)
        assert second.code == 3, second.err
        held.released.set()
        assert (await ended(first)).code == 0
        assert len(folder.sites.log.asked) == 2

    play(tmp_path, main)


def test_102_after_ctrl_c_nothing_new_is_asked_for_and_the_next_sitting_asks_for_the_rest(tmp_path: Path) -> None:
    async def main(folder: Folder) -> None:
        held = folder.sites.plays["held"] = Held()
        folder.links(*(f"/held/{number}" for number in range(40)))
        run = ("links.txt", "-o", "out.jsonl", "-j", "8", *QUICKLY)
        process = await folder.start(*run)
        await folder.sites.was_asked(8)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while b"draining" not in await asyncio.wait_for(process.stderr.readline(), PATIENCE):
            pass
        held.released.set()
        assert (await ended(process)).code == 130
        assert len(folder.sites.log.asked) == len(folder.records()) == 8
        assert (await folder.run(*run)).code == 0
        assert folder.sites.log.repeats() == []
        assert Counter(folder.paths()) == {f"/held/{number}": 1 for number in range(40)}

    play(tmp_path, main)


def test_102_sigterm_in_a_pause_of_minutes_ends_it_now(tmp_path: Path) -> None:
    async def main(folder: Folder) -> None:
        folder.sites.plays["pauses"] = says(answer(b"", "Retry-After: 100", status="429 Too Many Requests"))
        folder.links("/pauses/1")
        process = await folder.start("links.txt", "-o", "out.jsonl", "--no-robots")
        await folder.sites.was_asked(1)
        process.send_signal(signal.SIGTERM)
        run = await asyncio.wait_for(ended(process), 15)
        assert run.code == 143
        assert len(folder.sites.log.asked) == 1

    play(tmp_path, main)


def test_95_a_kill_loses_nothing_that_was_recorded_and_asks_for_none_of_it_again(tmp_path: Path) -> None:
    async def main(folder: Folder) -> None:
        async def takes_a_while(exchange: Exchange) -> None:
            await asyncio.sleep(0.01)
            await exchange.say(answer(GOOD))

        folder.sites.plays["slow"] = takes_a_while
        links = folder.links(*(f"/slow/{number}" for number in range(150)))
        run = ("links.txt", "-o", "out.jsonl", "-j", "4", *QUICKLY)
        process = await folder.start(*run)
        await folder.sites.was_asked(80)
        process.kill()
        await process.communicate()
        recorded = {row[3] for _, row in read_rows(str(folder.path / "out.jsonl.run")) if row[2] == DONE}
        assert 0 < len(recorded) < 150
        before = len(folder.sites.log.asked)
        assert (await folder.run(*run)).code == 0
        again = {asked.path for asked in folder.sites.log.asked[before:]}
        assert not again & {f"/slow/{number}" for number in recorded}
        assert len(again) == 150 - len(recorded)
        assert sorted(record["key"] for record in folder.records()) == sorted(links)

    play(tmp_path, main)


def test_103_a_reader_of_stdout_that_has_enough_stops_it(tmp_path: Path) -> None:
    async def main(folder: Folder) -> None:
        async def takes_a_while(exchange: Exchange) -> None:
            await asyncio.sleep(0.01)
            await exchange.say(answer(bytes(5000)))

        folder.sites.plays["slow"] = takes_a_while
        folder.links(*(f"/slow/{number}" for number in range(1000)))
        shell = f"{sys.executable} -m aiomap fetch links.txt -o - --allow-private -j 5 {' '.join(QUICKLY)} | head -n 3"
        process = await asyncio.create_subprocess_shell(shell, cwd=folder.path, stdout=PIPE, stderr=PIPE)
        run = await ended(process)
        assert len(run.out.splitlines()) == 3
        assert len(folder.sites.log.asked) < 1000

    play(tmp_path, main)


@pytest.mark.parametrize("nobody_is_there", [False, True], ids=["81-says-no", "60-nobody-is-there"])
def test_hopeless_runs_halt(tmp_path: Path, nobody_is_there: bool) -> None:
    async def main(folder: Folder) -> None:
        folder.sites.plays["no"] = says(answer(b"a captcha", status="403 Forbidden"))
        host = "127.0.0.99" if nobody_is_there else A
        folder.links(*(folder.sites.url(host, f"/no/{number}") for number in range(2000)))
        run = await folder.run("links.txt", "-o", "out.jsonl", "--halt", "10", "-j", "5", "--retries", "0", *QUICKLY)
        assert run.code == 4, run.err
        assert len(folder.sites.log.asked) < 50
        assert folder.records() == []

    play(tmp_path, main)


def test_whoever_types_nothing_but_the_command_is_polite(tmp_path: Path) -> None:
    async def main(folder: Folder) -> None:
        async def robots(exchange: Exchange) -> None:
            await exchange.say(answer(b"User-agent: aiomap\nDisallow: /good/private\n"))

        folder.sites.plays["robots.txt"] = robots
        paths = ["/good/1", "/good/private/1", "/good/2", "/good/3"]
        folder.links(*(folder.sites.url(host, path) for path in paths for host in HOSTS[:5]))
        run = await folder.run("links.txt", "-o", "out.jsonl")
        assert run.code == 1, run.err
        log = folder.sites.log
        assert sorted(asked.host for asked in log.asked if asked.path == "/robots.txt") == sorted(HOSTS[:5])
        assert not [asked for asked in log.asked if "private" in asked.path]
        assert {one["error"]["class"] for one in folder.records("out.failed.jsonl")} == {"robots"}
        assert max(log.most_at_once().values()) <= 2
        for asked in log.hosts().values():
            assert asked[-1].at - asked[0].at >= 0.25 * (len(asked) - 1) - log.on_its_way
        assert log.repeats() == []

    play(tmp_path, main)


def test_no_secret_of_a_link_is_told(tmp_path: Path) -> None:
    async def main(folder: Folder) -> None:
        folder.sites.plays["no"] = says(answer(status="404 No"))
        folder.links(
            f"http://me:s3cret@{A}:{folder.sites.port}/good/?token=s3cret",
            f"http://me:s3cret@{A}:{folder.sites.port}/no/?api_key=s3cret",
            "http://me:s3cret@127.0.0.99:1/?token=s3cret",
        )
        headers = ("-H", "Authorization: Bearer s3cret", "-H", "Cookie: a=s3cret")
        run = await folder.run("links.txt", "-o", "out.jsonl", "--retries", "0", *headers, *QUICKLY)
        assert run.code == 1
        assert "s3cret" not in run.err
        [record] = folder.records()
        assert "s3cret" not in json.dumps(record["value"])
        for one in folder.records("out.failed.jsonl"):
            assert "s3cret" not in json.dumps(one["error"])
        assert all("s3cret" in asked.headers["authorization"] for asked in folder.sites.log.asked)

    play(tmp_path, main)
