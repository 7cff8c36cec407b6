"""`python -m bench.peers.empty`: one process that answers the same bytes to every call and reads none.

It takes the worker's transport, event loop and arrangement of ports, so that what is left of Crest's cost beside it is
what Crest does with a call.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import grpc
import typer
import uvloop

from server.rpc.call import Context
from server.rpc.pipeline import Service
from server.transport import Kind, open_server

_STOP_GRACE_S = 1.0


def main(
    host: Annotated[str, typer.Option(help="Address to listen on.")],
    own_port: Annotated[int, typer.Option(help="Port of this process alone.")],
    shared_port: Annotated[int, typer.Option(help="Port that all processes share.")],
    transport: Annotated[Kind, typer.Option(help="What carries the calls.")],
    answer: Annotated[Path, typer.Option(help="File with the bytes of the answer.")],
) -> None:
    """Serve until TERM or INT."""
    uvloop.run(_serve(host, own_port, shared_port, transport, answer.read_bytes()))


async def _serve(host: str, own_port: int, shared_port: int, transport: Kind, answer: bytes) -> None:
    async def handle(_request: bytes, _context: Context) -> bytes:
        return answer

    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(handle)
    service = Service("orders.v1.OrderService", {"CreateOrder": handler, "GetOrder": handler})
    servers = [
        open_server([service], f"{host}:{port}", kind=transport, reuse_port=shared)
        for port, shared in ((own_port, False), (shared_port, True))
    ]
    for server in servers:
        await server.start()
    await asked.wait()
    for server in servers:
        await server.stop(_STOP_GRACE_S)


if __name__ == "__main__":
    typer.run(main)
