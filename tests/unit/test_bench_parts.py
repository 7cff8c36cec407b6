"""What passes between the parts of the benchmark, and how it is drawn and kept."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from rich.console import Console

from bench import balancing, campaign, charts, figures, keeping, page, table
from bench.campaign import Kept, Run
from bench.parts import Chart, Context, Event, Outcome, Row, Series, Side
from bench.summary import Range, Round

FACTS = {"commit": "abc1234", "cores": 2, "time": "2026-11-22T00:00:00+00:00", "cpu": "a cpu", "fsync_us": 200}
FACTS |= {"load_average_1m": 0.1, "packages": {"grpcio": "1.0"}}


def side(name: str, rate: float = 100.0) -> Side:
    """One side with unremarkable figures."""
    flat = Range(rate, rate - 1, rate + 1)
    return Side(name, flat, flat, flat, {"server": 0.2, "cassandra": 0.3, "generator": 0.1}, {"Unavailable": 3})


def row(ratio: float | None, target: float | None, *, at_most: bool = False) -> Row:
    """One line of the table."""
    found = None if ratio is None else Range(ratio, ratio, ratio)
    return Row("<work> & more", side("crest"), side("peer"), found, target=target, at_most=at_most)


def rounds(subject: str, rate: float, *, repeated: int = 0) -> list[Round]:
    """Two rounds of a subject."""
    cpu_s = {"server": 1.0, "cassandra": 2.0, "generator": 9.0}
    return [Round(subject, "closed", 1000, 1.0, rate, 1.0, 2.0, {}, repeated, cpu_s, 0.0)] * 2


def kept(*rows: Row, failure: str = "", drawn: tuple[Chart, ...] = ()) -> Kept:
    """What a part left."""
    return Kept("part", "A part", 1.5, Outcome(rows, drawn, {"n": 1}, ["a <finding>"]), failure)


LINE = Chart(
    "A <line>",
    "What it says.",
    "line",
    "x & y",
    "ms",
    [
        Series("crest", [1.0, 2.0, 3.0], [1.0, None, 3.0], [0.5, 0.5, 2.0], [1.5, 2.5, 4.0]),
        Series("other", [1.0, 2.0], [5.0, 6.0]),
    ],
    log_y=True,
    events=[Event(2.0, "moved <slots>")],
    limit=4.0,
    limit_text="deadline",
)
BARS = Chart(
    "Bars",
    "What they say.",
    "bar",
    "",
    "orders/s",
    [Series("orders/s", ["crest", "go"], [10.0, 3.0], [9.0, 2.0], [12.0, 4.0])],
    limit=5.0,
    limit_text="target",
)
STACK = Chart("Stack", "", "stack", "", "ms", [Series("server", ["a", "b"], [1, 2]), Series("redis", ["a"], [0.5])])
STEPS = Chart("Steps", "", "step", "s", "rows/s", [Series("moved", [0, 1, 2], [0, 5, 5])], log_x=False)


@pytest.mark.parametrize(
    ("ratio", "target", "at_most", "reached"),
    [
        (2.0, 2.0, False, True),
        (1.9, 2.0, False, False),
        (1.0, 1.0, True, True),
        (1.1, 1.0, True, False),
        (None, 2.0, False, None),
        (2.0, None, False, None),
    ],
)
def test_target_is_reached_by_the_median(
    ratio: float | None, target: float | None, at_most: bool, reached: bool | None
) -> None:
    """A row reaches its target when the median ratio is at least, or at most, the target, and says so."""
    one = row(ratio, target, at_most=at_most)
    assert one.reached is reached
    text = table.target(one)
    assert ("MISSED" in text) == (reached is False)
    assert ("reached" in text) == (reached is True)


@pytest.mark.parametrize(("ratio", "said"), [(1.0041, "1.004"), (1.0, "1.00"), (0.5, "0.50")])
def test_ratio_that_just_misses_is_not_told_as_its_target(ratio: float, said: str) -> None:
    """A ratio that rounds to the target which it misses has as many digits as show that."""
    one = row(ratio, 1.0, at_most=True)
    assert f">{said}" in page.render([kept(one)], FACTS).replace("\n", "")
    assert table.ratio_form(one) == f".{len(said) - 2}f"


def test_comparison_leaves_the_generator_out_of_the_cost() -> None:
    """The ratio is of rates, and the CPU ratio of all processes but the load generator."""
    found = figures.row("work", ("crest", rounds("crest", 300.0)), ("peer", rounds("peer", 100.0)), target=2.0)
    assert found.ratio == Range(3.0, 3.0, 3.0)
    assert found.cpu_ratio == 1.0
    assert found.reached is True
    assert not found.note


def test_unevenness_is_of_all_workers() -> None:
    """A worker that was called by nobody counts in the mean, so all calls at one worker are as uneven as can be."""
    assert balancing.unevenness({"a": 10}) == 4.0
    assert balancing.unevenness({"a": 5, "b": 5, "c": 5, "d": 5}) == 1.0
    assert balancing.unevenness({}) == 0.0


def test_replays_make_a_comparison_void() -> None:
    """Rounds in which a message was sent twice are told as void beside the figures."""
    found = figures.row("work", ("crest", rounds("crest", 3.0, repeated=7)), ("peer", rounds("peer", 1.0)))
    assert found.note == "14 calls of crest were replays: void."


@pytest.mark.parametrize("chart", [LINE, BARS, STACK, STEPS], ids=lambda chart: chart.kind)
def test_chart_is_one_svg_with_its_texts(chart: Chart) -> None:
    """A chart is one well-formed SVG element that holds its texts as text, and is the same each time."""
    drawn = charts.draw(chart)
    assert drawn.startswith("<svg")
    texts = "".join(ET.fromstring(drawn).itertext())  # noqa: S314  drawn here
    for said in (chart.y_label, chart.limit_text, *(event.text for event in chart.events)):
        assert said in texts
    assert charts.draw(chart) == drawn


def test_page_escapes_what_it_is_told_and_needs_nothing_else() -> None:
    """The page shows rows, findings, charts and failures, escaped, and refers to no other file."""
    text = page.render([kept(row(3.0, 2.0), drawn=(LINE, BARS)), kept(failure="it <broke>")], FACTS)
    assert "&lt;work&gt; &amp; more" in text
    assert "a &lt;finding&gt;" in text
    assert "it &lt;broke&gt;" in text
    assert "1 of 1 targets reached" in " ".join(text.split())
    assert text.count("<svg") == 2
    assert "<script" not in text
    assert 'src="' not in text


def test_page_tells_each_side_once_and_no_rate_where_there_is_none() -> None:
    """A subject in several comparisons has one line in its part's table, and a share is not told as a rate."""
    ours = side("crest", 1_234.0)
    rows = [Row("w", ours, side("a", 5.0), target=1.0), Row("w", ours, side("b", 6.0), target=1.0)]
    share = Row("a share", side("nobody", 777.0), ratio=Range(0.5, 0.5, 0.5), ratio_of="share", target=1.0, unit="")
    late = Row("late", Side("shop", Range(9.0, 9.0, 9.0), errors={"LATE": 1, "NotFound": 2}), note="a core each")
    text = page.render([kept(*rows, share, late)], FACTS)
    detail = text[text.index('id="part"') :]
    assert detail.count(">crest<") == 1
    assert "a core each" in detail  # what the table of targets does not tell
    assert "777" not in text
    assert "of share" not in text
    assert "1 LATE,<br>2 NotFound" in detail
    assert f"LATE: {page.OUTCOMES['LATE']}." in detail
    assert "777" not in table.markdown([kept(share)], FACTS)


