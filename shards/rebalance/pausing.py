"""What a pause of slots is spent on, and how many are paused together: a closed loop. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

AIM_S: Final = 0.03
"""How long the part of a pause is meant to last that grows with the slots: copying and comparing their rest."""

TOGETHER_MAX: Final = 16
"""Most slots of one source that are paused at once."""

_CUT: Final = 0.5
_LOOKED_AT: Final = 5
"""Pauses of which the middle one counts: one that met a busy moment says nothing of the slots."""

_REMEMBERED: Final = 32
_USUAL: Final = 1.5  # times the middle one of those
_PROMPT_S: Final = 0.02  # never too long


class Pause(NamedTuple):
    """One pause of some slots, by what it was spent on: seconds, as the mover saw it."""

    slots: int
    asked_s: float
    """Until the pause was written."""
    confirmed_s: float
    """Then until every worker had confirmed it."""
    copied_s: float
    """Then until the rest was copied, compared and sealed."""
    opened_s: float
    """Then until the word was written at which workers open the slots on their targets: callers wait no more."""
    flipped_s: float
    """Then until the new topology was written."""
    known_s: float
    """Then until every worker had said that it acts under it."""

    @property
    def took_s(self) -> float:
        """Until the slots were opened: hardly a caller waited for longer."""
        return self.asked_s + self.confirmed_s + self.copied_s + self.opened_s


def mean_steps_ms(pauses: Sequence[Pause]) -> dict[str, float]:
    """Returns what pauses were spent on, in ms, by the names of their steps and in their order."""
    steps = [name for name in Pause._fields if name.endswith("_s")]
    return {
        name.removesuffix("_s"): sum(getattr(pause, name) for pause in pauses) / len(pauses) * 1_000
        for name in steps
        if pauses
    }


class Together:
    """How many slots of one source are paused at once.

    As many as there may be, and half as many each time the one part of a pause that grows with their number takes too
    long, in the middle of the last ones; then one more after each pause, as long as it does not. All else in a pause
    takes as long for one slot as for many; fewer slots would only mean more pauses.
    """

    def __init__(self, most: int, aim_s: float = AIM_S) -> None:
        """``most``: never more."""
        self._most: Final = most
        self._aim_s: Final = aim_s
        self._slots = most
        self._copied: Final[deque[float]] = deque(maxlen=_LOOKED_AT)

    def __repr__(self) -> str:
        return f"Together(slots={self._slots}, most={self._most})"

    @property
    def slots(self) -> int:
        """So many at the next pause, at least one."""
        return self._slots

    def took(self, pause: Pause) -> None:
        """Takes in how long a pause lasted."""
        self._copied.append(pause.copied_s)
        middle = sorted(self._copied)[len(self._copied) // 2]
        if len(self._copied) == _LOOKED_AT and middle > self._aim_s:
            self._slots = max(1, int(self._slots * _CUT))
            self._copied.clear()  # those that come are of fewer slots
        elif pause.slots >= self._slots:
            self._slots = min(self._most, self._slots + 1)


class Calm:
    """Whether a store answers as soon as it mostly does. One that collects garbage, or warms up, does not."""

    def __init__(self) -> None:
        self._took: Final[deque[float]] = deque(maxlen=_REMEMBERED)

    def __repr__(self) -> str:
        return f"Calm({len(self._took)} looks)"

    def is_usual(self, took_s: float) -> bool:
        """Takes in how long the same question took once more; tells whether that was not much longer than usual."""
        self._took.append(took_s)
        return took_s <= max(_PROMPT_S, sorted(self._took)[len(self._took) // 2] * _USUAL)
