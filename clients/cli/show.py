"""What people see: tables of orders, errors with the next step, and the same as JSON."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clients import errors, money
from clients.errors import OrderError, Reason
from clients.load import Totals
from clients.orders import Order, State, Topology, WorkerState

_STATE_STYLE: Final = {
    State.PENDING: "yellow",
    State.PAID: "cyan",
    State.SHIPPED: "blue",
    State.DELIVERED: "green",
    State.CANCELLED: "red",
    State.REFUNDED: "magenta",
}
_VERB_OF_METHOD: Final = {
    "ConfirmPayment": "pay",
    "ShipOrder": "ship",
    "DeliverOrder": "deliver",
    "CancelOrder": "cancel",
    "RefundOrder": "refund",
}
_SHARDS_SHOWN_MAX: Final = 64


def state(value: State) -> Text:
    """Returns a state in its colour."""
    return Text(f"● {value.name}", style=_STATE_STYLE.get(value, "default"))


def time(value: dt.datetime, *, micros: bool = False) -> str:
    """Returns a time in UTC, sortable."""
    return f"{value:%Y-%m-%d %H:%M:%S}{f'.{value.microsecond:06}' if micros else ''} UTC"


def amount(minor: int, currency_code: str) -> str:
    """Returns an amount with its currency, thousands apart."""
    whole, point, cents = money.to_text(minor, currency_code).partition(".")
    return f"{int(whole):,}{point}{cents} {currency_code}"


def order(value: Order) -> RenderableType:
    """Returns everything about one order."""
    facts = _facts()
    facts.add_row("Order", Text(value.order_id, style="bold"))
    facts.add_row("State", Text.assemble(state(value.state), (f"  version {value.version}", "dim")))
    facts.add_row("Customer", value.customer_id)
    facts.add_row("Created", time(value.create_time))
    for name, content in sorted(value.attributes.items()):
        facts.add_row(Text(name, style="dim"), content)

    lines = Table(box=box.SIMPLE_HEAD, show_footer=True, header_style="dim", footer_style="bold", pad_edge=False)
    lines.add_column("SKU", footer="Total")
    lines.add_column("Quantity", justify="right")
    lines.add_column("Unit price", justify="right")
    lines.add_column("Amount", justify="right", footer=amount(value.total_minor, value.currency_code))
    for line in value.lines:
        lines.add_row(
            line.sku,
            f"{line.quantity:,}",
            money.to_text(line.unit_price_minor, value.currency_code),
            money.to_text(line.quantity * line.unit_price_minor, value.currency_code),
        )

    history = Table.grid(padding=(0, 2))
    for step in value.transitions:
        style = "dim" if step.version < value.version else ""
        history.add_row(
            Text(f"{step.version:>3}", style="dim"),
            state(step.state),
            Text(time(step.time, micros=True), style=style),
            Text(step.reason, style="italic"),
        )
    return Group(facts, Padding(lines, (1, 0, 0, 0)), history)


def orders(values: Iterable[Order]) -> Table:
    """Returns a table of orders, one a row."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column("Order", no_wrap=True)
    table.add_column("State", no_wrap=True)
    table.add_column("Created", no_wrap=True)
    table.add_column("Lines", justify="right")
    table.add_column("Total", justify="right", no_wrap=True)
    for value in values:
        table.add_row(
            value.order_id,
            state(value.state),
            time(value.create_time),
            str(len(value.lines)),
            amount(value.total_minor, value.currency_code),
        )
    return table


def seen(value: Order) -> Text:
    """Returns one line about a state of a followed order."""
    step = value.transitions[-1] if value.transitions else None
    return Text.assemble(
        (time(value.update_time, micros=True), "dim"),
        "  ",
        state(value.state),
        (f"  version {value.version}", "dim"),
        (f"  {step.reason}" if step and step.reason else "", "italic"),
    )


def done(value: Order, *, replayed: bool) -> Text:
    """Returns one line about a transition that was made."""
    return Text.assemble(
        ("✓ ", "green"),
        (value.order_id, "bold"),
        " is ",
        state(value.state),
        (f"  version {value.version}", "dim"),
        ("  this request had done it before" if replayed else "", "dim italic"),
    )


