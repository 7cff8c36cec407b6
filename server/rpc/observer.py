"""What the service tells of its calls, without knowing who counts."""

from __future__ import annotations

from typing import Protocol


class CallObserver(Protocol):
    """Told of every call; implemented by the server's metrics. Must be quick and never raise."""

    def call_started(self, method: str) -> None:
        """A call of ``method`` (``package.Service/Method``) begins; it is in flight until it ends."""

    def call_ended(self, method: str, code: str, caller_id: str, seconds: float) -> None:
        """A call ended. ``code`` is the name of its status code, ``seconds`` its time in the process.

        ``caller_id`` is what the caller says of itself: bound its number of values before counting by it.
        """


class NullObserver:
    """Tells no one."""

    def call_started(self, method: str) -> None:
        """Does nothing."""

    def call_ended(self, method: str, code: str, caller_id: str, seconds: float) -> None:
        """Does nothing."""
