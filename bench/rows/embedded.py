"""CreateOrder on the embedded store against servers that do nothing, on each transport."""

from __future__ import annotations

import contextlib
import random
from typing import Final

from bench import figures, load, subjects
from bench.installed import InstallError
from bench.parts import Context, Outcome, Row
from bench.rounds import ByGhz, Plan, take_turns, warm
from bench.rows import unary
from bench.subjects import SubjectError

TARGET: Final = 0.8

FLOOR_ROUNDS: Final = 3
"""Of the empty peers that no target is about."""


class Embedded:
    """See ``bench.parts.Part``."""

    name = "embedded"
    title = "The embedded store, and what gRPC itself costs"
    needs_bed = False
    budget_s = 240.0

    def run(self, context: Context) -> Outcome:
        """Rounds in turn; then a backup is made and its orders are counted."""
        plan = Plan.of(context)
        host, port, scratch, workers = context.host, context.port, context.scratch, subjects.WORKERS
        findings: list[str] = []
        with contextlib.ExitStack() as stack:
            crest = subjects.crest(host, port + 11, workers, "native", scratch, name="crest, embedded")
            stack.enter_context(crest)
            # the empty peers answer what Crest answered: the same bytes, so the same work for the generator
            answer = crest.answer(load.create_request(random.Random(0)))
            peers = [
                lambda: subjects.empty(host, port + 30, workers, "native", scratch, answer),
                lambda: subjects.empty(host, port + 50, workers, "grpcio", scratch, answer),
                lambda: subjects.empty_go(host, port + 70, scratch, answer),
            ]
            loaded = [ByGhz(context, crest)]
            for make in peers:
                try:
                    loaded.append(ByGhz(context, unary.started(stack, make)))
                except (InstallError, SubjectError) as error:
                    findings.append(f"an empty peer could not be compared: {error}")
            for one in loaded:
                warm(context, one, plan)
            rounds = take_turns(context, loaded[:2], plan)
            rounds |= take_turns(context, loaded[2:], plan._replace(rounds=min(plan.rounds, FLOOR_ROUNDS)))
            stored = subjects.stored_orders("native", scratch)
        acknowledged = loaded[0].acknowledged + 1  # and the one by which we saw that it serves
        if stored < acknowledged:
            findings.append(f"{acknowledged:,} orders were acknowledged, {stored:,} are in the store: SOME ARE LOST")
        row = figures.row(
            "unary CreateOrder on the embedded store by ghz, 256 callers",
            (crest.name, rounds[crest.name]),
            ("empty native", rounds["empty native"]),
            target=TARGET,
            note=f"{acknowledged:,} orders acknowledged, {stored:,} found in a backup.",
        )
        floors = [
            Row(f"{name}: a server that does nothing, by ghz, 256 callers", figures.side(name, some), unit="calls/s")
            for name, some in rounds.items()
            if name != crest.name
        ]
        return Outcome(
            [row, *floors],
            [unary.rates("Calls a second", rounds, "call"), unary.costs("What a call costs", rounds, "call")],
            {"rounds": {name: [one._asdict() for one in some] for name, some in rounds.items()}},
            findings,
        )


PART: Final = Embedded()
