"""What is asked of a server: read from an item, which is a link or a row with columns.

Invariant: what does not become a request says what is wrong, and repeats neither the link nor a header's value, for
there may be a password in them. A request holds nothing that could break out of its line, and no header that the
client has to write itself.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, TypeAlias, cast, final

from yarl import URL

from aiomap._foreign import printable
from aiomap.fetch.failures import FetchFailed

__all__ = [
    "Defaults",
    "Headers",
    "Request",
    "WrongRequest",
    "check_host",
    "host_of",
    "host_of_url",
    "link_of",
    "request_of",
]

Headers: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values of headers, in order; a name may be there twice."""

_LONGEST_LINK: Final = 1 << 16
_LONGEST_HOST: Final = 253
_LONGEST_LABEL: Final = 63

# As they are called in JSON.
_KINDS: Final[tuple[tuple[type, str], ...]] = (
    *((str, "a text"), (bool, "true or false"), (int, "a number"), (float, "a number")),
    *((dict, "an object"), (list, "an array")),
)

_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
_NO_VALUE: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
_HOST: Final = re.compile(r"[0-9a-z_.~-]+")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
# A tunnel and an echo of the request's own headers: neither is a page.
_REFUSED_METHODS: Final = ("CONNECT", "TRACE")
# What describes the connection or the length of the message is the client's to say.
_REFUSED_HEADERS: Final = (
    *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection"),
    *("te", "trailer", "upgrade", "expect"),
)


@final
class WrongRequest(ValueError):
    """What makes no request. Its text says why, without the link and without the value of a header."""


