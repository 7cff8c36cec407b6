"""Why a call failed: one family of exceptions, whose classes say what a caller can do about it.

    OrderError
    ├── InvalidRequest          the request is wrong: correct it (violations name the bad fields)
    │   ├── RequestIdExpired    too old to be told from a finished one; nothing was or will be created under it
    │   └── RequestIdAhead      minted by a clock that runs ahead of the server's
    ├── NotFound                there is no such order
    ├── Conflict                the request is right, and the order's present state or history does not allow it
    │   ├── TransitionNotAllowed
    │   ├── VersionMismatch     read the order and decide again
    │   └── RequestIdReused     the same id came back with another payload
    ├── Overloaded              refused without doing anything; retryable when the server says when
    ├── Unavailable             nobody answered, or nobody could say: call again with the same request_id
    ├── DeadlineExceeded        as Unavailable, and time is up
    └── ServerFault             a defect or a damage on the other side: report it

The class follows from the reason where the service gave one, else from the gRPC code. New reasons of a newer server
arrive as text in ``reason`` and in the class of their code.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from clients.orders import NOTHING

if TYPE_CHECKING:
    from protos.orders.v1 import orders_pb2

DOMAIN: Final = "orders.v1"
_DETAILS_KEY: Final = "grpc-status-details-bin"
_PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"


class Reason(enum.StrEnum):
    """Every reason of the service, by its name on the wire (``orders.v1.ErrorReason`` documents each)."""

    REQUEST_UNDECODABLE = "REQUEST_UNDECODABLE"
    INVALID_REQUEST = "INVALID_REQUEST"
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE"
    CALLER_ID_INVALID = "CALLER_ID_INVALID"
    REQUEST_ID_EXPIRED = "REQUEST_ID_EXPIRED"
    REQUEST_ID_AHEAD = "REQUEST_ID_AHEAD"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"  # noqa: S105 - the name of a reason, not a password
    ORDER_NOT_FOUND = "ORDER_NOT_FOUND"
    TRANSITION_NOT_ALLOWED = "TRANSITION_NOT_ALLOWED"
    VERSION_MISMATCH = "VERSION_MISMATCH"
    MIN_VERSION_NOT_REACHED = "MIN_VERSION_NOT_REACHED"
    QUEUE_FULL = "QUEUE_FULL"
    STORE_FULL = "STORE_FULL"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    STORE_CORRUPT = "STORE_CORRUPT"
    INTERNAL = "INTERNAL"
    OVERLOADED = "OVERLOADED"
    DEADLINE_TOO_SHORT = "DEADLINE_TOO_SHORT"
    RATE_LIMITED = "RATE_LIMITED"
    REBALANCE_REFUSED = "REBALANCE_REFUSED"


class Violation(NamedTuple):
    """One bad field: its path in the request, such as ``lines[2].quantity``, and what is wrong with it."""

    field: str
    description: str


class Together:
    """What the calls of one batch have in common when it fails as a whole: sent again they are one retry, not many."""

    __slots__ = ("granted",)

    def __init__(self) -> None:
        self.granted: bool | None = None
        """Whether the retry budget allowed it; None until the first of them asks."""


class OrderError(Exception):
    """A call, or one item of a batch, failed.

    ``reason`` is the service's own (compare with ``Reason``), or empty when the failure did not come from the service:
    a broken connection has only a ``code``. ``attempts`` counts the calls made for it. ``request_id`` is the one that
    the write was sent with: calling again with it is safe always, and tells what became of it.
    """

    always_retryable = False
    settles_doubt = False
    """Whether it tells that no attempt before has written, either."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] = NOTHING,
        violations: tuple[Violation, ...] = (),
        retry_delay_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = metadata
        self.violations = violations
        self.retry_delay_s = retry_delay_s
        self.refuses_retries = False
        """The server asked not to be asked again."""
        self.attempts = 1
        self.request_id = ""
        self.in_doubt = False
        """An attempt before this one, under the same request id, may have written."""
        self.together: Together | None = None

    @property
    def retryable(self) -> bool:
        """Whether the same call, with the same ``request_id``, may succeed later."""
        return not self.refuses_retries and (self.always_retryable or self.retry_delay_s is not None)

    @property
    def maybe_done(self) -> bool:
        """Whether the write may have happened all the same, in this attempt or in one before it.

        False only when refusals say that nothing was written.
        """
        vague = self.reason not in _NOTHING_WRITTEN and isinstance(self, Unavailable | DeadlineExceeded | ServerFault)
        return vague or (self.in_doubt and not self.settles_doubt)

    def of(self, request_id: str) -> Self:
        """Returns a copy that names another request: one failed call may be the failure of many items."""
        twin = copy.copy(self)
        twin.request_id = request_id
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException would call the class with the message alone; copies and other processes get the whole state.
        state = {**self.__dict__, "metadata": dict(self.metadata)}  # what stands for none cannot be pickled
        return _revive, (type(self), self.message, self.code), state

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r}, retryable={self.retryable}, attempts={self.attempts})"


class InvalidRequest(OrderError):
    """The request is wrong as it stands; ``violations`` names its bad fields, of many the first."""


