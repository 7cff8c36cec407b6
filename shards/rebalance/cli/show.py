"""What operators see: tables, a live view, and one line for each refusal."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shards.rebalance.commands import Situation
from shards.rebalance.doctor import Finding
from shards.rebalance.home_move import HomePlan
from shards.rebalance.plan import Plan
from shards.rebalance.progress import Progress
from shards.rebalance.record import Entry, Finished, RebalanceRecord, State
from shards.rebalance.verify import Report

COMMAND: Final = "python -m shards.rebalance"

_STYLE: Final = {
    State.RUNNING: "cyan",
    State.PAUSED: "yellow",
    State.CANCELLING: "yellow",
    State.CANCELLED: "red",
    State.DONE: "green",
}
_ENTRIES_SHOWN_MAX: Final = 8
_STUCK_SHOWN_MAX: Final = 8
_SLOTS_SHOWN_MAX: Final = 12
_SILENT_MS: Final = 5_000


def plan(value: Plan, where: str) -> RenderableType:
    """Returns a plan: what moves, from where to where, and what it costs."""
    facts = _facts()
    fewest = "the fewest possible" if len(value.targets) == value.minimum else f"at least {value.minimum:,} must"
    facts.add_row("Plan", Text(f"{value.kind.value}", style="bold"))
    facts.add_row("Slots", f"{len(value.targets):,} of 4,096 move ({value.share:.1%}), {fewest}")
    all_of_them = "" if len(value.targets) <= _SLOTS_SHOWN_MAX else " (--json names all)"
    facts.add_row("", Text(f"{_slots(sorted(value.targets))}{all_of_them}", style="dim"))
    facts.add_row("Orders", f"{value.rows:,} ({size(value.bytes)})")
    facts.add_row("Time", f"about {duration(value.estimate_s)} if callers leave room")
    return Group(facts, Text(), _balance(value), Text(), Text(where, style="dim"))


def _balance(value: Plan) -> Table:
    table = _table("Shard", "Weight", "Slots", "", "Orders", "", "Bytes", "")
    before = {load.shard: load for load in value.before}
    after = {load.shard: load for load in value.after}
    for shard in sorted(before.keys() | after.keys()):
        old, new = before.get(shard), after.get(shard)
        weight = new.weight if new is not None else 0
        table.add_row(
            f"{shard}{' new' if old is None else ' leaves' if new is None or not weight else ''}",
            str(weight or (old.weight if old else "")),
            *_change(old.slots if old else 0, new.slots if new else 0),
            *_change(old.rows if old else 0, new.rows if new else 0),
            size(old.bytes if old else 0),
            Text(f"→ {size(new.bytes if new else 0)}", style="bold"),
        )
    return table


def _change(old: int, new: int) -> tuple[str, Text]:
    return f"{old:,}", Text(f"→ {new:,}", style="bold" if new != old else "dim")


def situation(value: Situation, messages: Sequence[str] = ()) -> RenderableType:
    """Returns how things stand, for a glance."""
    record = value.record
    facts = _facts()
    slots = Counter(value.topology.slot_shards)
    facts.add_row("Topology", f"epoch {value.topology.epoch}")
    shards = "   ".join(f"{info.id}: {slots[info.id]:,}" for info in value.topology.shards)
    facts.add_row("Slots by shard", shards)
    if record is None:
        facts.add_row("Rebalance", Text("none yet", style="dim"))
        return Group(facts, Text(), *_next(value))
    moved = len(record.moved(value.topology))
    facts.add_row("Rebalance", Text.assemble((f"{record.id} {record.kind.value}  ", "bold"), state(record.state)))
    facts.add_row("Moved", _bar(moved, len(record.moves)))
    if value.progress is not None:
        if record.is_open:
            _progress(facts, value.progress)
        _work(facts, value.progress)
    for text in stuck(record):
        facts.add_row(Text("Stuck", style="red"), Text(text))
    for message in messages:
        facts.add_row(Text("Note", style="yellow"), message)
    parts: list[RenderableType] = [facts, Text(), Padding(_entries(record.entries), (0, 0, 0, 2))]
    return Group(*parts, Text(), *_next(value))


def stuck(record: RebalanceRecord) -> list[str]:
    """Returns a line for each slot that could not be moved, up to some: why, and the orders that differ."""
    lines = []
    for one in record.stuck[:_STUCK_SHOWN_MAX]:
        orders = f" ({', '.join(one.order_ids)})" if one.order_ids else ""
        lines.append(f"slot {one.slot}: {one.reason}{orders}")
    if record.stuck_count > _STUCK_SHOWN_MAX:
        lines.append(f"and {record.stuck_count - _STUCK_SHOWN_MAX:,} more")
    return lines


def line(value: Situation) -> str:
    """Returns how things stand in one line, where the output is no terminal."""
    record = value.record
    if record is None:
        return "no rebalance yet"
    moved = f"{len(record.moved(value.topology)):,} of {len(record.moves):,} slots"
    told = value.progress
    pace = "" if told is None or not record.is_open else f", {told.rows_per_s:,.0f} orders/s, {told.throttle_reason}"
    return f"rebalance {record.id} is {record.state.value}: {moved} moved{pace}"


def _progress(facts: Table, value: Progress) -> None:
    silent_ms = time.time_ns() // 1_000_000 - value.at_unix_ms
    if silent_ms > _SILENT_MS:
        what = f"{value.mover} has told nothing for {duration(silent_ms / 1_000)}; `{COMMAND} run` goes on"
        facts.add_row("Mover", Text(what, style="yellow"))
        return
    left = "" if value.remaining_s is None else f", about {duration(value.remaining_s)} left"
    facts.add_row("Mover", Text.assemble(value.phase, left, "  ", (value.mover, "dim")))
    facts.add_row("Throttle", f"{value.throttle_rows_per_s:,.0f} orders/s: {value.throttle_reason}")
    states = Counter(value.slot_states.values())
    under_way = ", ".join(f"{count} {name}" for name, count in sorted(states.items()))
    if under_way:
        facts.add_row("Under way", Text.assemble(under_way, "  ", (_slots(sorted(value.slot_states)), "dim")))
    if value.waiting_for:
        facts.add_row("Waits for", Text(", ".join(value.waiting_for), style="yellow"))


def _slots(slots: Sequence[int]) -> str:
    """Returns the first few."""
    named = ", ".join(map(str, slots[:_SLOTS_SHOWN_MAX]))
    return f"slot{'s' * (len(slots) != 1)} {named}{', …' if len(slots) > _SLOTS_SHOWN_MAX else ''}"


def _work(facts: Table, value: Progress) -> None:
    total = f" of {value.rows_total:,}" if value.rows_total else ""
    facts.add_row(
        "Copied", f"{value.rows_copied:,}{total} orders, {value.rows_per_s:,.0f}/s; read back {value.rows_verified:,}"
    )
    if value.pause_ms_max:
        facts.add_row("Pauses", f"p99 {value.pause_ms_p99:.0f} ms, longest {value.pause_ms_max:.0f} ms")


def _bar(done: int, total: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    share = done / total if total else 1.0
    grid.add_row(
        ProgressBar(total=max(total, 1), completed=done if total else 1, width=40),
        f"{done:,}/{total:,} slots {share:.0%}",
    )
    return grid


def _entries(entries: Sequence[Entry], most: int = _ENTRIES_SHOWN_MAX) -> Table:
    """Returns the first one and the last ones, up to some: when, what, who."""
    table = Table.grid(padding=(0, 2))
    shown = entries if len(entries) <= most else (entries[0], *entries[-most + 1 :])
    for entry in shown:
        table.add_row(
            Text(moment(entry.at_unix_ms), style="dim"),
            entry.command.word,
            entry.who,
            Text(entry.detail, style="dim"),
        )
    return table


def _next(value: Situation) -> Iterable[RenderableType]:
    words = list(value.next_words)
    if value.record is not None and value.record.state in {State.RUNNING, State.CANCELLING}:
        words.append("run")
    yield Text.assemble(("Next: ", "dim"), ", ".join(words))


def history(finished: Sequence[Finished]) -> RenderableType:
    """Returns the rebalances that are over, newest first."""
    if not finished:
        return Text("no rebalance is over yet", style="dim")
    table = _table("Id", "Kind", "State", "Slots", "Finished", "By")
    for one in reversed(finished):
        who = one.entries[0].who if one.entries else ""
        moved = f"{one.moved:,}" if one.moved == one.slots else f"{one.moved:,} of {one.slots:,}"
        table.add_row(str(one.id), one.kind.value, state(one.state), moved, moment(one.finished_unix_ms), who)
    return table


def deeds(one: Finished) -> RenderableType:
    """Returns all that was done to a rebalance that is over, oldest first."""
    facts = _facts()
    facts.add_row("Rebalance", Text.assemble((f"{one.id} {one.kind.value}  ", "bold"), state(one.state)))
    facts.add_row("Moved", f"{one.moved:,} of {one.slots:,} slots")
    return Group(facts, Text(), _entries(one.entries, len(one.entries)))


def findings(found: Sequence[Finding]) -> RenderableType:
    """Returns what the doctor found."""
    if not found:
        return Text("✓ nothing is wrong", style="green")
    table = Table.grid(padding=(0, 1))
    for one in found:
        sign = Text("✗", style="red") if one.is_wrong else Text("•", style="yellow")
        table.add_row(sign, one.what)
        table.add_row("", Text.assemble(("mend: ", "dim"), one.mend))
    return table


def report(value: Report) -> RenderableType:
    """Returns what was verified."""
    facts = _facts()
    facts.add_row("Slots", f"{value.slots:,}")
    facts.add_row(
        "Orders", f"{value.rows:,} read ({value.rows_per_s:,.0f}/s), {value.compared:,} compared with the old copy"
    )
    if value.late:
        facts.add_row("Late", f"{value.late:,} never acknowledged, on old copies only: they landed after the move")
    wrong = Text(f"{value.wrong:,}", style="bold red") if value.wrong else Text("none", style="green")
    facts.add_row("Wrong", wrong)
    return Group(facts, *(Text(f"  {line}", style="red") for line in value.named))


def home(value: HomePlan, where: str) -> RenderableType:
    """Returns how a move of the topology's home stands."""
    facts = _facts()
    is_there = Text("it is there", style="green") if value.is_moved else "it may move there"
    facts.add_row("Topology", f"epoch {value.epoch}")
    facts.add_row("New home", value.new)
    facts.add_row("", is_there)
    facts.add_row("Followed by", f"{value.workers} worker{'' if value.workers == 1 else 's'} that serve now")
    return Group(facts, Text(), Text(where, style="dim"))


def record_line(record: RebalanceRecord, what: str, more: str = "") -> Text:
    """Returns one line that says what became of a record: ``what`` stands before its state, ``more`` after it."""
    return Text.assemble(("✓ ", "green"), f"rebalance {record.id} {what} ", state(record.state), more)


def state(value: State) -> Text:
    """Returns a state in its colour."""
    return Text(f"● {value.name}", style=_STYLE[value])


def size(count: int) -> str:
    """Returns bytes for people."""
    scaled = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if scaled < 1024:
            return f"{scaled:,.0f} {unit}" if unit == "B" else f"{scaled:,.1f} {unit}"
        scaled /= 1024
    return f"{scaled:,.1f} TiB"


def duration(seconds: float) -> str:
    """Returns a duration for people."""
    whole = max(round(seconds), 1)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


def moment(unix_ms: int) -> str:
    """Returns a time in UTC, sortable."""
    return f"{dt.datetime.fromtimestamp(unix_ms / 1_000, tz=dt.UTC):%Y-%m-%d %H:%M:%S}"


def _facts() -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    return facts


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(
            column,
            justify="left" if number == 0 else "right" if column in {"Slots", "Orders", "Bytes", "Weight"} else "left",
        )
    return table
