"""Every nasty thing that a server, a name or a link can be ends as it should, and together they leave nothing."""

from __future__ import annotations

import re

import pytest

from tests.nasty import NASTY
from tests.nasty.case import Case
from tests.nasty.play import CASES, Played, play

pytestmark = NASTY


@pytest.fixture(scope="module")
def played() -> Played:
    return play()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number}-{case.name}")
def test_it_ends_as_it_should(case: Case, played: Played) -> None:
    ended = played.ended[case.name]
    if isinstance(case.ends, bytes):
        assert ended.failed is None, ended.failed
        assert ended.page is not None
        assert ended.page.body == case.ends
    else:
        assert ended.page is None, ended.page
        assert ended.failed is not None
        assert ended.failed.kind == case.ends, ended.failed
        assert_is_told(case, ended.failed.message)
    assert case.asked in (None, len(ended.asked)), ended.paths
    if case.check is not None:
        case.check(ended)


def assert_is_told(case: Case, message: str) -> None:
    assert re.search(case.tells, message), message
    assert "s3cret" not in message
    assert message.isprintable()
    assert 0 < len(message) <= 500


def test_no_case_was_forgotten_or_has_the_place_of_another() -> None:
    assert len({case.name for case in CASES}) == len({case.number for case in CASES}) == len(CASES) >= 90


def test_nothing_is_left_when_the_fetcher_is_closed(played: Played) -> None:
    assert played.log.open == 0
    assert not played.tasks_left
    assert played.files_left == 0


def test_no_cookie_that_a_server_set_is_ever_sent(played: Played) -> None:
    sent = [asked.case for asked in played.log.asked if "cookie" in asked.headers]
    assert set(sent) == {"elsewhere-without-secrets", "same-host-with-secrets"}  # ours


def test_every_request_says_who_we_are(played: Played) -> None:
    assert {asked.headers["user-agent"].partition("/")[0] for asked in played.log.asked} == {"aiomap"}
