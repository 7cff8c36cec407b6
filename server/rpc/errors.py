"""Errors on the wire: the one table reason -> status code -> what to do, and the status that a call ends with.

A failed call carries, beside code and message, a ``google.rpc.Status`` in ``grpc-status-details-bin`` with ErrorInfo,
BadRequest and RetryInfo (AIP-193). ``python -m server.rpc.errors`` prints ``docs/errors.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from protos.orders.v1 import orders_pb2
from server.domain.errors import OrderError, Reason, Violation
from server.domain.order import FIELDS_NAMED_MAX

DOMAIN: Final = "orders.v1"
"""``ErrorInfo.domain`` of every error of this service."""

DETAILS_KEY: Final = "grpc-status-details-bin"

STATUS_BYTES_MAX: Final = 3 * 1024
"""A status in trailers: 4 KiB as base64, which with the message stays below 6 KiB; peers accept 8 KiB of metadata."""

MESSAGE_CHARS_MAX: Final = 400
"""Of any message: it travels twice, in ``grpc-message`` and in the details."""

OMITTED_KEY: Final = "violations_omitted"
"""Metadata key: how many field violations are not named."""

_OMITTED_BYTES: Final = 32
"""What that entry takes: a batch has room for fewer than a million fields."""


class Rule(NamedTuple):
    """What one reason means to a caller."""

    code: grpc.StatusCode
    meaning: str
    action: str
    metadata: tuple[str, ...] = ()
    """Keys of ``ErrorInfo.metadata`` that come with it."""
    retry: str = "no"
    """Whether the same request can succeed: ``yes`` (after a hint), ``later`` (something must change) or ``no``."""
    retry_after_s: float | None = None
    """The hint where the error itself brings none."""


RULES: Final[Mapping[Reason, Rule]] = {
    Reason.REQUEST_UNDECODABLE: Rule(
        grpc.StatusCode.INVALID_ARGUMENT,
        "The bytes are no message of the method's request type.",
        "Check the stubs that the caller was built with.",
    ),
    Reason.INVALID_REQUEST: Rule(
        grpc.StatusCode.INVALID_ARGUMENT,
        "One or more fields are bad; `BadRequest` names each, as many as fit.",
        "Correct the fields.",
        (OMITTED_KEY,),
    ),
    Reason.REQUEST_TOO_LARGE: Rule(
        grpc.StatusCode.INVALID_ARGUMENT,
        "The call is larger than 3 MiB.",
        "Send it in parts.",
        ("bytes_max",),
    ),
    Reason.CALLER_ID_INVALID: Rule(
        grpc.StatusCode.INVALID_ARGUMENT,
        "The metadata `x-caller-id` is not 1-64 printable ASCII characters without blanks.",
        "Correct it, or leave it out.",
    ),
    Reason.REQUEST_ID_EXPIRED: Rule(
        grpc.StatusCode.INVALID_ARGUMENT,
        "The `request_id` is too old (by 15 to 25 minutes); no order exists under it and none ever will.",
        "Mint a new one from `server_time`. This is safe: nothing was created.",
        ("server_time",),
    ),
    Reason.REQUEST_ID_AHEAD: Rule(
        grpc.StatusCode.INVALID_ARGUMENT,
        "The `request_id` is more than a minute ahead of the server.",
        "Correct the clock, or mint a new one from `server_time`.",
        ("server_time",),
    ),
    Reason.REQUEST_ID_REUSED: Rule(
        grpc.StatusCode.ALREADY_EXISTS,
        "The `request_id` was used before with another payload.",
        "Mint a new one for a new request; `order_id` names the order of the first.",
        ("order_id",),
    ),
    Reason.PAGE_TOKEN_INVALID: Rule(
        grpc.StatusCode.INVALID_ARGUMENT,
        "The page token is damaged, or belongs to another customer or state.",
        "Start from the first page.",
    ),
    Reason.ORDER_NOT_FOUND: Rule(
        grpc.StatusCode.NOT_FOUND,
        "No order exists under this id.",
        "Check the id.",
        ("order_id",),
    ),
    Reason.TRANSITION_NOT_ALLOWED: Rule(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The order's present state does not allow the transition.",
        "Look at `state`, and call one of `allowed_methods` if that is what you mean.",
        ("state", "version", "method", "allowed_methods"),
    ),
    Reason.VERSION_MISMATCH: Rule(
        grpc.StatusCode.ABORTED,
        "The order is not at `expected_version`.",
        "Read it and decide again.",
        ("current_version", "expected_version", "state"),
    ),
    Reason.MIN_VERSION_NOT_REACHED: Rule(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The order has not reached `min_version`.",
        "The caller confused two orders or two services: find out which.",
        ("current_version", "min_version"),
    ),
    Reason.QUEUE_FULL: Rule(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "A bounded queue is full. Nothing was written.",
        "Retry after the hint, with the same `request_id`.",
        retry="yes",
        retry_after_s=0.1,
    ),
    Reason.STORE_FULL: Rule(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "The shard's disk is full. Nothing was written.",
        "The operator must make room; a retry with the same `request_id` tells when.",
        retry="yes",
        retry_after_s=5.0,
    ),
    Reason.STORE_UNAVAILABLE: Rule(
        grpc.StatusCode.UNAVAILABLE,
        "The shard cannot be reached. Nothing was written.",
        "Retry after the hint, with the same `request_id`.",
        retry="yes",
        retry_after_s=0.5,
    ),
    Reason.OUTCOME_UNKNOWN: Rule(
        grpc.StatusCode.UNAVAILABLE,
        "Whether the write happened could not be settled in time.",
        "Retry after the hint with the same `request_id`, which tells.",
        retry="yes",
        retry_after_s=0.2,
    ),
    Reason.SHUTTING_DOWN: Rule(
        grpc.StatusCode.UNAVAILABLE,
        "The worker is shutting down. Nothing was written.",
        "Retry at once, on another worker.",
        retry="yes",
        retry_after_s=0.0,
    ),
    Reason.DEADLINE_EXCEEDED: Rule(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "The call's deadline passed. A write happened wholly or not at all.",
        "Retry with the same `request_id`, which tells, and a longer deadline.",
        retry="later",
    ),
    Reason.STORE_CORRUPT: Rule(
        grpc.StatusCode.DATA_LOSS,
        "The shard's files are damaged, or what is stored of `order_id` is, or it is of a later release.",
        "The operator must restore a backup, or end an upgrade.",
        ("order_id",),
        retry="later",
    ),
    Reason.INTERNAL: Rule(
        grpc.StatusCode.INTERNAL,
        "A defect of the service, logged there under `call_id`.",
        "Report it with its `call_id`.",
        ("call_id",),
    ),
    Reason.OVERLOADED: Rule(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "The worker has more calls than it can serve; a higher `crest-priority` goes first. Nothing was done.",
        "Retry after the hint, with the same `request_id`, on another worker if there is one.",
        ("priority",),
        retry="yes",
        retry_after_s=0.2,
    ),
    Reason.DEADLINE_TOO_SHORT: Rule(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "The call would not have been done by its deadline, so it was not begun.",
        "Retry after the hint, with the same `request_id` and a longer deadline.",
        ("priority",),
        retry="yes",
        retry_after_s=0.2,
    ),
    Reason.RATE_LIMITED: Rule(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "This caller calls more often than the operator allows each. Nothing was done.",
        "Retry after the hint, with the same `request_id`, and call less often.",
        retry="yes",
        retry_after_s=1.0,
    ),
    Reason.REBALANCE_REFUSED: Rule(
        grpc.StatusCode.FAILED_PRECONDITION,
        "Of `topology.v1.RebalanceService`: the step is not legal now.",
        "Take one of `legal_commands`, which are words of `python -m shards.rebalance`.",
        ("legal_commands",),
        retry="later",
    ),
}
"""One rule a reason; a test holds it to ``orders.proto``."""


class Refusal(NamedTuple):
    """How a call ends that is not answered."""

    code: grpc.StatusCode
    message: str
    trailers: Sequence[tuple[str, str | bytes]] = ()
    reason: str = ""
    """Name of the reason, empty in the standard services (health, reflection, channelz), which have codes only."""
    violations: tuple[Violation, ...] = ()
    """For the log, as many as the error names."""
    violations_omitted: int = 0
    """How many the error does not name."""


class RefusedError(Exception):
    """Raised by the standard services, whose protocols know codes but no reasons."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(code, message)


