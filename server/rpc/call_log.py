"""One log line a failed call, one at DEBUG for every other; ids only, nothing else that a customer sent.

Lines go to the standard library's ``crest.calls`` logger with the facts as attributes of the record (``FIELDS``), so
that the process decides about the form.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Final

import grpc

from server.domain.errors import OrderError, Reason
from server.rpc.call import Call
from server.rpc.errors import RULES, Refusal
from shards.keys import format_uuid, parse_uuid7, slot_and_tag, slot_of

FIELDS: Final = (
    "method",
    "code",
    "reason",
    "caller_id",
    "request_id",
    "order_id",
    "slot",
    "shard",
    "fields",
    "call_id",
    "ms",
    "suppressed",
)
"""Attributes that a record may have."""

LINES_A_SECOND_MAX: Final = 50
"""Of failed calls: refusing under overload must stay cheap. What was left out is counted in the next line."""

_FIELDS_NAMED_MAX: Final = 5
_QUOTED: Final = re.compile(r'\["(?:[^"\\]|\\.)*"(?:\.\.\.)?\]')

_LEVELS: Final = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: logging.WARNING,
    grpc.StatusCode.UNAVAILABLE: logging.WARNING,
    grpc.StatusCode.DEADLINE_EXCEEDED: logging.WARNING,
    grpc.StatusCode.DATA_LOSS: logging.ERROR,
    grpc.StatusCode.INTERNAL: logging.WARNING,  # its defect has a line of its own at ERROR
}

_logger: Final = logging.getLogger("crest.calls")


class CallLog:
    """Writes the lines. ``shard_of`` tells the shard of a slot (0-4095)."""

    def __init__(self, shard_of: Callable[[int], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._shard_of = shard_of
        self._clock = clock
        self._second = 0
        self._lines = 0
        self._suppressed = 0

    def ended(self, method: str, call: Call, seconds: float) -> None:
        """A call ended; the only line of a call that is no defect."""
        refusal = call.refusal
        if refusal is None:  # answered, or cancelled by its caller or at the end of a stopping worker's grace
            if _logger.isEnabledFor(logging.DEBUG):
                _logger.debug("call ended", extra=self._facts(method, call, seconds))
            return
        is_drain = refusal.reason == Reason.SHUTTING_DOWN.name  # by the operator's own wish, and once a stream
        level = logging.INFO if is_drain else _LEVELS.get(refusal.code, logging.INFO)
        if not _logger.isEnabledFor(level) or not self._has_room():
            return
        facts = self._facts(method, call, seconds)
        if refusal.reason:
            facts["reason"] = refusal.reason
        if refusal.violations:
            facts["fields"] = _field_names(refusal)
        if self._suppressed:
            facts["suppressed"], self._suppressed = self._suppressed, 0
        _logger.log(level, "call failed", extra=facts)

    def expected(self, method: str, call: Call, error: Exception) -> OrderError:
        """Returns an error that may be answered: ``error`` itself, or for a defect an opaque one, logged here once.

        The line of a defect is the only one with a traceback; the caller is told its ``call_id`` and nothing else.
        """
        if isinstance(error, OrderError) and error.reason is not Reason.INTERNAL:
            return error
        call_id = secrets.token_hex(8)
        facts = self._facts(method, call, None)
        facts["code"] = "INTERNAL"
        facts["call_id"] = call_id
        _logger.error("call met a defect", exc_info=error, extra=facts)
        return OrderError(
            Reason.INTERNAL, f"a defect of the service: report it with call_id {call_id}", metadata={"call_id": call_id}
        )

    def unread(self, method: str, call: Call, error: OrderError) -> None:
        """The call's order, one among others, could not be read for good, and the answer has no word for that."""
        if self._has_room():
            told = {"code": RULES[error.reason].code.name, "reason": error.reason.name}
            _logger.error("order cannot be read", extra=self._facts(method, call, None) | told)

    def _has_room(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines > LINES_A_SECOND_MAX:
            self._suppressed += 1
            return False
        return True

    def _facts(self, method: str, call: Call, seconds: float | None) -> dict[str, object]:
        facts: dict[str, object] = {"method": method, "code": call.code, "caller_id": call.caller_id}
        if seconds is not None:
            facts["ms"] = round(seconds * 1000, 3)
        request_id = parse_uuid7(call.request_id)
        if request_id is not None:  # anything else is no id, and may be anything
            facts["request_id"] = format_uuid(request_id)
        slot: int | None = None
        if call.order_id:
            facts["order_id"] = format_uuid(call.order_id)
            slot = slot_of(call.order_id)
        elif call.customer_id:
            slot = slot_and_tag(call.customer_id)[0]
        if slot is not None:
            facts["slot"] = slot
            facts["shard"] = self._shard_of(slot)
        return facts


def _field_names(refusal: Refusal) -> str:
    """Names the first bad fields; keys of attributes are what a customer sent, so they are left out."""
    names = ",".join(_QUOTED.sub("[*]", violation.field) for violation in refusal.violations[:_FIELDS_NAMED_MAX])
    more = len(refusal.violations) + refusal.violations_omitted - _FIELDS_NAMED_MAX
    return names if more <= 0 else f"{names} and {more} more"
