"""3 -> 4 -> 3 shards on real Cassandra under an open loop at half of what the service takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from bench.installed import ROOT
from bench.load import create_request
from bench.moving.callers import Call, Callers
from bench.parts import Context
from bench.rounds import WARM_SLACK
from bench.summary import settled
from protos.orders.v1 import orders_pb2
from shards.keys import format_uuid, mint_uuid7

WORKERS: Final = 2
KEYSPACE: Final = "crest_moves"
_METRICS: Final = 90
_BOOT_S: Final = 60.0
_MOVE_S: Final = 150.0
_AT_ONCE: Final = 48
_WARM_WINDOW_S: Final = 10.0
_WARM_WINDOWS_MAX: Final = 30
_WARM_QUIET: Final = 3
"""The same calls are made before their capacity is measured, until the nodes' processor time of one has not fallen in
so many windows: while a JVM compiles, each of its answers may be late."""
_RATE_MAX: Final = 400.0
"""Calls a second at most: the callers share the machine, and their own cost must not be what is measured."""
_CDNOW: Final = ROOT / "tests" / "data" / "cdnow_sample.txt"


class Waits(NamedTuple):
    """How long something lasted, as the workers count it: in steps, so these are bounds."""

    number: int
    p99_ms: float
    max_ms: float


class Phase(NamedTuple):
    """One move."""

    name: str
    began_s: float
    """Since the callers began, as everything here."""
    ended_s: float
    end: dict[str, Any]
    """What the mover told last."""
    moved: list[tuple[float, int]]
    """Time, and slots moved so far."""
    rows_copied: int
    pauses: int
    pause_ms_p99: float
    pause_ms_max: float
    pause_steps_ms: dict[str, float]
    paused: Waits
    """How long slots were not served, each in each worker."""
    waits: Waits
    """How long operations waited for slots, those at their gates."""


class Live(NamedTuple):
    """What was measured."""

    capacity: float
    rate: float
    cdnow: int
    """Orders of the CDNOW sample that were there before."""
    calls: list[Call]
    phases: list[Phase]

    def during(self, phase: Phase | None) -> list[Call]:
        """Returns the calls of a move; None: those while nothing moved."""
        spans = [(one.began_s, one.ended_s) for one in self.phases]
        if phase is not None:
            return [call for call in self.calls if phase.began_s <= call.at_s <= phase.ended_s]
        return [call for call in self.calls if not any(began <= call.at_s <= ended for began, ended in spans)]

    def errors(self) -> Counter[str]:
        """Returns the errors of all calls by their names."""
        return Counter(call.error for call in self.calls if call.error)

    def goodput(self, phase: Phase | None) -> float:
        """Returns the share of calls that were to begin then and were answered as they must."""
        calls = self.during(phase)
        return sum(not call.error for call in calls) / len(calls) if calls else 0.0

    def findings(self) -> list[str]:
        """Returns sentences for the reader."""
        told = []
        for phase in self.phases:
            calls = self.during(phase)
            moves = phase.end.get("moves", 0)
            slowest_ms = max((call.took_ms for call in calls), default=0)
            sizes = ", ".join(f"{size:,}" for size in phase.end.get("sizes", ()))
            told.append(
                f"{phase.name}: {moves:,} of 4,096 slots in {phase.ended_s - phase.began_s:.0f} s, shard sizes then "
                f"{sizes}; calls meanwhile: p99 {quantile(calls, 0.99):.0f} ms, slowest {slowest_ms:.0f} ms, "
                f"{sum(bool(call.error) for call in calls)} errors; verify: {phase.end.get('verified', 0):,} orders, "
                f"{phase.end.get('wrong')} wrong."
            )
            told.append(
                f"{phase.name}: 99 of 100 slots were not served for {phase.paused.p99_ms:g} ms at most, none for "
                f"longer than {phase.paused.max_ms:g} ms; {phase.waits.number} operations came just then, 99 of 100 "
                f"waited {phase.waits.p99_ms:g} ms at most, none longer than {phase.waits.max_ms:g} ms. The mover saw "
                f"{phase.pauses} pauses of {phase.pause_ms_p99:.0f} ms (p99), {phase.pause_ms_max:.0f} ms at most, on "
                f"average: {_told(phase.pause_steps_ms)}."
            )
        if errors := self.errors():
            told.append(f"errors that callers saw: {dict(errors)}")
        return told

    def to_data(self) -> dict[str, Any]:
        """Returns everything but the single calls."""
        return {
            "capacity_per_s": self.capacity,
            "rate_per_s": self.rate,
            "cdnow_orders": self.cdnow,
            "errors": dict(self.errors()),
            "calls": len(self.calls),
            "at_rest": _figures(self.during(None)),
            "phases": [
                phase._asdict()
                | {
                    "waits": phase.waits._asdict(),
                    "calls": _figures(self.during(phase)),
                    "goodput": self.goodput(phase),
                }
                for phase in self.phases
            ],
        }


def quantile(calls: Sequence[Call], share: float) -> float:
    """Returns the latency in ms that this share of calls did not exceed; 0 for none."""
    took = sorted(call.took_ms for call in calls)
    return took[min(len(took) - 1, int(len(took) * share))] if took else 0.0


def move_there_and_back(context: Context) -> Live:
    """Measures; ends every process that it started."""
    assert context.bed is not None
    file = context.bed.named(KEYSPACE, context.scratch)
    with _server(context, file):
        return asyncio.run(_measure(context, file))


async def _measure(context: Context, file: Path) -> Live:
    callers = Callers([f"{context.host}:{context.port + 1 + worker}" for worker in range(WORKERS)], context.chance)
    try:
        sample = list(_cdnow(600 if context.is_quick else 6_919))
        await callers.load(sample, _AT_ONCE)
        await callers.load([create_request(context.chance) for _ in range(500)], _AT_ONCE)
        capacity = await _warmed(context, callers)
        rate = min(capacity / 2, _RATE_MAX)
        context.tell(f"{capacity:,.0f} calls/s at most; {rate:,.0f} from now on")
        _name_fourth(context, file)
        calling = asyncio.create_task(callers.run(rate))
        began = time.monotonic()
        phases = []
        for name, what in (("3 -> 4 shards", "add"), ("4 -> 3 shards", "drain")):
            await asyncio.sleep(2 if context.is_quick else 5)
            phases.append(await _move(context, file, name, what, began))
            context.tell(f"{name}: {phases[-1].end}")
        await asyncio.sleep(2)
        callers.is_over = True
        await calling
        return Live(capacity, rate, len(sample), callers.calls, phases)
    finally:
        await callers.close()


async def _warmed(context: Context, callers: Callers) -> float:
    """Returns how many calls a second are answered at most, once the nodes are warm."""
    assert context.bed is not None
    window_s, windows_max = (2.0, 2) if context.is_quick else (_WARM_WINDOW_S, _WARM_WINDOWS_MAX)
    costs_ms: list[float] = []
    capacity = 0.0
    while len(costs_ms) < windows_max and not settled(costs_ms, WARM_SLACK, _WARM_QUIET):
        before_s = context.bed.cpu_s()["cassandra"]
        capacity = await callers.capacity(window_s, _AT_ONCE)
        spent_ms = (context.bed.cpu_s()["cassandra"] - before_s) * 1e3
        costs_ms.append(spent_ms / max(1.0, capacity * window_s))
    context.tell(f"warm, the nodes' CPU a call {costs_ms[0]:.3f} -> {costs_ms[-1]:.3f} ms in {len(costs_ms)} windows")
    return capacity


async def _move(context: Context, file: Path, name: str, what: str, began: float) -> Phase:
    told = context.scratch / f"{what}.jsonl"
    before = await asyncio.to_thread(_counts, context)
    begun_s = time.monotonic() - began
    command = [sys.executable, "-m", "bench.moving.mover", str(file), what, str(told)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    try:
        async with asyncio.timeout(_MOVE_S):
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert code == 0, f"the mover left with {code}"
    wall = time.time() - time.monotonic() + began
    lines = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]
    end = lines.pop()["end"]
    moved = [(line["at_unix_ms"] / 1_000 - wall, line["slots_moved"]) for line in lines]
    last = lines[-1]
    after = await asyncio.to_thread(_counts, context)
    return Phase(
        name=name,
        began_s=begun_s,
        ended_s=moved[-1][0],
        end=end,
        moved=moved,
        rows_copied=last["rows_copied"],
        pauses=last["pauses"],
        pause_ms_p99=last["pause_ms_p99"],
        pause_ms_max=last["pause_ms_max"],
        pause_steps_ms=last["pause_steps_ms"],
        paused=waits(after["crest_slot_pause_seconds"], before.get("crest_slot_pause_seconds", {})),
        waits=waits(after["crest_slot_wait_seconds"], before.get("crest_slot_wait_seconds", {})),
    )


def waits(after: Mapping[float, float], before: Mapping[float, float]) -> Waits:
    """Returns what was counted between two looks at a histogram: cumulative counts by upper bound in seconds."""
    counts = {bound: count - before.get(bound, 0.0) for bound, count in sorted(after.items())}
    total = max(counts.values(), default=0.0)

    def bound_ms(share: float) -> float:
        return next((bound for bound, count in counts.items() if count >= total * share), 0.0) * 1_000

    return Waits(round(total), bound_ms(0.99) if total else 0.0, bound_ms(1.0) if total else 0.0)


def _counts(context: Context) -> dict[str, dict[float, float]]:
    """Returns the counts of each histogram of slots, those of all workers together."""
    with urlopen(f"http://{context.host}:{context.port + _METRICS}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    counts: dict[str, dict[float, float]] = {}
    for family in text_string_to_metric_families(text):
        if not family.name.startswith("crest_slot_"):
            continue
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                by_bound = counts.setdefault(family.name, {})
                bound = float(sample.labels["le"])
                by_bound[bound] = by_bound.get(bound, 0.0) + sample.value
    return counts


def _told(steps: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {ms:.0f} ms" for name, ms in steps.items())


def _name_fourth(context: Context, file: Path) -> None:
    """Names a fourth shard in the topology file, in a keyspace of its own beside the first, and makes it."""
    assert context.bed is not None
    cluster = context.bed.cluster.spec
    points = json.dumps(list(cluster.contact_points(0)))
    text = f'\n[[shards]]\nid = 3\nkeyspace = "{KEYSPACE}_3"\ncontact_points = {points}\n'
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")
    command = [sys.executable, "-m", "shards.schema", "apply", f"--topology-file={file}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def _server(context: Context, file: Path) -> Iterator[None]:
    log = (context.scratch / "server.log").open("w", encoding="utf-8")
    command = [sys.executable, "-m", "server", "--store=cassandra", f"--topology-file={file}", f"--host={context.host}"]
    command += [f"--port={context.port}", f"--metrics-port={context.port + _METRICS}", f"--workers={WORKERS}"]
    command += [f"--data-dir={context.scratch / 'data'}"]
    server = subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + _BOOT_S
        while (context.scratch / "server.log").read_text(encoding="utf-8").count("a child is ready") <= WORKERS:
            assert server.poll() is None, "the server has left; its log is server.log"
            assert time.monotonic() < until, "the server does not serve"
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _cdnow(most: int) -> Iterator[orders_pb2.CreateOrderRequest]:
    """Yields purchases of the CDNOW sample as requests of now: ids as old as they are create nothing any more."""
    with _CDNOW.open(encoding="ascii") as lines:
        for number, line in enumerate(lines):
            if number == most:
                return
            customer, _, day, cds, amount = line.split()
            item = orders_pb2.OrderLine(sku="cds", quantity=1, unit_price_minor=round(float(amount) * 100))
            yield orders_pb2.CreateOrderRequest(
                request_id=format_uuid(mint_uuid7()),
                customer_id=f"cdnow-{customer}",
                currency_code="USD",
                lines=[item],
                attributes={"cds": cds, "placed_on": day},
            )


def _figures(calls: Sequence[Call]) -> dict[str, float]:
    return {
        "calls": len(calls),
        "errors": sum(bool(call.error) for call in calls),
        "p50_ms": round(quantile(calls, 0.5), 2),
        "p99_ms": round(quantile(calls, 0.99), 2),
        "max_ms": round(max((call.took_ms for call in calls), default=0.0), 2),
    }
