"""What every command of ``python -m shards.rebalance`` shares: how it ends."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from shards.assembly import TopologyFileWrong
from shards.contract import Unavailable
from shards.rebalance.cli.exits import ExitCode
from shards.rebalance.cli.session import Session, register, typer_of
from shards.rebalance.record import IllegalStep


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (IllegalStep("not now"), ExitCode.REFUSED),
        (Unavailable("away"), ExitCode.UNAVAILABLE),
        (TopologyFileWrong("shards: at least one is needed"), ExitCode.USAGE),
        (ValueError("no such thing"), ExitCode.USAGE),
        (RuntimeError("nobody foresaw it"), ExitCode.DEFECT),
    ],
)
def test_each_ending_has_its_code(tmp_path: Path, error: Exception, code: ExitCode) -> None:
    """A command that fails ends with the code of its failure, and says why; a defect is not taken for a finding."""
    app: typer.Typer = typer_of("A command.")

    async def fail(session: Session) -> None:
        """Fail."""
        del session
        raise error

    register(app, "fail", fail)
    register(app, "other", fail)  # with one alone typer needs no name
    result = CliRunner().invoke(app, ["fail", "--data-dir", str(tmp_path)])
    assert result.exit_code == code
    assert str(error) in result.output
