"""Request ids: UUIDv7 (RFC 9562, section 5.7), minted on the first try of a call and kept over its retries.

Layout: 48 bits of Unix time in milliseconds, version 7, 12 random bits, variant 0b10, 62 random bits.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Final

from clients.errors import OrderError

_TIME_MS_MAX: Final = 2**48 - 1
_RANDOM_BITS: Final = 74


def uuid7(time_ms: int, random_bits: int) -> str:
    """Returns the UUIDv7 with this Unix time and these 74 random bits, in canonical lower-case text."""
    time_ms = min(max(time_ms, 0), _TIME_MS_MAX)
    high = random_bits >> 62 & 0xFFF
    low = random_bits & (1 << 62) - 1
    text = f"{time_ms << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"  # a third of what uuid.UUID takes
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def uuid7_of_seed(time_ms: int, seed: bytes, index: int) -> str:
    """Returns the ``index``-th request id of a seed: a whole batch of ids is journalled as one time and one seed.

    Deterministic; ids of different (seed, index) collide no sooner than 74 random bits do. A seed is 16 random bytes.
    """
    digest = hashlib.blake2b(index.to_bytes(8, "big"), key=seed, digest_size=10).digest()
    return uuid7(time_ms, int.from_bytes(digest, "big") >> (80 - _RANDOM_BITS))


class RequestIds:
    """Mints request ids, and learns from the service's refusals how wrong the local clock is.

    Without a correction it is the local clock that counts; ids minted before a correction stay as they are.
    """

    def __init__(self, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._clock_ms = clock_ms
        self.offset_ms = 0
        """What is added to the local clock: the server's time minus ours when we were last told."""

    def __repr__(self) -> str:
        return f"<RequestIds, clock corrected by {self.offset_ms / 1000:+.3f} s>"

    def now_ms(self) -> int:
        """Returns the Unix time in milliseconds, corrected."""
        return self._clock_ms() + self.offset_ms

    def mint(self) -> str:
        """Returns a new request id of now."""
        return uuid7(self.now_ms(), secrets.randbits(_RANDOM_BITS))

    def learn(self, refusal: OrderError) -> bool:
        """Corrects the clock by the ``server_time`` of a refusal; False when the refusal carries none."""
        try:
            server_time = dt.datetime.fromisoformat(refusal.metadata["server_time"])
        except (KeyError, ValueError):
            return False
        if server_time.tzinfo is None:
            server_time = server_time.replace(tzinfo=dt.UTC)
        self.offset_ms = round(server_time.timestamp() * 1000) - self._clock_ms()
        return True
