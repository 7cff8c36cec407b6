"""As much of Cassandra's native protocol (version 4) as it takes to know that a node serves: no driver.

A node is ready when it has answered OPTIONS and STARTUP and then a query. Queries are text without parameters, values
come back as bytes; for anything more take a driver. Source: ``native_protocol_v4.spec`` in Cassandra's repository.
"""

from __future__ import annotations

import socket
import struct
from enum import IntEnum
from types import TracebackType
from typing import Final, Self

FRAME_MAX: Final = 1 << 20
"""Longest answer taken, in bytes: the tables asked are small, so more means that this is no Cassandra."""

_HEADER: Final = struct.Struct(">BBhBi")  # version, flags, stream, opcode, length
_REQUEST: Final = 0x04
_RESPONSE: Final = 0x84
_SKIP_METADATA: Final = 0x02
_NO_METADATA: Final = 0x04
_HAS_MORE_PAGES: Final = 0x02
_ROWS: Final = 2

Row = tuple[bytes | None, ...]


class _Opcode(IntEnum):
    ERROR = 0x00
    STARTUP = 0x01
    READY = 0x02
    OPTIONS = 0x05
    SUPPORTED = 0x06
    QUERY = 0x07
    RESULT = 0x08


class Consistency(IntEnum):
    """How many replicas answer, by the protocol's number."""

    ONE = 1
    QUORUM = 4
    ALL = 5


class CqlError(Exception):
    """A node did not answer as a ready one does: no connection, no answer in time, or an error of its own."""


class Connection:
    """One connection, after the handshake. Every wait, that for the connection too, takes at most ``timeout_s``."""

    def __init__(self, address: str, port: int, *, timeout_s: float) -> None:
        try:
            self._socket = socket.create_connection((address, port), timeout=timeout_s)
        except OSError as error:
            raise CqlError(f"{address}:{port}: {error}") from error
        self._peer = f"{address}:{port}"
        try:
            self._ask(_Opcode.OPTIONS, b"", _Opcode.SUPPORTED)
            self._ask(_Opcode.STARTUP, struct.pack(">H", 1) + _string("CQL_VERSION") + _string("3.0.0"), _Opcode.READY)
        except BaseException:
            self._socket.close()
            raise

    def query(self, text: str, consistency: Consistency = Consistency.ONE) -> list[Row]:
        """Runs a statement; returns its rows (the first page of them), none when it has none."""
        encoded = text.encode()
        body = struct.pack(">i", len(encoded)) + encoded + struct.pack(">HB", consistency, _SKIP_METADATA)
        return _rows(self._ask(_Opcode.QUERY, body, _Opcode.RESULT))

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, opcode: _Opcode, body: bytes, wanted: _Opcode) -> bytes:
        try:
            self._socket.sendall(_HEADER.pack(_REQUEST, 0, 0, opcode, len(body)) + body)
            version, _, _, answered, length = _HEADER.unpack(self._receive(_HEADER.size))
            if version != _RESPONSE or not 0 <= length <= FRAME_MAX:
                raise CqlError(f"{self._peer}: what answers is no Cassandra")
            answer = self._receive(length)
        except OSError as error:
            raise CqlError(f"{self._peer}: {error}") from error
        if answered == _Opcode.ERROR:
            raise CqlError(f"{self._peer}: {answer[6:].decode(errors='replace')}")  # after the code and a length
        if answered != wanted:
            raise CqlError(f"{self._peer}: answered {answered:#x} to {opcode.name}")
        return answer

    def _receive(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            part = self._socket.recv(length - len(parts))
            if not part:
                raise CqlError(f"{self._peer}: closed the connection")
            parts += part
        return bytes(parts)


def _string(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


def _rows(result: bytes) -> list[Row]:
    """The rows of a RESULT whose metadata was left out as asked."""
    (kind,) = struct.unpack_from(">i", result)
    if kind != _ROWS:
        return []
    flags, columns = struct.unpack_from(">ii", result, 4)
    if not flags & _NO_METADATA:
        raise CqlError("the answer came with metadata, which was not asked for")
    at = 12
    if flags & _HAS_MORE_PAGES:
        (state,) = struct.unpack_from(">i", result, at)
        at += 4 + max(state, 0)
    (count,) = struct.unpack_from(">i", result, at)
    at += 4
    rows: list[Row] = []
    for _ in range(count):
        row: list[bytes | None] = []
        for _ in range(columns):
            (length,) = struct.unpack_from(">i", result, at)
            at += 4
            row.append(None if length < 0 else result[at : at + length])
            at += max(length, 0)
        rows.append(tuple(row))
    return rows
