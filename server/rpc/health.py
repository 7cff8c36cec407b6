"""The standard health service, ``grpc.health.v1``: Check, List and Watch, for the worker ("") and for each service.

Our own servicer over the standard messages: the stock one cannot end its watches, which would hold up a drain until the
end of its grace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Final

import grpc
from grpc_health.v1 import health_pb2 as pb

from server.rpc.call import Call
from server.rpc.errors import RefusedError
from server.rpc.pipeline import Pipeline, Service

NAME: Final = pb.DESCRIPTOR.services_by_name["Health"].full_name

WHOLE_SERVER: Final = ""
"""The name that the protocol gives to the server as a whole."""

_SERVING: Final = pb.HealthCheckResponse.SERVING
_NOT_SERVING: Final = pb.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = pb.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer:
    """Knows for each service whether it serves; at first none does."""

    def __init__(self, services: Iterable[str]) -> None:
        self._statuses = dict.fromkeys((WHOLE_SERVER, *services), _NOT_SERVING)
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool, service: str | None = None) -> None:  # noqa: FBT001  # says what it sets
        """Sets one service, or with None all of them, and tells who watches."""
        names = self._statuses if service is None else (service,)
        self._statuses.update(dict.fromkeys(names, _SERVING if serving else _NOT_SERVING))
        self._changed.set()
        self._changed = asyncio.Event()

    def service(self, pipeline: Pipeline) -> Service:
        """Returns the service with all its handlers."""
        return Service(
            NAME,
            {
                "Check": pipeline.unary(f"{NAME}/Check", pb.HealthCheckRequest, self.check),
                "List": pipeline.unary(f"{NAME}/List", pb.HealthListRequest, self.list),
                "Watch": pipeline.stream(f"{NAME}/Watch", pb.HealthCheckRequest, self.watch),
            },
        )

    async def check(self, request: pb.HealthCheckRequest, _call: Call) -> pb.HealthCheckResponse:
        """Answers whether a service serves; NOT_FOUND for one that is not here."""
        status = self._statuses.get(request.service)
        if status is None:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, "no such service here")
        return pb.HealthCheckResponse(status=status)

    async def list(self, _request: pb.HealthListRequest, _call: Call) -> pb.HealthListResponse:
        """Answers for all services."""
        return pb.HealthListResponse(
            statuses={name: pb.HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        )

    async def watch(self, request: pb.HealthCheckRequest, _call: Call) -> AsyncGenerator[pb.HealthCheckResponse, None]:
        """Answers at once, and again at every change; SERVICE_UNKNOWN for a service that is not here."""
        told: int | None = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, _UNKNOWN)
            if status != told:
                told = status
                yield pb.HealthCheckResponse(status=status)
            await changed.wait()
