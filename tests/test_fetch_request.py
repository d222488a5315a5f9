"""`aiomap.fetch`: an item becomes a request, a redirect the next one, and neither carries what it should not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from aiomap.fetch import Defaults, FetchFailed, host_of
from aiomap.fetch.redirects import redirected
from aiomap.fetch.request import Request, request_of

NONE = Defaults()
SECRET = "s3cr3t"  # noqa: S105  (not of anything)


def asked(item: object, defaults: Defaults = NONE) -> dict[str, Any]:
    request = request_of(item, defaults)
    return {"url": str(request.url), "method": request.method, "headers": request.headers, "data": request.data}


def refusal(item: object, defaults: Defaults = NONE) -> str:
    with pytest.raises(FetchFailed) as failed:
        request_of(item, defaults)
    assert failed.value.kind == "bad_input"
    return failed.value.message


@pytest.mark.parametrize(
    "item",
    [
        "  http://a.example/\t",
        {"url": "http://a.example/"},
        {"link": "http://a.example/", "url": None},
        {"url": "", "link": "http://a.example/"},
        {"url": "http://a.example/", "method": "", "headers": "", "data": "", "other": 1},
        {"url": "http://a.example/", "method": None, "headers": None, "data": None},
        {"url": "http://a.example/", "headers": "{}", "data": b""},
        {"url": "HTTP://A.Example:80/", "headers": {}},
    ],
)
def test_a_link_is_asked_for_and_an_empty_column_means_nothing(item: object) -> None:
    assert asked(item) == {"url": "http://a.example/", "method": "GET", "headers": (), "data": None}


def test_defaults_hold_where_an_item_says_nothing_else() -> None:
    defaults = Defaults("put", (("Accept", "a"), ("X", "1"), ("X", "2")), b"body")
    assert asked("http://a/", defaults) == {
        "url": "http://a/",
        "method": "PUT",
        "headers": (("Accept", "a"), ("X", "1"), ("X", "2")),
        "data": b"body",
    }
    own = {"url": "http://a/", "method": "post", "headers": {"x": "3"}, "data": "caf\u00e9"}
    assert asked(own, defaults) == {
        "url": "http://a/",
        "method": "POST",
        "headers": (("Accept", "a"), ("x", "3")),
        "data": b"caf\xc3\xa9",
    }


@pytest.mark.parametrize(("method", "data", "sent"), [(None, b"", "POST"), (None, None, "GET"), ("GET", b"x", "GET")])
def test_data_is_posted_unless_another_method_is_given(method: str | None, data: bytes | None, sent: str) -> None:
    assert asked("http://a/", Defaults(method, data=data))["method"] == sent


@pytest.mark.parametrize(
    ("data", "body", "is_json"),
    [
        ({"a": [1, None]}, b'{"a": [1, null]}', True),
        ("caf\u00e9", b"caf\xc3\xa9", False),
        (0, b"0", True),
        (False, b"false", True),
        (["caf\u00e9"], b'["caf\xc3\xa9"]', True),
        (b"\xff", b"\xff", False),
    ],
)
def test_a_text_is_sent_as_it_is_and_all_else_as_json(data: object, body: bytes, is_json: bool) -> None:
    request = request_of({"url": "http://a/", "data": data}, NONE)
    assert request.data == body
    assert request.headers == ((("Content-Type", "application/json"),) if is_json else ())
    given_type = {"url": "http://a/", "data": data, "headers": '{"content-type": "x/y"}'}
    assert request_of(given_type, NONE).headers == (("content-type", "x/y"),)


def test_userinfo_of_a_link_becomes_a_header_unless_there_is_one() -> None:
    sent = asked("http://me%40home:p%C3%A4ss@a.example/x")
    assert sent["url"] == "http://a.example/x"
    assert sent["headers"] == (("Authorization", "Basic bWVAaG9tZTpww6Rzcw=="),)
    assert asked("http://:pw@a/")["headers"] == (("Authorization", "Basic OnB3"),)
    own = Defaults(headers=(("authorization", "Bearer x"),))
    assert asked("http://me:pw@a/", own)["headers"] == own.headers


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("example.com/page", "must begin with http:// or https://"),
        ("", "there is no link"),
        ("ftp://example.com/", "must begin with"),
        ("file:///etc/passwd", "must begin with"),
        ("javascript:alert(1)", "must begin with"),
        ("mailto:me@example.com", "must begin with"),
        ("https://", "names no host"),
        ("http:///path", "names no host"),
        ("http://me@/", "malformed"),
        ("http://./", "names no host"),
        ("http://host:99999/", "malformed"),
        ("http://host:0/", "no port 0"),
        ("http://host:x/", "malformed"),
        ("http://[::1/", "malformed"),
        ("http://[1::2::3]/", "no IPv6 address"),
        ("http://a\tb/", "a control character, U+0009"),
        ("http://a/\0", "a control character, U+0000"),
        ("http://a/\r\nHost: b", "a control character, U+000D"),
        ("http://a b/", "a character in it that none may have"),
        ("http://a<b/", "a character in it that none may have"),
        ("http://%41/", "a character in it that none may have"),
        ("http://two..dots/", "is empty or longer than 63"),
        *((f"http://{host}/", "is no IPv4 address") for host in ("2130706433", "127.1", "1.2.3.256", "127.0.0.1.")),
        ("http://.a/", "is empty or longer than 63"),
        (f"http://{'a' * 64}.example/", "is empty or longer than 63"),
        (f"http://{'a.' * 127}example/", "longer than 253"),
        (f"http://{chr(233) * 64}.example/", "malformed"),
        ("http://a/\ud800", "surrogate"),
        ("http://a/" + "a" * 65_536, "more than 65,536 characters"),
    ],
)
def test_what_is_no_link_is_told_why_and_belongs_to_no_host(link: str, said: str) -> None:
    assert said in refusal(link)
    assert said in refusal({"link": link})
    assert host_of(link) is None


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (7, "this is a number"),
        (["http://a/"], "this is an array"),
        (None, "this is null"),
        ({"href": "http://a/"}, "the column `url` or `link`"),
        ({"url": 7}, "the column `url` must be a text, and this is a number"),
        ({"url": "http://a/", "method": "GET /x HTTP/1.1\r\n"}, "must be one word"),
        ({"url": "http://a/", "method": ["GET"]}, "`method` must be a text, and this is an array"),
        ({"url": "http://a/", "method": "connect"}, "CONNECT asks for no page"),
        ({"url": "http://a/", "method": "TRACE"}, "TRACE asks for no page"),
        ({"url": "http://a/", "headers": "Accept: text/html"}, "an object of texts, such as"),
        ({"url": "http://a/", "headers": "[" * 100_000}, "an object of texts, such as"),
        ({"url": "http://a/", "headers": ["Accept"]}, "an object of texts, such as"),
        ({"url": "http://a/", "headers": {"X": 1}}, "the header X must be a text, and this is a number"),
        ({"url": "http://a/", "headers": {"X": None}}, "the header X must be a text, and this is null"),
        ({"url": "http://a/", "headers": {"X Y": "1"}}, "no valid name of a header: 'X Y'"),
        ({"url": "http://a/", "headers": {"": "1"}}, "no valid name of a header: ''"),
        ({"url": "http://a/", "headers": {"X": f"{SECRET}\r\nHost: b"}}, "the header X has a line end"),
        ({"url": "http://a/", "headers": {"X": f"{SECRET}\0"}}, "the header X has a line end"),
        ({"url": "http://a/", "headers": {"X": f"{SECRET}\udc00"}}, "the header X has a line end"),
        ({"url": "http://a/", "headers": {"HOST": "b"}}, "the header HOST is written by aiomap itself"),
        ({"url": "http://a/", "headers": {"content-length": "9"}}, "is written by aiomap itself"),
        ({"url": "http://a/", "headers": {"Transfer-Encoding": "chunked"}}, "is written by aiomap itself"),
        ({"url": "http://a/", "headers": {"Connection": "close"}}, "is written by aiomap itself"),
        ({"url": "http://a/", "headers": {"Expect": "100-continue"}}, "is written by aiomap itself"),
        ({"url": "http://a/", "data": {"a": float("nan")}}, "`data` cannot be sent"),
        ({"url": "http://a/", "data": {"a": object()}}, "`data` cannot be sent"),
        ({"url": "http://a/", "data": "\ud800"}, "`data` cannot be sent"),
    ],
)
def test_an_item_that_makes_no_request_is_told_why_and_its_secrets_are_not(item: object, said: str) -> None:
    message = refusal(item)
    assert said in message
    assert message.isprintable()
    assert SECRET not in message


def test_defaults_that_no_request_may_have_are_refused_at_once() -> None:
    for method in ("A B", "TRACE", ""):
        with pytest.raises(ValueError, match="method"):
            Defaults(method)
    for header in (("Host", "b"), ("A", "\n"), ("", "x")):
        with pytest.raises(ValueError, match="header"):
            Defaults(headers=(header,))


@pytest.mark.parametrize(
    ("link", "host"),
    [
        ("HTTP://Example.com:8080/a?b", "example.com"),
        ("https://me:pw@example.com./", "example.com"),
        ("http://[::1]:80/", "::1"),
        ("http://[FE80::1%25eth0]/", "fe80::1%25eth0"),
        ("http://m\u00fcnchen.de/", "xn--mnchen-3ya.de"),
        ("http://under_score.example/", "under_score.example"),
    ],
)
def test_an_item_belongs_to_the_host_of_its_link(link: str, host: str) -> None:
    assert host_of(link) == host_of({"url": link}) == host_of({"link": link, "headers": 7}) == host
    assert host_of([link]) is None


@given(st.one_of(st.text(), st.builds("http://{}".format, st.text()), st.dictionaries(st.text(), st.text())))
def test_whatever_an_item_is_it_is_a_request_or_a_bad_input(item: object) -> None:
    if host_of(item) is None:
        assert refusal(item).isprintable()
    else:
        assert str(request_of(item, NONE).url).isascii()


GET = Request(URL("http://a.example/1/2?q"), "GET", (), None)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/3", "http://a.example/3"),
        ("3", "http://a.example/1/3"),
        ("?x=1", "http://a.example/1/2?x=1"),
        ("//b.example/x", "http://b.example/x"),
        ("https://B.example/", "https://b.example/"),
        (" /3 ", "http://a.example/3"),
        ("/caf\u00e9", "http://a.example/caf%C3%A9"),
        (b"/caf\xe9 x".decode("utf-8", "surrogateescape"), "http://a.example/caf%E9%20x"),
        ("http://\u00fc.example/", "http://xn--tda.example/"),
        ("http://me:pw@b.example/", "http://b.example/"),
        ("/a%2Fb?c=%2B", "http://a.example/a%2Fb?c=%2B"),
    ],
)
def test_a_redirect_leads_to_where_its_location_says(location: str, url: str) -> None:
    assert str(redirected(GET, 302, location).url) == url


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "  ",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "mailto:me@b.example",
        "data:text/plain,x",
        "http://[::1/",
        "http://b:99999/",
        "http://b:0/",
        "http://two..dots/",
        "http://2130706433/",
        b"http://\xe9.example/".decode("utf-8", "surrogateescape"),
        "http://b c/",
        "https:",
    ],
)
def test_a_redirect_to_nowhere_is_bad_content(location: str | None) -> None:
    with pytest.raises(FetchFailed, match=r"^redirected") as caught:
        redirected(GET, 302, location)
    assert caught.value.kind == "bad_content"


@pytest.mark.parametrize(
    ("status", "method", "after"),
    [
        *((status, "GET", "GET") for status in (301, 302, 303, 307, 308)),
        *((status, "HEAD", "HEAD") for status in (301, 302, 303, 307, 308)),
        *((status, "POST", "GET") for status in (301, 302, 303)),
        *((status, "POST", "POST") for status in (307, 308)),
        *((status, "PUT", "PUT") for status in (301, 302, 307, 308)),
        (303, "PUT", "GET"),
    ],
)
def test_a_redirect_keeps_the_method_and_the_data_or_drops_both(status: int, method: str, after: str) -> None:
    headers = (("Accept", "x"), ("content-type", "y"), ("Content-Encoding", "gzip"))
    following = redirected(Request(GET.url, method, headers, b"data"), status, "/")
    is_kept = method == after and not (status == 303 and method == "GET")
    assert following.method == after
    assert following.data == (b"data" if is_kept else None)
    assert following.headers == (headers if is_kept else headers[:1])


CREDENTIALS = [
    "Authorization",
    "cookie",
    "Proxy-Authorization",
    "X-API-Key",
    "X-Auth-Token",
    "apikey",
    "X_Session_Id",
    "X-Jwt",
]


@pytest.mark.parametrize("name", CREDENTIALS)
@pytest.mark.parametrize(
    ("start", "location", "is_sent"),
    [
        ("https://a.example/", "/x", True),
        ("https://a.example/", "https://a.example:443/x", True),
        ("https://a.example/", "http://a.example/", False),
        ("http://a.example/", "https://a.example/", False),
        ("https://a.example/", "https://a.example:444/", False),
        ("https://a.example/", "https://www.a.example/", False),
        ("https://a.example/", "//b.example/", False),
    ],
)
def test_no_other_origin_hears_a_credential(name: str, start: str, location: str, is_sent: bool) -> None:
    request = Request(URL(start), "GET", (("Accept", "x"), (name, SECRET), ("Monkey", "y")), None)
    following = redirected(request, 307, location)
    assert ((name, SECRET) in following.headers) == is_sent
    assert {("Accept", "x"), ("Monkey", "y")} <= set(following.headers)
    back = redirected(following, 307, start)
    assert ((name, SECRET) in back.headers) == is_sent
