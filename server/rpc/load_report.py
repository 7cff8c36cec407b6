"""How busy this worker is, told to balancing callers with every answer.

The trailer ``endpoint-load-metrics-bin`` carries an ``xds.data.orca.v3.OrcaLoadReport`` (gRFC A51), from which the
policy ``weighted_round_robin`` (gRFC A58) computes a worker's weight: calls a second, over utilization and errors a
call. Utilization is the application's to define. Ours is the time in which the event loop could not have taken another
call, be it that it computed or that the process was stopped or starved, and how many calls are under way. CPU
alone would call a worker idle that is stopped half of the time, or whose store has become slow.

The bytes are made ten times a second and reused, so that a call pays for one counter.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from typing import Final, TypeAlias

Trailers: TypeAlias = tuple[tuple[str, str | bytes], ...]

KEY: Final = "endpoint-load-metrics-bin"

INTERVAL_S: Final = 0.1
"""Between two reports. Callers re-weigh as often (``weightUpdatePeriod``), which is the shortest that gRPC allows."""

TICK_S: Final = 0.02
"""How often it is looked whether the loop is late. Looked at once an interval, a worker that stands still for most of
each interval, and is back when it ends, would be on time."""

SMOOTHING: Final = 0.15
"""Weight of the last interval: a report remembers about a second, as long as a pause that is worth turning away for."""

IN_FLIGHT_FULL: Final = 256
"""Calls under way that count as full by themselves: beyond so many callers the rate stops growing."""

_FAULTS: Final = frozenset(
    {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "DATA_LOSS"}
)
"""Codes that another worker may not have answered; what a caller did wrong is no sign of load."""

_REPORT: Final = struct.Struct("<BdBdBd")
_RPS: Final = 6 << 3 | 1  # field number and wire type of a double, of rps_fractional
_EPS: Final = 7 << 3 | 1
_UTILIZATION: Final = 9 << 3 | 1  # application_utilization


def encode(calls_per_s: float, faults_per_s: float, utilization: float) -> bytes:
    """Returns an OrcaLoadReport; its three numbers are fields 6, 7 and 9, each a double."""
    return _REPORT.pack(_RPS, calls_per_s, _EPS, faults_per_s, _UTILIZATION, utilization)


class LoadReport:
    """The report of one worker. ``trailers`` is empty until there was a call to report on."""

    def __init__(self, waiting: Callable[[], int] = lambda: 0) -> None:
        """``waiting`` tells how many calls stand in line beside those under way."""
        self._waiting = waiting
        self.trailers: Trailers = ()
        """To be sent with every answer that succeeds."""
        self.in_flight = 0
        """Unary calls under way; set by who counts them."""
        self.stalled_s = 0.0
        """For how long so far the loop was late and its thread did not compute: it was stopped, or had no processor."""
        self._ended = 0
        self._faults = 0
        self._calls_per_s = 0.0
        self._faults_per_s = 0.0
        self._utilization = 0.0

    def __repr__(self) -> str:
        return f"LoadReport({self._calls_per_s:.0f} calls/s, utilization {self._utilization:.2f})"

    def ended(self, code: str) -> None:
        """Counts a unary call that ended with this status code."""
        self._ended += 1
        if code in _FAULTS:
            self._faults += 1

    def sample(self, passed_s: float, cpu_s: float, late_s: float) -> None:
        """Makes the report anew from what happened in the last ``passed_s`` seconds.

        ``cpu_s`` is the processor time of the process meanwhile; ``late_s`` how much of the time the loop should have
        run this and did not.
        """
        if passed_s <= 0:
            return
        weight = 1 - (1 - SMOOTHING) ** (passed_s / INTERVAL_S)  # a long pause is as many intervals as it lasted
        busy = min(1.0, max(cpu_s, late_s) / passed_s) + (self.in_flight + self._waiting()) / IN_FLIGHT_FULL
        self._utilization += weight * (busy - self._utilization)
        self._calls_per_s += weight * (self._ended / passed_s - self._calls_per_s)
        self._faults_per_s += weight * (self._faults / passed_s - self._faults_per_s)
        self._ended = self._faults = 0
        if self._calls_per_s > 0 and self._utilization > 0:
            self.trailers = ((KEY, encode(self._calls_per_s, self._faults_per_s, self._utilization)),)

    async def run(self) -> None:
        """Samples until cancelled."""
        then, cpu_then, late_s = time.monotonic(), time.process_time(), 0.0
        looked, own_looked = then, time.thread_time()
        while True:
            await asyncio.sleep(TICK_S)
            now, own_now = time.monotonic(), time.thread_time()
            late_s += max(0.0, now - looked - TICK_S)
            self.stalled_s += max(0.0, now - looked - TICK_S - (own_now - own_looked))
            looked, own_looked = now, own_now
            if now - then < INTERVAL_S:
                continue
            cpu_now = time.process_time()
            self.sample(now - then, cpu_now - cpu_then, late_s)
            then, cpu_then, late_s = now, cpu_now, 0.0
