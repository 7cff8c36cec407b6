"""From rounds to lines of the table. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.parts import Row, Side
from bench.rounds import work_s
from bench.summary import Range, Round, cpu_s_per_1000, errors, ratio, spread


def side(name: str, rounds: Sequence[Round]) -> Side:
    """Returns one side of a comparison, of at least one round."""
    return Side(
        name,
        spread(one.orders_per_s for one in rounds),
        _latency(one.p50_ms for one in rounds),
        _latency(one.p99_ms for one in rounds),
        cpu_s_per_1000(rounds),
        errors(rounds),
    )


def _latency(values_ms: Iterable[float]) -> Range | None:
    """Returns the spread; None where no call was timed, as of a driver that counts rows only."""
    found = spread(values_ms)
    return found if found.most > 0 else None


def row(  # a line of the table has as many parts
    work: str,
    ours: tuple[str, Sequence[Round]],
    theirs: tuple[str, Sequence[Round]],
    *,
    target: float | None = None,
    unit: str = "orders/s",
    note: str = "",
) -> Row:
    """Returns the comparison of two subjects' rates, each given by its name and rounds."""
    our, their = side(*ours), side(*theirs)
    return Row(
        work,
        our,
        their,
        ratio(ours[1], theirs[1]),
        target=target,
        cpu_ratio=cpu_ratio(our, their),
        unit=unit,
        note=" ".join(filter(None, (note, flaws(ours[1]), flaws(theirs[1])))),
    )


def cpu_ratio(ours: Side, theirs: Side) -> float | None:
    """Returns their processor time an order over ours, without the generators; None where either is unknown."""
    our_s, their_s = work_s(ours.cpu_s_per_1000), work_s(theirs.cpu_s_per_1000)
    return their_s / our_s if our_s > 0 and their_s > 0 else None


def flaws(rounds: Sequence[Round]) -> str:
    """Returns what makes the rounds say nothing, or less; empty when nothing does."""
    said = []
    if failed := errors(rounds):
        share = sum(failed.values()) / (sum(failed.values()) + sum(one.orders for one in rounds))
        codes = ", ".join(f"{count:,} {code}" for code, count in failed.items())
        said.append(f"{share:.1%} of the calls of {rounds[0].subject} failed: {codes}.")
    if repeated := sum(one.repeated for one in rounds):
        said.append(f"{repeated:,} calls of {rounds[0].subject} were replays: void.")
    if not all(one.orders for one in rounds):
        said.append(f"A round of {rounds[0].subject} answered nothing: void.")
    return " ".join(said)
