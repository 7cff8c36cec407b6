"""Nothing that a caller can send makes the service fail: fuzzed bytes and fuzzed fields at every method.

What may come back is an answer or a code that says what the caller did; never INTERNAL or UNKNOWN, and never a line at
ERROR in the log.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos.orders.v1 import orders_pb2
from protos.topology.v1 import topology_pb2
from server.rpc.reflection import NAME_V1
from server.rpc.services import build_services
from server.transport import Kind
from shards.routing import Router
from tests.support.rpc_worker import KINDS, RpcWorker, a_create, new_id, rpc_worker_in_thread

EXAMPLES: Final = 2_000 if os.environ.get("TORTURE") else 40
"""A method and a transport, and for bytes and fields each."""

MESSAGES_READ_MAX: Final = 3
TIMEOUT_S: Final = 30.0


class Method(NamedTuple):
    """One method of one service."""

    path: str
    request: Descriptor
    client_streaming: bool
    server_streaming: bool


def _methods() -> list[Method]:
    found = []
    for file in (orders_pb2, topology_pb2, health_pb2, reflection_pb2, channelz_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            names = {service.full_name}
            if file is reflection_pb2:
                names.add(NAME_V1)
            found += [
                Method(f"/{name}/{method.name}", method.input_type, method.client_streaming, method.server_streaming)
                for name in sorted(names)
                for method in service.methods
            ]
    return found


METHODS: Final = _methods()

TEXTS: Final = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["", "customer-1", "EUR", "sku-1", "\x00", "x" * 5000, "\U0001f600", "a b", "../..", "%s%n"]),
    st.builds(new_id),
    st.just(a_create().request_id),
)

NUMBERS: Final = st.one_of(
    st.integers(-3, 3), st.sampled_from([-(2**63), 2**63 - 1, -(2**31), 2**31 - 1, 2**32 - 1, 10**12, 10**6])
)

RANGES: Final = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), 2**31 - 1),
}


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type)
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXTS
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=40)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    low, high = RANGES[field.type]
    return NUMBERS.map(lambda number: min(max(number, low), high))


def messages(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Any message of a type, with hostile values in any of its fields."""
    kind = GetMessageClass(descriptor)

    def build(chosen: dict[str, Any]) -> Message:
        return kind(**chosen)

    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = (_values(part) for part in field.message_type.fields)
            fields[field.name] = st.dictionaries(key, value, max_size=40)
        elif field.is_repeated:
            fields[field.name] = st.lists(_values(field), max_size=4)
        else:
            fields[field.name] = _values(field)
    oneofs = {part.name for oneof in descriptor.oneofs if len(oneof.fields) > 1 for part in oneof.fields}
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional = {name: values for name, values in fields.items() if name not in oneofs}
    plain = st.fixed_dictionaries(required, optional=optional).map(build)
    if not oneofs:
        return plain
    one = st.one_of(*(st.fixed_dictionaries({name: fields[name]}) for name in sorted(oneofs))).map(build)
    return st.one_of(plain, one)


@st.composite
def mangled(draw: st.DrawFn, descriptor: Descriptor) -> bytes:
    """Bytes that are nearly a message: cut, spliced, or with some of them changed."""
    raw = bytearray(draw(messages(descriptor)).SerializeToString())
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.value)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RpcWorker, Any]]:
    """A worker on one transport, and a channel to it."""
    data_dir: Path = tmp_path_factory.mktemp("fuzz") / "data"
    with (
        rpc_worker_in_thread(request.param, data_dir) as worker,
        grpc.insecure_channel(worker.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        yield worker, channel


def send(channel: grpc.Channel, method: Method, payloads: list[bytes]) -> grpc.StatusCode:
    """Makes one call of raw bytes and returns its code; OK also for a stream that was left after some messages."""
    kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
    request: Any = iter(payloads) if method.client_streaming else payloads[0]
    call = getattr(channel, kind)(method.path)
    try:
        if not method.server_streaming:
            call(request, timeout=TIMEOUT_S)
            return grpc.StatusCode.OK
        answers = call(request, timeout=TIMEOUT_S)
        for count, _ in enumerate(answers, start=1):
            # those that answer one request by a stream go on for ever
            if count == MESSAGES_READ_MAX or not method.client_streaming:
                answers.cancel()
                return grpc.StatusCode.OK
    except grpc.RpcError as error:
        code = error.code()
        assert isinstance(code, grpc.StatusCode)
        return code
    return grpc.StatusCode.OK


def check(
    served: tuple[RpcWorker, Any], method: Method, payloads: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Sends, and looks at code and log."""
    caplog.clear()
    code = send(served[1], method, payloads)
    assert code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED}
    assert code not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,  # a call waits for the disk
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],  # one server for all examples
)


@pytest.mark.torture
@pytest.mark.timeout(0 if os.environ.get("TORTURE") else 300)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path)
def test_fuzzed_fields(served: tuple[RpcWorker, Any], method: Method, caplog: pytest.LogCaptureFixture) -> None:
    """Any message of the right type is answered, or refused by a code that says what the caller did."""

    @FUZZ
    @given(st.lists(messages(method.request), min_size=1, max_size=4 if method.client_streaming else 1))
    def run(requests: list[Message]) -> None:
        check(served, method, [request.SerializeToString() for request in requests], caplog)

    run()


@pytest.mark.torture
@pytest.mark.timeout(0 if os.environ.get("TORTURE") else 300)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path)
def test_fuzzed_bytes(served: tuple[RpcWorker, Any], method: Method, caplog: pytest.LogCaptureFixture) -> None:
    """Any bytes are answered, or refused by a code that says what the caller did."""
    payload = st.one_of(st.binary(max_size=200), mangled(method.request))

    @FUZZ
    @given(st.lists(payload, min_size=1, max_size=4 if method.client_streaming else 1))
    def run(payloads: list[bytes]) -> None:
        check(served, method, payloads, caplog)

    run()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path)
def test_undecodable_bytes_are_the_callers_fault(served: tuple[RpcWorker, Any], method: Method) -> None:
    """Bytes that are no message at all are INVALID_ARGUMENT at every method of every service."""
    assert send(served[1], method, [b"\xff\xff\xff"]) is grpc.StatusCode.INVALID_ARGUMENT


def test_every_served_method_is_fuzzed(served: tuple[RpcWorker, Any]) -> None:
    """The methods that are fuzzed are all that the worker serves."""
    worker, _ = served
    services = build_services(orders=None, fleet=worker.fleet, router=worker.router, channelz=True)  # type: ignore[arg-type]  # none is called
    paths = {f"/{service.name}/{method}" for service in services for method in service.handlers}
    assert paths == {method.path for method in METHODS}


class DefectiveRouter:
    """A router with a planted defect: it cannot write."""

    def __init__(self, router: Router) -> None:
        self.topology = router.topology
        self.close = router.close

    async def write(self, *_arguments: object) -> None:
        """Meets the defect."""
        raise KeyError("planted")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_a_planted_defect_is_found(kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The checks of this file fail for a service that meets a defect."""
    create = next(method for method in METHODS if method.path.endswith("/CreateOrder"))
    with (
        rpc_worker_in_thread(kind, tmp_path / "data", wrap=DefectiveRouter) as worker,
        grpc.insecure_channel(worker.address) as channel,
    ):
        check((worker, channel), create, [b"\xff"], caplog)
        with pytest.raises(AssertionError):
            check((worker, channel), create, [a_create().SerializeToString()], caplog)
        assert [record.name for record in caplog.records if record.levelno >= logging.ERROR] == ["crest.calls"]
