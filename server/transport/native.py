"""The native transport: ``pygrpc-native``, whose HTTP/2 runs outside the interpreter. Plaintext only."""

from __future__ import annotations

from collections.abc import Iterable

import pygrpc_native.aio

from server.rpc.pipeline import Service
from server.transport import grpcio
from server.transport.seam import BindError


class NativeServer:
    """Serves unary calls and server streams natively, what streams both ways by a grpcio server behind it."""

    def __init__(self, services: Iterable[Service], address: str, *, reuse_port: bool) -> None:
        self._server = pygrpc_native.aio.server(options=grpcio.options(reuse_port=reuse_port))
        for name, handlers in services:
            self._server.add_registered_method_handlers(name, dict(handlers))
        try:
            self._port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise BindError(address) from error

    def __repr__(self) -> str:
        return f"NativeServer(port={self._port})"

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
