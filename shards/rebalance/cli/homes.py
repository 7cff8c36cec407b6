"""``home plan`` and ``home move``: where the topology is kept, and where it is to be kept."""

from __future__ import annotations

from typing import Final

from shards.rebalance import home_move
from shards.rebalance.cli import forms, show
from shards.rebalance.cli.session import ACTING, Session, register, typer_of

app: Final = typer_of("Move the place where the topology is kept, while everything is served.")

_NAME_IT: Final = "Name it as [topology] in every topology file now, in place of [topology.next] and of what was there."


async def plan(session: Session) -> None:
    """Show where the topology is to be moved, and whether it may be; change nothing."""
    async with session.fleet() as fleet, session.next_home() as new:
        made = await home_move.plan(fleet, new)
    rest = _NAME_IT if made.is_moved else f"`{show.COMMAND} home move` does it."
    session.print(show.home(made, f"Nothing was changed. {rest}"), forms.home(made))


async def move(session: Session) -> None:
    """Move the topology, the rebalance and its history to `topology.next` of the topology file.

    Workers and movers follow by themselves. Killed half-way it is simply called again.
    """

    def tell(step: str) -> None:
        if not session.as_json:
            session.out.print(f"{step} …")

    if session.dry_run:
        await plan(session)
        return
    async with session.fleet() as fleet, session.next_home() as new:
        made = await home_move.move(fleet, new, session.actor, tell=tell)
    session.print(show.home(made, _NAME_IT), forms.home(made))


register(app, "plan", plan)
register(app, "move", move, ACTING)
