"""The `aiomap` command, run as it is typed: what it writes, what it says, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest

from aiomap import Rate
from aiomap.cli.commands import aiomap
from aiomap.cli.flags import parse_rate
from aiomap.cli.output import JsonLines, WriteFailed
from aiomap.cli.summary import Summary
from tests.loopback import Site, answer

HELLO = answer(b"hello", "Content-Type: text/plain")

# The site of these tests is one host, and ours.
FREE = ("--per-key", "none")


def no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


def lines_in(file: Path) -> list[dict[str, Any]]:
    """The records of an output file, each read as strict JSON."""
    return [json.loads(line, parse_constant=no_constant) for line in file.read_bytes().decode("ascii").splitlines()]


@asynccontextmanager
async def started(
    *arguments: str | Path, folder: Path | None = None, code: str = "", **streams: Any
) -> AsyncIterator[Process]:
    """The command as a process; `code` runs in it before."""
    program = ["-c", f"{code}\nfrom aiomap.cli import main; main()"] if code else ["-m", "aiomap"]
    streams = {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE, **streams}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *program, *map(str, arguments), cwd=folder, **streams
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ran(
    *arguments: str | Path, folder: Path | None = None, text: bytes | None = None, code: str = ""
) -> tuple[int, str, str]:
    """Its exit code and what it wrote to stdout and stderr."""
    async with started(*arguments, folder=folder, code=code, stdin=DEVNULL if text is None else PIPE) as process:
        out, err = await process.communicate(text)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


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


def test_every_link_gives_one_line_and_success_exits_0(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, [f"/hello?{number}" for number in range(50)])
        code, out, err = await ran("fetch", links, "-o", tmp_path / "pages.jsonl", "-j", "8", *FREE)
        assert (code, out) == (0, "")
        records = lines_in(tmp_path / "pages.jsonl")
        assert sorted(record["key"] for record in records) == sorted(links.read_text().split())
        assert all(record["value"]["text"] == "hello" for record in records)
        assert sorted(record["index"] for record in records) == list(range(50))
        assert all(record["line"] == record["index"] + 1 for record in records)
        assert "50 links" in err
        assert f"written     {tmp_path}/pages.jsonl (50 lines)" in err

    with_site(main)


def test_a_failure_is_a_line_of_the_same_file_and_exits_1(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        bad = [
            b"",
            b"no link",
            b"http://\xff/",
            site.url("/hello").encode() + b"\r",
            b"http://\x1b]0;title\x07/",
            b"   ",
        ]
        bad += [b"http://" + b"x" * (17 << 20), site.url("/missing").encode(), site.url("/broken").encode()]
        bad += [site.url("/hello").encode()] * 2  # twice the same is asked for twice
        (tmp_path / "links.txt").write_bytes(b"\n".join(bad))
        code, _, err = await ran("fetch", "links.txt", "-o", "out.jsonl", "--retries", "0", *FREE, folder=tmp_path)
        assert code == 1
        records = {record["line"]: record for record in lines_in(tmp_path / "out.jsonl")}
        kinds = {line: record["error"]["class"] for line, record in records.items() if "error" in record}
        assert kinds == dict.fromkeys([2, 3, 5, 7], "bad_input") | {8: "http_4xx", 9: "http_5xx"}
        assert {line for line, record in records.items() if "value" in record} == {4, 10, 11}
        assert records[8]["error"]["status"] == 404
        assert records[3]["key"] == "http://\\xff/"
        assert len(records[7]["key"]) < 1000
        assert Counter(site.asked)["/hello"] == 3
        assert "bad_input" in err
        assert "line 8: 404 Not Found" in err
        assert all(line.isprintable() for line in err.split("\n"))

    with_site(main)


def test_no_more_links_are_asked_for_at_once_than_j(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, ["/hold"] * 12)
        async with started("fetch", links, "-o", tmp_path / "out", "-j", "4", *FREE) as process:
            await site.was_asked(4)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(site.was_asked(5), 0.2)
            site.released.set()
            assert await process.wait() == 0
        assert site.most_at_once == 4
        assert len(site.asked) == 12

    with_site(main)


def elsewhere(site: Site, path: str) -> str:
    """The link to a path of the same site under the name of another host."""
    return site.url(path).replace("127.0.0.1", "localhost")


def test_a_host_is_spared_without_being_asked_to_and_no_other_waits_for_it(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = tmp_path / "links.txt"
        own = [site.url(f"/hold?{number}") for number in range(4)]
        links.write_text("\n".join([*own, elsewhere(site, "/hold?a"), elsewhere(site, "/hold?b")]))
        async with started("fetch", links, "-o", tmp_path / "out") as process:
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


def test_what_spares_a_host_can_be_changed_and_lifted(tmp_path: Path) -> None:
    """`-j auto` begins with four."""

    async def count(number: int, at_once: int, *flags: str) -> None:
        async with Site() as site:
            folder = tmp_path / str(number)
            folder.mkdir()
            links = write_links(folder, site, ["/hold"] * 6)
            async with started("fetch", links, "-o", folder / "out", *flags):
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


def test_a_rate_holds_for_all_hosts_together(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = tmp_path / "links.txt"
        links.write_text("\n".join([site.url("/hello"), elsewhere(site, "/hello")] * 2))
        code, _, _ = await ran("fetch", links, "-o", tmp_path / "out", "--rate", "1/0.2s", "--per-key-rate", "none")
        assert code == 0
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
        (["--per-key", "account"], "CSV is still to come"),
        (["--per-key-tasks", "0"], "the least is 1"),
        (["--per-key-tasks", "two"], "--per-key-tasks 2"),
        (["--per-key-rate", "often"], "--per-key-rate 4/s"),
        ([*FREE, "--per-key-tasks", "2"], "leaves nothing for --per-key-tasks"),
        ([*FREE, "--per-key-rate", "4/s"], "leaves nothing for --per-key-rate"),
        (["--retries", "-1"], "--retries 0 for none"),
        (["--retries", "9" * 5000], "--retries 4"),
        (["--retry-on", "5xx,dsn"], "'dsn' is no class"),
        (["--retry-on", ""], "timeout, conn, dns, connect"),
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
        assert code == 0
        assert sent
        # What was on its way already when the first answer came is no matter.
        early = [at for at in site.asked_at for refused in sent if refused + 0.2 < at < refused + 0.4]
        assert not early
        records = lines_in(tmp_path / "out")
        assert sorted(record["index"] for record in records) == list(range(pages))
        assert sum(record["attempts"] for record in records) == len(site.asked) == pages + len(sent)
        assert f"retries     {len(sent):>9}" in err
        assert "failed              0" in err

    with_site(main)


def test_a_host_that_wants_a_pause_holds_up_no_other(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        site.answers["/busy"] = answer(b"", "Retry-After: 100", status="503 Busy")
        links = tmp_path / "links.txt"
        others = [elsewhere(site, f"/hello?{number}") for number in range(6)]
        links.write_text("\n".join([site.url("/busy"), site.url("/hello"), *others]))
        flags = ["--per-key-tasks", "none", "--per-key-rate", "none", "-j", "1"]
        async with started("fetch", links, "-o", tmp_path / "out", *flags):
            await site.was_asked(7)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(site.was_asked(8), 0.2)
        assert sorted(site.asked) == ["/busy", *(f"/hello?{number}" for number in range(6))]

    with_site(main)


# Back-offs are drawn from 0 to something: this draws 0.
NO_BACK_OFF = "import random; random.uniform = lambda low, high: low"


@pytest.mark.parametrize(
    ("flags", "attempts"),
    [
        ([], {"/broken": 5, "/cut": 5, "/missing": 1, "/busy": 3}),
        (["--retries", "0"], {"/broken": 1, "/cut": 1, "/missing": 1, "/busy": 1}),
        (["--retries", "2", "--retry-on", "5xx, http_4xx"], {"/broken": 3, "/cut": 1, "/missing": 3, "/busy": 3}),
    ],
)
def test_what_failed_is_tried_again_as_often_as_told(
    tmp_path: Path, flags: list[str], attempts: dict[str, int]
) -> None:
    async def main(site: Site) -> None:
        async def be_busy_twice(writer: asyncio.StreamWriter) -> None:
            status = "429 Busy" if site.asked.count("/busy") < 3 else "200 OK"
            writer.write(answer(b"", "Retry-After: 0.01", "Connection: close", status=status))

        site.answers |= {"/cut": b"", "/busy": be_busy_twice}
        links = write_links(tmp_path, site, ["/broken", "/cut", "/missing", "/busy"])
        code, _, err = await ran("fetch", links, "-o", tmp_path / "out", *flags, *FREE, code=NO_BACK_OFF)
        assert code == 1
        assert Counter(site.asked) == attempts
        records = {record["key"]: record for record in lines_in(tmp_path / "out")}
        assert {path: records[site.url(path)]["attempts"] for path in attempts} == attempts
        kinds = {path: records[site.url(path)].get("error", {}).get("class") for path in attempts}
        busy_kind = None if attempts["/busy"] == 3 else "http_4xx"
        assert kinds == {"/broken": "http_5xx", "/cut": "connect", "/missing": "http_4xx", "/busy": busy_kind}
        retries = sum(attempts.values()) - 4
        assert ("retries" in err) == (retries > 0)

    with_site(main)


def test_the_timeout_is_one_attempts_and_what_it_ends_is_tried_again(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, ["/hold?1", "/hold?2"])
        flags = ["--timeout", "0.2", "--retries", "1", *FREE]
        code, _, _ = await ran("fetch", links, "-o", tmp_path / "out", *flags, code=NO_BACK_OFF)
        assert code == 1
        assert sorted(site.asked) == ["/hold?1", "/hold?1", "/hold?2", "/hold?2"]
        for record in lines_in(tmp_path / "out"):
            assert (record["error"]["class"], record["attempts"]) == ("timeout", 2)
            assert record["error"]["message"] == "not done after 0.2 s"

    with_site(main)


def test_large_pages_wait_for_a_slow_reader_at_their_servers(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        site.answers["/large"] = answer(bytes(300_000))
        reading, writing = os.pipe()
        links = write_links(tmp_path, site, ["/large"] * 60)
        little = "import aiomap.cli.sitting as sitting; sitting._MOST_HELD = 1 << 21"
        async with started("fetch", links, "-o", "-", "-j", "3", *FREE, stdout=writing, code=little) as process:
            os.close(writing)
            await site.was_asked(8)  # so many are more than it may hold, and nobody reads
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(site.was_asked(30), 0.2)
            with os.fdopen(reading, "rb") as file:
                lines = await asyncio.to_thread(file.readlines)
            assert await process.wait() == 0
            assert len(lines) == 60

    with_site(main)


def test_stdin_and_stdout_are_written_as_a_dash_and_stdout_has_nothing_but_data() -> None:
    async def main(site: Site) -> None:
        text = f"{site.url('/hello')}\n{site.url('/missing')}".encode()
        code, out, err = await ran("fetch", "-", "-o", "-", *FREE, text=text)
        assert code == 1
        assert sorted("value" in json.loads(line) for line in out.splitlines()) == [False, True]
        assert "2 links" in err
        assert "written" not in err

    with_site(main)


def test_a_result_comes_out_while_stdin_is_still_open() -> None:
    async def main(site: Site) -> None:
        async with started("fetch", "-", "-o", "-", *FREE, stdin=PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for number in range(3):
                process.stdin.write(f"{site.url('/hello')}?{number}\n".encode())
                assert json.loads(await process.stdout.readline())["key"].endswith(f"?{number}")
            process.stdin.close()
            assert await process.wait() == 0

    with_site(main)


def test_an_empty_input_is_a_success_and_said() -> None:
    code, out, err = run("fetch", "-", "-o", "-", text=b"\n \r\n")
    assert (code, out) == (0, "")
    assert "no link" in err


def test_quiet_says_nothing(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, ["/hello", "/missing"])
        assert await ran("fetch", links, "-o", tmp_path / "out", "-q", *FREE) == (1, "", "")

    with_site(main)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fetch", "links.txt"], "Missing option '-o'"),
        (["fetch", "-o", "out"], "Missing argument 'INPUT'"),
        (["fetch", "links.txt", "-o", "out", "-j", "0"], "the least is 1"),
        (["fetch", "links.txt", "-o", "out", "-j", "abc"], "'abc' is not a whole number"),
        (["fetch", "links.txt", "-o", "out", "-j", "9999999"], "ulimit -n"),
        (["fetch", "links.txt", "-o", "out", "--timeout", "-1"], "above 0"),
        (["fetch", "links.txt", "-o", "out", "--timeout", "nan"], "above 0"),
        (["fetch", "links.txt", "-o", "out", "--timeout", "1m"], "--timeout 60"),
        (["fetch", "links.txt", "-o", "out", "--max-body", "16Q"], "--max-body 16M"),
        (["fetch", "links.txt", "-o", "out", "--max-body", "0"], "--max-body 16M"),
        (["fetch", "links.txt", "-o", "out", "--max-bodies", "3"], "Did you mean '--max-body'?"),
        (["fech", "links.txt"], "Did you mean 'fetch'?"),
        (["fetch", "nowhere.txt", "-o", "out"], "cannot read nowhere.txt: No such file"),
        (["fetch", ".", "-o", "out"], "cannot read .: Is a directory"),
        (["fetch", "https://example.com/a'b", "-o", "out"], "is a file with a link on each line, not a link"),
        (["fetch", "links.txt", "-o", "no/where/out"], "mkdir -p no/where"),
        (["fetch", "links.txt", "-o", "."], "cannot write .: Is a directory"),
        (["fetch", "links.txt", "-o", "there.jsonl"], "add --force"),
        (["fetch", "links.txt", "-o", "links.txt", "--force"], "is the input itself"),
        (["fetch", "links.txt", "-o", "./same.txt", "--force"], "is the input itself"),
    ],
)
def test_a_mistake_exits_2_with_a_sentence_that_helps_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    (tmp_path / "links.txt").write_text("http://127.0.0.1:1/\n")
    (tmp_path / "there.jsonl").write_text("a night's work\n")
    (tmp_path / "same.txt").symlink_to("links.txt")
    code, out, err = run(*arguments, folder=tmp_path)
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["links.txt", "same.txt", "there.jsonl"]
    assert (tmp_path / "links.txt").read_text() == "http://127.0.0.1:1/\n"
    assert (tmp_path / "there.jsonl").read_text() == "a night's work\n"


def test_with_force_an_existing_file_is_overwritten(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        output = tmp_path / "out.jsonl"
        output.write_text("old\n" * 1000)
        links = write_links(tmp_path, site, ["/hello"])
        code, _, _ = await ran("fetch", links, "-o", output, "--force")
        assert code == 0
        assert len(lines_in(output)) == 1

    with_site(main)


def test_what_is_no_regular_file_needs_no_force(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        code, _, _ = await ran("fetch", write_links(tmp_path, site, ["/hello"]), "-o", os.devnull)
        assert code == 0

    with_site(main)


def test_an_output_that_cannot_be_written_exits_6_with_the_reason(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        code, _, err = await ran("fetch", write_links(tmp_path, site, ["/hello"]), "-o", "/dev/full")
        assert code == 6
        assert "cannot write /dev/full: No space left on device" in err
        assert "Traceback" not in err

    with_site(main)


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, ["/hello"] * 20 + ["/hold"] * 1000)
        reading, writing = os.pipe()
        async with started("fetch", links, "-o", "-", "-j", "3", *FREE, stdout=writing) as process:
            os.close(writing)
            await site.was_asked(1)
            os.close(reading)
            site.released.set()
            assert process.stderr is not None
            err = (await process.stderr.read()).decode()
            assert await process.wait() == 128 + signal.SIGPIPE
            assert "Error" not in err
            assert "fetched" not in err
        assert len(site.asked) < 1000

    with_site(main)


@asynccontextmanager
async def half_way(site: Site, folder: Path, *, piped: bool = False) -> AsyncIterator[Process]:
    """The command in the middle of its work: three links are done and written, three are held, more are to come."""
    links = write_links(folder, site, ["/hello"] * 3 + ["/hold"] * 100)
    with links.open("rb") as file:
        source: dict[str, Any] = {"stdin": PIPE} if piped else {"stdin": file}
        async with started("fetch", "-", "-o", folder / "out", "-j", "3", *FREE, **source) as process:
            if process.stdin is not None:
                process.stdin.write(file.read())
            await site.was_asked(6)
            while len((folder / "out").read_bytes().splitlines()) < 3:  # noqa: ASYNC110  (another process writes it)
                await asyncio.sleep(0.001)
            yield process


async def said(process: Process, words: str) -> str:
    """What it says on stderr up to the line with these words."""
    assert process.stderr is not None
    text = ""
    while words not in text:
        line = await process.stderr.readline()
        assert line, f"it never said {words!r}: {text}"
        text += line.decode()
    return text


@pytest.mark.parametrize("piped", [False, True])
def test_ctrl_c_starts_nothing_more_finishes_what_runs_and_exits_130(tmp_path: Path, *, piped: bool) -> None:
    async def main(site: Site) -> None:
        async with half_way(site, tmp_path, piped=piped) as process:
            process.send_signal(signal.SIGINT)
            await said(process, "3 links in flight will be finished")
            site.released.set()
            assert await process.wait() == 130
            assert process.stderr is not None
            assert "stopped after 6 links" in (await process.stderr.read()).decode()
        assert len(site.asked) == 6
        assert len(lines_in(tmp_path / "out")) == 6

    with_site(main)


def test_a_second_ctrl_c_cancels_what_runs_and_keeps_what_is_done(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        async with half_way(site, tmp_path) as process:
            process.send_signal(signal.SIGINT)
            await said(process, "will be finished")
            process.send_signal(signal.SIGINT)
            await said(process, "stopped after 3 links")
            assert await process.wait() == 130
        assert len(lines_in(tmp_path / "out")) == 3

    with_site(main)


def test_a_third_ctrl_c_ends_it_even_if_its_output_is_stuck(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        site.answers["/large"] = answer(bytes(300_000))
        reading, writing = os.pipe()
        links = write_links(tmp_path, site, ["/large"] * 3 + ["/hold"] * 3)
        async with started("fetch", links, "-o", "-", "-j", "3", *FREE, stdout=writing) as process:
            os.close(writing)
            await site.was_asked(6)  # nobody reads the large ones
            for words in ["will be finished", "cancelling"]:
                process.send_signal(signal.SIGINT)
                await said(process, words)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
        os.close(reading)

    with_site(main)


def test_ctrl_c_stops_waiting_for_a_silent_stdin() -> None:
    async def main(site: Site) -> None:
        async with started("fetch", "-", "-o", "-", *FREE, stdin=PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{site.url('/hello')}\n".encode())
            await process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130

    with_site(main)


def test_ctrl_c_waits_for_no_link_that_waits_itself(tmp_path: Path) -> None:
    """One has to wait for its next attempt, and one for its host."""

    async def main(site: Site) -> None:
        site.answers["/busy"] = answer(b"", "Retry-After: 100", status="429 Busy")
        links = write_links(tmp_path, site, ["/hold", "/busy", "/hello"])
        async with started("fetch", links, "-o", tmp_path / "out", "--per-key-rate", "none") as process:
            await site.was_asked(2)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(site.was_asked(3), 0.2)
            process.send_signal(signal.SIGINT)
            await said(process, "1 link in flight will be finished")
            site.released.set()
            assert await asyncio.wait_for(process.wait(), 20) == 130
        [record] = lines_in(tmp_path / "out")
        assert record["key"] == site.url("/hold")
        assert site.asked == ["/hold", "/busy"]

    with_site(main)


def test_ctrl_c_ends_it_at_once_when_every_link_waits(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        site.answers["/busy"] = answer(b"", "Retry-After: 100", status="429 Busy")
        links = write_links(tmp_path, site, ["/busy", "/hello"])
        async with started("fetch", links, "-o", tmp_path / "out", "-j", "1") as process:
            await site.was_asked(1)
            await asyncio.sleep(0.2)  # it is to read the answer
            process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(process.wait(), 20) == 130
            assert process.stderr is not None
            assert "stopped after 0 links" in (await process.stderr.read()).decode()
        assert lines_in(tmp_path / "out") == []

    with_site(main)


def test_who_was_told_to_ignore_ctrl_c_ignores_it(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        links = write_links(tmp_path, site, ["/hold"])
        ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
        async with started("fetch", links, "-o", tmp_path / "out", code=ignore) as process:
            await site.was_asked(1)
            process.send_signal(signal.SIGINT)
            site.released.set()
            assert await process.wait() == 0

    with_site(main)


def test_a_kill_leaves_every_line_whole_but_perhaps_the_last(tmp_path: Path) -> None:
    async def main(site: Site) -> None:
        async with half_way(site, tmp_path) as process:
            process.kill()
            await process.wait()
        *whole, _ = (tmp_path / "out").read_bytes().split(b"\n")
        assert len(whole) == 3
        assert all(json.loads(line)["value"] for line in whole)

    with_site(main)


@pytest.mark.parametrize(
    ("package", "extra"), [("click", "aiomap[cli]"), ("aiohttp", "aiomap[http]"), ("tqdm", "aiomap[progress]")]
)
def test_a_missing_extra_is_one_sentence_with_the_command_that_installs_it(
    tmp_path: Path, package: str, extra: str
) -> None:
    (tmp_path / "links.txt").write_text("http://127.0.0.1:1/\n")
    code = f"import sys; sys.modules[{package!r}] = sys.modules['{package}.auto'] = None"
    status, out, err = run("fetch", "links.txt", "-o", "out", folder=tmp_path, code=code)
    assert (status, out) == (2, "")
    assert err.startswith("Error: ")
    assert f'pip install "{extra}"' in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_and_version_load_nothing_that_only_a_run_needs() -> None:
    code = (
        "import atexit, sys\n"
        "heavy = ['aiohttp', 'tqdm', 'aiomap.fetch', 'aiomap.cli.sitting', 'importlib.metadata']\n"
        "heavy += ['aiomap.limits', 'aiomap._retry']\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))"
    )
    status, out, err = run("fetch", "--help", code=code)
    assert (status, err) == (0, "[]\n")
    assert "\n    aiomap fetch links.txt -o pages.jsonl -j 20 --rate 100/m --retries 2\n" in out
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith("aiomap ")


def test_an_interrupt_before_the_work_began_ends_it_without_a_traceback() -> None:
    early = "import os, signal, aiomap.cli as cli; cli._run = lambda: os.kill(os.getpid(), signal.SIGINT)"
    status, out, err = run(code=early)
    assert (status, out, err) == (-signal.SIGINT, "", "")


def test_a_slow_reader_of_the_output_stops_nothing_else() -> None:
    """The reader runs in the very loop that writes: did a write block that loop, both would wait for ever."""

    async def main() -> None:
        reading, writing = os.pipe()
        got = bytearray()
        asyncio.get_running_loop().add_reader(reading, lambda: got.extend(os.read(reading, 1 << 16)))
        async with JsonLines(writing) as output:
            for _ in range(40):
                await output.write(b"x" * 99_999 + b"\n")
        asyncio.get_running_loop().remove_reader(reading)
        while len(got) < 4_000_000:
            got.extend(os.read(reading, 1 << 16))
        os.close(reading)
        assert set(bytes(got).split(b"\n")) == {b"x" * 99_999, b""}

    asyncio.run(main())


def test_lines_are_written_in_order_whenever_a_write_ends(tmp_path: Path) -> None:
    """The end of a write, the next line and the last one fall together in many ways; none of them waits for ever."""

    async def main() -> None:
        with (tmp_path / "out").open("wb") as file:
            for number in range(1000):
                async with JsonLines(os.dup(file.fileno())) as output:
                    for pauses in range(number % 7):
                        await output.write(b"%d/%d\n" % (number, pauses))
                        for _ in range(pauses):
                            await asyncio.sleep(0)
        expected = [b"%d/%d" % (number, pauses) for number in range(1000) for pauses in range(number % 7)]
        assert (tmp_path / "out").read_bytes().split() == expected

    asyncio.run(main())


def test_after_a_write_failed_nothing_more_is_written() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        os.close(reading)
        with pytest.raises(WriteFailed) as caught:
            async with JsonLines(writing) as output:
                await output.write(bytes(2 << 20))
        assert isinstance(caught.value.__cause__, BrokenPipeError)

    asyncio.run(main())


def test_the_summary_is_right_to_one_percent_and_safe_to_print() -> None:
    summary = Summary()
    for number in range(1, 1001):
        summary.add_success(number / 1000, 2 if number <= 10 else 1)
    summary.add_failure("timeout", 7, "\x1b[31mred", 0.5, 5)
    summary.add_failure("bad_input", 9, "no link", 0.0, 1)
    assert summary.percentile(0.5) == pytest.approx(0.5, rel=0.012)
    assert summary.percentile(0.95) == pytest.approx(0.95, rel=0.012)
    text = summary.text(10.0, "a b.jsonl", stopped=False)
    assert text.startswith("aiomap: 1,002 links in 10.0 s, 100.2 a second\n")
    assert "line 7: \ufffd[31mred" in text
    assert "\n  retries            14\n" in text
    assert text.endswith("'a b.jsonl'")
    assert summary.text(10.0, "-", stopped=True).startswith("aiomap: stopped after 1,002 links")
