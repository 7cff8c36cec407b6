"""What an order costs at half load when callers balance by the workers' own reports, against taking turns."""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Sequence
from typing import Final

from bench import figures, subjects
from bench.driver import Driver
from bench.parts import Context, Outcome, Row
from bench.rounds import OTHERS_MAX, ByDriver, ByGhz, Loaded, Plan, warm, work_s
from bench.rows import unary
from bench.subjects import SubjectError
from bench.summary import Round, joined, spread

TARGET: Final = 1.0
LOAD_SHARE: Final = 0.5
RATE_MAX: Final = 1_500
"""Calls a second that one caller process in Python makes and still has half a core to spare."""

WINDOW_S: Final = 1.0
TURNS: Final = (0, 1, 1, 0, 1, 0, 0, 1)
"""Who is loaded in the windows of a round. What a node that tidies up costs more for some seconds falls on both, and
what grows steadily falls on both alike (the order of Thue and Morse)."""

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
            crest = unary.crest_on(context, stack, workers=subjects.CORES)
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
            rounds = _interleaved(context, loaded, plan)
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


def _interleaved(context: Context, loaded: Sequence[Loaded], plan: Plan) -> dict[str, list[Round]]:
    """Returns the rounds of both by name, each of many short windows in turn; one that was disturbed is made again."""
    found: dict[str, list[Round]] = {one.name: [] for one in loaded}
    repeats = plan.repeats_max
    while len(found[_POLICIES[0]]) < plan.rounds:
        windows: tuple[list[Round], list[Round]] = [], []
        for which in TURNS:
            windows[which].append(loaded[which].fire(WINDOW_S))
        both = [joined(some) for some in windows]
        others_cores = statistics.fmean(one.others_cores for one in both)
        if others_cores > OTHERS_MAX and repeats:
            repeats -= 1
            context.tell(f"disturbed, {others_cores:.1f} cores were busy with something else: again")
            continue
        for one in both:
            found[one.subject].append(one)
        costs = ", ".join(f"{one.subject} {work_s(one.cpu_s) / max(1, one.orders) * 1e3:.3f} ms" for one in both)
        context.tell(f"round {len(found[_POLICIES[0]])}/{plan.rounds}, CPU an order: {costs}")
    return found


PART: Final = Policies()
