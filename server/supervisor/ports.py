"""Ports: found free before anything starts, and held until the end.

Workers listen with SO_REUSEPORT, because a replacement starts beside the one it replaces; but with it a second server
would share the ports without an error. So the supervisor takes each port first *without* that option, which fails
when anyone has it, and keeps it taken, never listening: another server is refused even while no worker is up.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator


class PortTakenError(Exception):
    """A port cannot be had; the text names it and says why."""


@contextlib.contextmanager
def held(host: str, ports: Iterable[int]) -> Iterator[None]:
    """Holds ports on every address of ``host``. Raises ``PortTakenError``."""
    with contextlib.ExitStack() as stack:
        for port in ports:
            for family, address in _addresses(host, port):
                stack.enter_context(_hold(family, address))
        yield


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:  # the latter for what can be no name, such as 127.0.0..1
        why = error.strerror if isinstance(error, socket.gaierror) else error
        raise PortTakenError(f"host {host} is no address of this machine: {why}") from error
    return list(dict.fromkeys((family, (str(address[0]), port)) for family, _, _, _, address in found))


def _hold(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # past connections of a server before this one do not count
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # from here on: workers may join, another supervisor's probe (REUSEADDR alone) may not
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        sock.close()
        raise PortTakenError(f"cannot listen on {address[0]} port {address[1]}: {error.strerror}") from error
    return sock
