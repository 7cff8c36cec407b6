"""Channelz, ``grpc.channelz.v1``: channels and sockets of this process, for an operator who asks for it.

The answers come from grpcio; on the native transport they cover the methods that grpcio serves behind it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from grpc_channelz.v1 import channelz
from grpc_channelz.v1 import channelz_pb2 as pb

from server.rpc.call import Call
from server.rpc.errors import RefusedError
from server.rpc.pipeline import Pipeline, Service

NAME: Final = pb.DESCRIPTOR.services_by_name["Channelz"].full_name


class _Status:
    """Takes what the stock servicer says through its context."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        """Leaves the details: they are texts of grpcio's inside."""


def service(pipeline: Pipeline) -> Service:
    """Returns the service with all its handlers."""
    stock: Any = channelz.ChannelzServicer
    methods = pb.DESCRIPTOR.services_by_name["Channelz"].methods
    return Service(
        NAME,
        {
            method.name: pipeline.unary(
                f"{NAME}/{method.name}",
                getattr(pb, method.input_type.name),
                _serve(getattr(stock, method.name)),
            )
            for method in methods
        },
    )


def _serve(stock: Callable[[Any, Any], Message | None]) -> Callable[[Any, Call], Awaitable[Message]]:
    async def serve(request: Any, _call: Call) -> Message:  # noqa: ANN401  # seven messages
        # every field of every request is an id or a count, and grpcio takes them for what they are not
        if any(value < 0 for _, value in request.ListFields()):
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "ids and counts are not negative")
        status = _Status()
        answer = stock(request, status)
        if answer is None or status.code is not None:
            # grpcio says INTERNAL of what it does not find as well
            raise RefusedError(grpc.StatusCode.NOT_FOUND, "nothing here under this id")
        return answer

    return serve
