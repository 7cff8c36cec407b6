"""What a servicer knows of a call beside its message: who calls, until when, and which order it is about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import grpc

from server.domain.errors import OrderError, Reason
from server.rpc.errors import Refusal

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

CALLER_KEY: Final = "x-caller-id"
CALLER_ID_CHARS_MAX: Final = 64
ANONYMOUS: Final = "anonymous"

DEADLINE_DEFAULT_S: Final = 10.0
"""For a call whose caller sets none: longer than any healthy call, short enough that no call is held for ever."""

DEADLINE_S_MAX: Final = 24 * 3600.0
"""A caller's longer deadline counts as none; the transports say "none" by a huge number or None."""


class Call:
    """One call. The servicer notes the ids it finds in the message, for the log."""

    __slots__ = (
        "caller_id",
        "code",
        "customer_id",
        "deadline",
        "has_deadline",
        "on_end",
        "order_id",
        "refusal",
        "request_id",
        "started",
    )

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.caller_id = ANONYMOUS
        self.deadline = 0.0
        """Absolute ``time.monotonic`` seconds; of a stream, for one answer."""
        self.has_deadline = False
        """Whether the caller set the deadline."""
        self.request_id = ""
        self.order_id = b""
        self.customer_id = ""
        self.on_end: Callable[[], object] | None = None
        """Of a stream that ends itself when the worker drains: how it is told."""
        self.code = "OK"
        """Name of the status code that the call ended with."""
        self.refusal: Refusal | None = None

    def open(self, context: Context) -> None:
        """Reads deadline and caller. Raises CALLER_ID_INVALID ``OrderError``."""
        left_s: float | None = context.time_remaining()
        if left_s is None or left_s > DEADLINE_S_MAX:
            self.deadline = self.started + DEADLINE_DEFAULT_S
        else:
            self.deadline = self.started + left_s
            self.has_deadline = True
        for key, value in context.invocation_metadata() or ():
            if key == CALLER_KEY:
                self.caller_id = _caller_id(value)

    def item_deadline(self) -> float:
        """Returns the deadline of a piece of work that begins now within a stream."""
        soon = time.monotonic() + DEADLINE_DEFAULT_S
        return min(soon, self.deadline) if self.has_deadline else soon


def _caller_id(value: str | bytes) -> str:
    # isprintable and isascii leave U+0020 to U+007E
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= CALLER_ID_CHARS_MAX
        or not value.isascii()
        or not value.isprintable()
        or " " in value
    ):
        raise OrderError(
            Reason.CALLER_ID_INVALID,
            f"{CALLER_KEY} is not 1-{CALLER_ID_CHARS_MAX} printable ASCII characters without blanks: "
            "correct it, or leave it out",
        )
    return value
