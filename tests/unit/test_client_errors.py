"""The error tree: complete, faithful to the wire, and safe to copy and send."""

import copy
import pickle

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from clients import (
    Conflict,
    InvalidRequest,
    OrderError,
    Overloaded,
    Reason,
    RequestIdAhead,
    RequestIdExpired,
    ServerFault,
    Unavailable,
    VersionMismatch,
    errors,
)
from protos.orders.v1 import orders_pb2
from tests.support.scripted_server import Fail

FULL = Fail(
    grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_REQUEST",
    "two fields are bad",
    metadata={"fact": "1"},
    violations=[("lines[0].sku", "is empty"), ("currency_code", "is not one")],
    retry_delay_s=0.25,
)


def rpc_error(code: grpc.StatusCode, *trailers: tuple[str, bytes]) -> AioRpcError:
    """What grpc.aio raises."""
    return AioRpcError(code, Metadata(), Metadata(*trailers), details="details")


def test_reasons_are_those_of_the_wire() -> None:
    """The client knows every reason of the proto, by its name there."""
    wire = {name.removeprefix("ERROR_REASON_") for name in orders_pb2.ErrorReason.keys()}  # noqa: SIM118 - no dict
    assert {reason.value for reason in Reason} == wire - {"UNSPECIFIED"}


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_code_has_a_class(code: grpc.StatusCode) -> None:
    """Any code becomes an error of the family, also without details and with ones that cannot be read."""
    for trailers in ((), (("grpc-status-details-bin", b"\xff\xff"),)):
        error = errors.from_rpc(rpc_error(code, *trailers))
        assert isinstance(error, OrderError)
        assert error.code is code
        assert error.reason == ""


def test_details_arrive_whole() -> None:
    """Reason, metadata, violations and hint of a failed call and of a failed item are the same."""
    of_call = errors.from_rpc(rpc_error(FULL.code, ("grpc-status-details-bin", FULL.details)))
    of_item = errors.from_item(FULL.item)
    for error in (of_call, of_item):
        assert type(error) is InvalidRequest
        assert error.reason == Reason.INVALID_REQUEST
        assert error.metadata == {"fact": "1"}
        assert [tuple(v) for v in error.violations] == list(FULL.violations)
        assert error.retry_delay_s == 0.25
        assert error.retryable


def test_a_reason_of_the_future_keeps_its_name() -> None:
    """A reason that this client does not know arrives as text, in the class of its code."""
    later = Fail(grpc.StatusCode.FAILED_PRECONDITION, "SOMETHING_NEW")
    error = errors.from_rpc(rpc_error(later.code, ("grpc-status-details-bin", later.details)))
    assert type(error) is Conflict
    assert error.reason == "SOMETHING_NEW"
    assert type(errors.from_item(orders_pb2.Error(code=99))) is ServerFault


def test_errors_survive_copies_and_pickles() -> None:
    """A copy, and an error from another process, has everything the first one had."""
    error = VersionMismatch("stale", code=grpc.StatusCode.ABORTED, reason="VERSION_MISMATCH", metadata={"a": "b"})
    error.attempts, error.request_id = 3, "id"
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301 - our own bytes
        assert type(twin) is VersionMismatch
        assert (str(twin), twin.code, twin.attempts, twin.request_id) == (str(error), error.code, 3, "id")
        assert twin.metadata == {"a": "b"}
    assert error.of("other").request_id == "other"
    assert error.request_id == "id"
    bare = errors.from_rpc(rpc_error(grpc.StatusCode.UNAVAILABLE))
    assert pickle.loads(pickle.dumps(bare)).metadata == {}  # noqa: S301 - as above


def test_only_doubtful_failures_may_have_written() -> None:
    """A lost connection may have written; a refusal, and a server that says it wrote nothing, has not."""
    lost = Unavailable("lost", code=grpc.StatusCode.UNAVAILABLE)
    stopping = Unavailable("stop", code=grpc.StatusCode.UNAVAILABLE, reason=Reason.SHUTTING_DOWN)
    refused = InvalidRequest("no", code=grpc.StatusCode.INVALID_ARGUMENT)
    assert [error.maybe_done for error in (lost, stopping, refused)] == [True, False, False]


def test_some_refusals_settle_a_doubt() -> None:
    """After an attempt in doubt only what looked the request up, or says that it never was, tells that it was not."""
    overloaded = Overloaded("full", code=grpc.StatusCode.RESOURCE_EXHAUSTED)
    ahead = RequestIdAhead("ahead", code=grpc.StatusCode.INVALID_ARGUMENT)
    expired = RequestIdExpired("expired", code=grpc.StatusCode.INVALID_ARGUMENT)
    stale = VersionMismatch("stale", code=grpc.StatusCode.ABORTED)
    for error in (overloaded, ahead, expired, stale):
        error.in_doubt = True
    assert [error.maybe_done for error in (overloaded, ahead, expired, stale)] == [True, True, False, False]
    assert pickle.loads(pickle.dumps(ahead)).maybe_done  # noqa: S301 - our own bytes


def test_repr_says_what_to_do() -> None:
    """The repr shows reason, text, whether a retry may help and how often it was tried."""
    error = Unavailable("lost", code=grpc.StatusCode.UNAVAILABLE)
    assert repr(error) == "Unavailable('UNAVAILABLE: lost', retryable=True, attempts=1)"


@pytest.mark.parametrize(
    ("pushback", "is_retryable", "delay_s"),
    [("250", True, 0.25), ("0", True, 0.0), ("-1", False, None), ("soon", False, None)],
)
def test_pushback_is_heeded(pushback: str, is_retryable: bool, delay_s: float | None) -> None:
    """The trailer by which servers and proxies delay or forbid retries counts where there is no RetryInfo (gRFC A6)."""
    trailers = Metadata(("grpc-retry-pushback-ms", pushback))
    for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        error = errors.from_rpc(AioRpcError(code, Metadata(), trailers, details="details"))
        assert (error.retryable, error.retry_delay_s) == (is_retryable, delay_s)
        assert copy.copy(error).retryable == is_retryable