def refusal_of(error: OrderError) -> Refusal:
    """Returns code, message and trailers for an error; names as many violations as fit ``STATUS_BYTES_MAX``."""
    rule = RULES[error.reason]
    message = _shortened(error.message)
    status = status_pb2.Status(code=rule.code.value[0], message=message)
    retry_after_s = rule.retry_after_s if error.retry_after_s is None else error.retry_after_s
    if retry_after_s is not None:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=duration(retry_after_s)))
    info = error_details_pb2.ErrorInfo(reason=error.reason.name, domain=DOMAIN, metadata=error.metadata)
    if error.violations:
        bad = error_details_pb2.BadRequest()
        left = STATUS_BYTES_MAX - status.ByteSize() - info.ByteSize() - 256  # type URLs, lengths and the omitted count
        omitted = error.violations_omitted + _name(error.violations, bad.field_violations, left)
        if omitted:
            info.metadata[OMITTED_KEY] = str(omitted)
        status.details.add().Pack(bad)
    status.details.add().Pack(info)
    details = status.SerializeToString(deterministic=True)
    trailers = ((DETAILS_KEY, details),)
    return Refusal(rule.code, message, trailers, error.reason.name, error.violations, error.violations_omitted)


def item_error(error: OrderError, bytes_max: int | None = None) -> orders_pb2.Error:
    """Returns the error of one item of a batch or stream; names the violations that ``bytes_max`` holds (None: all)."""
    rule = RULES[error.reason]
    message = orders_pb2.Error(
        code=rule.code.value[0],
        reason=error.reason.name,
        message=_shortened(error.message),
        metadata=error.metadata,
    )
    retry_after_s = rule.retry_after_s if error.retry_after_s is None else error.retry_after_s
    if retry_after_s is not None:
        message.retry_delay.CopyFrom(duration(retry_after_s))
    left = sys.maxsize if bytes_max is None else bytes_max - message.ByteSize() - _OMITTED_BYTES
    omitted = error.violations_omitted + _name(error.violations, message.field_violations, left)
    if omitted:
        message.metadata[OMITTED_KEY] = str(omitted)
    return message


