"""HTTP: from a link to the page behind it, or to a failure that says of which class it is.

Invariant: whatever a server sends, what is kept of it is bounded, only http and https are spoken, and a page is whole
or it is a failure. No message holds a password or token of a URL.
"""

from importlib import import_module

from aiomap.errors import MissingExtra

try:
    import_module("aiohttp")  # which every module here needs
except ImportError:
    raise MissingExtra("aiomap fetch", "aiohttp", "http") from None

from aiomap.fetch.failures import FailureClass, FetchFailed, failure
from aiomap.fetch.fetcher import Fetcher
from aiomap.fetch.page import Page
from aiomap.fetch.request import Defaults, WrongRequest, host_of

__all__ = ["Defaults", "FailureClass", "FetchFailed", "Fetcher", "Page", "WrongRequest", "failure", "host_of"]
