"""The seam of the benchmark: a part measures one thing and returns a value that the table and the page can draw.

A part knows nothing of the terminal or of HTML, and those know nothing of parts: what passes between them is an
``Outcome``, which is kept as JSON. Each part runs in a process of its own (``python -m bench part NAME``), so that one
that fails, hangs or leaks loses its own rows only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from bench.bed import Bed
from bench.summary import Range

GROUPS: Final = ("server", "cassandra", "redis", "generator")
"""Who spends processor time, in the order in which it is told; the last one is the load's own cost."""


class Series(msgspec.Struct, frozen=True):
    """One line, or one colour of bars."""

    name: str
    x: Sequence[float | str]
    """Numbers of a line, ascending; names of groups of bars."""
    y: Sequence[float | None]
    """As many; None leaves a gap."""
    least: Sequence[float] | None = None
    most: Sequence[float] | None = None
    """The spread around each ``y``: a band around a line, a whisker on a bar."""


class Event(msgspec.Struct, frozen=True):
    """A moment worth a vertical line."""

    x: float
    text: str


class Chart(msgspec.Struct, frozen=True):
    """One chart, for somebody who has not read the code: name units on the axes and say what to look at."""

    title: str
    explains: str
    """One or two sentences: what is drawn, and what it says."""
    kind: Literal["line", "bar", "stack", "step"]
    """``stack``: bars whose series stand on each other."""
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False
    events: Sequence[Event] = ()
    limit: float | None = None
    """Draws a horizontal line there: a target, a deadline."""
    limit_text: str = ""


class Side(msgspec.Struct, frozen=True):
    """One of the two that are compared, over its rounds."""

    name: str
    rate: Range
    """Orders (or what ``Row.unit`` says) a second."""
    p50_ms: Range | None = None
    p99_ms: Range | None = None
    cpu_s_per_1000: Mapping[str, float] = {}
    """Median processor seconds for 1,000 orders by group: ``server``, ``cassandra``, ``redis``, ``generator``."""
    errors: Mapping[str, int] = {}
    """Calls not answered OK over all rounds, by the name of their code."""


class Row(msgspec.Struct, frozen=True):
    """One line of the table: this against that."""

    work: str
    """What was done, in a person's words: ``unary CreateOrder, 256 callers``."""
    ours: Side
    theirs: Side | None = None
    ratio: Range | None = None
    """What the target is about, over pairs of neighbouring rounds; mostly our rate over theirs."""
    ratio_of: str = "rate"
    """What the ratio compares: ``rate``, ``CPU an order``, ``goodput``..."""
    target: float | None = None
    at_most: bool = False
    """Whether the target is an upper bound; else the ratio is to be at least that."""
    cpu_ratio: float | None = None
    """Their processor time an order over ours, the generator left out: above 1 we are cheaper."""
    unit: str = "orders/s"
    """What ``Side.rate`` counts; empty where there is no rate, and the ratio says it all."""
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the median meets the target; None where there is none."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio.median <= self.target if self.at_most else self.ratio.median >= self.target


class Outcome(msgspec.Struct, frozen=True):
    """What a part found."""

    rows: Sequence[Row] = ()
    charts: Sequence[Chart] = ()
    data: Mapping[str, object] = {}
    """Everything else worth keeping, as JSON: raw rounds, settings of the subjects."""
    findings: Sequence[str] = ()
    """Sentences for the reader: what does not reach its target and why, what was lost, what to distrust."""


class Context(NamedTuple):
    """What a part may use."""

    scratch: Path
    """A folder of its own on the disk of the checkout, removed afterwards."""
    host: str
    """A loopback address of the benchmark's own."""
    port: int
    """The first of 200 ports there that are this part's."""
    is_quick: bool
    """A look, not a figure: few, short rounds."""
    chance: random.Random
    tell: Callable[[str], None]
    """Prints one line of progress."""
    bed: Bed | None
    """Three Cassandra shards and a Redis Cluster, up and warm, shared by all parts; None where a part asks for none."""


class Part(Protocol):
    """One thing to measure."""

    name: str
    """Short, lower case, unique: names the part on the command line and in the JSON."""
    title: str
    """Heading of its section of the page."""
    needs_bed: bool
    """Whether ``Context.bed`` is to be there."""
    budget_s: float
    """What it takes on two cores; ended after twice that."""

    def run(self, context: Context) -> Outcome:
        """Measures. Ends every process that it started, also when it raises. Any exception is the part's failure."""
