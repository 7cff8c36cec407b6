"""The standard services, as stock tools call them, on both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from server.rpc.services import build_services
from tests.support.rpc_worker import KINDS, RpcWorker, prepared, rpc_worker

OURS = ("orders.v1.OrderService", "topology.v1.TopologyService")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
REFLECTIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


@pytest.fixture(params=KINDS, ids=lambda kind: kind.value)
async def worker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RpcWorker]:
    """A worker on one transport."""
    with prepared(tmp_path / "data") as settings:
        async with asyncio.timeout(60), rpc_worker(request.param, settings) as worker:
            yield worker


async def reflect(worker: RpcWorker, service: str, **question: Any) -> reflection_pb2.ServerReflectionResponse:  # noqa: ANN401  # a field of the question
    """Asks the reflection service under one of its names."""
    call = worker.channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = [answer async for answer in call(iter([reflection_pb2.ServerReflectionRequest(**question)]))]
    return answer


@pytest.mark.parametrize("service", ["", *OURS])
async def test_health_follows_the_worker(worker: RpcWorker, service: str) -> None:
    """Check and Watch tell of the worker and of each service whether it serves, Watch at every change."""
    stub = health_pb2_grpc.HealthStub(worker.channel)
    request = health_pb2.HealthCheckRequest(service=service)
    watch = aiter(stub.Watch(request))
    for serving, status in ((None, SERVING), (False, NOT_SERVING), (True, SERVING)):
        if serving is not None:
            worker.services.set_serving(serving)
        assert (await anext(watch)).status == status
        assert (await stub.Check(request)).status == status


async def test_health_of_one_service_is_its_own(worker: RpcWorker) -> None:
    """Setting one service leaves the others, and List tells all."""
    worker.services.set_serving(False, OURS[0])
    answer = await health_pb2_grpc.HealthStub(worker.channel).List(health_pb2.HealthListRequest())
    assert {name: status.status for name, status in answer.statuses.items()} == {
        "": SERVING,
        OURS[0]: NOT_SERVING,
        OURS[1]: SERVING,
    }


async def test_health_of_an_unknown_service(worker: RpcWorker) -> None:
    """Check of a service that is not here is NOT_FOUND, Watch tells SERVICE_UNKNOWN and goes on."""
    stub = health_pb2_grpc.HealthStub(worker.channel)
    request = health_pb2.HealthCheckRequest(service="nobody.v1.Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(request)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    answer = await anext(aiter(stub.Watch(request)))
    assert answer.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.mark.parametrize("name", REFLECTIONS)
async def test_reflection_describes_every_service_it_lists(worker: RpcWorker, name: str) -> None:
    """Under both of its names reflection lists all services, and describes each with all that it depends on."""
    listed = await reflect(worker, name, list_services="")
    names = {service.name for service in listed.list_services_response.service}
    assert names == {*OURS, *REFLECTIONS, "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"}
    for service in names:
        answer = await reflect(worker, name, file_containing_symbol=service)
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(file)
            for file in answer.file_descriptor_response.file_descriptor_proto
        ]
        brought = {file.name for file in files}
        assert {dependency for file in files for dependency in file.dependency} <= brought
        assert service in {f"{file.package}.{described.name}" for file in files for described in file.service}


@pytest.mark.parametrize("symbol", ["orders.v1.OrderService.CreateOrder", "orders.v1.Order", "orders.v1.Order.State"])
async def test_reflection_finds_methods_and_types(worker: RpcWorker, symbol: str) -> None:
    """A method, as ghz asks for it, is found like a message or an enum, and the answer repeats the question."""
    answer = await reflect(worker, REFLECTIONS[0], file_containing_symbol=symbol)
    first = descriptor_pb2.FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
    assert first.name == "protos/orders/v1/orders.proto" or first.package == "orders.v1"
    assert answer.original_request.file_containing_symbol == symbol


@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "nothing.proto"},
        {"file_containing_symbol": "nothing"},
        {"file_containing_symbol": "orders.v1.OrderService.Nothing"},
        {},
    ],
    ids=str,
)
async def test_reflection_says_so_when_it_does_not_know(worker: RpcWorker, question: dict[str, str]) -> None:
    """A question without an answer is answered by an error in the message, and the stream is fine."""
    assert (await reflect(worker, REFLECTIONS[0], **question)).HasField("error_response")


async def test_channelz_shows_servers(worker: RpcWorker) -> None:
    """Channelz lists the grpcio servers of the process, and says NOT_FOUND of what is not there."""
    stub = channelz_pb2_grpc.ChannelzStub(worker.channel)
    servers = (await stub.GetServers(channelz_pb2.GetServersRequest())).server
    assert servers
    server_id = servers[-1].ref.server_id
    assert (await stub.GetServer(channelz_pb2.GetServerRequest(server_id=server_id))).server.ref.server_id == server_id
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetServer(channelz_pb2.GetServerRequest(server_id=10**12))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetServers(channelz_pb2.GetServersRequest(start_server_id=-1))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_channelz_can_be_left_out(worker: RpcWorker) -> None:
    """Channelz is among the services only when it is asked for."""
    services = build_services(orders=None, fleet=worker.fleet, router=worker.router)  # type: ignore[arg-type]  # none is called
    assert "grpc.channelz.v1.Channelz" not in [service.name for service in services]
    assert "grpc.channelz.v1.Channelz" in [service.name for service in worker.services]
