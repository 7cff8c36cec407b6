"""What is measured: every metric by name, kind, labels and meaning. ``docs/metrics.md`` is generated from it."""

from __future__ import annotations

from typing import Final

from server.metrics.instruments import Definition

_CALL_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_WAIT_S: Final = (0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)

CALLERS_MAX: Final = 64
"""Callers that are counted by name in one worker's files; those that come later are counted together."""

OTHER_CALLERS: Final = "(other)"
"""Under which they are: no caller id, since these have no parentheses around them unless someone insists."""


CALL_SECONDS: Final = Definition(
    "crest_call_seconds",
    "histogram",
    ("method", "code"),
    "Time of a call in the worker, by method and status code. Its count is the rate, and by code the error rate.",
    _CALL_S,
)
CALLS_IN_FLIGHT: Final = Definition("crest_calls_in_flight", "gauge", ("method",), "Calls under way.")
CALLER_CALLS: Final = Definition(
    "crest_caller_calls_total",
    "counter",
    ("caller_id",),
    f"Calls by `x-caller-id`; beyond {CALLERS_MAX} callers a worker counts the others as {OTHER_CALLERS}.",
)
QUEUE_ROWS: Final = Definition(
    "crest_queue_rows", "gauge", ("shard",), "Rows that wait or are under way in the lanes of a shard."
)
BATCH_ROWS: Final = Definition(
    "crest_batch_rows", "histogram", ("shard",), "Rows of a commit: the more, the cheaper each.", _ROWS
)
ROWS_HANDED: Final = Definition(
    "crest_rows_handed_total", "counter", (), "Rows handed to the workers that commit their lanes (`hand_over`)."
)
ROWS_TAKEN: Final = Definition(
    "crest_rows_taken_total", "counter", (), "Rows that workers took over from others to commit."
)
ROWS_TAKEN_BACK: Final = Definition(
    "crest_rows_taken_back_total",
    "counter",
    ("reason",),
    "Rows handed over and committed at home after all: refused there, or it closed, or was silent for half a second.",
)
STORE_CALL_SECONDS: Final = Definition(
    "crest_store_call_seconds",
    "histogram",
    ("shard", "operation"),
    "Time of a call to a shard's store; `operation` is commit, read, list or seal.",
    _CALL_S,
)
STORE_ERRORS: Final = Definition(
    "crest_store_errors_total",
    "counter",
    ("shard", "operation", "error"),
    "Store calls that failed, by the class of the failure.",
)
CACHE_CALL_SECONDS: Final = Definition(
    "crest_cache_call_seconds",
    "histogram",
    ("operation",),
    "Time of a call to the cache; `operation` is get or put.",
    _CALL_S,
)
CACHE_EVENTS: Final = Definition(
    "crest_cache_events_total",
    "counter",
    ("event",),
    "Cache look-ups and what came of them: hit, miss, stale, coalesced, fill, tombstone, error.",
)
SLOT_WAIT_SECONDS: Final = Definition(
    "crest_slot_wait_seconds",
    "histogram",
    (),
    "How long operations waited for a slot that was being moved, or for a lease that had run out.",
    _WAIT_S,
)
SLOT_WAITERS: Final = Definition(
    "crest_slot_waiters", "gauge", (), "Operations that wait for such now: see crest_slot_wait_seconds."
)
RERUNS: Final = Definition(
    "crest_reruns_total",
    "counter",
    ("operation",),
    "Operations (write, read, list) that ran once more because their slot was paused or moved meanwhile.",
)
SLOT_PAUSE_SECONDS: Final = Definition(
    "crest_slot_pause_seconds",
    "histogram",
    (),
    "How long each slot that was moved was not served by a worker: no order of it waited longer there.",
    _WAIT_S,
)
SLOTS_PAUSED: Final = Definition(
    "crest_slots_paused", "gauge", ("worker", "shard"), "Slots of a shard that the worker does not serve for a moment."
)
LEASE_AGE_SECONDS: Final = Definition(
    "crest_lease_age_seconds",
    "gauge",
    ("worker", "shard"),
    "Age of the worker's lease on a shard, once a second: about 1; from 5 on it answers nothing of the shard. "
    "0 when the worker has closed the shard.",
)
LEASES_LOST: Final = Definition(
    "crest_leases_lost_total",
    "counter",
    ("worker", "shard"),
    "How often the worker's lease on a shard ran out because it could not be renewed.",
)
LOOP_LAG_SECONDS: Final = Definition(
    "crest_loop_lag_seconds",
    "histogram",
    ("worker",),
    "How late the event loop of a worker woke up, four times a second; at 3 s (`stall_timeout_s`) it is killed.",
    (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
)
GATE_LIMIT: Final = Definition(
    "crest_gate_limit_units", "gauge", (), "Units that workers would serve at once; a unit is a call of up to 1 KiB."
)
GATE_IN_FLIGHT: Final = Definition("crest_gate_in_flight_units", "gauge", (), "Units that workers are serving.")
GATE_WAITING: Final = Definition(
    "crest_gate_waiting_units", "gauge", ("priority",), "Units that wait in line before they are served."
)
CALLS_REFUSED: Final = Definition(
    "crest_calls_refused_total",
    "counter",
    ("method", "priority", "reason"),
    "Calls refused before anything was done for them: OVERLOADED, DEADLINE_TOO_SHORT or RATE_LIMITED. "
    "They are in no other metric.",
)
TLS_CHANGES: Final = Definition(
    "crest_tls_changes_total",
    "counter",
    ("result",),
    "Changes of the certificate files that a new connection met: loaded, or broken (those before are kept).",
)
WORKER_STATE: Final = Definition(
    "crest_worker_state", "gauge", ("worker", "state"), "1 for the state that the worker is in, 0 for the others."
)
WORKER_RESTARTS: Final = Definition(
    "crest_worker_restarts_total",
    "counter",
    ("worker",),
    "How often a worker was started again because it had died or stalled; rolling restarts do not count.",
)
WORKER_LAGS: Final = Definition(
    "crest_worker_lags",
    "gauge",
    ("worker",),
    "1 while the worker's event loop is kept from running much more than those of the others, who commit its lanes.",
)

WORKER_CATALOG: Final = (
    CALL_SECONDS,
    CALLS_IN_FLIGHT,
    CALLER_CALLS,
    QUEUE_ROWS,
    BATCH_ROWS,
    ROWS_HANDED,
    ROWS_TAKEN,
    ROWS_TAKEN_BACK,
    STORE_CALL_SECONDS,
    STORE_ERRORS,
    CACHE_CALL_SECONDS,
    CACHE_EVENTS,
    SLOT_WAIT_SECONDS,
    SLOT_WAITERS,
    RERUNS,
    SLOT_PAUSE_SECONDS,
    SLOTS_PAUSED,
    LEASE_AGE_SECONDS,
    LEASES_LOST,
    LOOP_LAG_SECONDS,
    GATE_LIMIT,
    GATE_IN_FLIGHT,
    GATE_WAITING,
    CALLS_REFUSED,
    TLS_CHANGES,
)
"""What workers write."""

CATALOG: Final = (*WORKER_CATALOG, WORKER_STATE, WORKER_RESTARTS, WORKER_LAGS)
"""All there is; the last three come from the supervisor through the exporter."""
