"""What the service measures of itself, for Prometheus.

Each worker writes to small files in memory that outlive it (the multiprocess mode of ``prometheus_client``), and the
exporter adds them up. A worker's files are named by its number, not by its process, so that there are few of them and
counters go on after a restart.

What there is stands in ``server.metrics.catalog``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.mmap_dict import MmapedDict

from server.admission.gate import Standing
from server.metrics.catalog import (
    BATCH_ROWS,
    CACHE_CALL_SECONDS,
    CACHE_EVENTS,
    CALL_SECONDS,
    CALLER_CALLS,
    CALLERS_MAX,
    CALLS_IN_FLIGHT,
    CALLS_REFUSED,
    GATE_IN_FLIGHT,
    GATE_LIMIT,
    GATE_WAITING,
    LEASE_AGE_SECONDS,
    LEASES_LOST,
    LOOP_LAG_SECONDS,
    OTHER_CALLERS,
    QUEUE_ROWS,
    RERUNS,
    ROWS_HANDED,
    ROWS_TAKEN,
    ROWS_TAKEN_BACK,
    SLOT_PAUSE_SECONDS,
    SLOT_WAIT_SECONDS,
    SLOT_WAITERS,
    SLOTS_PAUSED,
    STORE_CALL_SECONDS,
    STORE_ERRORS,
    TLS_CHANGES,
)
from server.metrics.instruments import Definition, Tally


def open_files(metrics_dir: Path, metrics_id: str, worker: int) -> Metrics:
    """Returns metrics kept in files of that name, going on where they left off. Once a process, one process a name."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
    values.ValueClass = values.MultiProcessValue(lambda: metrics_id)  # type: ignore[no-untyped-call]  # the library's
    counted = metrics_dir / f"counter_{metrics_id}.db"
    return Metrics(worker, _callers_in(counted) if counted.exists() else ())


def _callers_in(counted: Path) -> list[str]:
    """Returns the callers that an earlier worker of this name has counted, lest each restart adds as many again."""
    found = MmapedDict.read_all_values_from_file(str(counted))  # type: ignore[no-untyped-call]  # the library's
    keys = [json.loads(key) for key, *_ in found]
    return [labels["caller_id"] for name, _, labels, _ in keys if name == CALLER_CALLS.name.removesuffix("_total")]