class RequestIdExpired(InvalidRequest):
    """The request id is too old; no order exists under it and none ever will. A new id is safe."""

    settles_doubt = True


class RequestIdAhead(InvalidRequest):
    """The request id is more than a minute ahead of the server; this attempt created nothing."""


class NotFound(OrderError):
    """There is no order under this id."""

    settles_doubt = True


class Conflict(OrderError):
    """The order's present state or history does not allow it; the facts stand in ``metadata``."""

    settles_doubt = True  # a write of its own in that history would have been answered as a replay


class TransitionNotAllowed(Conflict):
    """The order's state does not allow the transition; ``metadata`` has ``state`` and ``allowed_methods``."""


class VersionMismatch(Conflict):
    """The order is not at ``expected_version``; ``metadata`` has ``current_version``."""


class RequestIdReused(Conflict):
    """The request id was used before with another payload."""


class Overloaded(OrderError):
    """Refused without doing anything: a queue, a disk or a message is full.

    An attempt before may have done it (``maybe_done``).
    """


class Unavailable(OrderError):
    """Nobody answered, or nobody could say whether the write happened: the same request id tells."""

    always_retryable = True


class DeadlineExceeded(OrderError):
    """Time is up; a write has happened wholly or not at all, and the same request id tells which."""

    always_retryable = True


class ServerFault(OrderError):
    """A defect or a damage on the other side: report it."""


_BY_REASON: Final[Mapping[str, type[OrderError]]] = {
    Reason.REQUEST_ID_EXPIRED: RequestIdExpired,
    Reason.REQUEST_ID_AHEAD: RequestIdAhead,
    Reason.REQUEST_ID_REUSED: RequestIdReused,
    Reason.TRANSITION_NOT_ALLOWED: TransitionNotAllowed,
    Reason.VERSION_MISMATCH: VersionMismatch,
}

_BY_CODE: Final[Mapping[grpc.StatusCode, type[OrderError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # Never ours here: a call that we cancel ourselves ends as asyncio.CancelledError. A server that stops cancels the
    # calls it has not finished (grpc/grpc#41785), so it means the same as UNAVAILABLE.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}

_NOTHING_WRITTEN: Final = frozenset({Reason.STORE_UNAVAILABLE, Reason.SHUTTING_DOWN})

_CODE_BY_NUMBER: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


def _revive(kind: type[OrderError], message: str, code: grpc.StatusCode) -> OrderError:
    return kind(message, code=code)


def error_class(reason: str, code: grpc.StatusCode) -> type[OrderError]:
    """Returns the class of a failure with this reason (may be empty) and code."""
    return _BY_REASON.get(reason) or _BY_CODE.get(code, ServerFault)


def from_rpc(failure: grpc.aio.AioRpcError) -> OrderError:
    """Returns the error of a failed call: what the trailer ``grpc-status-details-bin`` tells, else the bare code.

    A trailer that cannot be read is left out, never an error of its own.
    """
    code = failure.code()
    reason = ""
    metadata: Mapping[str, str] = NOTHING
    violations: tuple[Violation, ...] = ()
    delay: float | None = None
    pushback = ""
    for key, value in failure.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            reason, metadata, violations, delay = _details(value)
        elif key == _PUSHBACK_KEY and isinstance(value, str):
            pushback = value
    message = failure.details() or "no message"
    error = error_class(reason, code)(
        message, code=code, reason=reason, metadata=metadata, violations=violations, retry_delay_s=delay
    )
    if pushback:
        _push_back(error, pushback)
    return error


def _push_back(error: OrderError, pushback: str) -> None:
    """Heeds what a server or a proxy says of retries to clients that cannot read ``RetryInfo`` (gRFC A6)."""
    try:
        delay_s = int(pushback) / 1000
    except ValueError:
        delay_s = -1.0
    if delay_s < 0:  # by the gRFC, as anything that is no number: not to be tried again
        error.refuses_retries = True
    elif error.retry_delay_s is None:
        error.retry_delay_s = delay_s


def from_item(error: orders_pb2.Error) -> OrderError:
    """Returns the error of one item of a batch or stream."""
    code = _CODE_BY_NUMBER.get(error.code, grpc.StatusCode.UNKNOWN)
    delay = error.retry_delay.seconds + error.retry_delay.nanos / 1e9 if error.HasField("retry_delay") else None
    return error_class(error.reason, code)(
        error.message,
        code=code,
        reason=error.reason,
        metadata=dict(error.metadata),
        violations=tuple(Violation(v.field, v.description) for v in error.field_violations),
        retry_delay_s=delay,
    )


def _details(trailer: bytes) -> tuple[str, Mapping[str, str], tuple[Violation, ...], float | None]:
    reason = ""
    metadata: Mapping[str, str] = NOTHING
    violations: list[Violation] = []
    delay: float | None = None
    try:
        for detail in status_pb2.Status.FromString(trailer).details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(detail.value)
                if info.domain == DOMAIN:
                    reason, metadata = info.reason, dict(info.metadata)
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest.FromString(detail.value)
                violations += [Violation(v.field, v.description) for v in bad.field_violations]
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                wait = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                delay = wait.seconds + wait.nanos / 1e9
    except DecodeError:
        pass
    return reason, metadata, tuple(violations), delay