def _name(violations: Sequence[Violation], named: Any, left: int) -> int:  # noqa: ANN401  two messages of one form
    """Adds to ``named`` the first violations, as many as ``left`` bytes hold; returns how many they do not hold."""
    for number, (field, description) in enumerate(violations):
        left -= named.add(field=field, description=description).ByteSize() + 3  # its tag and length
        if left < 0:
            del named[-1]
            return len(violations) - number
    return 0


def duration(seconds: float) -> Duration:
    """Returns a protobuf duration of non-negative seconds."""
    nanos = round(seconds * 1e9)
    return Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def _shortened(message: str) -> str:
    return message if len(message) <= MESSAGE_CHARS_MAX else message[: MESSAGE_CHARS_MAX - 3] + "..."


def page() -> str:
    """Returns ``docs/errors.md``."""
    rows: Sequence[str] = [
        f"| `{reason.name}` | {rule.code.name} | {rule.meaning} | {rule.action} | {_retry(rule)} | "
        f"{', '.join(f'`{key}`' for key in rule.metadata) or '-'} |"
        for reason, rule in RULES.items()
    ]
    return _PAGE.format(table="\n".join(rows), domain=DOMAIN, named=FIELDS_NAMED_MAX)


def _retry(rule: Rule) -> str:
    return f"yes, after {rule.retry_after_s:g} s" if rule.retry_after_s is not None else rule.retry


_PAGE: Final = """\
# Errors

This page is printed by `python -m server.rpc.errors`; a test keeps it so.

A failed call ends with a canonical gRPC code, a message for developers (in English, not stable), and a
`google.rpc.Status` in the trailer `grpc-status-details-bin`, which stock clients decode. It holds

- `google.rpc.ErrorInfo`: `domain` is `{domain}`, `reason` one of the table, `metadata` the facts named there. Decide by
  `reason`; codes are for balancers and dashboards.
- `google.rpc.BadRequest`, for INVALID_REQUEST: each bad field by its path, such as `lines[2].quantity`. Of an order's
  lines the first {named} are named, and trailers are small: past those, and past 3 KiB, the rest is counted in metadata
  `violations_omitted`.
- `google.rpc.RetryInfo` where the same request can succeed later: how long to wait at least. The hint below is the
  default; the answer may bring a better one.

Items of `BatchCreateOrders` and `SubmitOrders` carry the same content in `Error`, one an item; the call itself is OK.

| reason | code | what it means | what to do | retry | metadata |
|---|---|---|---|---|---|
{table}

*Retry*: `yes` with the same `request_id` is always safe, and without one is a new request. `later` means that something
else must change first: a backup restored, a longer deadline.

Not in the table, because the service never sees the call: `CANCELLED` after the caller cancelled or when the grace of a
stopping worker ended (retry with the same `request_id`), `UNIMPLEMENTED` for a method that does not exist,
`RESOURCE_EXHAUSTED` without a reason for a message above 4 MiB, and `UNAVAILABLE` without a reason when a connection
broke. The standard services (health, reflection, channelz) answer with the codes of their own protocols; bytes that
they cannot decode are `REQUEST_UNDECODABLE` there, too.
"""


if __name__ == "__main__":
    sys.stdout.write(page())
