"""Endpoints as people write them, and the target that gRPC balances over."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import Final

PORT_DEFAULT: Final = 50051


def parse(endpoints: str | Iterable[str]) -> tuple[str, ...]:
    """Returns endpoints as ``host:port``, each once, in the order given.

    Takes a text with commas or an iterable; the port may be left out, an IPv6 address with a port stands in brackets.
    Raises ValueError, with the text at fault, when there is none or one is no endpoint.
    """
    texts = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    parsed = dict.fromkeys(_joined(*_split(text.strip())) for text in texts if text.strip())
    if not parsed:
        raise ValueError("no endpoint given, such as 127.0.0.1:50051")
    return tuple(parsed)


async def resolve(endpoints: Sequence[str]) -> str:
    """Returns the gRPC target that names every address of these endpoints, such as ``ipv4:10.0.0.1:1,10.0.0.2:1``.

    Names are looked up now. When both families are found IPv4 wins, since one target holds one family. Raises OSError
    when no name can be resolved; names that cannot are passed over as long as one can.
    """
    found: dict[str, dict[str, None]] = {"ipv4": {}, "ipv6": {}}
    failure: OSError | None = None
    loop = asyncio.get_running_loop()
    for endpoint in endpoints:
        host, port = _split(endpoint)
        try:
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            failure = OSError(f"{host}: {error.strerror or error}")
            continue
        for family, _, _, _, address in infos:
            scheme = "ipv6" if family == socket.AF_INET6 else "ipv4"
            found[scheme][_joined(str(address[0]), port)] = None
    for scheme, addresses in found.items():
        if addresses:
            return f"{scheme}:{','.join(addresses)}"
    raise failure or OSError(f"no address for {', '.join(endpoints)}")


def _split(endpoint: str) -> tuple[str, int]:
    host, colon, port_text = endpoint.rpartition(":")
    if not colon or (endpoint.count(":") > 1 and not host.startswith("[")) or endpoint.endswith("]"):
        host, port_text = endpoint, str(PORT_DEFAULT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port_text.isascii() or not port_text.isdigit() or not 1 <= int(port_text) <= 65535:
        raise ValueError(f"not an endpoint: {endpoint!r}; write host:port, such as 127.0.0.1:{PORT_DEFAULT}")
    return host, int(port_text)


def _joined(host: str, port: int) -> str:
    try:
        is_ipv6 = ipaddress.ip_address(host).version == 6
    except ValueError:
        is_ipv6 = False
    return f"[{host}]:{port}" if is_ipv6 else f"{host}:{port}"
