"""Many tasks of one process that each create an order, through our client library, against unary calls by ghz."""

from __future__ import annotations

import contextlib
import sys
from typing import Final

from bench import figures
from bench.driver import Driver
from bench.parts import Context, Outcome
from bench.rounds import ByDriver, ByGhz, Plan, take_turns, warm
from bench.rows import unary

TASKS: Final = 512
TARGET: Final = 3.0


class Client:
    """See ``bench.parts.Part``."""

    name = "client"
    title = "One caller process with our client library"
    needs_bed = True
    budget_s = 120.0

    def run(self, context: Context) -> Outcome:
        """Rounds in turn against the same server."""
        plan = Plan.of(context)
        with contextlib.ExitStack() as stack:
            crest = unary.crest_on(context, stack)
            command = [sys.executable, "-m", "bench.callers", "client", f"--callers={TASKS}"]
            command.append(f"--endpoints={','.join(crest.endpoints)}")
            driver = stack.enter_context(Driver("crest, OrderClient", command, context.scratch / "callers.log"))
            by_client = ByDriver(context, driver, crest)
            by_ghz = ByGhz(context, crest, name="crest, unary by ghz")
            for one in (by_client, by_ghz):
                warm(context, one, plan)
            rounds = take_turns(context, (by_client, by_ghz), plan)
        row = figures.row(
            f"{TASKS} concurrent OrderClient.create in one process",
            (by_client.name, rounds[by_client.name]),
            (by_ghz.name, rounds[by_ghz.name]),
            target=TARGET,
            note="The library gathers creates that are under way at once into batches.",
        )
        return Outcome(
            [row],
            [unary.rates("Orders a second", rounds), unary.costs("What an order costs", rounds)],
            {"rounds": {name: [one._asdict() for one in some] for name, some in rounds.items()}},
        )


PART: Final = Client()
