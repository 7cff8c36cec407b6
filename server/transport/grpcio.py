"""The grpcio transport: ``grpc.aio``."""

from __future__ import annotations

from collections.abc import Iterable

import grpc

from server.rpc.pipeline import Service
from server.transport.seam import (
    KEEPALIVE_S,
    KEEPALIVE_TIMEOUT_S,
    MESSAGE_BYTES_MAX,
    METADATA_BYTES_MAX,
    PING_S_MIN,
    STREAMS_PER_CONNECTION_MAX,
    BindError,
)
from server.transport.tls import Certificates


def options(*, reuse_port: bool) -> list[tuple[str, int]]:
    """Returns the channel arguments of a server."""
    return [
        ("grpc.so_reuseport", int(reuse_port)),  # grpcio's default is 1, which hides that a port is taken
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
        # both, or core refuses calls at random between the two
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", int(PING_S_MIN * 1000)),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.enable_channelz", 1),  # costs counters; whether it is served is decided by the services
    ]


class GrpcioServer:
    """A ``grpc.aio`` server. Handlers go in as generic ones: for registered ones its accept loop is slower (1.84+)."""

    def __init__(
        self, services: Iterable[Service], address: str, *, reuse_port: bool, certificates: Certificates | None = None
    ) -> None:
        self._server = grpc.aio.server(options=options(reuse_port=reuse_port))
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service.name, dict(service.handlers)) for service in services]
        )
        try:
            if certificates is None:
                self._port = self._server.add_insecure_port(address)
            else:
                self._port = self._server.add_secure_port(address, certificates.credentials())
        except RuntimeError as error:
            raise BindError(address) from error

    def __repr__(self) -> str:
        return f"GrpcioServer(port={self._port})"

    @property
    def port(self) -> int:
        """The bound port."""
        return self._port

    async def start(self) -> None:
        """Begins to serve."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, waits up to ``grace_s`` for those under way, then cancels them. Idempotent."""
        await self._server.stop(grace_s)
