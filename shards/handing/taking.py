"""The receiving side: rows of other workers are committed in this one's lanes, and their outcomes sent back.

Whoever handed a row over answers for it: notes its place before and looks at place and lease after, as for every
operation (``shards.routing``). To it this worker is a part of the store, one that takes long when it is frozen. What is
looked at here only spares writes that would be of no use. A row that was handed over is never handed on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final, cast

from shards.contract import Observer, Outcome, StoreError
from shards.handing.frames import (
    FRAME_BYTES_MAX,
    FrameReader,
    Handed,
    Kind,
    Malformed,
    NotTaken,
    frame,
    pack_answer,
    unpack_rows,
)
from shards.handing.network import Wire
from shards.lanes import Lanes
from shards.leases.hold import boottime_s
from shards.places import Places

_log: Final = logging.getLogger("crest.handing")


class Taking(asyncio.Protocol):
    """The receiving end of one connection. For one event loop."""

    def __init__(
        self,
        places: Places,
        lanes: Mapping[int, Lanes],
        observer: Observer,
        begun: Callable[[Taking], None],
        ended: Callable[[Taking], None],
    ) -> None:
        """``lanes``: this worker's own, by shard. ``begun`` and ``ended`` are told of the connection."""
        self._places = places
        self._lanes = lanes
        self._observer = observer
        self._begun = begun
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._frames = FrameReader()
        self._wire: Wire | None = None
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._send_soon: asyncio.Handle | None = None

    def leave(self) -> None:
        """Says that nothing more is to be handed over. What comes all the same is taken while the lanes are open."""
        if self._wire is not None:
            self._wire.write(frame(Kind.LEAVING))

    def end(self) -> None:
        """Sends what is still to be sent, and closes. Idempotent."""
        self._send()
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    # ---------------------------------------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._wire = cast("Wire", transport)
        self._begun(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  why makes no difference
        """Ends. What was taken is committed all the same."""
        self._wire = None
        self._ended(self)

    def data_received(self, data: bytes) -> None:
        """Takes rows."""
        try:
            for kind, body in self._frames.feed(data):
                if kind is Kind.ROWS:
                    taken = 0
                    for handed in unpack_rows(body):
                        self._take(handed)
                        taken += 1
                    self._observer.rows_taken(taken)
                elif kind is Kind.PING:
                    if self._wire is not None:
                        self._wire.write(frame(Kind.PONG))
                else:
                    raise Malformed(f"a frame {kind.name} for who takes")  # noqa: TRY301  one way out for all
        except Malformed as error:
            _log.error("a worker sent what cannot be read: %s", error)
            if self._wire is not None:
                self._wire.abort()
                self._wire = None

    def _take(self, handed: Handed) -> None:
        number, shard, row, deadline = handed
        place = self._places.slots[row.key.slot]
        lanes = self._lanes.get(shard)
        if (
            lanes is None
            or place.shard_id != shard
            or place.gen != row.key.gen
            or place.is_paused
            or place.hold.until_s <= boottime_s()
        ):
            self._answer(number, NotTaken("the slot is not served from there, as far as this worker knows"))
            return
        try:
            lanes.put(row, deadline, _Taken(number, self._answer))
        except StoreError as error:
            self._answer(number, error)

    def _answer(self, number: int, answer: Outcome | StoreError) -> None:
        if self._wire is None:
            return
        record = pack_answer(number, answer)
        if self._unsent_bytes + len(record) > FRAME_BYTES_MAX:
            self._send()
        self._unsent.append(record)
        self._unsent_bytes += len(record)
        if self._send_soon is None:
            self._send_soon = self._loop.call_soon(self._send)

    def _send(self) -> None:
        """Sends the answers of this turn."""
        if self._send_soon is not None:
            self._send_soon.cancel()
            self._send_soon = None
        if self._unsent and self._wire is not None:
            body = b"".join(self._unsent)
            self._wire.write(frame(Kind.ANSWERS, body))
        self._unsent.clear()
        self._unsent_bytes = 0


class _Taken:
    """A row that was taken: obeys ``shards.judging.Asker``. Who handed it over cannot leave."""

    __slots__ = ("_answer", "_is_done", "_number")

    def __init__(self, number: int, answer: Callable[[int, Outcome | StoreError], None]) -> None:
        self._number = number
        self._answer = answer
        self._is_done = False

    def done(self) -> bool:
        """Whether it is answered."""
        return self._is_done

    def set_result(self, outcome: Outcome, /) -> None:
        """Answers it."""
        self._is_done = True
        self._answer(self._number, outcome)

    def set_exception(self, error: StoreError, /) -> None:
        """Answers it."""
        self._is_done = True
        self._answer(self._number, error)