def topology(value: Topology) -> RenderableType:
    """Returns the workers and the shards."""
    workers = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    workers.add_column("Worker", justify="right")
    workers.add_column("Endpoint")
    workers.add_column("State")
    for worker in value.workers:
        style = {WorkerState.SERVING: "green", WorkerState.DRAINING: "yellow"}.get(worker.state, "default")
        workers.add_row(str(worker.worker_id), worker.address, Text(f"● {worker.state.name}", style=style))
    shards = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    shards.add_column("Shard", justify="right")
    shards.add_column("Weight", justify="right")
    shards.add_column("Slots", justify="right")
    for shard in value.shards[:_SHARDS_SHOWN_MAX]:
        shards.add_row(str(shard.shard_id), str(shard.weight), f"{value.slot_shards.count(shard.shard_id):,}")
    return Group(Text.assemble(("Epoch ", "dim"), str(value.epoch)), workers, shards)


def totals(value: Totals, *, finished: bool, name: str, rejects: str) -> RenderableType:
    """Returns the summary of a load."""
    headline = (
        Text.assemble(("✓ ", "green"), (name, "bold"), " is loaded")
        if finished
        else Text.assemble(("■ ", "yellow"), (name, "bold"), " is loaded in part; the same command continues")
    )
    facts = _facts()
    parts = [(value.created, "created"), (value.replayed, "found created before"), (value.earlier, "by earlier runs")]
    of_all = "" if finished else f" of {value.orders_in_file:,}"
    shown = [f"{count:,} {what}" for count, what in parts if count]
    of_which = f"  {', '.join(shown)}" if len(shown) > 1 else ""
    facts.add_row("Orders", Text.assemble((f"{value.loaded:,}", "bold"), of_all, (of_which, "dim")))
    if value.rejected_rows:
        rows = (
            "1 row with its reason" if value.rejected_rows == 1 else f"{value.rejected_rows:,} rows with their reasons"
        )
        rejected = f"{value.rejected_orders:,}  {rows} in {rejects}"
        facts.add_row("Rejected", Text(rejected, style="yellow"))
    sums = [amount(minor, currency) for currency, minor in sorted(value.sum_minor.items())]
    facts.add_row("Sum", Text("\n".join(sums) or "nothing", style="bold"))
    facts.add_row("Time", f"{value.seconds:,.1f} s, {value.rate:,.0f} orders/s")
    return Group(headline, Padding(facts, (0, 0, 0, 2)))


def error(failure: OrderError) -> RenderableType:
    """Returns what went wrong, the facts, and the next step."""
    facts = _facts()
    for violation in failure.violations:
        facts.add_row(Text(violation.field, style="yellow"), violation.description)
    for name, content in sorted(failure.metadata.items()):
        if content:
            facts.add_row(name, content)
    for note in getattr(failure, "__notes__", ()):
        facts.add_row("", Text(note, style="dim"))
    if step := next_step(failure):
        facts.add_row("next", Text(step, style="green"))
    headline = Text(failure.reason or failure.code.name, style="bold red")
    # The message of a bad request is its violations once more, in one line and cut short.
    return _marked(Group(headline, facts) if failure.violations else Group(headline, failure.message, facts))


def plain_error(message: str) -> RenderableType:
    """Returns an error that did not come from the service."""
    return _marked(message)


def _marked(content: RenderableType) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text("✗", style="bold red"), content)
    return grid


def next_step(failure: OrderError) -> str:
    """Returns what to do about an error, or ""."""
    if failure.reason == Reason.TRANSITION_NOT_ALLOWED:
        methods = [method for method in failure.metadata.get("allowed_methods", "").split(",") if method]
        verbs = [_VERB_OF_METHOD.get(method, method) for method in methods]
        return f"the order allows: {', '.join(verbs)}" if verbs else "the state is final; nothing leads out of it"
    unsure = isinstance(failure, errors.Unavailable | errors.DeadlineExceeded)
    step = _NEXT_STEP.get(failure.reason, "")
    if unsure and not step:
        step = "check that the server is up and that --endpoint is right"
    if failure.request_id and (unsure or failure.maybe_done):
        again = f"the same command with --request-id {failure.request_id} then never does it twice"
        return f"{step}; {again}" if step else again
    return step