def test_legend_leaves_the_chart_its_room() -> None:
    """Long names stand below each other: the drawn legend is no wider than the chart."""
    names = ["10 times its capacity, callers hold back", *(f"{times} times its capacity" for times in (1, 2, 5, 10))]
    drawn = charts.draw(Chart("Long", "", "line", "s", "y", [Series(name, [0, 1], [1, 2]) for name in names]))
    axes = ET.fromstring(drawn).find(".//*[@id='axes_1']/*[@id='patch_2']/*")  # noqa: S314  drawn here
    assert axes is not None
    ends = [float(point.split()[0]) for point in axes.attrib["d"].replace("L", "M").split("M")[1:]]
    assert max(ends) - min(ends) > 400  # points, of some 547


def test_table_names_targets_findings_and_failures() -> None:
    """The terminal shows each row with its verdict, then the findings, and says which part failed and why."""
    out = io.StringIO()
    table.show([kept(row(3.0, 2.0), row(1.0, 2.0)), kept(failure="no Go")], FACTS, Console(file=out, width=200))
    text = out.getvalue()
    assert "1 of 2 targets reached" in text
    assert "part failed: no Go" in text
    assert "MISSED" in text
    assert "a <finding>" in text


def test_table_has_no_empty_columns() -> None:
    """What was measured alone, as by the operator's benchmark, is told without columns for comparisons."""
    alone = Row("alone", Side("here", Range(5.0, 5.0, 5.0), Range(1.0, 1.0, 1.0), Range(2.0, 2.0, 2.0)), unit="calls/s")
    out = io.StringIO()
    table.show([kept(alone)], FACTS, Console(file=out, width=200))
    assert "p50 / p99 ms" in out.getvalue()
    assert not any(word in out.getvalue() for word in ("target", "against", "CPU", "ratio"))
    assert page.ALONE in page.render([kept(alone)], FACTS)
    assert "neighbouring rounds" in page.render([kept(row(3.0, 2.0))], FACTS)


