"""Which transport serves."""

from __future__ import annotations

from collections.abc import Iterable

from server.rpc.pipeline import Service
from server.transport.grpcio import GrpcioServer
from server.transport.native import NativeServer
from server.transport.seam import Kind, TransportServer
from server.transport.tls import Certificates


def open_server(
    services: Iterable[Service],
    address: str,
    *,
    kind: Kind = Kind.AUTO,
    reuse_port: bool = False,
    certificates: Certificates | None = None,
) -> TransportServer:
    """Returns a server bound to ``address`` (``host:port``, port 0 for any), which serves once started.

    ``reuse_port`` shares the port with other processes that do so too (SO_REUSEPORT). Raises ``BindError``. Call it in
    the event loop that serves. With ``certificates`` it speaks TLS only, which the native transport cannot.
    """
    if certificates is not None or kind is Kind.GRPCIO:
        assert kind is not Kind.NATIVE, "the settings are checked for this"
        return GrpcioServer(services, address, reuse_port=reuse_port, certificates=certificates)
    return NativeServer(services, address, reuse_port=reuse_port)
