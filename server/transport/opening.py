"""Which transport serves."""

from __future__ import annotations

from collections.abc import Iterable

from server.rpc.pipeline import Service
from server.transport.grpcio import GrpcioServer
from server.transport.native import NativeServer
from server.transport.seam import Kind, TransportServer


def open_server(
    services: Iterable[Service], address: str, *, kind: Kind = Kind.AUTO, reuse_port: bool = False
) -> TransportServer:
    """Returns a server bound to ``address`` (``host:port``, port 0 for any), which serves once started.

    ``reuse_port`` shares the port with other processes that do so too (SO_REUSEPORT). Raises ``BindError``. Call it in
    the event loop that serves.
    """
    transport = GrpcioServer if kind is Kind.GRPCIO else NativeServer
    return transport(services, address, reuse_port=reuse_port)
