"""``docs/metrics.md``, of the catalog."""

from __future__ import annotations

from typing import Final

from server.metrics.catalog import CATALOG


def page() -> str:
    """Returns ``docs/metrics.md``."""
    rows = [
        f"| `{of.name}` | {of.kind} | {', '.join(f'`{label}`' for label in of.labels)} | {of.text} |" for of in CATALOG
    ]
    return "\n".join([_HEAD, "| metric | kind | labels | meaning |", "|---|---|---|---|", *rows, _TAIL])


_HEAD: Final = """# Metrics

This page is printed by `python -m server.metrics`; a test keeps it so.

`http://HOST:9464/metrics` (`metrics_port`) answers for all workers together, in the Prometheus text format or, when
asked for, OpenMetrics. A process of its own answers, so a busy or dead worker does not hold it up. Counters and
histograms go on when a worker is killed or replaced, and begin anew with the server. Gauges are written four times a
second, and those of a worker that is gone are gone, too.

`/healthz` beside it answers 200 while any worker serves and 503 otherwise, with the state of each as JSON.
"""

_TAIL: Final = """
## Questions and their queries

```promql
# calls a second, per method
sum by (method) (rate(crest_call_seconds_count[1m]))

# failures a second, per method and code; calls that the gate refused are in crest_calls_refused_total only
sum by (method, code) (rate(crest_call_seconds_count{code!="OK"}[1m]))

# p99 of each method, in the worker
histogram_quantile(0.99, sum by (method, le) (rate(crest_call_seconds_bucket[1m])))

# orders a commit: the more, the cheaper each
sum(rate(crest_batch_rows_sum[1m])) / sum(rate(crest_batch_rows_count[1m]))

# rows that wait for a shard; callers are refused at queue_rows_max in a worker
crest_queue_rows

# share of cached reads that the cache answers
sum(rate(crest_cache_events_total{event="hit"}[1m])) / sum(rate(crest_cache_events_total{event=~"hit|miss"}[1m]))

# calls refused a second, by whom it hits and why
sum by (priority, reason) (rate(crest_calls_refused_total[1m]))

# workers at their limit: from here on calls wait, then are refused
sum(crest_gate_in_flight_units) / sum(crest_gate_limit_units)

# an event loop in trouble: late by more than 100 ms once in a hundred times
histogram_quantile(0.99, sum by (worker, le) (rate(crest_loop_lag_seconds_bucket[1m]))) > 0.1

# a worker that keeps dying
increase(crest_worker_restarts_total[10m]) > 3
```

## What to be woken for

| when | because |
|---|---|
| `/healthz` is not 200 | no worker serves; while one does, it is 200: see `crest_worker_state` for the others |
| `crest_calls_refused_total` of `critical` or `normal` rises | callers notice that the service is full |
| `crest_store_errors_total` rises, or `crest_lease_age_seconds` > 2 | a shard is ill; from 5 s on its slots stop |
| `increase(crest_worker_restarts_total[10m]) > 3` | a worker keeps dying; its stacks or its error are in the log |
| `crest_slots_paused` > 0 for more than 5 s | a mover stopped in the middle: `python -m shards.rebalance doctor` |
| `crest_tls_changes_total{result="broken"}` rises | the new certificate cannot be used, and the old one will expire |
| the disk of the data directory, or of a node, is nearly full | orders will be refused (STORE_FULL), none is lost |
"""
