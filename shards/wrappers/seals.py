"""When a request id expires: the bucket of an old id is sealed before the id may create.

Not part of a commit but before it, so that the rows of other callers in the same lane do not wait for it. The sealing
itself decides (law 6 of the contract): until it has happened an id creates, however old it is, and no clock of a worker
says otherwise. The clock here only says when to seal.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, TypeAlias

from shards.contract import BUCKET_S, SEAL_AFTER_S, Corrupt, Overloaded, Store, StoreError, Unavailable
from shards.keys import Key, bucket_of, time_ms_of, wall_clock_ms

_REMEMBERED_MAX: Final = 4_096
"""Sealed buckets remembered, a month of one lane. Whichever is forgotten is sealed again, which changes nothing."""

_UNDER_WAY_MAX: Final = 64
"""Buckets being sealed at once: enough for a caller with a wrong clock, too few to keep a store busy."""

_BUCKET_MS: Final = BUCKET_S * 1_000
_SEAL_AFTER_MS: Final = SEAL_AFTER_S * 1_000

_Place: TypeAlias = tuple[Hashable, int]
"""What one sealing closes: a bucket in a lane."""


class Seals:
    """Seals the buckets of one shard when somebody meets them, each once."""

    def __init__(self, store: Store, clock_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._store = store
        self._clock_ms = clock_ms
        self._sealed: OrderedDict[_Place, None] = OrderedDict()  # least recently met first
        self._under_way: dict[_Place, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"Seals(remembered={len(self._sealed)}, under_way={len(self._under_way)})"

    def is_due(self, order_id: bytes) -> bool:
        """Tells whether the bucket of an order id ended ``SEAL_AFTER_S`` ago or more."""
        return time_ms_of(order_id) < (self._clock_ms() - _SEAL_AFTER_MS) // _BUCKET_MS * _BUCKET_MS

    async def ensure(self, key: Key) -> None:
        """Returns when the bucket of a key, which must be due, is sealed.

        Raises ``Overloaded``, ``Unavailable`` or ``Corrupt``; no order was written. Cancelling the caller does not
        cancel the sealing: others may wait for it too.
        """
        place = (self._store.lane(key), bucket_of(key.order_id, BUCKET_S))
        if place in self._sealed:
            self._sealed.move_to_end(place)
            return
        sealing = self._under_way.get(place)
        if sealing is None:
            if len(self._under_way) >= _UNDER_WAY_MAX:
                raise Overloaded(f"{_UNDER_WAY_MAX} buckets are being sealed, the most allowed")
            sealing = asyncio.get_running_loop().create_task(self._seal(place, key))
            self._under_way[place] = sealing
            sealing.add_done_callback(_look_at_error)
        try:
            await asyncio.shield(sealing)
        except (Overloaded, Unavailable, Corrupt):
            raise
        except StoreError as error:
            raise Unavailable("the bucket could not be sealed; nothing was written") from error

    async def _seal(self, place: _Place, key: Key) -> None:
        try:
            await self._store.seal(key)
        finally:
            del self._under_way[place]
        self._sealed[place] = None
        if len(self._sealed) > _REMEMBERED_MAX:
            self._sealed.popitem(last=False)


def _look_at_error(sealing: asyncio.Task[None]) -> None:
    """Marks a failure as seen: when all who waited have left, there is nobody to tell."""
    if not sealing.cancelled():
        sealing.exception()
