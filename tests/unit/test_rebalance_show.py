"""What operators see of what others have said: every character of it."""

import pytest
import typer
from rich.console import RenderableType
from typer.testing import CliRunner

from shards.rebalance.cli import show
from shards.rebalance.cli.session import Session, register, typer_of
from shards.rebalance.commands import Situation
from shards.rebalance.doctor import Finding
from shards.rebalance.home_move import HomePlan
from shards.rebalance.progress import Progress
from shards.rebalance.record import Command, Kind, RebalanceRecord, Stuck, start
from shards.rebalance.verify import Report
from shards.topology import Topology

TOPOLOGY = Topology.initial(2)


def printed(shown: RenderableType) -> str:
    """What a command prints that shows this."""
    app: typer.Typer = typer_of("A command.")

    async def say(session: Session) -> None:
        """Show it."""
        session.print(shown, None)

    register(app, "say", say)
    register(app, "other", say)  # with one alone typer needs no name
    result = CliRunner().invoke(app, ["say"])
    assert result.exit_code == 0, result.output
    return result.stdout


def record_of(said: str) -> RebalanceRecord:
    """An open record, in which somebody has said something wherever they can."""
    record = start(TOPOLOGY, {1: 0}, TOPOLOGY.shards, kind=Kind.REWEIGHT, who=said)
    return record.after(Command.PAUSE, "ben", said).after(Command.RESUME, "ben").with_stuck([Stuck(1, said, (said,))])


def progress_of(said: str) -> Progress:
    """What a mover tells of it, by a clock that is ahead: so it has not fallen silent, however long the test takes."""
    return Progress(
        id=1,
        attempt=1,
        mover=said,
        phase="moving",
        at_unix_ms=1 << 50,
        slots_total=1,
        slots_moved=0,
        slots_stuck=1,
        rows_total=0,
        rows_copied=0,
        rows_verified=0,
        rows_per_s=0,
        remaining_s=None,
        throttle_rows_per_s=2_000,
        throttle_reason=said,
        slot_states={1: said},
        waiting_for=(said,),
    )


@pytest.mark.parametrize("said", ["[/x]", "[ops]ada", ":key:"])
def test_what_others_say_is_shown_as_they_say_it(said: str) -> None:
    """Names, reasons and findings are no markup, whatever brackets and colons stand in them."""
    record = record_of(said)
    situation = Situation(TOPOLOGY, record, progress_of(said), said)
    assert printed(show.situation(situation, [said])).count(said) == 9
    assert said in printed(show.line(situation))
    over = record.after(Command.FINISH, said).finished(TOPOLOGY)
    assert said in printed(show.history([over]))
    assert printed(show.deeds(over)).count(said) == 3
    assert printed(show.findings([Finding(said, said)])).count(said) == 2
    assert said in printed(show.report(Report(wrong=1, named=[said])))
    assert said in printed(show.home(HomePlan(new=said, epoch=1, workers=1, is_moved=False), said))
