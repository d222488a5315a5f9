"""The demonstration does what it says, on a site that is the same every time."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.once

DEMO = Path(__file__).parent.parent / "demo"


MANNERS = ("again", "too_early", "forbidden")


@pytest.fixture(scope="module")
def site() -> ModuleType:
    return module_of("site")


@pytest.fixture
def run() -> ModuleType:
    return module_of("run")


def module_of(name: str) -> ModuleType:
    """A file of the demonstration, under a name that Python's own `site` does not have."""
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMO / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_demonstration_fetches_the_whole_site_and_says_so(tmp_path: Path) -> None:
    program = "import sys, pathlib, run; run.FOLDER = pathlib.Path(sys.argv[1]); sys.exit(run.main(300))"
    child = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=DEMO,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    assert child.stdout.count("\nok ") == 7
    assert "0 came before a Retry-After had passed" in child.stdout
    assert "0 pages were asked for again that had been given" in child.stdout
    assert "the first sitting ended with 130, the second with 1" in child.stdout
    assert "WRONG" not in child.stdout
    records = [
        json.loads(line)
        for name in ("pages.jsonl", "pages.failed.jsonl")
        for line in (tmp_path / name).read_text().splitlines()
    ]
    assert Counter(record["key"] for record in records) == Counter((tmp_path / "links.txt").read_text().split())
    assert any("/moved/" in record.get("value", {}).get("url", "") for record in records)


def test_the_same_seed_gives_the_same_site(site: ModuleType) -> None:
    pages = [site.make_page(number, 1000, 1) for number in range(1000)]
    assert pages == [site.make_page(number, 1000, 1) for number in range(1000)]
    assert pages != [site.make_page(number, 1000, 2) for number in range(1000)]
    # So it is on every Python.
    assert (pages[7].kind, round(pages[7].latency, 6), pages[7].links[:3]) == EXAMPLE


EXAMPLE = ("plain", 0.017952, (663, 936, 966))


def test_the_site_has_pages_of_every_kind_and_only_links_to_its_own(site: ModuleType) -> None:
    pages = [site.make_page(number, 1000, 1) for number in range(1000)]
    assert {page.kind for page in pages} == set(site.KINDS)
    assert all(0 <= link < 1000 for page in pages for link in page.links)
    assert 0 < sum(page.latency >= 1 for page in pages) < 50


def test_the_site_refuses_what_is_too_much_at_once_and_counts_it(site: ModuleType) -> None:
    pressure = site.Pressure()
    with ExitStack() as stack:
        refused = [stack.enter_context(pressure.request(0.5 * (number > 50))) for number in range(site.AT_ONCE + 3)]
        assert refused == [False] * site.AT_ONCE + [True] * 3
    with pressure.request(1.2) as is_refused:
        assert not is_refused
    assert pressure.stats() == {
        "requests": site.AT_ONCE + 4,
        "most_in_flight": site.AT_ONCE + 3,
        "refused": 3,
        "too_early": 0,
        "fullest_second": site.AT_ONCE + 3,
        "forbidden": 0,
        "again": 0,
    }


def test_the_site_sees_who_comes_before_a_retry_after_has_passed(site: ModuleType) -> None:
    """Not who could not know of it yet, nor who comes when it has."""
    pressure = site.Pressure()
    came = {0.0: 0, 0.01: 0, site.ON_ITS_WAY: 0, site.ON_ITS_WAY + 0.01: 1, site.RETRY_AFTER - 0.01: 2}
    with ExitStack() as stack:
        for _ in range(site.AT_ONCE):
            stack.enter_context(pressure.request(-1.0))
        with pressure.request(0.0) as is_refused:
            assert is_refused
    for now, too_early in came.items():
        with pressure.request(now):
            assert pressure.stats()["too_early"] == too_early
    with pressure.request(site.RETRY_AFTER):
        assert pressure.stats()["too_early"] == 2


def test_the_site_sees_who_asks_again_for_what_was_given(site: ModuleType) -> None:
    pressure = site.Pressure()
    for number in (1, 2, 1, 3, 1):
        pressure.give(number)
    assert pressure.stats()["again"] == 2


POLITE = {"requests": 9, "most_in_flight": 2, "fullest_second": 9, "refused": 1} | dict.fromkeys(MANNERS, 0)


@pytest.mark.parametrize("wrong", [None, *MANNERS])
def test_bad_manners_fail_the_demonstration(run: ModuleType, wrong: str | None) -> None:
    assert run.check_manners(POLITE | ({} if wrong is None else {wrong: 1})) is (wrong is None)


@pytest.mark.parametrize(
    ("pages", "failed", "halfway", "good"),
    [
        (["a", "b"], ["c"], ["a"], True),
        (["a", "b"], [], [], False),
        (["a", "b", "b"], ["c"], [], False),
        (["b", "a"], ["c"], ["a"], False),
        (["a"], ["b", "c"], [], False),
    ],
)
def test_a_line_too_few_or_too_many_or_another_fails_the_demonstration(
    run: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pages: list[str],
    failed: list[str],
    halfway: list[str],
    *,
    good: bool,
) -> None:
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps({"key": key}) + "\n" for key in pages))
    lines = [json.dumps({"key": key, "error": {"class": "http_4xx"}}) + "\n" for key in failed]
    (tmp_path / "pages.failed.jsonl").write_text("".join(lines))
    assert run.check(["a", "b", "c"], 1, [json.dumps({"key": key}) for key in halfway]) is good
