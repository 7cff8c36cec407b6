"""What an order costs at half load when callers balance by the workers' own reports, against taking turns."""

from __future__ import annotations

import contextlib
import statistics
import sys
from typing import Final

from bench import figures
from bench.driver import Driver
from bench.parts import Context, Outcome, Row
from bench.rounds import ByDriver, ByGhz, Plan, take_turns, warm, work_s
from bench.rows import unary
from bench.subjects import SubjectError
from bench.summary import spread

TARGET: Final = 1.0
LOAD_SHARE: Final = 0.5
RATE_MAX: Final = 1_500
"""Calls a second that one caller process in Python makes and still has half a core to spare."""

_POLICIES: Final = ("weighted_round_robin", "round_robin")


class Policies:
    """See ``bench.parts.Part``."""

    name = "policies"
    title = "The cost of balancing by load"
    needs_bed = True
    budget_s = 120.0

    def run(self, context: Context) -> Outcome:
        """Measures what the server can do, then has one channel of each policy load it at half of that, in turn."""
        plan = Plan.of(context)
        with contextlib.ExitStack() as stack:
            crest = unary.crest_on(context, stack)
            by_ghz = ByGhz(context, crest)
            warm(context, by_ghz, plan)
            capacity = statistics.median(by_ghz.fire(plan.round_s).orders_per_s for _ in range(min(3, plan.rounds)))
            rate = int(min(RATE_MAX, capacity * LOAD_SHARE))
            if not rate:
                raise SubjectError("the server answered nothing when its capacity was measured")
            context.tell(f"capacity {capacity:,.0f}/s, load {rate:,}/s")
            loaded = []
            for policy in _POLICIES:
                command = [sys.executable, "-m", "bench.callers", "channel", f"--policy={policy}", f"--rate={rate}"]
                command.append(f"--endpoints={','.join(crest.endpoints)}")
                driver = Driver(policy, command, context.scratch / f"{policy}.log")
                loaded.append(ByDriver(context, stack.enter_context(driver), crest))
            for one in loaded:
                one.fire(plan.warm_window_s)
            rounds = take_turns(context, loaded, plan)
        weighted, plain = (rounds[policy] for policy in _POLICIES)
        pairs = [
            (work_s(one.cpu_s) / one.orders) / (work_s(other.cpu_s) / other.orders)
            for one, other in zip(weighted, plain, strict=True)
            if one.orders and other.orders
        ]
        ours, theirs = figures.side("weighted_round_robin", weighted), figures.side("round_robin", plain)
        row = Row(
            f"CPU an order at {rate:,} orders/s ({rate / capacity:.0%} of capacity), one channel of plain stubs",
            ours,
            theirs,
            spread(pairs) if pairs else None,
            ratio_of="CPU an order",
            target=TARGET,
            at_most=True,
            cpu_ratio=figures.cpu_ratio(ours, theirs),
        )
        return Outcome(
            [row],
            [unary.costs("What an order costs at half load", rounds)],
            {
                "capacity_per_s": capacity,
                "rate_per_s": rate,
                "rounds": {name: [one._asdict() for one in some] for name, some in rounds.items()},
            },
        )


PART: Final = Policies()
