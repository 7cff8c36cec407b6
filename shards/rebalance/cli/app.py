"""The commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

import typer

from shards.keys import slot_and_tag
from shards.rebalance import cleanup, commands, doctor, verify
from shards.rebalance.cli import forms, homes, show
from shards.rebalance.cli.exits import ExitCode, listing
from shards.rebalance.cli.session import ACTING, Parameters, Session, register, typer_of
from shards.rebalance.cli.working import watch, work
from shards.rebalance.commands import Wanted
from shards.rebalance.fleet import Fleet
from shards.rebalance.record import Command, Kind, Options, RebalanceRecord

_EPILOG: Final = f"""[bold]An evening[/bold]

$ python -m shards.rebalance plan add --data-dir data

$ python -m shards.rebalance start add --data-dir data --keep-p99-ms 200

$ python -m shards.rebalance verify --data-dir data

docs/rebalancing.md tells what each does, and what to do when something goes wrong.

{listing()}"""


app: Final = typer_of(
    "Move orders between shards while they are served: nothing lost, nothing doubled, no error seen.", epilog=_EPILOG
)

_MOVING: Final = "How to move"
_DEFAULT: Final = Options()
MOVING: Final[Parameters] = {
    "keep_p99_ms": (
        Annotated[
            float | None,
            typer.Option(
                "--keep-p99-ms", help="Slow down and wait while callers' p99 is above it.", rich_help_panel=_MOVING
            ),
        ],
        None,
    ),
    "keep_error_rate": (
        Annotated[
            float | None,
            typer.Option(
                "--keep-error-rate",
                help=f"The same for the share of calls that fail (default {_DEFAULT.keep_error_rate}).",
                rich_help_panel=_MOVING,
            ),
        ],
        None,
    ),
    "slots_at_once": (
        Annotated[
            int | None,
            typer.Option(
                "--slots-at-once",
                help=f"Slots copied at once (default {_DEFAULT.slots_at_once}).",
                rich_help_panel=_MOVING,
            ),
        ],
        None,
    ),
    "rows_per_s": (
        Annotated[
            int | None, typer.Option("--rows-per-s", help="Most orders copied a second.", rich_help_panel=_MOVING)
        ],
        None,
    ),
    "soak_s": (
        Annotated[
            int | None,
            typer.Option(
                "--soak-s",
                help=f"Keep the old copies so long after the end (default {_DEFAULT.soak_s}).",
                rich_help_panel=_MOVING,
            ),
        ],
        None,
    ),
    "may_wait": (
        Annotated[
            bool,
            typer.Option(
                "--may-wait",
                help="Begin although callers' p99 is above --keep-p99-ms already, and wait until it is not.",
                rich_help_panel=_MOVING,
            ),
        ],
        False,
    ),
    "detach": (
        Annotated[bool, typer.Option("--detach", help="Only record it: a mover that stands by does the work.")],
        False,
    ),
}
MEASURING: Final[Parameters] = {
    "no_sizes": (
        Annotated[
            bool, typer.Option("--no-sizes", help="Do not count orders and bytes, which looks through every shard.")
        ],
        False,
    ),
}


_NO_OPTIONS: Final = frozenset({"detach", "may_wait"})


def _options(base: Options, values: Mapping[str, Any]) -> Options:
    """Returns the options, with what was said on the command line in place of the present ones."""
    names = {"rows_per_s": "rows_per_s_max"}
    said = {names.get(key, key): value for key, value in values.items() if key not in _NO_OPTIONS and value is not None}
    return base._replace(**said)


# ------------------------------------------------------------------------------------------------- what is wanted


async def add(
    session: Session,
    *,
    weight: Annotated[int, typer.Option("--weight", help="Its share, relative to the others'.")] = 1,
) -> Wanted:
    """Add a shard and give it its share of the slots: 1/(n+1) of them for n equal shards."""
    del session
    return Wanted(Kind.ADD, weight=weight)


async def drain(
    session: Session, shard: Annotated[int, typer.Argument(metavar="SHARD", help="The shard to empty.")]
) -> Wanted:
    """Empty a shard; `cleanup` lets it go afterwards."""
    del session
    return Wanted(Kind.DRAIN, shard=shard)


async def reweight(
    session: Session,
    weights: Annotated[
        list[str] | None, typer.Argument(metavar="SHARD=WEIGHT...", help="New weights; none: even out what is uneven.")
    ] = None,
) -> Wanted:
    """Give shards other shares of the slots."""
    del session
    return Wanted(Kind.REWEIGHT, weights=dict(_weight(text) for text in weights or ()))


async def split(
    session: Session,
    *,
    customer: Annotated[list[str] | None, typer.Option("--customer", "-c", help="Whose slot; repeat it.")] = None,
    slot: Annotated[list[int] | None, typer.Option("--slot", help="The slot itself (0-4095); repeat it.")] = None,
    to: Annotated[
        int | None, typer.Option("--to", metavar="SHARD", help="Where to; without it to a new shard.")
    ] = None,
) -> Wanted:
    """Take a hot customer's slot off its shard."""
    del session
    slots = {*(slot or ()), *(slot_and_tag(name)[0] for name in customer or ())}
    if not slots:
        raise ValueError("whose slot? give --customer or --slot")
    return Wanted(Kind.SPLIT, shard=to or 0, slots=tuple(sorted(slots)), to_new_shard=to is None)


