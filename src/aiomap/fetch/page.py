"""What a server answered.

Invariant: what is made of a page for a record is strict JSON, whatever bytes the page has.
"""

from __future__ import annotations

import codecs
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Final, final

__all__ = ["Page"]

_CHARSET: Final = re.compile(r"""charset\s*=\s*["']?([\w.:+-]+)""", re.IGNORECASE)
# The encodings that pages are written in. Python knows more, some of them a danger: idna takes quadratic time, and
# utf-7 gives halves of characters, which no JSON can hold.
_CHARSETS: Final = (
    *("ascii", "big5", "cp", "euc_", "gb", "hz", "iso2022", "iso8859", "koi8", "mac", "shift_jis"),
    *("utf-8", "utf-16", "utf-32"),
)


@final
@dataclass(frozen=True, slots=True)
class Page:
    """What a server answered.

    url: where it came from in the end, after all redirects, without secrets.
    status: the HTTP status, from 200 to 399.
    headers: those of the page by lower-case name, but no `Set-Cookie` and no other secret.
    body: the bytes, decompressed.
    """

    url: str
    status: int
    headers: dict[str, str]
    body: bytes

    def text(self) -> str | None:
        r"""The body as text: in the charset of its content type, else in UTF-8; `None` if it is neither.

        >>> Page("", 200, {"content-type": "text/html; charset=latin-1"}, b"caf\xe9").text()
        'caf\xe9'
        """
        named = _CHARSET.search(self.headers.get("content-type", ""))
        for charset in ([named[1]] if named else []) + ["utf-8"]:
            try:
                if codecs.lookup(charset).name.startswith(_CHARSETS):
                    return self.body.decode(charset)
            except (LookupError, ValueError):
                pass
        return None

    def value(self) -> dict[str, object]:
        r"""What is recorded of it, in values that strict JSON has: the body is `text`, or `base64` if it is none.

        >>> Page("http://a/", 200, {}, b"\xff").value()
        {'url': 'http://a/', 'status': 200, 'headers': {}, 'bytes': 1, 'base64': '/w=='}
        """
        text = self.text()
        body = {"base64": b64encode(self.body).decode("ascii")} if text is None else {"text": text}
        return {**self.head(), **body}

    def head(self) -> dict[str, object]:
        """The same without the body."""
        return {"url": self.url, "status": self.status, "headers": self.headers, "bytes": len(self.body)}
