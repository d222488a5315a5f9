"""The policies of a run: what it was given as `timeout`, `retry` and `limits`.

Invariant: these are values. What they come to in a run is kept elsewhere, so the same ones serve any number of runs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from aiomap._retry import RetryPolicy
    from aiomap.limits.limit import Limit

__all__ = ["Policies", "TenacityPolicyLike"]


class TenacityPolicyLike(Protocol):
    """What a `tenacity.Retrying` or `AsyncRetrying` looks like."""

    retry: Any
    stop: Any
    wait: Any


# Plain, as making a dataclass takes as long as importing a module.
class Policies:
    """timeout: seconds an attempt may take; lookahead: how many items may wait for their keys."""

    def __init__(
        self,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        limits: tuple[Limit, ...] = (),
        lookahead: int = sys.maxsize,
    ) -> None:
        self.timeout: Final = timeout
        self.retry: Final = retry
        self.limits: Final = limits
        self.lookahead: Final = lookahead