def test_document_gets_a_line_a_row() -> None:
    """The table for a document has as many cells in each line, a line for each row, and one for each failure."""
    text = table.markdown([kept(row(3.0, 2.0), row(None, None)), kept(failure="no Go")], FACTS)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert {line.count("|") for line in lines} == {8}
    assert ">= 2 reached" in lines[2]


def test_results_are_read_back_as_they_were_kept(tmp_path: Path) -> None:
    """What a run keeps as JSON is read back equal, and the line of history has each row's medians."""
    run = keeping.begun(tmp_path, datetime(2026, 11, 22, tzinfo=UTC), is_quick=True, seed=7)
    results = [kept(row(3.0, 2.0), drawn=(LINE, BARS)), kept(failure="broken")]
    found, facts = keeping.read(keeping.keep(results, FACTS, run))
    assert msgspec.json.encode(found) == msgspec.json.encode(results)
    assert facts == FACTS
    keeping.remember(results, FACTS, tmp_path / "history.jsonl")
    keeping.remember(results, FACTS, tmp_path / "history.jsonl")
    first, second = map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines())
    assert first == second
    assert first["rows"][0]["ratio"] == 3.0
    assert first["rows"][0]["cpu_ms"] == 0.5
    assert first["failed"] == ["part"]


def test_last_run_is_taken_up(tmp_path: Path) -> None:
    """A run that was broken off is found again with its settings, the latest first, and none when there is none."""
    assert keeping.taken_up(tmp_path) is None
    keeping.begun(tmp_path, datetime(2026, 11, 21, tzinfo=UTC), is_quick=False, seed=1)
    later = keeping.begun(tmp_path, datetime(2026, 11, 22, tzinfo=UTC), is_quick=True, seed=2)
    assert keeping.taken_up(tmp_path) == later


class Nameless:
    """A part that no module has, so that its process fails."""

    name = "no-such-part"
    title = "A part that fails"
    needs_bed = False
    budget_s = 60.0

    def run(self, context: Context) -> Outcome:
        """Never called: the process does not find it."""
        raise AssertionError(context)


def test_part_that_fails_loses_its_own_rows_only(tmp_path: Path) -> None:
    """A part whose process fails is kept as a failure with its last line, and what has a result is not run again."""
    run = Run(tmp_path, is_quick=True, seed=1)
    done = Nameless()
    done.name = "done-before"
    run.file(done).write_bytes(msgspec.json.encode(kept(row(3.0, 2.0))))
    told: list[str] = []
    first, second = campaign.run_all(run, [done, Nameless()], told.append)
    assert not first.failure
    assert len(first.outcome.rows) == 1
    assert "KeyError: 'no-such-part'" in second.failure
    assert any("FAILED" in line for line in told)


def test_parts_of_the_benchmark_have_names_of_their_own() -> None:
    """Every listed part can be had, under a name of its own, with those on the shared cluster first."""
    found = campaign.parts((*campaign.MODULES, *campaign.LARGE))
    assert len({part.name for part in found}) == len(found)
    on_bed = [part.needs_bed for part in campaign.parts(campaign.MODULES)]
    assert on_bed == sorted(on_bed, reverse=True)
    assert all(campaign.named(part.name).name == part.name for part in found)
    assert all(0 < part.budget_s <= 1_200 for part in found)
