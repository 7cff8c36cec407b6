"""What a pause of slots is spent on, and how many are paused together: a closed loop. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

AIM_S: Final = 0.03
"""How long the part of a pause is meant to last that grows with the slots: copying and comparing their rest."""

TOGETHER_MAX: Final = 16
"""Most slots of one source that are paused at once."""

_FIRST: Final = 4
_CUT: Final = 0.5


class Pause(NamedTuple):
    """One pause of some slots, by what it was spent on: seconds, as the mover saw it."""

    slots: int
    asked_s: float
    """Until the pause was written."""
    confirmed_s: float
    """Then until every worker had confirmed it."""
    copied_s: float
    """Then until the rest was copied, compared and sealed."""
    flipped_s: float
    """Then until the new topology was written."""
    known_s: float
    """Then until every worker had said that it acts under it; callers were served before that was seen."""

    @property
    def took_s(self) -> float:
        """All of it: no caller waited for longer."""
        return sum(self[1:])


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

    Additive increase, multiplicative decrease, on the one part of a pause that grows with their number. All else in it
    takes as long for one slot as for many; fewer slots would only mean more pauses.
    """

    def __init__(self, most: int, aim_s: float = AIM_S) -> None:
        """``most``: never more."""
        self._most: Final = most
        self._aim_s: Final = aim_s
        self._slots = min(_FIRST, most)

    def __repr__(self) -> str:
        return f"Together(slots={self._slots}, most={self._most})"

    @property
    def slots(self) -> int:
        """So many at the next pause, at least one."""
        return self._slots

    def took(self, pause: Pause) -> None:
        """Takes in how long a pause lasted."""
        if pause.copied_s > self._aim_s:
            self._slots = max(1, int(self._slots * _CUT))
        elif pause.slots >= self._slots:
            self._slots = min(self._most, self._slots + 1)
