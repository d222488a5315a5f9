"""`aiomap fetch`, run as it is typed against a site on loopback: what is asked for, what is written, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import click
import pytest

from aiomap import Rate
from aiomap.cli.commands import aiomap
from aiomap.cli.fetch import page
from aiomap.cli.flags import parse_rate
from aiomap.cli.sitting import _without_secrets
from aiomap.journal.fingerprint import fingerprint
from tests.commands import PATIENCE, Command, serving
from tests.loopback import Site, answer

pytestmark = pytest.mark.once

HELLO = answer(b"hello", "Content-Type: text/plain")

# The site of these tests stands on loopback, and has no robots.txt.
OURS = ("--allow-private", "--no-robots")
# It is one host, and ours.
FREE = (*OURS, "--per-key", "none")


def no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


def lines_in(file: Path) -> list[dict[str, Any]]:
    """The records of a file, each read as strict JSON; of one that is being written, those that are whole."""
    text = file.read_bytes().decode("ascii") if file.exists() else ""
    return [json.loads(line, parse_constant=no_constant) for line in text.split("\n")[:-1]]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with serving() as Running.server:
        yield


class Running:
    """The command while it runs, as the loop of its site sees it."""

    server: ClassVar[socket.socket]

    def __init__(
        self, command: Command, given: int | None, out: asyncio.StreamReader, err: asyncio.StreamReader
    ) -> None:
        self.pid, self.send_signal, self.kill = command.pid, command.send_signal, command.kill
        self.stdout, self.stderr = out, err
        self._command, self._given = command, given

    def write(self, text: bytes) -> None:
        """Writes to its standard input."""
        assert self._given is not None
        os.write(self._given, text)

    def end_of_input(self) -> None:
        if self._given is not None:
            os.close(self._given)
            self._given = None

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        return await asyncio.to_thread(self._command.wait)

    async def communicate(self) -> tuple[bytes, bytes]:
        """What it writes to stdout and stderr, to the end."""
        return await self.stdout.read(), await self.stderr.read()


async def reader_of(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb"))
    return reader


@asynccontextmanager
async def started(
    *arguments: str | Path, folder: Path | None = None, stdin: int = DEVNULL, stdout: int = PIPE
) -> AsyncIterator[Running]:
    """The command as a process."""
    given, giving = os.pipe() if stdin == PIPE else (os.open(os.devnull, os.O_RDONLY), None)
    out, writing = os.pipe() if stdout == PIPE else (os.open(os.devnull, os.O_RDONLY), os.dup(stdout))
    err, warning = os.pipe()
    with Command(Running.server, folder or Path.cwd(), [*map(str, arguments)], (given, writing, warning)) as command:
        for descriptor in (given, writing, warning):
            os.close(descriptor)
        out_reader = await reader_of(out) if stdout == PIPE else asyncio.StreamReader()
        running = Running(command, giving, out_reader, await reader_of(err))
        try:
            yield running
        finally:
            running.end_of_input()


async def ran(
    *arguments: str | Path, folder: Path | None = None, text: bytes | None = None, code: str = ""
) -> tuple[int, str, str]:
    """Its exit code and what it wrote to stdout and stderr; `code` runs in it before."""
    if code:
        program = [sys.executable, "-c", f"{code}\nfrom aiomap.cli import main; main()", *map(str, arguments)]
        process = await asyncio.create_subprocess_exec(*program, cwd=folder, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()
    async with started(*arguments, folder=folder, stdin=DEVNULL if text is None else PIPE) as running:
        if text is not None:
            running.write(text)
            running.end_of_input()
        out, err = await running.communicate()
        return await running.wait(), out.decode(), err.decode()


def run(*arguments: str | Path, **options: Any) -> tuple[int, str, str]:
    return asyncio.run(ran(*arguments, **options))


def with_site(main: Callable[[Site], Awaitable[None]]) -> None:
    async def call() -> None:
        async with Site({"/hello": HELLO, "/hold": HELLO, "/broken": answer(status="500 No")}) as site:
            await main(site)

    asyncio.run(call())


def write_links(folder: Path, site: Site, paths: Sequence[str]) -> Path:
    file = folder / "links.txt"
    file.write_text("".join(f"{site.url(path)}\n" for path in paths))
    return file


def elsewhere(site: Site, path: str) -> str:
    """The link to a path of the same site under the name of another host."""
    return site.url(path).replace("127.0.0.1", "localhost")


def test_every_page_gives_one_line_beside_the_journal_and_success_exits_0(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, [f"/hello?{number}" for number in range(30)])
        code, out, err = await ran("fetch", links, "-o", tmp_path / "out.jsonl", "-j", "5", *FREE)
        assert (code, out) == (0, ""), err
        records = lines_in(tmp_path / "out.jsonl")
        assert sorted(record["index"] for record in records) == list(range(30))
        [first] = [record for record in records if not record["index"]]
        assert {name: value for name, value in first.items() if name not in {"started", "elapsed"}} == {
            "key": site.url("/hello?0"),
            "index": 0,
            "value": {
                "url": site.url("/hello?0"),
                "status": 200,
                "headers": {"content-type": "text/plain", "content-length": "5"},
                "bytes": 5,
                "text": "hello",
            },
            "attempts": 1,
        }
        assert names_in(tmp_path) - {"out.jsonl.run.lock"} == {"links.txt", "out.jsonl", "out.jsonl.run"}

    with_site(main)


def test_a_failure_is_a_line_of_the_failed_file_which_can_be_fed_back_in(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, ["/hello", "/gone"])
        links.write_text(links.read_text() + "no link\n")
        code, _, err = await ran("fetch", links, "-o", tmp_path / "out.jsonl", *FREE)
        assert code == 1, err
        assert len(lines_in(tmp_path / "out.jsonl")) == 1
        failed = {line["index"]: line for line in lines_in(tmp_path / "out.failed.jsonl")}
        assert failed[1]["input"] == site.url("/gone")
        assert failed[1]["error"]["class"] == "http_4xx"
        assert failed[1]["error"]["type"] == "aiomap.fetch.FetchFailed"
        assert failed[1]["error"]["message"] == "404 Not Found"
        assert failed[2]["error"]["class"] == "bad_input"
        site.answers["/gone"] = HELLO
        again = await ran("fetch", tmp_path / "out.failed.jsonl", "-o", tmp_path / "more.jsonl", *FREE)
        assert again[0] == 1
        assert [line["value"]["text"] for line in lines_in(tmp_path / "more.jsonl")] == ["hello"]

    with_site(main)


def test_the_same_command_again_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        command: list[str | Path] = [
            "fetch",
            write_links(tmp_path, site, ["/hello?a", "/gone", "/late"]),
            "-o",
            tmp_path / "out.jsonl",
        ]
        command += [*FREE, "--retries", "0"]
        site.answers["/late"] = answer(status="503 Not Yet")
        assert (await ran(*command))[0] == 1
        site.answers["/late"] = HELLO
        site.asked.clear()
        assert (await ran(*command))[0] == 1
        assert site.asked == ["/late"]
        site.asked.clear()
        site.answers["/gone"] = HELLO
        code, _, err = await ran(*command, "--retry-failed", "4xx")
        assert (code, site.asked) == (0, ["/gone"]), err
        assert sorted(line["index"] for line in lines_in(tmp_path / "out.jsonl")) == [0, 1, 2]
        assert lines_in(tmp_path / "out.failed.jsonl") == []

    with_site(main)


def test_a_class_that_nothing_failed_with_is_said_not_to_have_run_anything(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        command: list[str | Path] = [
            "fetch",
            write_links(tmp_path, site, ["/hello", "/gone"]),
            "-o",
            tmp_path / "out.jsonl",
            *FREE,
        ]
        await ran(*command)
        code, _, err = await ran(*command, "--retry-failed", "http_44x")
        assert code == 1
        assert "--retry-failed http_44x ran nothing again: there were http_4xx" in err

    with_site(main)


def test_a_kill_in_the_middle_loses_no_line_doubles_none_and_asks_for_no_page_again(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, [f"/hello?{number}" for number in range(20)] + ["/hold"])
        command: list[str | Path] = ["fetch", links, "-o", tmp_path / "out.jsonl", "-j", "4", *FREE]
        async with started(*command) as process:
            async with asyncio.timeout(PATIENCE):
                while len(lines_in(tmp_path / "out.jsonl")) < 20:  # noqa: ASYNC110  (another process writes it)
                    await asyncio.sleep(0.001)
            process.kill()
            await process.wait()
        recorded = {line["value"]["url"] for line in lines_in(tmp_path / "out.jsonl")}
        with (tmp_path / "out.jsonl").open("ab") as out:
            out.write(b'{"torn')
        site.asked.clear()
        site.released.set()
        assert (await ran(*command))[0] == 0
        assert not recorded & {site.url(path) for path in site.asked}
        assert sorted(line["index"] for line in lines_in(tmp_path / "out.jsonl")) == list(range(21))

    with_site(main)


def test_what_is_asked_for_can_stand_in_the_columns_of_the_input(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        site.answers["/made"] = answer(b"made", status="201 Created")
        rows = [
            {"url": site.url("/hello"), "id": "a", "headers": {"X-Id": "7"}},
            {"url": site.url("/made"), "id": "b", "data": {"name": "b"}},
            {"link": site.url("/made"), "id": "c", "method": "put", "data": "plain"},
        ]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        typed = ["-j", "1", "--id", "id", "-H", "X-All: all", "-H", "X-Id: none"]
        code, _, err = await ran("fetch", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", *typed, *FREE)
        assert code == 0, err
        assert [line["key"] for line in lines_in(tmp_path / "out.jsonl")] == ["a", "b", "c"]
        heads = [head.decode().lower() for head in site.heads]
        assert [head.split()[0] for head in heads] == ["get", "post", "put"]
        assert ["x-id: 7\r" in head for head in heads] == [True, False, False]
        assert all("x-all: all\r" in head and head.count("x-id:") == 1 for head in heads)
        assert ["content-type: application/json\r" in head for head in heads] == [False, True, False]

    with_site(main)


def test_the_data_and_the_method_are_sent_as_typed(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, ["/hello"])
        assert (await ran("fetch", links, "-o", tmp_path / "a", "--data", "q=1", *FREE))[0] == 0
        links.write_text(site.url("/head"))
        site.answers["/head"] = answer(length=5)
        assert (await ran("fetch", links, "-o", tmp_path / "b", "--method", "head", *FREE))[0] == 0
        assert [head.split()[0] for head in site.heads] == [b"POST", b"HEAD"]
        assert site.heads[0].endswith(b"\r\n\r\nq=1")

    with_site(main)


def test_bodies_are_saved_into_files_that_the_lines_name(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        site.answers["/image"] = answer(b"\x89PNG", "Content-Type: image/png")
        links = write_links(tmp_path, site, ["/hello", "/image"])
        code, _, err = await ran("fetch", links, "-o", "out.jsonl", "--save", "pages", *FREE, folder=tmp_path)
        assert code == 0, err
        values = [line["value"] for line in lines_in(tmp_path / "out.jsonl")]
        assert all("text" not in value and "base64" not in value for value in values)
        bodies = {(tmp_path / "pages" / value["file"]).read_bytes() for value in values}
        assert bodies == {b"hello", b"\x89PNG"}

    with_site(main)


def test_bodies_that_cannot_be_saved_are_nobodys_failures_and_are_fetched_when_there_is_room(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, [f"/hello?{number}" for number in range(8)])
        command: list[str | Path] = ["fetch", links, "-o", "out.jsonl", "--save", "pages", "-j", "2", *FREE]
        full = (
            "import aiomap.fetch.saving as saving, errno, itertools\n"
            "save, count = saving.Folder.save, itertools.count()\n"
            "def until_it_is_full(*arguments):\n"
            "    if next(count) >= 3: raise OSError(errno.ENOSPC, 'No space left on device', 'pages/x')\n"
            "    return save(*arguments)\n"
            "saving.Folder.save = until_it_is_full"
        )
        code, _, err = await ran(*command, folder=tmp_path, code=full)
        assert code == 6
        assert "cannot write pages/x: No space left on device" in err
        assert lines_in(tmp_path / "out.failed.jsonl") == []
        code, _, err = await ran(*command, folder=tmp_path)
        assert code == 0, err
        assert sorted(line["index"] for line in lines_in(tmp_path / "out.jsonl")) == list(range(8))

    with_site(main)


def test_a_folder_that_cannot_be_made_ends_it_with_6(tmp_path: Path) -> None:
    (tmp_path / "links.txt").write_text("http://127.0.0.1:1/\n")
    (tmp_path / "file").touch()
    code, _, err = run("fetch", "links.txt", "-o", "out", "--save", "file/pages", *FREE, folder=tmp_path)
    assert code == 6
    assert "cannot write file/pages: Not a directory" in err


def test_an_option_that_changes_the_results_is_refused_by_name_with_three_ways_out(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        command: list[str | Path] = [
            "fetch",
            write_links(tmp_path, site, ["/hello"]),
            "-o",
            tmp_path / "out.jsonl",
            *FREE,
        ]
        assert (await ran(*command, "-H", "Accept: text/html", "-H", "Authorization: Bearer one"))[0] == 0
        code, _, err = await ran(*command, "-H", "accept: text/html", "-H", "Authorization: Bearer two", "-j", "3")
        assert code == 0, err
        for changed, flag in (("-H", "Accept: x"), ("--data", "q"), ("--method", "POST"), ("--max-body", "1M")):
            code, _, err = await ran(*command, *(["-H", "Accept: text/html"] if changed != "-H" else []), changed, flag)
            assert code == 3
            assert f"another {changed.replace('-H', '--header')}" in err
            assert all(way in err for way in ("--accept-change", "--fresh", "-o"))
        code, _, err = await ran(*command, "--method", "POST", "--accept-change")
        assert code == 0, err
        assert len(site.asked) == 1
        code, _, err = await ran(*command, "--method", "POST", "--fresh")
        assert (code, len(site.asked)) == (0, 2), err

    with_site(main)


def test_journals_of_fetch_are_known_by_what_no_release_changes() -> None:
    """Were one of these another, `aiomap fetch` would refuse every journal there is."""
    known = fingerprint(page)
    assert known == {"function": "aiomap.cli.fetch.page", "code": KNOWN, "bound": {}}


KNOWN = "924078be2d6fd845eed2215287e2ecb1"


def test_a_secret_that_was_typed_is_in_no_file_and_on_no_screen(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = tmp_path / "links.txt"
        links.write_text(site.url("/gone?token=CANARY1") + "\n" + site.url("/hold?b"))
        typed = ["-H", "Authorization: Bearer CANARY2", "--header=X-Api-Key: CANARY3", "--data", "CANARY4"]
        command: list[str | Path] = ["fetch", links, "-o", tmp_path / "out.jsonl", *typed, *FREE]
        async with started(*command) as process:
            await site.was_asked(2)
            process.send_signal(signal.SIGINT)
            site.released.set()
            out, err = await process.communicate()
            assert await process.wait() == 130
        assert b"CANARY" not in out + err
        assert b"Authorization: ***" in err
        assert b"X-Api-Key: ***" in err
        told = b"".join((tmp_path / name).read_bytes() for name in names_in(tmp_path) if name.startswith("out"))
        assert not re.search(rb"CANARY[234]", told)
        for line in lines_in(tmp_path / "out.failed.jsonl"):
            assert "CANARY" not in json.dumps(line["error"])

    with_site(main)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("-H 'Authorization: x' -HX-Api-Key:x --header='Cookie: x' -kHCookie:x", "-H 'Authorization: ***'"),
        ("--data x", "--data ..."),
        ("--data=x", "--data=..."),
        ("http://me:x@host/?token=x", "http://***@host/?token=***"),
    ],
)
def test_the_next_command_is_told_without_secrets(typed: str, told: str) -> None:
    shown = shlex.join(_without_secrets(shlex.split(typed)))
    assert told in shown.replace("'http://***@host/?token=***'", "http://***@host/?token=***")
    assert "x" not in shown.replace("X", "")


def test_an_address_that_is_not_public_is_refused_unless_allowed(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = tmp_path / "links.txt"
        links.write_text(site.url("/hello") + "\n" + elsewhere(site, "/hello"))
        code, _, _ = await ran("fetch", links, "-o", tmp_path / "out.jsonl", "--no-robots")
        assert (code, site.asked) == (1, [])
        errors = [line["error"] for line in lines_in(tmp_path / "out.failed.jsonl")]
        assert [error["class"] for error in errors] == ["refused_address"] * 2
        assert all("--allow-private" in error["message"] for error in errors)

    with_site(main)


def test_robots_txt_is_asked_for_once_and_obeyed(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        site.answers["/robots.txt"] = answer(b"User-agent: *\nDisallow: /no\n", "Content-Type: text/plain")
        links = write_links(tmp_path, site, ["/hello?1", "/no?1", "/hello?2", "/no?2"])
        typed = ["--allow-private", "--per-key", "none"]
        code, _, _ = await ran("fetch", links, "-o", tmp_path / "out.jsonl", *typed)
        assert code == 1
        assert sorted(site.asked) == ["/hello?1", "/hello?2", "/robots.txt"]
        errors = [line["error"]["class"] for line in lines_in(tmp_path / "out.failed.jsonl")]
        assert errors == ["robots", "robots"]

    with_site(main)


def test_no_more_links_are_asked_for_at_once_than_j(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, [f"/hold?{number}" for number in range(12)])
        async with started("fetch", links, "-o", tmp_path / "out", "-j", "4", *FREE) as process:
            await site.was_asked(4)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(site.was_asked(5), 0.2)
            site.released.set()
            assert await process.wait() == 0
        assert site.most_at_once == 4
        assert len(site.asked) == 12

    with_site(main)


def test_a_host_is_spared_without_being_asked_to_and_no_other_waits_for_it(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = tmp_path / "links.txt"
        own = [site.url(f"/hold?{number}") for number in range(4)]
        links.write_text("\n".join([*own, elsewhere(site, "/hold?a"), elsewhere(site, "/hold?b")]))
        async with started("fetch", links, "-o", tmp_path / "out", *OURS) as process:
            await site.was_asked(4)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(site.was_asked(5), 0.3)
            assert Counter(site.asked) == dict.fromkeys(["/hold?0", "/hold?1", "/hold?a", "/hold?b"], 1)
            when = dict(zip(site.asked, site.asked_at, strict=True))
            # What lies between two starts is exact, what lies between their arrivals is not.
            assert when["/hold?1"] - when["/hold?0"] > 0.15
            assert when["/hold?b"] - when["/hold?a"] > 0.15
            site.released.set()
            assert await process.wait() == 0

    with_site(main)


def test_a_redirect_counts_for_the_host_that_it_leads_to(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        site.answers["/moved"] = answer(b"", f"Location: {elsewhere(site, '/hold?moved')}", status="302 Found")
        links = tmp_path / "links.txt"
        moved = [site.url(f"/moved?{number}") for number in range(2)]
        links.write_text("\n".join([*moved, *(elsewhere(site, f"/hold?{number}") for number in range(2))]))
        async with started("fetch", links, "-o", tmp_path / "out", "--per-key-rate", "none", *OURS) as process:
            await site.was_asked(4)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(site.was_asked(5), 0.3)
            assert sum(path.startswith("/hold") for path in site.asked) == 2
            site.released.set()
            assert await process.wait() == 0
        assert len(site.asked) == 6

    with_site(main)


def test_k_streams_in_the_order_of_the_input(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, ["/hold?0", "/hello?1", "/hello?2"])
        async with started("fetch", links, "-o", "-", "-k", "-j", "3", *FREE) as process:
            await site.was_asked(3)
            site.released.set()
            out, _ = await process.communicate()
            assert await process.wait() == 0
        assert [json.loads(line)["index"] for line in out.splitlines()] == [0, 1, 2]

    with_site(main)


def test_what_spares_a_host_can_be_changed_and_lifted(tmp_path: Path) -> None:
    """`-j auto` begins with four."""

    async def count(number: int, at_once: int, *typed: str) -> None:
        async with Site() as site:
            folder = tmp_path / str(number)
            folder.mkdir()
            links = write_links(folder, site, [f"/hold?{number}" for number in range(6)])
            async with started("fetch", links, "-o", folder / "out", *typed, *OURS):
                await site.was_asked(at_once)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(site.was_asked(at_once + 1), 0.2)

    async def main() -> None:
        await asyncio.gather(
            count(1, 2, "--per-key-rate", "none"),
            count(2, 3, "--per-key-rate", "100/s", "--per-key-tasks", "3"),
            count(3, 3, "--per-key-rate", "3/h", "--per-key-tasks", "none"),
            count(4, 4, "--per-key-rate", "none", "--per-key-tasks", "none"),
        )

    asyncio.run(main())


def test_a_column_can_be_what_is_spared(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        rows = "".join(f"{site.url(f'/hold?{number}')},{number % 2}\n" for number in range(6))
        (tmp_path / "links.csv").write_text("url,account\n" + rows)
        typed = ["--per-key", "account", "--per-key-tasks", "1", "--per-key-rate", "none", *OURS]
        async with started("fetch", tmp_path / "links.csv", "-o", tmp_path / "out", *typed):
            await site.was_asked(2)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(site.was_asked(3), 0.2)
            assert sorted(site.asked) == ["/hold?0", "/hold?1"]

    with_site(main)


def test_a_rate_holds_for_all_hosts_together(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = tmp_path / "links.txt"
        links.write_text("\n".join([site.url("/hello"), elsewhere(site, "/hello")] * 2))
        typed = ["--rate", "1/0.2s", "--per-key-rate", "none", *OURS]
        assert (await ran("fetch", links, "-o", tmp_path / "out", *typed))[0] == 0
        # The first may have arrived late; the last did not come early.
        assert site.asked_at[-1] - site.asked_at[0] > 0.6 - 0.2

    with_site(main)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["-j", "2.5"], "as in -j 10, or -j auto"),
        (["--rate", "100/d"], "as in --rate 4/s, --rate 100/m"),
        (["--rate", "0.5/s"], "'0.5/s' is no rate"),
        (["--rate", "0/s"], "--rate 1/10s"),
        (["--rate", "1/0m"], "--rate 1/10s"),
        (["--per-key-tasks", "0"], "the least is 1"),
        (["--per-key-tasks", "two"], "--per-key-tasks 2"),
        (["--per-key-rate", "often"], "--per-key-rate 4/s"),
        (["--per-key", "none", "--per-key-tasks", "2"], "--per-key-tasks bounds each key, and there is none"),
        (["--per-key", "none", "--per-key-rate", "4/s"], "--per-key-rate bounds each key, and there is none"),
        (["--retries", "-1"], "--retries 0 for none"),
        (["--retries", "9" * 5000], "--retries 4"),
        (["--retry-on", "5xx,dsn"], "'dsn' is no class"),
        (["--retry-on", ""], "timeout, conn, dns, connect"),
        (["-H", "Accept"], "-H 'Accept: text/html'"),
        (["--save", ""], "--save pages"),
        (["--fresh", "--accept-change"], "leave out one of the two"),
    ],
)
def test_a_flag_that_cannot_be_meant_is_a_mistake_that_says_what_to_type(typed: list[str], told: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        aiomap.main(["fetch", "links.txt", "-o", "out", *typed], standalone_mode=False)
    assert told in caught.value.format_message()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("typed", "rate"),
    [
        ("5", Rate(5)),
        ("5/s", Rate(5)),
        ("100/m", Rate(100, per=60)),
        ("1000/h", Rate(1000, per=3600)),
        ("10/2s", Rate(10, per=2)),
        ("1/0.25s", Rate(1, per=0.25)),
        ("1/1.5m", Rate(1, per=90)),
        ("none", None),
    ],
)
def test_a_rate_is_so_many_in_a_time(typed: str, rate: Rate | None) -> None:
    flag = click.Option(["--rate"])
    assert repr(parse_rate(click.Context(click.Command("fetch")), flag, typed)) == repr(rate)


def busy(site: Site, path: str, most: int, pause: float) -> list[float]:
    """Has the path answer 429 to what exceeds so many at once; gives when each of these answers was sent."""
    sent: list[float] = []
    now = 0

    async def say(writer: asyncio.StreamWriter) -> None:
        nonlocal now
        is_one_too_many = now >= most
        if is_one_too_many:
            sent.append(asyncio.get_running_loop().time())
            said = answer(b"", f"Retry-After: {pause}", "Connection: close", status="429 Too Many")
        else:
            now += 1
            await asyncio.sleep(0.02)
            now -= 1
            said = answer(b"hello", "Connection: close")
        writer.write(said)
        await writer.drain()

    site.answers[path] = say
    return sent


@pytest.mark.parametrize(("concurrency", "pages"), [("auto", 40), ("20", 12)])
def test_a_site_that_wants_a_pause_gets_it_and_everything_is_fetched(
    tmp_path: Path, concurrency: str, pages: int
) -> None:
    async def main(site: Site) -> None:
        sent = busy(site, "/busy", most=6, pause=0.4)
        links = write_links(tmp_path, site, [f"/busy?{number}" for number in range(pages)])
        code, _, err = await ran("fetch", links, "-o", tmp_path / "out", "-j", concurrency, *FREE)
        assert code == 0, err
        assert sent
        # What was on its way already when the first answer came is no matter.
        early = [at for at in site.asked_at for refused in sent if refused + 0.2 < at < refused + 0.4]
        assert not early
        records = lines_in(tmp_path / "out")
        assert sorted(record["index"] for record in records) == list(range(pages))
        assert sum(record["attempts"] for record in records) == len(site.asked) == pages + len(sent)

    with_site(main)


def test_a_host_that_wants_a_pause_holds_up_no_other(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        site.answers["/busy"] = answer(b"", "Retry-After: 100", status="503 Busy")
        links = tmp_path / "links.txt"
        others = [elsewhere(site, f"/hello?{number}") for number in range(6)]
        links.write_text("\n".join([site.url("/busy"), site.url("/hello"), *others]))
        typed = ["--per-key-tasks", "none", "--per-key-rate", "none", "-j", "1", *OURS]
        async with started("fetch", links, "-o", tmp_path / "out", *typed):
            await site.was_asked(7)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(site.was_asked(8), 0.2)
        assert sorted(site.asked) == ["/busy", *(f"/hello?{number}" for number in range(6))]

    with_site(main)


# Back-offs are drawn from 0 to something: this draws 0.
NO_BACK_OFF = "import random; random.uniform = lambda low, high: low"


@pytest.mark.parametrize(
    ("typed", "attempts"),
    [
        ([], {"/broken": 5, "/cut": 5, "/missing": 1, "/busy": 3}),
        (["--retries", "0"], {"/broken": 1, "/cut": 1, "/missing": 1, "/busy": 1}),
        (["--retries", "2", "--retry-on", "5xx, http_4xx"], {"/broken": 3, "/cut": 1, "/missing": 3, "/busy": 3}),
    ],
)
def test_what_failed_is_tried_again_as_often_as_told(
    tmp_path: Path, typed: list[str], attempts: dict[str, int]
) -> None:
    async def main(site: Site) -> None:
        async def be_busy_twice(writer: asyncio.StreamWriter) -> None:
            status = "429 Busy" if site.asked.count("/busy") < 3 else "200 OK"
            writer.write(answer(b"", "Retry-After: 0.01", "Connection: close", status=status))

        site.answers |= {"/cut": b"", "/busy": be_busy_twice}
        links = write_links(tmp_path, site, ["/broken", "/cut", "/missing", "/busy"])
        code, _, _ = await ran("fetch", links, "-o", tmp_path / "out", *typed, *FREE, code=NO_BACK_OFF)
        assert code == 1
        assert Counter(site.asked) == attempts
        failed = {line["input"]: line["error"]["class"] for line in lines_in(tmp_path / "out.failed.jsonl")}
        expected = {"/broken": "http_5xx", "/cut": "connect", "/missing": "http_4xx"}
        expected |= {} if attempts["/busy"] == 3 else {"/busy": "http_429"}
        assert failed == {site.url(path): kind for path, kind in expected.items()}

    with_site(main)


def test_the_timeout_is_one_attempts_and_what_it_ends_is_tried_again(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, ["/hold?1", "/hold?2"])
        typed = ["--timeout", "0.2", "--retries", "1", *FREE]
        code, _, _ = await ran("fetch", links, "-o", tmp_path / "out", *typed, code=NO_BACK_OFF)
        assert code == 1
        assert sorted(site.asked) == ["/hold?1", "/hold?1", "/hold?2", "/hold?2"]
        assert [line["error"]["class"] for line in lines_in(tmp_path / "out.failed.jsonl")] == ["timeout"] * 2

    with_site(main)


def test_a_name_whose_servers_do_not_answer_is_a_timeout_and_does_not_hold_up_the_end(tmp_path: Path) -> None:
    (tmp_path / "links.txt").write_text("http://silent.invalid/\n")
    typed = ["--no-robots", "--timeout", "0.2", "--retries", "0"]
    silent = "import socket, time; socket.getaddrinfo = lambda *_, **__: time.sleep(3600)"
    code, _, err = run("fetch", "links.txt", "-o", "out", *typed, folder=tmp_path, code=silent)
    assert code == 1, err
    assert [line["error"]["class"] for line in lines_in(tmp_path / "out.failed.jsonl")] == ["timeout"]


def test_stdin_and_stdout_are_written_as_a_dash_and_stdout_has_nothing_but_data() -> None:
    async def main(site: Site) -> None:
        text = f"{site.url('/hello')}\n{site.url('/missing')}".encode()
        code, out, err = await ran("fetch", "-", "-o", "-", *FREE, text=text)
        assert code == 1
        [line] = out.splitlines()
        assert json.loads(line)["value"]["text"] == "hello"
        assert "http_4xx" in err

    with_site(main)


def test_a_result_comes_out_while_stdin_is_still_open() -> None:
    async def main(site: Site) -> None:
        async with started("fetch", "-", "-o", "-", *FREE, stdin=PIPE) as process:
            for number in range(3):
                process.write(f"{site.url('/hello')}?{number}\n".encode())
                assert json.loads(await process.stdout.readline())["key"].endswith(f"?{number}")
            process.end_of_input()
            assert await process.wait() == 0

    with_site(main)


def test_ctrl_c_stops_waiting_for_a_silent_stdin() -> None:
    async def main(site: Site) -> None:
        async with started("fetch", "-", "-o", "-", *FREE, stdin=PIPE) as process:
            process.write(f"{site.url('/hello')}\n".encode())
            await process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130

    with_site(main)


def test_large_pages_wait_for_a_slow_reader_at_their_servers(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        site.answers["/large"] = answer(bytes(4 << 20))
        reading, writing = os.pipe()
        links = write_links(tmp_path, site, [f"/large?{number}" for number in range(60)])
        async with started("fetch", links, "-o", "-", "-j", "3", *FREE, stdout=writing) as process:
            os.close(writing)
            await site.was_asked(4)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(site.was_asked(40), 2)
            process.kill()
            os.close(reading)

    with_site(main)


def test_an_empty_input_is_a_success_and_said(tmp_path: Path) -> None:
    code, out, err = run("fetch", "-", "-o", "-", text=b"\n \r\n")
    assert (code, out) == (0, "")
    assert "0 items" in err


def test_quiet_says_nothing(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, ["/hello", "/missing"])
        assert await ran("fetch", links, "-o", tmp_path / "out", "-q", *FREE) == (1, "", "")

    with_site(main)


def test_a_dry_run_counts_links_and_hosts_and_asks_nobody(tmp_path: Path) -> None:
    (tmp_path / "links.txt").write_text("http://a.example/1\nhttp://a.example/2\nhttp://b.example\nmailto:x@y\n")
    code, out, err = run("fetch", "links.txt", "-o", "out.jsonl", "--dry-run", folder=tmp_path)
    assert (code, out) == (0, "")
    assert "4 records at 2 hosts, 1 of them no links; nothing was run" in err
    assert "the most at one host: 2 at a.example" in err
    assert names_in(tmp_path) == {"links.txt"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fetch", "links.txt"], "Missing option '-o'"),
        (["fetch", "-o", "out"], "Missing argument 'INPUT...'"),
        (["fetch", "links.txt", "-o", "out", "-j", "0"], "the least is 1"),
        (["fetch", "links.txt", "-o", "out", "-j", "9999999"], "ulimit -n"),
        (["fetch", "links.txt", "-o", "out", "--timeout", "-1"], "is no time"),
        (["fetch", "links.txt", "-o", "out", "--max-body", "16Q"], "--max-body 16M"),
        (
            ["fetch", "links.txt", "-o", "out", "--max-bodies", "3"],
            "(Did you mean one of: '--max-body', '--max-failures', '--max-time'?)",
        ),
        (["fetch", "links.txt", "-o", "out", "--method", "G ET"], "the method is not valid"),
        (["fetch", "links.txt", "-o", "out", "--method", "connect"], "CONNECT"),
        (["fetch", "links.txt", "-o", "out", "-H", "host: x"], "leave it out"),
        (["fech", "links.txt"], "Did you mean 'fetch'?"),
        (["fetch", "nowhere.txt", "-o", "out"], "cannot read nowhere.txt: No such file"),
        (["fetch", ".", "-o", "out"], "is a folder"),
        (["fetch", "https://example.com/a'b", "-o", "out"], "is a file with a link on each line, not a link"),
        (["fetch", "links.txt", "-o", "no/where/out"], "mkdir -p no/where"),
        (["fetch", "links.txt", "-o", "."], "is no regular file"),
        (["fetch", "links.txt", "-o", "out", "--save", "links.txt"], "is no folder"),
    ],
)
def test_a_mistake_exits_2_with_a_sentence_that_helps_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    (tmp_path / "links.txt").write_text("http://127.0.0.1:1/\n")
    code, out, err = run(*arguments, folder=tmp_path)
    assert (code, out) == (2, ""), err
    assert told in err
    assert "Traceback" not in err
    assert names_in(tmp_path) == {"links.txt"}


def test_what_is_in_an_output_that_no_journal_knows_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "links.txt").write_text("http://127.0.0.1:1/\n")
    (tmp_path / "there.jsonl").write_text("a night's work\n")
    code, _, err = run("fetch", "links.txt", "-o", "there.jsonl", folder=tmp_path)
    assert code == 3
    assert "--fresh" in err
    assert (tmp_path / "there.jsonl").read_text() == "a night's work\n"


@pytest.mark.parametrize(("package", "extra"), [("click", "aiomap[cli]"), ("aiohttp", "aiomap[http]")])
def test_a_missing_extra_is_one_sentence_with_the_command_that_installs_it(
    tmp_path: Path, package: str, extra: str
) -> None:
    (tmp_path / "links.txt").write_text("http://127.0.0.1:1/\n")
    code = f"import sys; sys.modules[{package!r}] = None"
    status, out, err = run("fetch", "links.txt", "-o", "out", folder=tmp_path, code=code)
    assert (status, out) == (2, "")
    assert err.startswith("Error: ")
    assert f'pip install "{extra}"' in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_and_version_load_nothing_that_only_a_run_needs() -> None:
    code = (
        "import atexit, sys\n"
        "heavy = ['aiohttp', 'aiomap.fetch', 'aiomap.cli.job', 'aiomap.journal', 'importlib.metadata']\n"
        "heavy += ['aiomap.limits', 'aiomap._retry', 'aiomap.inputs', 'sqlite3']\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))"
    )
    status, out, err = run("fetch", "--help", code=code)
    assert (status, err) == (0, "[]\n")
    assert "\n    aiomap fetch links.txt -o pages.jsonl\n" in out
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith("aiomap ")


def test_an_interrupt_before_the_work_began_ends_it_without_a_traceback() -> None:
    early = "import os, signal, aiomap.cli as cli; cli._run = lambda: os.kill(os.getpid(), signal.SIGINT)"
    status, out, err = run(code=early)
    assert (status, out, err) == (-signal.SIGINT, "", "")


def test_the_command_to_go_on_with_can_be_typed_as_it_is_told(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, ["/hello", "/hold"])
        command = [
            "fetch",
            str(links),
            "-o",
            str(tmp_path / "out put.jsonl"),
            "-H",
            "Accept: text/html",
            *FREE,
        ]
        async with started(*command) as process:
            await site.was_asked(2)
            process.send_signal(signal.SIGINT)
            site.released.set()
            _, err = await process.communicate()
        assert shlex.join(["aiomap", *command]) in err.decode()

    with_site(main)