class Metrics:
    """What a worker measures: an observer of its calls and of its shards. Quick; never raises.

    Everything is kept here and written by ``tick``. A call changes six numbers, and to write each where the exporter
    reads it costs seven times as much. A worker that is killed takes along what it saw since its last tick.
    """

    def __init__(self, worker: int, known_callers: Iterable[str] = ()) -> None:
        registry = CollectorRegistry()
        self._call_seconds = _histogram(CALL_SECONDS, registry)
        self._calls_in_flight = _gauge(CALLS_IN_FLIGHT, registry)
        self._caller_calls = _counter(CALLER_CALLS, registry)
        self._queue_rows = _gauge(QUEUE_ROWS, registry)
        self._batch_rows = _histogram(BATCH_ROWS, registry)
        self._rows_handed = _counter(ROWS_HANDED, registry)
        self._rows_taken = _counter(ROWS_TAKEN, registry)
        self._rows_taken_back = _counter(ROWS_TAKEN_BACK, registry)
        self._store_call_seconds = _histogram(STORE_CALL_SECONDS, registry)
        self._store_errors = _counter(STORE_ERRORS, registry)
        self._cache_call_seconds = _histogram(CACHE_CALL_SECONDS, registry)
        self._cache_events = _counter(CACHE_EVENTS, registry)
        self._slot_wait_seconds = _histogram(SLOT_WAIT_SECONDS, registry)
        self._slot_waiters = _gauge(SLOT_WAITERS, registry)
        self._reruns = _counter(RERUNS, registry)
        self._slots_paused = _gauge(SLOTS_PAUSED, registry)
        self._slot_pause_seconds = _histogram(SLOT_PAUSE_SECONDS, registry)
        self._lease_age_seconds = _gauge(LEASE_AGE_SECONDS, registry)
        self._leases_lost = _counter(LEASES_LOST, registry)
        self._worker = worker
        self._loop_lag = _histogram(LOOP_LAG_SECONDS, registry).labels(worker)
        self._gate_limit = _gauge(GATE_LIMIT, registry)
        self._gate_in_flight = _gauge(GATE_IN_FLIGHT, registry)
        self._gate_waiting = _gauge(GATE_WAITING, registry)
        self._calls_refused = _counter(CALLS_REFUSED, registry)
        self._tls_changes = _counter(TLS_CHANGES, registry)
        # what was seen since the last tick, by the labels it is written under
        self._by_call: dict[tuple[str, str], Tally] = {}
        self._by_batch: dict[int, Tally] = {}
        self._by_store_call: dict[tuple[int, str], Tally] = {}
        self._by_cache_call: dict[str, Tally] = {}
        self._by_caller: dict[str, int] = {}  # with all callers there ever were, since they are bounded
        self._by_event: dict[str, int] = {}
        self._handed = self._taken = 0
        # gauges
        self._in_flight: dict[str, int] = {}
        self._queued: dict[int, int] = {}
        for operation in ("write", "read", "list"):
            self._reruns.labels(operation)
        for caller_id in known_callers:
            self._count_caller(caller_id, 0)

    def __repr__(self) -> str:
        return f"Metrics(in_flight={sum(self._in_flight.values())}, queue_rows={sum(self._queued.values())})"

    @property
    def calls_in_flight(self) -> int:
        """Calls under way."""
        return sum(self._in_flight.values())

    def certificates_changed(self, result: str) -> None:
        """Certificates were ``loaded``, or found ``broken``. Safe in any thread."""
        self._tls_changes.labels(result).inc()

    def call_started(self, method: str) -> None:
        """A call begins; it is in flight until it ends."""
        self._in_flight[method] = self._in_flight.get(method, 0) + 1

    def call_ended(self, method: str, code: str, caller_id: str, seconds: float) -> None:
        """A call ended with the status code of that name, after so many seconds."""
        self._in_flight[method] -= 1
        call = self._by_call.get((method, code))
        if call is None:
            call = self._by_call[method, code] = _tally(CALL_SECONDS, self._call_seconds.labels(method, code))
        call.observe(seconds)
        self._count_caller(caller_id, 1)

    def _count_caller(self, caller_id: str, calls: int) -> None:
        if caller_id not in self._by_caller and len(self._by_caller) >= CALLERS_MAX:
            caller_id = OTHER_CALLERS
        self._by_caller[caller_id] = self._by_caller.get(caller_id, 0) + calls

    def store_call(self, shard: int, operation: str, seconds: float, error: str) -> None:
        """One store call ended; ``error`` is a class name or empty."""
        call = self._by_store_call.get((shard, operation))
        if call is None:
            histogram = self._store_call_seconds.labels(shard, operation)
            call = self._by_store_call[shard, operation] = _tally(STORE_CALL_SECONDS, histogram)
        call.observe(seconds)
        if error:
            self._store_errors.labels(shard, operation, error).inc()

    def batch_committed(self, shard: int, rows: int) -> None:
        """One commit of so many rows was sent to the store."""
        batch = self._by_batch.get(shard)
        if batch is None:
            batch = self._by_batch[shard] = _tally(BATCH_ROWS, self._batch_rows.labels(shard))
        batch.observe(rows)

    def queue_rows(self, shard: int, rows: int) -> None:
        """The shard's lanes now hold so many rows."""
        self._queued[shard] = rows

    def rows_handed(self, count: int) -> None:
        """So many rows were handed over."""
        self._handed += count

    def rows_taken(self, count: int) -> None:
        """So many rows of other workers were taken."""
        self._taken += count

    def rows_taken_back(self, reason: str, count: int) -> None:
        """So many rows handed over are committed here."""
        self._rows_taken_back.labels(reason).inc(count)

    def cache_call(self, operation: str, seconds: float) -> None:
        """One cache call ended."""
        call = self._by_cache_call.get(operation)
        if call is None:
            histogram = self._cache_call_seconds.labels(operation)
            call = self._by_cache_call[operation] = _tally(CACHE_CALL_SECONDS, histogram)
        call.observe(seconds)

    def cache_event(self, event: str, count: int) -> None:
        """So many of an event happened in the cache."""
        self._by_event[event] = self._by_event.get(event, 0) + count

    def slot_waiters(self, count: int) -> None:
        """So many operations wait now at gates."""
        self._slot_waiters.set(count)

    def slot_waited(self, seconds: float) -> None:
        """One of them has waited so long."""
        self._slot_wait_seconds.observe(seconds)

    def reran(self, operation: str) -> None:
        """An operation runs once more."""
        self._reruns.labels(operation).inc()

    def slots_paused(self, shard: int, count: int) -> None:
        """So many slots of a shard are paused here."""
        self._slots_paused.labels(self._worker, shard).set(count)

    def slot_paused(self, seconds: float) -> None:
        """A slot was paused for so long."""
        self._slot_pause_seconds.observe(seconds)

    def lease_age(self, shard: int, seconds: float) -> None:
        """So old is the lease on a shard."""
        self._lease_age_seconds.labels(self._worker, shard).set(seconds)
        self._leases_lost.labels(self._worker, shard)  # shown from now on: 0 until one is

    def lease_lost(self, shard: int) -> None:
        """The lease on a shard has run out."""
        self._leases_lost.labels(self._worker, shard).inc()

    def gate(self, standing: Standing, refused: Mapping[tuple[str, str, str], int]) -> None:
        """Notes what the gate before the calls looks like, and the calls refused since: method, priority, reason."""
        self._gate_limit.set(standing.limit)
        self._gate_in_flight.set(standing.in_flight)
        for priority, units in standing.waiting.items():
            self._gate_waiting.labels(priority).set(units)
        for labels, calls in refused.items():
            self._calls_refused.labels(*labels).inc(calls)

    def tick(self, loop_lag_s: float) -> None:
        """Notes how late the event loop was, and writes everything."""
        self._loop_lag.observe(loop_lag_s)
        self.write()

    def write(self) -> None:
        """Writes everything to where the exporter reads it."""
        for tallies in (self._by_call, self._by_batch, self._by_store_call, self._by_cache_call):
            for tally in tallies.values():
                tally.write()
        for caller_id, calls in self._by_caller.items():
            self._caller_calls.labels(caller_id).inc(calls)
        self._by_caller = dict.fromkeys(self._by_caller, 0)
        for event, count in self._by_event.items():
            self._cache_events.labels(event).inc(count)
        self._by_event.clear()
        self._rows_handed.inc(self._handed)
        self._rows_taken.inc(self._taken)
        self._handed = self._taken = 0
        for method, calls in self._in_flight.items():
            self._calls_in_flight.labels(method).set(calls)
        for shard, rows in self._queued.items():
            self._queue_rows.labels(shard).set(rows)


def _tally(of: Definition, histogram: Histogram) -> Tally:
    return Tally(histogram, of.buckets)


def _counter(of: Definition, registry: CollectorRegistry) -> Counter:
    return Counter(of.name, of.text, of.labels, registry=registry)


def _gauge(of: Definition, registry: CollectorRegistry) -> Gauge:
    # the sum over the files there are: the supervisor removes those of workers that are gone
    return Gauge(of.name, of.text, of.labels, registry=registry, multiprocess_mode="sum")


def _histogram(of: Definition, registry: CollectorRegistry) -> Histogram:
    return Histogram(of.name, of.text, of.labels, registry=registry, buckets=of.buckets)
