"""The commands about orders."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from clients.cli import loading, show
from clients.cli.exits import ExitCode, listing
from clients.cli.session import Session, command
from clients.money import to_minor
from clients.orders import Changed, Consistency, OrderLine, State

app = typer.Typer(
    name="clients",
    help="Create, follow and change the orders of the order service.",
    epilog=listing(),
    add_completion=False,  # there is no program of its own name to complete
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StateName = Annotated[
    str, typer.Option("--state", "-s", metavar="STATE", help="Only orders in this state, such as PAID.")
]
OrderId = Annotated[str, typer.Argument(metavar="ORDER_ID", help="The order's id, as `create` printed it.")]
RequestId = Annotated[
    str,
    typer.Option(
        "--request-id",
        metavar="UUIDv7",
        help="Continue a request that an earlier command left in doubt, under the id it printed.",
    ),
]
ExpectedVersion = Annotated[
    int | None,
    typer.Option("--expected-version", metavar="N", help="Refuse unless the order is at this version."),
]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept with the order.")]

LIST_LIMIT_DEFAULT: Final = 50
_STATES: Final = {state.name: state for state in State if state}


@command(app, "create")
async def create(
    session: Session,
    customer: Annotated[str, typer.Option("--customer", "-c", metavar="ID", help="Who orders.")],
    currency: Annotated[str, typer.Option("--currency", metavar="CODE", help="ISO 4217 code, such as EUR.")],
    line: Annotated[
        list[str],
        typer.Option("--line", "-l", metavar="SKU:QUANTITY:PRICE", help="A line, such as tea:2:19.99; repeat it."),
    ],
    attribute: Annotated[
        list[str] | None, typer.Option("--attr", "-a", metavar="NAME=VALUE", help="A label of yours; repeat it.")
    ] = None,
    request_id: RequestId = "",
) -> None:
    """Create one order; it is durable when this returns."""
    lines = [_line(text, currency) for text in line]
    attributes = dict(_attribute(text) for text in attribute or ())
    async with session.client() as client:
        created = await client.create(customer, currency, lines, attributes=attributes, request_id=request_id)
    if session.as_json:
        session.print_json({"order": show.order_json(created.order), "replayed": created.replayed})
        return
    session.out.print(show.order(created.order))
    if created.replayed:
        session.out.print("An earlier try of this request had created it.", style="dim italic")


@command(app, "get")
async def get(
    session: Session,
    order_id: OrderId,
    *,
    strong: Annotated[bool, typer.Option("--strong", help="The current version, past every cache.")] = False,
    min_version: Annotated[int, typer.Option("--min-version", metavar="N", help="This version or a later one.")] = 0,
) -> None:
    """Show one order."""
    consistency = Consistency.STRONG if strong else Consistency.CACHED
    async with session.client() as client:
        order = await client.get(order_id, min_version=min_version, consistency=consistency)
    if session.as_json:
        session.print_json(show.order_json(order))
    else:
        session.out.print(show.order(order))


@command(app, "list")
async def list_orders(
    session: Session,
    customer: Annotated[str, typer.Argument(metavar="CUSTOMER_ID", help="Whose orders.")],
    state: StateName = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, metavar="N", help="At most so many, newest first; 0: all.")
    ] = LIST_LIMIT_DEFAULT,
) -> None:
    """List a customer's orders, newest first."""
    wanted = _state(state) if state else None
    orders = []
    more = False
    async with session.client() as client:
        count = 0
        async for order in client.list(customer, state=wanted, page_size=min(limit, 1000) if limit else 1000):
            if limit and count == limit:
                more = True
                break
            count += 1
            if session.as_json:
                session.print_json(show.order_json(order))
            else:
                orders.append(order)
    if session.as_json:
        return
    if not orders:
        session.out.print(f"{customer} has no orders{f' that are {wanted.name}' if wanted else ''}.", style="dim")
        return
    session.out.print(show.orders(orders))
    session.out.print(f"{len(orders):,} orders{'; there are more: --limit 0 shows all' if more else ''}", style="dim")


@command(app, "watch")
async def watch(session: Session, order_id: OrderId) -> None:
    """Follow one order until it is final, or until Ctrl-C."""
    async with session.client() as client:
        async for order in client.watch(order_id):
            if session.as_json:
                session.print_json(show.order_json(order))
            else:
                session.out.print(show.seen(order))


@command(app, "pay")
async def pay(
    session: Session, order_id: OrderId, expected_version: ExpectedVersion = None, request_id: RequestId = ""
) -> None:
    """Confirm the payment: PENDING -> PAID."""
    async with session.client() as client:
        changed = await client.confirm_payment(order_id, expected_version=expected_version, request_id=request_id)
    _changed(session, changed)


@command(app, "ship")
async def ship(
    session: Session, order_id: OrderId, expected_version: ExpectedVersion = None, request_id: RequestId = ""
) -> None:
    """Hand the order to the carrier: PAID -> SHIPPED."""
    async with session.client() as client:
        changed = await client.ship(order_id, expected_version=expected_version, request_id=request_id)
    _changed(session, changed)


@command(app, "deliver")
async def deliver(
    session: Session, order_id: OrderId, expected_version: ExpectedVersion = None, request_id: RequestId = ""
) -> None:
    """The customer has it: SHIPPED -> DELIVERED."""
    async with session.client() as client:
        changed = await client.deliver(order_id, expected_version=expected_version, request_id=request_id)
    _changed(session, changed)


@command(app, "cancel")
async def cancel(
    session: Session,
    order_id: OrderId,
    reason: Reason = "",
    expected_version: ExpectedVersion = None,
    request_id: RequestId = "",
) -> None:
    """Cancel an order that is not paid: PENDING -> CANCELLED, for good."""
    async with session.client() as client:
        changed = await client.cancel(order_id, reason=reason, expected_version=expected_version, request_id=request_id)
    _changed(session, changed)


@command(app, "refund")
async def refund(
    session: Session,
    order_id: OrderId,
    reason: Reason = "",
    expected_version: ExpectedVersion = None,
    request_id: RequestId = "",
) -> None:
    """Pay an order back: PAID, SHIPPED or DELIVERED -> REFUNDED, for good."""
    async with session.client() as client:
        changed = await client.refund(order_id, reason=reason, expected_version=expected_version, request_id=request_id)
    _changed(session, changed)


@command(app, "topology")
async def topology(session: Session) -> None:
    """Show the workers and where orders live."""
    async with session.client() as client:
        value = await client.topology()
    if session.as_json:
        session.print_json(show.topology_json(value))
    else:
        session.out.print(show.topology(value))


loading.register(app)


def _changed(session: Session, changed: Changed) -> ExitCode:
    if session.as_json:
        session.print_json({"order": show.order_json(changed.order), "replayed": changed.replayed})
    else:
        session.out.print(show.done(changed.order, replayed=changed.replayed))
    return ExitCode.OK


def _line(text: str, currency: str) -> OrderLine:
    parts = text.rsplit(":", 2)
    if len(parts) != 3:
        raise ValueError(f"--line {text}: write SKU:QUANTITY:PRICE, such as tea:2:19.99")
    sku, quantity, price = parts
    try:
        return OrderLine(sku, int(quantity), to_minor(price, currency))
    except ValueError as error:
        raise ValueError(f"--line {text}: {error}") from None


def _attribute(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--attr {text}: write NAME=VALUE")
    return name, value


def _state(name: str) -> State:
    if name.upper() not in _STATES:
        raise ValueError(f"--state {name}: there is {', '.join(_STATES)}")
    return _STATES[name.upper()]
