"""How many calls a worker serves at once: a limit that follows from how long calls take.

The gradient of Netflix's concurrency-limits (Gradient2Limit) and of Envoy's adaptive concurrency filter: as long as
calls take about as long as they do without company the limit grows by its square root, and beyond that it shrinks in
proportion. Four differences, each for a reason of ours:

- Group commit makes a call in company cheaper and slower, so latency may double (``TOLERANCE``) before it shrinks, and
  a base of a few milliseconds counts as ``BASE_S_MIN``. Nor does it shrink as long as calls are done in a good part of
  the time that their callers have (``SOON_SHARE``): to answer sooner than that gains nothing, and smaller groups lose
  much where each takes long anyway. It does shrink once they take half of that time, whatever the base.
- It shrinks at most once in the time that calls take. Those that end before were begun under the old limit and say
  nothing of the new one; without that a pause of the store took up to a fourth of it away ten times a second. TCP, too,
  halves its window once a round trip (V. Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988).
- Methods differ by factors, so each is compared with itself, and the gradient is taken of the mean ratio.
- Nothing is slowed down to measure how fast it would be alone, as Envoy does. A method's base is what it takes in a
  worker that is not busy; when a busy one has been at the floor for a while, what it takes there is the base (as in
  Envoy after five windows at the minimum). Above the floor a base never rises, or it would drift away with the limit,
  as told of Cinnamon ("Adaptive concurrency in the wild", Uber 2023).

B. Landau, W. Thurston, T. Bozarth, "Performance Under Load" (Netflix 2018); Envoy, "Adaptive Concurrency".
"""

from __future__ import annotations

import math
from typing import Final

WINDOW_S: Final = 0.1
"""How often the limit is looked at."""

FLOOR: Final = 64
"""Units that are always served at once, however slow they are: enough for the commits of every lane to gather some."""

START: Final = 256
"""Where the limit begins, before anything was measured: a worker that has just started makes full groups at once, and
one that cannot serve so many takes less than a second to learn it."""

BASE_S_MIN: Final = 0.1
"""A base below this counts as this. A call that took 1 ms alone and takes 100 in company of four hundred is no sign of
congestion but of group commit, and of an event loop that refuses others in between: with less company each commit holds
less, costs as much and waits as long, and fewer are done, so a limit that shrank then would shrink again."""

CEILING: Final = 512
"""With more, calls wait for each other where they have no priority, and commits are as large as they get already."""

TOLERANCE: Final = 2.0
"""A call may take so many times its base before the limit shrinks."""

SOON_SHARE: Final = 0.45
"""Of the time that callers give their calls: what is done in that is done soon enough. Beside what a call may wait in
line it leaves a fourth of the time for those that take longer than most."""

SOON_S_MAX: Final = 0.45
"""However much time callers have, a call that takes longer than this has to be compared with its base."""

LATE_SHARE: Final = 0.5
"""Of that time: what takes longer is slow, whatever it takes alone, since calls are refused that need twice as much."""

GRADIENT_MIN: Final = 0.5
"""A window takes away half of the limit at most, whatever it saw."""

_SMOOTHING: Final = 0.5
"""Of a step down that is taken at once; steps up are small already."""

_BASE_RISE: Final = 0.05
_BASE_FALL: Final = 0.5
"""How far the base follows one window, of a worker that is not busy, up and down: one odd window means little."""

_MEAN_GAIN: Final = 0.25

FLOOR_WINDOWS: Final = 5
"""Busy windows at the floor after which the latency there is the base."""

STEADY_S_MAX: Final = 0.5
"""After a step down the limit stays for no longer than this, however long calls take."""

LAG_S_MAX: Final = 0.1
"""Beyond this an event loop that is late counts as latency: half of the limit goes for twice as much."""


class Track:
    """What is known of the latency of one method. To be made by ``GradientLimit.track``."""

    __slots__ = ("base_s", "count", "mean_s", "sum_s")

    def __init__(self) -> None:
        self.base_s = 0.0
        """Seconds that a call takes in a worker that is not busy; 0 as long as none was seen."""
        self.mean_s = 0.0
        """Seconds that calls take at present, smoothed; 0 as long as none was seen."""
        self.sum_s = 0.0
        self.count = 0
        """Of the present window."""