def _weight(text: str) -> tuple[int, int]:
    shard, _, weight = text.partition("=")
    if not (shard.isdigit() and weight.isdigit()):
        raise ValueError(f"{text}: a weight is given as SHARD=WEIGHT, such as 0=2")
    return int(shard), int(weight)


async def take_back(session: Session) -> Wanted:
    """Go back to the placement before the last rebalance."""
    del session
    return Wanted(Kind.REVERSE)


# -------------------------------------------------------------------------------------------------- plan and start

Wanting = Callable[..., Awaitable[Wanted]]


def _planning(wanting: Wanting) -> Callable[..., Awaitable[ExitCode | None]]:
    async def plan(session: Session, *, no_sizes: bool, **values: Any) -> None:  # noqa: ANN401  what typer parsed
        wanted = await wanting(session, **values)
        async with session.fleet() as fleet:
            _, made = await commands.survey(fleet, wanted, Options(), {} if no_sizes else None)
        session.print(show.plan(made, f"Nothing was changed. `{show.COMMAND} start …` does it."), forms.plan(made))

    return plan


def _starting(wanting: Wanting) -> Callable[..., Awaitable[ExitCode | None]]:
    async def start(session: Session, *, no_sizes: bool, **values: Any) -> ExitCode | None:  # noqa: ANN401  as above
        moving = {key: values.pop(key) for key in MOVING}
        wanted = await wanting(session, **values)
        options = _options(Options(), moving)
        async with session.fleet() as fleet:
            topology, made = await commands.survey(fleet, wanted, options, {} if no_sizes else None)
            record = await commands.begin(
                fleet, topology, made, options, session.actor, may_wait=moving["may_wait"], is_dry=session.dry_run
            )
            if not session.as_json:
                words = "Dry run: nothing was changed." if session.dry_run else f"Recorded as rebalance {record.id}."
                session.out.print(show.plan(made, words))
            if session.dry_run:
                if session.as_json:
                    session.print("", {"dry_run": True, "plan": forms.plan(made), "record": forms.record(record)})
                return None
            return await _go_on(session, fleet, record, detach=moving["detach"])

    return start


async def _go_on(session: Session, fleet: Fleet, record: RebalanceRecord, *, detach: bool) -> ExitCode | None:
    """Works at it here, unless another mover does."""
    if not detach and not await commands.is_mover_alive(fleet.home):
        return await work(session, fleet)
    if session.as_json:
        session.print("", forms.record(record))
        return None
    words = f"`{show.COMMAND} run` works at it" if detach else "the mover that stands by works at it"
    session.out.print(f"{words}; `{show.COMMAND} status --watch` shows how far it is")
    return None


_plans: Final = typer_of("Show exactly what would move, and change nothing.")
_starts: Final = typer_of("Begin to move, and work at it here; Ctrl-C leaves without losing anything.")
app.add_typer(_plans, name="plan")
app.add_typer(_starts, name="start")


for _name, _wanting in (
    ("add", add),
    ("drain", drain),
    ("reweight", reweight),
    ("split", split),
    ("reverse", take_back),
):
    register(_plans, _name, _planning(_wanting), MEASURING, like=_wanting)
    register(_starts, _name, _starting(_wanting), MOVING, ACTING, MEASURING, like=_wanting)


# ------------------------------------------------------------------------------------------------------- the rest


async def status(
    session: Session,
    *,
    follow: Annotated[
        bool, typer.Option("--watch", "-w", help="Until it is over; with --json a line each time.")
    ] = False,
) -> None:
    """Show how far the rebalance is, what holds it back, and what may be done next."""
    async with session.fleet() as fleet:
        if follow:
            await watch(session, fleet)
            return
        situation = await commands.look(fleet)
        session.print(show.situation(situation), forms.situation(situation))


async def _tell(session: Session, command: Command, detail: str = "", **more: Any) -> None:  # noqa: ANN401  of `commands.tell`
    async with session.fleet() as fleet:
        record = await commands.tell(fleet, command, session.actor, detail, is_dry=session.dry_run, **more)
    words = "would be" if session.dry_run else "is"
    session.print(show.record_line(record, words), {"dry_run": session.dry_run, **forms.record(record)})


