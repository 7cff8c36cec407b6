"""Listening: ports that are free, taken, shared or not there, on both transports."""

from __future__ import annotations

import pytest

from server.rpc.pipeline import Service
from server.transport import BindError, Kind, open_server
from server.transport.native import NativeServer
from tests.support.rpc_worker import HOST, KINDS

NOTHING = Service("nobody.v1.Nothing", {})


@pytest.fixture(params=KINDS, ids=lambda kind: kind.value)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each transport in turn."""
    return Kind(request.param)


async def test_a_port_that_is_taken_is_refused(kind: Kind) -> None:
    """A port that another server listens on is a BindError that names the address."""
    first = open_server([NOTHING], f"{HOST}:0", kind=kind)
    with pytest.raises(BindError, match=f"{HOST}:{first.port}"):
        open_server([NOTHING], f"{HOST}:{first.port}", kind=kind)
    await first.stop(0)


async def test_servers_that_agree_share_a_port(kind: Kind) -> None:
    """Two servers that both ask for it listen on one port."""
    first = open_server([NOTHING], f"{HOST}:0", kind=kind, reuse_port=True)
    second = open_server([NOTHING], f"{HOST}:{first.port}", kind=kind, reuse_port=True)
    assert first.port == second.port
    for server in (first, second):
        await server.start()
        await server.stop(0)
        await server.stop(0)


@pytest.mark.parametrize("address", ["192.0.2.1:20000", "nonsense"])
async def test_an_address_that_is_not_ours_is_refused(kind: Kind, address: str) -> None:
    """An address of another machine, or none at all, is a BindError."""
    with pytest.raises(BindError):
        open_server([NOTHING], address, kind=kind)


async def test_auto_is_the_fast_one() -> None:
    """Without TLS, ``auto`` is the native transport."""
    server = open_server([NOTHING], f"{HOST}:0")
    assert isinstance(server, NativeServer)
    await server.stop(0)