@final
@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    url: an http or https link without userinfo, which became a header.
    method: in upper case.
    headers: those that the user gave, and what follows from the link and the data.
    data: the body; `None` for none.
    """

    url: URL
    method: str
    headers: Headers
    data: bytes | None


@final
@dataclass(frozen=True, slots=True)
class Defaults:
    """What is asked where an item does not say otherwise.

    method: `None` for GET, or POST if there is data.
    headers: an item's own headers take the place of those of the same name.
    data: the body; `None` for none.

    Raises `WrongRequest`, a `ValueError`, for what no request may have.

    >>> Defaults(headers=(("Host", "example.com"),))
    Traceback (most recent call last):
    aiomap.fetch.request.WrongRequest: the header Host is written by aiomap itself; leave it out
    """

    method: str | None = None
    headers: Headers = ()
    data: bytes | None = None

    def __post_init__(self) -> None:
        if self.method is not None:
            _method(self.method)
        for name, value in self.headers:
            _check_header(name, value)


def request_of(item: object, defaults: Defaults) -> Request:
    """The request that an item stands for.

    item: a link, or a mapping with the link in its column `url` or `link`. It may have the columns `method`; `headers`,
        a mapping of texts, or the JSON of one; and `data`: a text or bytes, sent as they are, or any other value, which
        is sent as JSON. A column that is missing, `None` or empty means the default.

    Raises `FetchFailed` of class `bad_input`.

    >>> request = request_of({"url": "http://me:pw@example.com/", "data": {"a": 1}}, Defaults())
    >>> request.method, str(request.url), request.data
    ('POST', 'http://example.com/', b'{"a": 1}')
    >>> request.headers
    (('Content-Type', 'application/json'), ('Authorization', 'Basic bWU6cHc='))
    """
    try:
        row = _row(item)
        url = link_of(_link(row))
        data, is_json = _data(row.get("data"))
        headers = _merged(defaults.headers, _headers(row.get("headers")))
        if is_json:
            headers = _with_default(headers, "Content-Type", "application/json")
        if url.raw_user or url.raw_password:
            headers = _with_default(headers, "Authorization", _basic(url))
            url = url.with_user(None)
        data = data or defaults.data
        method = _text(row, "method") or defaults.method or ("GET" if data is None else "POST")
        return Request(url, _method(method), headers, data)
    except WrongRequest as error:
        raise FetchFailed("bad_input", printable(str(error))) from None


def host_of(item: object) -> str | None:
    """The host of the item's link, in lower case and without a dot at its end; `None` if it is no link.

    >>> host_of("HTTPS://Example.COM.:8443/page")
    'example.com'
    """
    try:
        return host_of_url(link_of(_link(_row(item))))
    except WrongRequest:
        return None


def host_of_url(url: URL) -> str:
    """The same of a link that `link_of` gave."""
    return (url.raw_host or "").removesuffix(".")


def link_of(text: str) -> URL:
    """The link that a text is. Raises `WrongRequest`.

    >>> link_of(" http://example.com ")
    URL('http://example.com')
    """
    text = text.strip()
    if not text[:8].lower().startswith(("http://", "https://")):
        raise WrongRequest("not an http(s) link: it must begin with http:// or https://")
    if len(text) > _LONGEST_LINK:
        raise WrongRequest(f"the link has more than {_LONGEST_LINK:,} characters")
    if control := _CONTROL.search(text):
        raise WrongRequest(f"the link has a control character, U+{ord(control[0]):04X}")
    if not _is_utf_8(text):
        raise WrongRequest("the link has half of a surrogate pair, which is no character")
    try:
        url = URL(text)
    except ValueError:
        raise WrongRequest("the link is no valid URL: its host or port is malformed") from None
    check_host(url)
    return url


def check_host(url: URL) -> None:
    """Raises `WrongRequest` if the link has no host that could be asked."""
    host = host_of_url(url)
    if not host:
        raise WrongRequest("the link names no host")
    if url.port == 0:
        raise WrongRequest("the link is no valid URL: there is no port 0")
    if ":" in host:
        _check_ipv6(host)
        return
    if not _HOST.fullmatch(host):
        raise WrongRequest("no valid host name: there is a character in it that none may have")
    if len(host) > _LONGEST_HOST or not all(0 < len(label) <= _LONGEST_LABEL for label in host.split(".")):
        raise WrongRequest(
            f"no valid host name: a part of it is empty or longer than {_LONGEST_LABEL} characters, "
            f"or all of it longer than {_LONGEST_HOST}"
        )
    if host.rpartition(".")[2].isdigit():
        _check_ipv4(url.raw_host or "")  # with a dot behind it, which an address has not


def _check_ipv4(host: str) -> None:
    try:
        IPv4Address(host)
    except ValueError:
        raise WrongRequest("no valid host: it ends in a number, and is no IPv4 address such as 192.0.2.1") from None


def _check_ipv6(host: str) -> None:
    try:
        IPv6Address(host.partition("%")[0])
    except ValueError:
        raise WrongRequest("the link is no valid URL: what stands in [] is no IPv6 address") from None


def _row(item: object) -> Mapping[str, Any]:
    if isinstance(item, str):
        return {"url": item}
    if isinstance(item, Mapping):
        return cast("Mapping[str, Any]", item)
    raise WrongRequest(
        f"an item must be a link, or an object with the column `url` or `link`, and this is {_kind(item)}: "
        'write {"url": "https://example.com/"}'
    )


def _link(row: Mapping[str, Any]) -> str:
    link = _text(row, "url") or _text(row, "link")
    if link is None:
        raise WrongRequest('there is no link: the column `url` or `link` must hold one, as in {"url": "https://..."}')
    return link


def _text(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise WrongRequest(f"the column `{column}` must be a text, and this is {_kind(value)}")
    return value


def _kind(value: object) -> str:
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return "null" if value is None else f"of type {type(value).__name__}"


def _method(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise WrongRequest("the method is not valid: it must be one word, such as GET or POST")
    # The client would send it so anyway.
    method = text.upper()
    if method in _REFUSED_METHODS:
        raise WrongRequest(
            f"the method {method} asks for no page; write GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS"
        )
    return method


def _data(value: object) -> tuple[bytes | None, bool]:
    """The body, and whether it was made JSON here."""
    if value is None or (isinstance(value, str | bytes) and not value):
        return None, False
    if isinstance(value, bytes):
        return value, False
    try:
        if isinstance(value, str):
            return value.encode(), False
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode(), True
    except (TypeError, ValueError, RecursionError) as error:
        raise WrongRequest(f"the column `data` cannot be sent: {error}") from None


def _headers(value: object) -> Headers:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = ()
    if not isinstance(value, Mapping):
        raise WrongRequest('the column `headers` must be an object of texts, such as {"Accept": "text/html"}')
    headers = tuple(cast("Mapping[str, str]", value).items())
    for name, text in headers:
        _check_header(name, text)
    return headers


def _check_header(name: object, value: object) -> None:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise WrongRequest(f"no valid name of a header: {printable(str(name))[:100]!r}; write a word, such as Accept")
    if name.lower() in _REFUSED_HEADERS:
        raise WrongRequest(f"the header {name} is written by aiomap itself; leave it out")
    if not isinstance(value, str):
        raise WrongRequest(f"the value of the header {name} must be a text, and this is {_kind(value)}")
    if _NO_VALUE.search(value) or not _is_utf_8(value):
        raise WrongRequest(f"the value of the header {name} has a line end or another character that none may have")


def _is_utf_8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _merged(defaults: Headers, own: Headers) -> Headers:
    replaced = {name.lower() for name, _ in own}
    return (*(header for header in defaults if header[0].lower() not in replaced), *own)


def _with_default(headers: Headers, name: str, value: str) -> Headers:
    return headers if any(name.lower() == given.lower() for given, _ in headers) else (*headers, (name, value))


def _basic(url: URL) -> str:
    return "Basic " + b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode("ascii")
