"""Holding calls back that would be refused: what a client does when most of its calls were refused lately.

Client-side throttling of "Handling Overload" in Site Reliability Engineering (Google 2016): a call is held back with
the probability ``(wanted - K * accepted) / (wanted + 1)``, so however much is wanted the service is sent about K times
what it accepts. Refusing is cheap but not free: at ten times its capacity a service would spend itself on refusals.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Final

K: Final = 2.0
"""Calls sent for one that is accepted, at most. 2 keeps looking whether there is room again, at the cost of one refusal
for each call served. With 1.5 half of the calls were still held back 5 s after a burst, and no more were served in it
(docs/performance.md)."""

FORGET_S: Final = 1.0
"""In so many seconds all but a third of what was is forgotten. After a burst of ten times the capacity a client holds
nothing back any more after about five times as long, and little after three."""

REFUSED_MIN: Final = 10
"""A client of few calls holds nothing back: it takes so many refusals too many before anything is."""


class Throttle:
    """For all calls of one client of the same priority. Not for several threads."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._wanted = 0.0
        self._accepted = 0.0
        self._forgotten_at = clock()

    def __repr__(self) -> str:
        return f"<Throttle {self._accepted:.0f} of {self._wanted:.0f} accepted>"

    def holds_back(self) -> bool:
        """Returns whether the next call is to be held back instead of sent.

        One that is sent is noted when it is answered: what is under way was not refused, and what its caller gave up,
        or what found no way to the service, never will be.
        """
        now = self._clock()
        fade = math.exp((self._forgotten_at - now) / FORGET_S)
        self._forgotten_at = now
        self._wanted *= fade
        self._accepted *= fade
        held_back = self._chance() < (self._wanted - K * self._accepted - REFUSED_MIN) / (self._wanted + 1)
        self._wanted += held_back
        return held_back

    def accepted(self) -> None:
        """Notes that a call was accepted, whatever came of it: anything but a refusal for overload."""
        self._wanted += 1
        self._accepted += 1

    def refused(self) -> None:
        """Notes that a call was refused for overload."""
        self._wanted += 1
