"""What a scripted server does with a call: the words that a test's script is made of."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from protos.orders.v1 import orders_pb2

if TYPE_CHECKING:  # the class cannot be subscripted at run time
    Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Fail:
    """The call fails without doing anything. With a ``reason`` it carries the details that the service would send."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "on cue"
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: Sequence[tuple[str, str]] = ()
    retry_delay_s: float | None = None

    @property
    def details(self) -> bytes:
        """The trailer ``grpc-status-details-bin``."""
        parts: list[Any] = [
            error_details_pb2.ErrorInfo(reason=self.reason, domain="orders.v1", metadata=dict(self.metadata))
        ]
        if self.violations:
            bad = error_details_pb2.BadRequest()
            for path, description in self.violations:
                bad.field_violations.add(field=path, description=description)
            parts.append(bad)
        if self.retry_delay_s is not None:
            parts.append(error_details_pb2.RetryInfo(retry_delay=_duration(self.retry_delay_s)))
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for part in parts:
            packed = any_pb2.Any()
            packed.Pack(part)
            status.details.append(packed)
        return bytes(status.SerializeToString())

    async def abort(self, context: Context) -> None:
        """Ends a call with this failure; raises."""
        if self.reason:
            context.set_trailing_metadata((("grpc-status-details-bin", self.details),))
        await context.abort(self.code, self.message)

    @property
    def item(self) -> orders_pb2.Error:
        """The same failure as the error of one item."""
        error = orders_pb2.Error(
            code=self.code.value[0],
            reason=self.reason,
            message=self.message,
            metadata=dict(self.metadata),
            field_violations=[orders_pb2.FieldViolation(field=f, description=d) for f, d in self.violations],
        )
        if self.retry_delay_s is not None:
            error.retry_delay.CopyFrom(_duration(self.retry_delay_s))
        return error


@dataclass(frozen=True)
class LoseReply:
    """The call does its work, and then fails."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE


@dataclass(frozen=True)
class Hang:
    """The call never answers."""


@dataclass(frozen=True)
class Items:
    """In a batch, the items at these positions fail; the others are created."""

    errors: Mapping[int, Fail]


Cue = Fail | LoseReply | Hang | Items


def unavailable() -> Fail:
    """A broken connection, as a caller sees it: a code without details."""
    return Fail(grpc.StatusCode.UNAVAILABLE)


def refused_id(reason: str, server_time: dt.datetime) -> Fail:
    """REQUEST_ID_AHEAD or REQUEST_ID_EXPIRED, by a server whose clock shows ``server_time``."""
    metadata = {"server_time": server_time.isoformat()}
    return Fail(grpc.StatusCode.INVALID_ARGUMENT, reason, metadata=metadata)


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
