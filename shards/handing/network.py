"""How workers of one server reach each other: Unix sockets in a directory that only this user may enter."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

_BACKLOG: Final = 128
"""Connections that wait to be accepted: more than there are workers."""


class Wire(Protocol):
    """The part of ``asyncio.Transport`` that is used."""

    def write(self, data: bytes) -> None:
        """Sends bytes, now or when there is room."""

    def close(self) -> None:
        """Sends what is still to be sent, and closes."""

    def abort(self) -> None:
        """Closes at once."""


class Network(Protocol):
    """Connects the workers, which are named by their numbers."""

    async def connect(self, number: int, make: Callable[[], asyncio.Protocol]) -> None:
        """Connects to a worker; the protocol is told of the connection. Raises ``OSError``."""

    async def listen(self, number: int, make: Callable[[], asyncio.Protocol]) -> None:
        """Takes connections to a worker, in place of who did before. Raises ``OSError``."""

    async def close(self) -> None:
        """Takes no more connections. Idempotent."""


class UnixNetwork:
    """Sockets in ``directory``, which is of this server alone and closed to other users: so is what is in it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"UnixNetwork({self._directory}, listening={self._server is not None})"

    async def connect(self, number: int, make: Callable[[], asyncio.Protocol]) -> None:
        """See ``Network``."""
        await asyncio.get_running_loop().create_unix_connection(make, str(self._path(number)))

    async def listen(self, number: int, make: Callable[[], asyncio.Protocol]) -> None:
        """See ``Network``. The socket takes its name when it listens, from a worker of the same number that leaves."""
        own = self._directory / f"commits-{number}-{os.getpid()}.sock"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(own))
            listening.listen(_BACKLOG)
            listening.setblocking(False)  # noqa: FBT003  the library's signature
            own.rename(self._path(number))
            self._server = await asyncio.get_running_loop().create_unix_server(make, sock=listening)
        except OSError:
            listening.close()
            raise

    async def close(self) -> None:
        """See ``Network``. The name stays: it may be another's by now, and goes with the directory."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _path(self, number: int) -> Path:
        return self._directory / f"commits-{number}.sock"