_NEXT_STEP: Final[Mapping[str, str]] = {
    Reason.INVALID_REQUEST: "correct the fields named above",
    Reason.CALLER_ID_INVALID: "--caller-id takes 1-64 printable ASCII characters without blanks",
    Reason.REQUEST_ID_EXPIRED: "nothing was created under this id; leave --request-id out for a new one",
    Reason.REQUEST_ID_AHEAD: "the clock of this machine, or of the server, is wrong; correct it",
    Reason.REQUEST_ID_REUSED: "that id belongs to another request; leave --request-id out for a new one",
    Reason.ORDER_NOT_FOUND: "check the id; `list CUSTOMER` shows a customer's orders",
    Reason.VERSION_MISMATCH: "`get` the order, decide again, and pass its present version",
    Reason.MIN_VERSION_NOT_REACHED: "check the id and the endpoint; this order never was at that version",
    Reason.QUEUE_FULL: "try again in a moment",
    Reason.OVERLOADED: "try again in a moment: the service has more calls than it can serve",
    Reason.DEADLINE_TOO_SHORT: "try again in a moment, or with a longer --timeout",
    Reason.RATE_LIMITED: "try again in a moment, and call less often",
    Reason.REQUEST_TOO_LARGE: "make it smaller, or several requests of it",
    Reason.STORE_FULL: "the operator has to make room on the disk; then try again",
    Reason.STORE_UNAVAILABLE: (
        "the server is up, but where it keeps this order is away; its operator has to bring that back"
    ),
    Reason.STORE_CORRUPT: "the operator has to restore a backup (`python -m server restore`)",
    Reason.INTERNAL: "report it with the time and the call_id above; the server has logged it",
}


# ------------------------------------------------------------------------------------------------------------- JSON


def json_line(value: object) -> str:
    """Returns a value as one line of JSON, text as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def order_json(value: Order) -> dict[str, object]:
    """Returns an order under the field names of the wire; times in RFC 3339, money in minor units."""
    return {
        "order_id": value.order_id,
        "customer_id": value.customer_id,
        "state": value.state.name,
        "version": value.version,
        "currency_code": value.currency_code,
        "lines": [
            {"sku": line.sku, "quantity": line.quantity, "unit_price_minor": line.unit_price_minor}
            for line in value.lines
        ],
        "total_minor": value.total_minor,
        "attributes": dict(sorted(value.attributes.items())),
        "create_time": _rfc3339(value.create_time),
        "update_time": _rfc3339(value.update_time),
        "transitions": [
            {"state": step.state.name, "version": step.version, "time": _rfc3339(step.time), "reason": step.reason}
            for step in value.transitions
        ],
    }


def error_json(failure: OrderError) -> dict[str, object]:
    """Returns an error with everything that a script may decide by."""
    return {
        "error": {
            "code": failure.code.name,
            "reason": failure.reason,
            "message": failure.message,
            "metadata": dict(failure.metadata),
            "violations": [violation._asdict() for violation in failure.violations],
            "retryable": failure.retryable,
            "attempts": failure.attempts,
            "request_id": failure.request_id,
            "next_step": next_step(failure),
        }
    }


def topology_json(value: Topology) -> dict[str, object]:
    """Returns the topology, the slots counted by shard."""
    return {
        "epoch": value.epoch,
        "workers": [
            {"id": worker.worker_id, "address": worker.address, "state": worker.state.name} for worker in value.workers
        ],
        "shards": [
            {"id": shard.shard_id, "weight": shard.weight, "slots": value.slot_shards.count(shard.shard_id)}
            for shard in value.shards
        ],
    }


def _facts() -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    return facts


def _rfc3339(value: dt.datetime) -> str:
    return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
