"""Every exception that is aiomap's own.

Invariant: an exception of the user's function or source is never wrapped in one of these. They stand for what
only a map can know: an item cancelled itself, a callback broke, a run became hopeless, an extra is missing.
Bad arguments are plain `TypeError` and `ValueError`.
"""

from __future__ import annotations

__all__ = ["AiomapError", "CallbackError", "ItemCancelled", "MissingExtra", "TooManyFailures"]


class AiomapError(Exception):
    """The parent of every exception below, for `except AiomapError`."""


class ItemCancelled(AiomapError):
    """An item raised `CancelledError` although nobody cancelled the map: its failure, with the original as the cause.

    index: the item's position in the input, from 0.
    """

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index

    def __str__(self) -> str:
        return f"item {self.index} was cancelled from the inside (it raised CancelledError, or cancelled its own task)"


class CallbackError(AiomapError):
    """A function that the map itself called for you (`callback`) raised. The run stopped; the original is the cause.

    name: the parameter that the function was given as.
    """

    def __init__(self, name: str, index: int) -> None:
        super().__init__(name, index)
        self.name = name
        self.index = index

    def __str__(self) -> str:
        return f"{self.name} raised for item {self.index}, so the run was stopped"


class TooManyFailures(AiomapError):
    """More items failed than `Tolerate` allows; the cause is the failure that was one too many.

    failed: how many items had failed by then; done: how many had ended, well or not.
    """

    def __init__(self, failed: int, done: int, allowed: str) -> None:
        super().__init__(failed, done, allowed)
        self.failed = failed
        self.done = done
        self.allowed = allowed

    def __str__(self) -> str:
        return (
            f"{self.failed} of {self.done} items failed, more than on_error={self.allowed} allows; the run was stopped"
        )


class MissingExtra(AiomapError, ImportError):
    """A feature needs a package that is not installed; the message has the command that installs it."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(feature, package, extra)
        self.feature = feature
        self.package = package
        self.extra = extra

    def __str__(self) -> str:
        return f'{self.feature} needs {self.package}, which is not installed: run  pip install "aiomap[{self.extra}]"'
