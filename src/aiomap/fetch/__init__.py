"""HTTP: from a link to the page behind it, or to a failure that says of which class it is.

Invariant: whatever a server sends, what is kept of it is bounded, only http and https are spoken, and a page is whole
or it is a failure. No message holds a password or token of a URL.
"""

from aiomap.fetch.fetcher import FailureClass, Fetcher, FetchFailed, Page, failure, host_of, record

__all__ = ["FailureClass", "FetchFailed", "Fetcher", "Page", "failure", "host_of", "record"]
