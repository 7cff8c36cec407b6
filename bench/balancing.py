"""How callers balance: four workers, all well, and then one that stands still for more than half of the time.

One channel of plain stubs with each policy, in an open loop, so that a call that met the slow worker counts with all of
its waiting.
"""

from __future__ import annotations

import contextlib
import random
import signal
import statistics
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import psutil

from bench import load, subjects
from bench.driver import Driver
from bench.parts import Chart, Context, Outcome, Row, Series, Side
from bench.subjects import Subject, SubjectError
from bench.summary import spread

POLICIES: Final = ("pick_first", "round_robin", "weighted_round_robin")
WORKERS: Final = 4
CALLS: Final = 10_000
"""Of which it is told how evenly they spread."""

STOPPED_S: Final = 0.06
RUNNING_S: Final = 0.04
"""The slow worker stands still for the first, then works for the second, over and over: 60 % of the time is lost."""

STOPPED_SHARE: Final = STOPPED_S / (STOPPED_S + RUNNING_S)

RATE: Final = 400
"""Calls a second with a slow worker: few enough that three workers, and even two, serve them all."""

_RATE_EVEN: Final = 1_000
_ROUNDS: Final = 5
_SECONDS: Final = 4.0


class Balancing:
    """See ``bench.parts.Part``."""

    name = "balancing"
    title = "Balancing over workers, one of them slow"
    needs_bed = False
    budget_s = 180.0

    def run(self, context: Context) -> Outcome:
        """Counts calls by worker while all are well; then rounds in turn while one is slowed."""
        rounds, seconds, calls = (1, 2.0, 1_000) if context.is_quick else (_ROUNDS, _SECONDS, CALLS)
        even: dict[str, dict[str, Any]] = {}
        slow: dict[str, list[dict[str, Any]]] = {policy: [] for policy in POLICIES}
        with contextlib.ExitStack() as stack:
            crest = subjects.crest(context.host, context.port + 11, WORKERS, "native", context.scratch)
            stack.enter_context(crest).answer(load.create_request(random.Random(0)))
            for policy in POLICIES:
                with _channel(context, crest, policy, _RATE_EVEN) as driver:
                    driver.run(1.0)
                    even[policy] = driver.run(calls / _RATE_EVEN)
                    context.tell(f"{policy}: max/mean {unevenness(even[policy]['spread']):.2f}")
            drivers = {policy: stack.enter_context(_channel(context, crest, policy, RATE)) for policy in POLICIES}
            with slowed(worker_at(crest, 0)):
                for driver in drivers.values():
                    driver.run(1.0)
                for _ in range(rounds):
                    for policy, driver in drivers.items():
                        slow[policy].append(done := driver.run(seconds))
                        context.tell(f"{policy}, one slow: p50 {done['p50_ms']:.1f} ms, p99 {done['p99_ms']:.1f} ms")
        return Outcome(
            [_row(slow, "round_robin"), _row(slow, "pick_first")], _charts(even, slow), {"even": even, "slow": slow}
        )


def unevenness(calls: Mapping[str, int]) -> float:
    """Returns the calls of the busiest worker over the mean of all workers: 1 is even; 0 when there were none."""
    total = sum(calls.values())
    return max(calls.values(), default=0) * WORKERS / total if total else 0.0


def worker_at(crest: Subject, number: int) -> psutil.Process:
    """Returns the process that listens on the own port of a worker. Raises ``SubjectError``."""
    port = int(crest.endpoints[number].rpartition(":")[2])
    for process in crest.processes():
        with contextlib.suppress(psutil.Error):
            if any(link.status == psutil.CONN_LISTEN and link.laddr.port == port for link in process.net_connections()):
                return process
    raise SubjectError(f"no process of {crest.name} listens on port {port}")


@contextlib.contextmanager
def slowed(process: psutil.Process) -> Iterator[None]:
    """Stops and continues a process in turn meanwhile; it runs on afterwards."""
    over = threading.Event()

    def alternate() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            try:
                while not over.is_set():
                    process.send_signal(signal.SIGSTOP)
                    over.wait(STOPPED_S)
                    process.send_signal(signal.SIGCONT)
                    over.wait(RUNNING_S)
            finally:
                process.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=alternate, name="slowing")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _channel(context: Context, crest: Subject, policy: str, rate: int) -> Driver:
    command = [sys.executable, "-m", "bench.callers", "channel", f"--policy={policy}", f"--rate={rate}"]
    command.append(f"--endpoints={','.join(crest.endpoints)}")
    return Driver(policy, command, context.scratch / f"{policy}-{rate}.log")


def _row(slow: Mapping[str, Sequence[Mapping[str, Any]]], other: str) -> Row:
    ours, theirs = slow["weighted_round_robin"], slow[other]
    pairs = [their["p99_ms"] / our["p99_ms"] for our, their in zip(ours, theirs, strict=True) if our["p99_ms"]]
    return Row(
        f"p99 with one of {WORKERS} workers stopped {STOPPED_SHARE:.0%} of the time, {RATE} orders/s",
        _side("weighted_round_robin", ours),
        _side(other, theirs),
        spread(pairs) if pairs else None,
        ratio_of=f"p99, that of {other} over ours",
    )


def _side(name: str, rounds: Sequence[Mapping[str, Any]]) -> Side:
    errors: dict[str, int] = {}
    for one in rounds:
        for code, count in one["errors"].items():
            errors[code] = errors.get(code, 0) + count
    return Side(
        name,
        spread(one["rows"] / one["seconds"] for one in rounds),
        spread(one["p50_ms"] for one in rounds),
        spread(one["p99_ms"] for one in rounds),
        errors=errors,
    )


def _charts(even: Mapping[str, Mapping[str, Any]], slow: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Chart]:
    latencies = [
        Series(name, list(POLICIES), [statistics.median(one[key] for one in slow[policy]) for policy in POLICIES])
        for name, key in (("p50", "p50_ms"), ("p99", "p99_ms"))
    ]
    stopped = (
        f"One of {WORKERS} workers is stopped {STOPPED_S * 1e3:.0f} ms of every {(STOPPED_S + RUNNING_S) * 1e3:.0f}; "
        f"pick_first sends all to that one. weighted_round_robin follows what the workers report. Shorter is better."
    )
    calls = sum(next(iter(even.values()))["spread"].values())
    evenness = (
        f"{calls:,} calls, all {WORKERS} workers well: the calls of the busiest worker over the mean. 1 is even; "
        f"{WORKERS} means that one worker got all."
    )
    bars = Series("max/mean", list(POLICIES), [unevenness(even[policy]["spread"]) for policy in POLICIES])
    return [
        Chart("Latency with one slow worker", stopped, "bar", "", "ms", latencies),
        Chart("How evenly calls spread", evenness, "bar", "", "max/mean", [bars], limit=1.0, limit_text="even"),
    ]


PART: Final = Balancing()