class GradientLimit:
    """The limit. Feed each track's ``sum_s`` and ``count``, and close a window now and then."""

    def __init__(self, *, floor: int = FLOOR, ceiling: int = CEILING, tolerance: float = TOLERANCE) -> None:
        if not 1 <= floor <= ceiling or tolerance < 1:
            raise ValueError(f"floor {floor} and ceiling {ceiling} are at least 1 and in order, tolerance at least 1")
        self.limit = min(max(START, floor), ceiling)
        """Units that may be served at once; never below the floor, never above the ceiling."""
        self._floor = floor
        self._ceiling = ceiling
        self._tolerance = tolerance
        self._exact = float(self.limit)
        self._at_floor = 0
        self._lag_s = 0.0
        self._steady_s = 0.0
        """How long the limit is not to shrink again."""
        self._tracks: list[Track] = []

    def __repr__(self) -> str:
        return f"GradientLimit({self.limit}, {self._floor}-{self._ceiling})"

    def track(self) -> Track:
        """Returns the track of one more method. Once a method, so there are as many as methods."""
        self._tracks.append(track := Track())
        return track

    def lagged(self, seconds: float) -> None:
        """Notes how late the event loop was; it counts in the present window."""
        self._lag_s = max(self._lag_s, seconds)

    def close_window(self, peak: int, left_s: float = 0.0, length_s: float = WINDOW_S) -> None:
        """Ends a window in which up to ``peak`` units were served at once, and sets the limit for the next one.

        The calls that came in it had ``left_s`` until their deadlines, in the mean; 0: not known.
        """
        least_s = max(BASE_S_MIN, min(SOON_S_MAX, SOON_SHARE * left_s) / self._tolerance)
        most_s = max(least_s, LATE_SHARE * left_s / self._tolerance) if left_s > 0 else math.inf
        is_busy = 2 * peak >= self.limit
        is_based = is_busy and self._at_floor >= FLOOR_WINDOWS
        calls, ratios, taken_s = 0, 0.0, 0.0
        for track in self._tracks:
            if not track.count:
                continue
            mean_s = track.sum_s / track.count
            _update(track, mean_s, is_busy=is_busy, is_based=is_based)
            calls += track.count
            taken_s += track.sum_s
            ratios += track.count * mean_s / min(max(track.base_s, least_s), most_s)
            track.sum_s, track.count = 0.0, 0
        lag_s, self._lag_s = self._lag_s, 0.0
        self._steady_s = max(0.0, self._steady_s - length_s)
        if is_based:
            self._at_floor = 0
        if not is_busy or not calls:
            return
        slowness = max(ratios / calls, self._tolerance * lag_s / max(LAG_S_MAX, least_s), 1e-3)
        gradient = max(GRADIENT_MIN, min(1.0, self._tolerance / slowness))
        wanted = self._exact * gradient + math.sqrt(self._exact)
        step = wanted - self._exact
        if step < 0:
            if self._steady_s > 0:
                step = 0.0
            else:
                self._steady_s = min(STEADY_S_MAX, taken_s / calls)
                step *= _SMOOTHING
        self._exact = min(self._ceiling, max(self._floor, self._exact + step))
        self.limit = int(self._exact)
        self._at_floor = self._at_floor + 1 if self.limit <= self._floor else 0


def _update(track: Track, mean_s: float, *, is_busy: bool, is_based: bool) -> None:
    if not track.base_s:
        track.base_s = track.mean_s = mean_s
        return
    track.mean_s += _MEAN_GAIN * (mean_s - track.mean_s)
    if mean_s < track.base_s:
        track.base_s += _BASE_FALL * (mean_s - track.base_s)
    elif is_based:
        track.base_s = mean_s
    elif not is_busy:
        track.base_s += _BASE_RISE * (mean_s - track.base_s)