async def pause(session: Session) -> None:
    """Let the moves rest: slots under way are finished or opened again, and callers notice nothing."""
    await _tell(session, Command.PAUSE)


async def resume(session: Session, *, detach: bool, **moving: Any) -> ExitCode | None:  # noqa: ANN401  what typer parsed
    """Go on with what was paused, cancelled or stuck; options given here replace the earlier ones."""
    async with session.fleet() as fleet:
        found = (await commands.look(fleet)).record
        options = None if found is None else _options(found.options, moving)
        changed = (
            ""
            if found is None or options == found.options
            else ", ".join(f"{k}={v}" for k, v in moving.items() if k not in _NO_OPTIONS and v is not None)
        )
        record = await commands.tell(
            fleet,
            Command.RESUME,
            session.actor,
            changed,
            options=options,
            may_wait=moving["may_wait"],
            is_dry=session.dry_run,
        )
        if session.dry_run:
            form = {"dry_run": True, **forms.record(record)}
            session.print(show.record_line(record, "would be"), form)
            return None
        return await _go_on(session, fleet, record, detach=detach)


async def cancel(
    session: Session,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the slots under way instead of finishing them.")] = False,
) -> None:
    """Stop for good: slots that have moved stay where they are. `reverse` would bring them back."""
    await _tell(session, Command.CANCEL, "undo" if undo else "", undo=undo)


async def run(
    session: Session, *, stay: Annotated[bool, typer.Option("--stay", help="Then stand by for the next one.")] = False
) -> ExitCode:
    """Work at the rebalance, or stand by while another mover does; Ctrl-C leaves without losing anything."""
    if session.dry_run:
        await status(session)  # what is left to do is what it would do
        return ExitCode.OK
    async with session.fleet() as fleet:
        return await work(session, fleet, stays=stay)


async def check(session: Session) -> ExitCode:
    """Read every order that has moved, and compare it with the copy that was left behind."""
    async with session.fleet() as fleet:
        situation = await commands.look(fleet)
        report = await verify.verify(fleet, situation.topology, commands.to_verify(situation))
    session.print(show.report(report), forms.report(report))
    return ExitCode.FOUND if report.wrong else ExitCode.OK


async def clean_up(
    session: Session,
    *,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the soak: there is no way back then.")] = False,
) -> None:
    """Delete the copies that were left behind, and let emptied shards go, once the soak is over."""
    async with session.fleet() as fleet:
        situation = await commands.look(fleet)
        record = commands.to_clean_up(situation, now=now)
        if session.dry_run:
            left = await cleanup.leftovers(fleet, situation.topology, record)
            session.print(f"{cleanup.in_words(left)} would be deleted", {"dry_run": True, "copies": len(left)})
            return
        record = await cleanup.clean_up(fleet, session.actor)
    deleted = f": {record.entries[-1].detail} deleted"
    session.print(show.record_line(record, "is clean and", deleted), forms.record(record))


async def past(
    session: Session,
    number: Annotated[
        int | None, typer.Argument(metavar="ID", help="Every command of this one: who gave it, and when.")
    ] = None,
) -> None:
    """List the rebalances that are over, or who did what to one of them."""
    async with session.fleet() as fleet:
        finished = await commands.history(fleet)
    if number is None:
        session.print(show.history(finished), [forms.finished(one) for one in finished])
        return
    found = [one for one in finished if one.id == number]
    if not found:
        raise ValueError(f"no rebalance {number} is over; `history` without a number lists those that are")
    session.print(show.deeds(found[0]), forms.finished(found[0]))


async def examine(
    session: Session,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Do not look through the shards for old copies.")] = False,
    mend: Annotated[bool, typer.Option("--mend", help="Open what was left paused and no rebalance moves.")] = False,
) -> ExitCode:
    """Name every inconsistency, and the command that mends it."""
    async with session.fleet() as fleet:
        if mend and not session.dry_run:  # a dry run names what would be mended
            await commands.mend(fleet, session.actor)
            await work(session, fleet)
        found = await doctor.examine(fleet, rows=not quick)
    session.print(show.findings(found), [forms.finding(one) for one in found])
    return ExitCode.FOUND if any(one.is_wrong for one in found) else ExitCode.OK


register(app, "status", status)
register(app, "pause", pause, ACTING)
register(app, "resume", resume, MOVING, ACTING)
register(app, "cancel", cancel, ACTING)
register(app, "reverse", _starting(take_back), MOVING, ACTING, MEASURING, like=take_back)
register(app, "run", run, {"dry_run": ACTING["dry_run"]})
register(app, "verify", check)
register(app, "cleanup", clean_up, ACTING)
register(app, "history", past)
register(app, "doctor", examine, ACTING)
app.add_typer(homes.app, name="home")
