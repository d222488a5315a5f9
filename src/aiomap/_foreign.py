"""Text that came from outside: what of it may be shown.

Invariant: what has passed `printable` cannot move a cursor, change a colour or write right to left; what has passed
`redacted` holds no password and no token of a URL.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus

__all__ = ["is_secret", "printable", "redacted"]

_SECRET: Final = frozenset(
    {
        *("key", "token", "auth", "secret", "password", "pwd", "sig", "signature", "session", "code", "apikey"),
        *("authorization", "proxy_authorization", "cookie", "set_cookie"),
    }
)
# These make a secret of any name that ends in them: api_key, X-Amz-Signature.
_SECRET_END: Final = ("_key", "_token", "_secret", "_password", "_pwd", "_sig", "_signature")

_USERINFO: Final = re.compile(r"//[^\s?#]*@")
_NAME: Final = re.compile(r"[?&;#]([^=?&;#\s]+)=")
_VALUE: Final = re.compile(r"[^&#\s]*")


def printable(text: str) -> str:
    r"""The text with each character that is not printable replaced by U+FFFD.

    >>> printable("red: \x1b[31m")
    'red: �[31m'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def redacted(text: str) -> str:
    """The text with userinfo, and the values of query parameters that are named like secrets, masked.

    It masks rather too much than too little: up to the last `@` of a path, up to the next space of a value.

    >>> redacted("from http://me:pw@host/?page=2&token=abc to ?api%5Fkey=1")
    'from http://***@host/?page=2&token=*** to ?api%5Fkey=***'
    """
    text = _USERINFO.sub("//***@", text)
    kept: list[str] = []
    told = 0
    for found in _NAME.finditer(text):
        if found.start() >= told and is_secret(found[1]):
            kept += [text[told : found.end()], "***"]
            told = _end_of_value(text, found.end())
    return "".join([*kept, text[told:]])


def _end_of_value(text: str, start: int) -> int:
    value = _VALUE.match(text, start)
    return start if value is None else value.end()


@lru_cache(1024)
def is_secret(name: str) -> bool:
    """Whether what goes by that name, a query parameter or a header, is a secret.

    >>> [is_secret(name) for name in ("api_key", "X-Api-Key", "Authorization", "page", "Accept")]
    [True, True, True, False, False]
    """
    name = unquote_plus(name).strip().lower().replace("-", "_")
    return name in _SECRET or name.endswith(_SECRET_END)
