"""Server reflection under both names, ``grpc.reflection.v1`` and ``v1alpha``: the two are the same on the wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as pb

from server.rpc.call import Call
from server.rpc.pipeline import Pipeline, Service

NAME_V1ALPHA: Final = pb.DESCRIPTOR.services_by_name["ServerReflection"].full_name
NAME_V1: Final = NAME_V1ALPHA.replace("v1alpha", "v1")


class ReflectionServicer:
    """Tells tools what is served and by which messages."""

    def __init__(self, services: Iterable[str]) -> None:
        self._pool = _pool()
        aio: Any = reflection.aio
        self._stock = aio.ReflectionServicer((*services, NAME_V1, NAME_V1ALPHA), pool=self._pool)

    def services(self, pipeline: Pipeline) -> tuple[Service, Service]:
        """Returns the service under each of its names."""
        v1, v1alpha = (
            Service(
                name,
                {
                    "ServerReflectionInfo": pipeline.bidi(
                        f"{name}/ServerReflectionInfo", pb.ServerReflectionRequest, self.server_reflection_info
                    )
                },
            )
            for name in (NAME_V1, NAME_V1ALPHA)
        )
        return v1, v1alpha

    async def server_reflection_info(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], _call: Call
    ) -> AsyncGenerator[pb.ServerReflectionResponse, None]:
        """Answers each question in turn."""
        asked = ""

        async def known() -> AsyncGenerator[pb.ServerReflectionRequest, None]:
            nonlocal asked
            async for request in requests:
                asked = request.file_containing_symbol
                if asked:
                    request.file_containing_symbol = self._known_symbol(asked)
                yield request

        async for answer in self._stock.ServerReflectionInfo(known(), None):
            if asked:
                answer.original_request.file_containing_symbol = asked
            yield answer

    def _known_symbol(self, symbol: str) -> str:
        """Returns the service of a method, else the symbol itself.

        The protocol allows ``package.Service.Method`` (ghz asks so), and the stock servicer does not know methods.
        """
        parent, _, name = symbol.rpartition(".")
        try:
            service = self._pool.FindServiceByName(parent)
        except KeyError:
            return symbol
        return parent if name in service.methods_by_name else symbol


def _pool() -> descriptor_pool.DescriptorPool:
    """Returns the default pool with the v1 description in it, which the stock package does not bring.

    Tools that look at every listed service (grpcui does) would stumble over a name without a description.
    """
    pool = descriptor_pool.Default()
    try:
        pool.FindFileContainingSymbol(NAME_V1)
    except KeyError:
        text = pb.DESCRIPTOR.serialized_pb
        file = descriptor_pb2.FileDescriptorProto.FromString(text)
        file.name = file.name.replace("v1alpha", "v1")
        file.package = file.package.replace("v1alpha", "v1")
        for message in file.message_type:
            for field in message.field:
                if field.type_name:  # setting an empty one would count
                    field.type_name = field.type_name.replace("v1alpha", "v1")
        for method in file.service[0].method:
            method.input_type = method.input_type.replace("v1alpha", "v1")
            method.output_type = method.output_type.replace("v1alpha", "v1")
        pool.AddSerializedFile(file.SerializeToString())
    return pool
