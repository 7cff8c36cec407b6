"""The usual answer to "how many orders a second": an endpoint that sleeps a second, at four numbers of callers."""

from __future__ import annotations

import contextlib
import json
from typing import Final

from google.protobuf import json_format

from bench import figures, http, load, subjects
from bench.parts import Chart, Context, Outcome, Row, Series
from bench.rounds import ByGhz, Plan, warm
from bench.rows import unary
from bench.summary import Round

CALLERS: Final = (100, 200, 500, 1_000)
GUNICORN_WORKERS: Final = 2 * subjects.WORKERS + 1
"""The rule of gunicorn's own documentation: two for each core, and one."""

GUNICORN_THREADS: Final = 100
"""Of each worker, so that 500 requests may sleep at once: far above what posts take, and the least that is fair."""

_SECONDS: Final = 4.0
_SECONDS_QUICK: Final = 2.5


class Blog:
    """See ``bench.parts.Part``."""

    name = "blog"
    title = "The blog post: an endpoint that sleeps a second"
    needs_bed = True
    budget_s = 120.0

    def run(self, context: Context) -> Outcome:
        """One run of each at each number of callers."""
        seconds = _SECONDS_QUICK if context.is_quick else _SECONDS
        found: dict[str, list[Round]] = {"flask": [], "crest": []}
        request = json_format.MessageToDict(load.create_request(context.chance), preserving_proto_field_name=True)
        body = json.dumps(request).encode()
        with contextlib.ExitStack() as stack:
            host, port = context.host, context.port + 90
            flask = subjects.flask(host, port, context.scratch, GUNICORN_WORKERS, GUNICORN_THREADS)
            subjects.wait_until_it_listens(stack.enter_context(flask), host, port)
            url = f"http://{host}:{port}/order"
            http.post(url, body, GUNICORN_WORKERS * GUNICORN_THREADS, seconds, context.scratch)  # until all have booted
            for callers in CALLERS:
                before_s = flask.cpu_s()
                shot = http.post(url, body, callers, seconds, context.scratch)
                spent = {"server": flask.cpu_s() - before_s, "generator": shot.cpu_s}
                found["flask"].append(_round("flask", shot, spent))
        with contextlib.ExitStack() as stack:
            crest = unary.crest_on(context, stack)
            warm(context, ByGhz(context, crest), Plan.of(context))
            found["crest"] = [ByGhz(context, crest, callers=callers).fire(seconds) for callers in CALLERS]
        rows = [
            Row(
                f"an order a call, {callers:,} callers",
                figures.side("crest", [ours]),
                figures.side("flask that sleeps 1 s", [theirs]),
                note="One run each, no target." if callers == CALLERS[0] else "",
            )
            for callers, ours, theirs in zip(CALLERS, found["crest"], found["flask"], strict=True)
        ]
        explains = (
            f"gunicorn with {GUNICORN_WORKERS} processes of {GUNICORN_THREADS} threads answers as many requests a "
            "second as threads can sleep at once, whatever the machine; Crest has each order in Cassandra first."
        )
        lines = [
            Series(name, [float(callers) for callers in CALLERS], [one.orders_per_s for one in some])
            for name, some in found.items()
        ]
        return Outcome(
            rows,
            [Chart("Orders a second over callers", explains, "line", "callers", "orders/s", lines, log_y=True)],
            {"rounds": {name: [one._asdict() for one in some] for name, some in found.items()}},
        )


def _round(name: str, shot: http.Shot, cpu_s: dict[str, float]) -> Round:
    rate = shot.answered / shot.took_s if shot.took_s else 0.0
    return Round(name, "closed", shot.answered, shot.took_s, rate, shot.p50_ms, shot.p99_ms, shot.errors, 0, cpu_s, 0.0)


PART: Final = Blog()
