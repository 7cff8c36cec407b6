"""What a worker measures."""

import subprocess
import sys
from pathlib import Path

from server.metrics.catalog import CALLERS_MAX

SCRIPT = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from server.metrics import open_files

place, first = Path(sys.argv[1]), int(sys.argv[2])
metrics = open_files(place, "0-0", 0)
for number in range(first, first + 100):
    metrics.call_started("S/M")
    metrics.call_ended("S/M", "OK", f"caller-{number}", 0.003)
metrics.call_started("S/M")
metrics.queue_rows(2, 17)
metrics.batch_committed(2, 5)
metrics.store_call(2, "commit", 0.002, "Overloaded")
metrics.cache_call("get", 0.001)
metrics.cache_event("hit", 3)
metrics.slot_waiters(4)
metrics.slot_waited(0.03)
metrics.reran("write")
metrics.slots_paused(2, 8)
metrics.slot_paused(0.07)
metrics.lease_age(2, 1.5)
metrics.lease_lost(3)
metrics.tick(0.001)
print(metrics)
registry = CollectorRegistry()
MultiProcessCollector(registry, path=str(place))
print(generate_latest(registry).decode())
"""


def run(place: Path, first: int) -> list[str]:
    """A worker's life, in a process of its own as the library demands; its calls come from 100 callers."""
    command = [sys.executable, "-c", SCRIPT, str(place), str(first)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_what_is_observed_is_shown(tmp_path: Path) -> None:
    """Each observation is found under the name and labels of the catalog."""
    lines = run(tmp_path, 0)
    assert lines[0] == "Metrics(in_flight=1, queue_rows=17)"
    assert 'crest_call_seconds_count{code="OK",method="S/M"} 100.0' in lines
    assert 'crest_calls_in_flight{method="S/M"} 1.0' in lines
    assert 'crest_queue_rows{shard="2"} 17.0' in lines
    assert 'crest_batch_rows_sum{shard="2"} 5.0' in lines
    assert 'crest_store_call_seconds_count{operation="commit",shard="2"} 1.0' in lines
    assert 'crest_store_errors_total{error="Overloaded",operation="commit",shard="2"} 1.0' in lines
    assert 'crest_cache_call_seconds_count{operation="get"} 1.0' in lines
    assert 'crest_cache_events_total{event="hit"} 3.0' in lines
    assert 'crest_loop_lag_seconds_count{worker="0"} 1.0' in lines
    assert "crest_slot_waiters 4.0" in lines
    assert "crest_slot_wait_seconds_count 1.0" in lines
    assert 'crest_reruns_total{operation="write"} 1.0' in lines
    assert 'crest_slots_paused{shard="2",worker="0"} 8.0' in lines
    assert 'crest_slot_pause_seconds_bucket{le="0.08"} 1.0' in lines
    assert 'crest_lease_age_seconds{shard="2",worker="0"} 1.5' in lines
    assert 'crest_leases_lost_total{shard="2",worker="0"} 0.0' in lines
    assert 'crest_leases_lost_total{shard="3",worker="0"} 1.0' in lines


def test_callers_stay_bounded_over_restarts(tmp_path: Path) -> None:
    """Counters go on in the next life, and neither new callers nor new lives make more of them than allowed."""
    run(tmp_path, 0)
    lines = run(tmp_path, 50)
    callers = [line for line in lines if line.startswith("crest_caller_calls_total{")]
    assert len(callers) == CALLERS_MAX + 1
    assert sum(float(line.rpartition(" ")[2]) for line in callers) == 200
    assert 'crest_caller_calls_total{caller_id="caller-63"} 2.0' in callers
