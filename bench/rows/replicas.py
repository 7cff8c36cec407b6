"""CreateOrder on a shard of three replicas, where every conditional write is a round among three nodes."""

from __future__ import annotations

import contextlib
from typing import Final

from bench import bed, figures, subjects
from bench.parts import Context, Outcome
from bench.rounds import ByGhz, Plan, take_turns, warm
from bench.rows import unary

TARGET: Final = 8.0
FIRST_ADDRESS: Final = "127.0.0.81"
HEAP_MIB: Final = 768


class Replicas:
    """See ``bench.parts.Part``."""

    name = "replicas"
    title = "One shard with three replicas"
    needs_bed = False
    budget_s = 300.0

    def run(self, context: Context) -> Outcome:
        """Starts a ring of three nodes of its own; rounds in turn."""
        plan = Plan.of(context)
        ring = bed.opened(
            context.scratch / "ring",
            context.tell,
            shards=1,
            replicas=3,
            redis=False,
            first_address=FIRST_ADDRESS,
            heap_mib=HEAP_MIB,
        )
        with contextlib.ExitStack() as stack:
            context = context._replace(bed=stack.enter_context(ring))
            assert context.bed is not None
            ring_bed = context.bed
            crest = unary.crest_on(context, stack)
            once = unary.started(
                stack, lambda: subjects.go("once", context.host, context.port + 50, context.scratch, ring_bed)
            )
            loaded = [ByGhz(context, one) for one in (crest, once)]
            for one in loaded:
                warm(context, one, plan)
            rounds = take_turns(context, loaded, plan)
        row = figures.row(
            "unary CreateOrder by ghz, 256 callers, one shard with REPLICAS=3",
            (crest.name, rounds[crest.name]),
            (once.name, rounds[once.name]),
            target=TARGET,
            note=unary.GUARANTEES["go-once"],
        )
        return Outcome(
            [row],
            [unary.rates("Orders a second, three replicas", rounds), unary.costs("What an order costs", rounds)],
            {"rounds": {name: [one._asdict() for one in some] for name, some in rounds.items()}},
        )


PART: Final = Replicas()
