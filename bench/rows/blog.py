"""The usual answer to "how many orders a second": an endpoint that sleeps a second, at four numbers of callers."""

from __future__ import annotations

import contextlib
import json
from typing import Final

from google.protobuf import json_format

from bench import figures, http, load, subjects
from bench.parts import Chart, Context, Outcome, Row, Series
from bench.rounds import ByGhz, Plan, take_turns, warm
from bench.rows import unary
from bench.subjects import Subject
from bench.summary import Round

CALLERS: Final = (100, 200, 500, 1_000)
GUNICORN_WORKERS: Final = 2 * subjects.CORES + 1
"""The rule of gunicorn's own documentation: two for each core, and one."""

GUNICORN_THREADS: Final = 100
"""Of each worker, so that 500 requests may sleep at once: far above what posts take, and the least that is fair."""

_ROUND_S: Final = 2.5
"""Longer than two sleeps: with 1,000 callers each second request waits for a thread first."""


class Blog:
    """See ``bench.parts.Part``."""

    name = "blog"
    title = "The blog post: an endpoint that sleeps a second"
    needs_bed = True
    budget_s = 300.0

    def run(self, context: Context) -> Outcome:
        """Both at each number of callers, in turn."""
        plan = Plan.of(context)._replace(round_s=_ROUND_S)
        request = json_format.MessageToDict(load.create_request(context.chance), preserving_proto_field_name=True)
        body = json.dumps(request).encode()
        with contextlib.ExitStack() as stack:
            host, port = context.host, context.port + 90
            flask = subjects.flask(host, port, context.scratch, GUNICORN_WORKERS, GUNICORN_THREADS)
            subjects.wait_until_it_listens(stack.enter_context(flask), host, port)
            url = f"http://{host}:{port}/order"
            crest = unary.crest_on(context, stack)
            ours = {count: ByGhz(context, crest, name=f"crest, {count:,} callers", callers=count) for count in CALLERS}
            theirs = {count: _ByVegeta(context, flask, url, body, count) for count in CALLERS}
            _ByVegeta(context, flask, url, body, GUNICORN_WORKERS * GUNICORN_THREADS).fire(_ROUND_S)  # until all booted
            warm(context, ours[CALLERS[-1]], plan)
            found = take_turns(context, [*ours.values(), *theirs.values()], plan)
        rows = [
            Row(
                f"an order a call, {count:,} callers",
                figures.side("crest", found[ours[count].name]),
                figures.side("flask that sleeps 1 s", found[theirs[count].name]),
                note=figures.flaws(found[ours[count].name]),
            )
            for count in CALLERS
        ]
        explains = (
            f"gunicorn with {GUNICORN_WORKERS} processes of {GUNICORN_THREADS} threads answers as many requests a "
            "second as threads can sleep at once, whatever the machine; Crest has each order in Cassandra first."
        )
        lines = [
            Series(
                name,
                [float(count) for count in CALLERS],
                [figures.side(name, found[loaded[count].name]).rate.median for count in CALLERS],
            )
            for name, loaded in (("crest", ours), ("flask", theirs))
        ]
        return Outcome(
            rows,
            [Chart("Orders a second over callers", explains, "line", "callers", "orders/s", lines, log_y=True)],
            {"rounds": {name: [one._asdict() for one in some] for name, some in found.items()}},
        )


class _ByVegeta:
    """The endpoint under so many callers. See ``bench.rounds.Loaded``."""

    def __init__(self, context: Context, flask: Subject, url: str, body: bytes, callers: int) -> None:
        self.name = f"flask, {callers:,} callers"
        self._context = context
        self._flask = flask
        self._url = url
        self._body = body
        self._callers = callers

    def fire(self, seconds: float) -> Round:
        """Raises ``HttpError``."""
        before_s = self._flask.cpu_s()
        shot = http.post(self._url, self._body, self._callers, seconds, self._context.scratch)
        spent = {"server": self._flask.cpu_s() - before_s, "generator": shot.cpu_s}
        rate = shot.answered / shot.took_s if shot.took_s else 0.0
        return Round(
            self.name, "closed", shot.answered, shot.took_s, rate, shot.p50_ms, shot.p99_ms, shot.errors, 0, spent, 0.0
        )


PART: Final = Blog()
