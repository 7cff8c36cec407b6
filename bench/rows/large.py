"""The rate with five million orders stored against that with fifty thousand, on the same nodes at the same time."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from typing import Final

from bench import figures, subjects
from bench.bed import Bed
from bench.installed import ROOT
from bench.parts import Context, Outcome
from bench.peers import placed
from bench.rounds import ByGhz, Plan, take_turns, warm
from bench.rows import unary

ORDERS_LARGE: Final = 5_000_000
ORDERS_SMALL: Final = 50_000
QUICK_DIVISOR: Final = 50
TARGET: Final = 0.9
_FILL_TIMEOUT_S: Final = 1_500
_COMPACTIONS_TIMEOUT_S: Final = 240


class Large:
    """See ``bench.parts.Part``."""

    name = "large"
    title = "Five million orders stored"
    needs_bed = True
    budget_s = 1_200.0

    def run(self, context: Context) -> Outcome:
        """Fills two keyspaces, waits until nothing is compacted any more, then loads a server on each in turn."""
        plan = Plan.of(context)
        bed = context.bed
        assert bed is not None
        divisor = QUICK_DIVISOR if context.is_quick else 1
        with contextlib.ExitStack() as stack:
            loaded = []
            took_s: dict[str, float] = {}
            for offset, (name, orders) in enumerate((("large", ORDERS_LARGE), ("small", ORDERS_SMALL))):
                file = bed.named(f"crest_{name}", context.scratch)
                stored, took_s[name] = _fill(context, str(file), orders // divisor)
                server = subjects.crest(
                    context.host,
                    context.port + 11 + 20 * offset,
                    subjects.WORKERS,
                    "native",
                    context.scratch,
                    bed=bed,
                    name=f"crest, {stored:,} stored",
                    settings={"topology-file": file, "redis-prefix": f"{name}:"},
                )
                loaded.append(ByGhz(context, unary.started(stack, lambda server=server: server)))  # type: ignore[misc]  # bound early
            pending = _wait_for_compactions(bed)
            for one in loaded:
                warm(context, one, plan)
            rounds = take_turns(context, loaded, plan)
        large, small = (one.name for one in loaded)
        row = figures.row(
            "unary CreateOrder by ghz, 256 callers, a full store against a nearly empty one",
            (large, rounds[large]),
            (small, rounds[small]),
            target=TARGET,
            note="Stored before by plain batches, over the past day.",
        )
        findings = [f"{pending} compactions still ran when the rounds began"] if pending else []
        return Outcome(
            [row],
            [unary.rates("Orders a second", rounds), unary.costs("What an order costs", rounds)],
            {"fill_s": took_s, "rounds": {name: [one._asdict() for one in some] for name, some in rounds.items()}},
            findings,
        )


def _fill(context: Context, topology_file: str, orders: int) -> tuple[int, float]:
    context.tell(f"storing {orders:,} orders")
    command = [sys.executable, "-m", "bench.peers.prefill", f"--topology-file={topology_file}", f"--orders={orders}"]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=_FILL_TIMEOUT_S, check=True)
    took_s = time.monotonic() - began
    stored = int(done.stdout.split()[-1])
    context.tell(f"stored {stored:,} in {took_s:.0f} s")
    return stored, took_s


def _wait_for_compactions(bed: Bed) -> int:
    """Waits until no node compacts; returns how many compactions were left when the patience was."""
    placement = placed.read(bed.write_placement("system", bed.folder / "placement-system.json"))
    give_up = time.monotonic() + _COMPACTIONS_TIMEOUT_S
    with contextlib.ExitStack() as stack:
        sessions = []
        for shard in placement.shards:
            cluster, session = placed.connect(placement, shard)
            stack.callback(cluster.shutdown)
            sessions.append(session)
        while True:
            pending = sum(len(list(one.execute("SELECT * FROM system_views.sstable_tasks"))) for one in sessions)
            if not pending or time.monotonic() > give_up:
                return pending
            time.sleep(1)  # sleep: between two looks at what no node announces


PART: Final = Large()
