"""Where a redirect leads: the request that follows an answer of status 301, 302, 303, 307 or 308.

Invariant: it goes to an http(s) link, and what lets somebody in at one origin is never sent to another.
"""

from __future__ import annotations

import re
import string
from typing import Final
from urllib.parse import quote

from yarl import URL

from aiomap._foreign import is_secret
from aiomap.fetch.failures import FetchFailed, shown
from aiomap.fetch.request import Headers, Request, check_host

__all__ = ["REDIRECTS", "redirected"]

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

_SEE_OTHER: Final = 303
_MOVED: Final = frozenset({301, 302})

# What describes a body goes with it.
_OF_A_BODY: Final = frozenset({"content-type", "content-encoding", "content-language", "content-location"})
# A header is taken for a credential by one word of its name: X-Api-Key, X-Session-Id. These are more of such words.
_SECRET_WORDS: Final = frozenset({"bearer", "credential", "credentials", "csrf", "jwt", "passwd", "sessionid", "xsrf"})
_WORD: Final = re.compile(r"[0-9a-z]+")


def redirected(request: Request, status: int, location: str | None) -> Request:
    """The request that follows, after RFC 9110, section 15.4, as browsers read it.

    location: the value of the header, with bytes that are no UTF-8 as lone surrogates; `None` if there is none.

    Raises `FetchFailed` of class `bad_content`.

    >>> request = Request(URL("https://a.example/1"), "POST", (("Authorization", "Basic eA=="),), b"data")
    >>> redirected(request, 302, "/2")
    Request(url=URL('https://a.example/2'), method='GET', headers=(('Authorization', 'Basic eA=='),), data=None)
    >>> redirected(request, 307, "//b.example/")
    Request(url=URL('https://b.example/'), method='POST', headers=(), data=b'data')
    """
    url = _target(request.url, status, location)
    method, headers, data = request.method, request.headers, request.data
    if (status == _SEE_OTHER and method != "HEAD") or (status in _MOVED and method == "POST"):
        method, data = "GET", None
        headers = tuple(header for header in headers if header[0].lower() not in _OF_A_BODY)
    if _origin(url) != _origin(request.url):
        headers = _without_secrets(headers)
    return Request(url, method, headers, data)


def _target(base: URL, status: int, location: str | None) -> URL:
    if not location or not location.strip():
        raise FetchFailed("bad_content", f"redirected (status {status}) without a Location that says where to")
    text = _readable(location).strip()
    try:
        target = base.join(URL(text))
        if target.scheme in ("http", "https"):
            # A Location may hold userinfo of its own. It is a server that says so, not the user.
            check_host(target)
            return target.with_user(None)
    except ValueError:
        raise FetchFailed("bad_content", f"redirected to no valid link: {shown(text)}") from None
    raise FetchFailed("bad_content", f"redirected to no http(s) link: {shown(text)}")


def _origin(url: URL) -> tuple[str, str | None, int | None]:
    return url.scheme, url.raw_host, url.port  # unlike yarl's own, with the port that the scheme implies


def _readable(location: str) -> str:
    """Bytes that are no UTF-8 are kept as they are, percent-encoded, which is what the server meant to be asked for."""
    raw = location.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return quote(raw, safe=string.printable)


def _without_secrets(headers: Headers) -> Headers:
    return tuple(header for header in headers if not _is_credential(header[0].lower()))


def _is_credential(name: str) -> bool:
    return any(is_secret(word) or word in _SECRET_WORDS for word in _WORD.findall(name))
