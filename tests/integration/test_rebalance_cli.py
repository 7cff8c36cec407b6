"""The operator's command line, on a data directory that nobody serves meanwhile."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from shards.assembly import StorageSettings, open_fleet
from shards.leases import SlotStatesWriter
from shards.rebalance.cli.app import app
from shards.rebalance.fleet import part_of
from shards.stores.embedded import prepare
from shards.topology import Topology
from shards.topology_store import TopologyStore
from tests.support.rows import new_row

ORDERS = 400


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory of three shards, with some orders in it."""

    async def fill() -> None:
        fleet = await open_fleet(StorageSettings(data_dir=directory))
        topology = await TopologyStore(fleet.home).create(Topology.initial(3))
        rows = [new_row(f"customer {n}", body=b"body") for n in range(ORDERS)]
        for info in topology.shards:
            mine = [row for row in rows if topology.slot_shards[row.key.slot] == info.id]
            await (await part_of(fleet, info.id)).copies.place(mine, {})
        await fleet.close()

    directory = tmp_path / "data"
    os.close(prepare(directory, 3))
    asyncio.run(fill())
    return directory


def run(data_dir: Path, *words: str) -> Result:
    """Runs one command."""
    return CliRunner().invoke(app, [*words, "--data-dir", str(data_dir)])


def told(data_dir: Path, *words: str) -> Any:  # noqa: ANN401  whatever the command prints
    """Runs one command that must succeed and returns the last document that it printed."""
    result = run(data_dir, *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_a_shard_is_planned_added_proven_taken_back_and_cleaned_up(data_dir: Path) -> None:
    """An operator adds a shard and takes it back by the commands that the manual names, and each tells what it did."""
    plan = told(data_dir, "plan", "add")
    assert plan["slots"] == plan["minimum"] == 1_024
    assert "slot 7 " in run(data_dir, "plan", "split", "--slot", "7").stdout
    assert told(data_dir, "start", "add", "--dry-run")["dry_run"]
    assert told(data_dir, "status")["record"] is None

    done = told(data_dir, "start", "add", "--who", "ada", "--slots-at-once", "64")
    assert done["record"]["state"] == "done"
    assert done["moved"] == 1_024
    assert done["record"]["entries"][0]["who"] == "ada"
    assert done["legal"] == done["record"]["legal"] == ["cleanup", "start", "reverse", "verify"]
    assert "it allows: cleanup, start, reverse, verify" in run(data_dir, "pause").stderr
    report = told(data_dir, "verify")
    assert report["wrong"] == 0
    assert report["rows"] == report["compared"] == plan["rows"]

    back = told(data_dir, "reverse", "--slots-at-once", "64")
    assert [shard["slots"] for shard in back["shards"]] == [1_366, 1_365, 1_365, 0]
    assert run(data_dir, "cleanup").exit_code == 3
    told(data_dir, "cleanup", "--now")
    assert [shard["shard"] for shard in told(data_dir, "status")["shards"]] == [0, 1, 2]
    past = told(data_dir, "history")
    assert [one["kind"] for one in past] == ["add", "reverse"]
    assert told(data_dir, "history", str(past[0]["id"])) == past[0]
    deeds = run(data_dir, "history", str(past[1]["id"])).stdout
    assert all(f" {command} " in deeds for command in ("start", "take over", "finish", "cleanup"))
    assert run(data_dir, "history", "999").exit_code == 2
    assert told(data_dir, "doctor") == []
    told(data_dir, "start", "add", "--detach")
    assert told(data_dir, "history") == past  # what was done to the last one after its end is kept beyond it


def test_a_drained_shard_stays_empty_and_goes(data_dir: Path) -> None:
    """What is started between a drain and its clean-up leaves the drained shard alone, and lets it go in the end."""
    told(data_dir, "start", "drain", "1", "--slots-at-once", "64")
    (left,) = told(data_dir, "doctor")
    assert left["mend"] == "cleanup, later"
    assert "`cleanup` lets it go" in run(data_dir, "start", "reweight", "1=2").stderr
    added = told(data_dir, "start", "add", "--slots-at-once", "64")
    assert [shard["slots"] for shard in added["shards"]] == [1_366, 0, 1_365, 1_365]
    assert told(data_dir, "verify")["wrong"] == 0
    told(data_dir, "cleanup", "--now")
    assert [shard["shard"] for shard in told(data_dir, "status")["shards"]] == [0, 2, 3]
    assert told(data_dir, "doctor") == []


def test_only_legal_steps_are_taken(data_dir: Path) -> None:
    """A command that does not fit is refused with what would, and nothing is changed."""
    refused = run(data_dir, "pause")
    assert refused.exit_code == 3
    assert "there is no rebalance; start one" in refused.stderr
    told(data_dir, "start", "drain", "2", "--detach")
    for words in (("resume", "--detach"), ("cleanup",), ("start", "add", "--detach"), ("reverse", "--detach")):
        refused = run(data_dir, *words)
        assert refused.exit_code == 3, words
        assert "cancel" in refused.stderr
    assert "would be ● PAUSED" in run(data_dir, "pause", "--dry-run").stdout
    assert told(data_dir, "pause")["state"] == "paused"
    assert told(data_dir, "cancel", "--undo")["state"] == "cancelling"
    assert told(data_dir, "run")["record"]["state"] == "cancelled"


def test_the_doctor_names_what_is_wrong_and_mends_it(data_dir: Path) -> None:
    """A slot left paused, and a rebalance that nobody works at, are named with the command that mends each."""

    async def leave_paused() -> None:
        fleet = await open_fleet(StorageSettings(data_dir=data_dir))
        writer = SlotStatesWriter((await part_of(fleet, 0)).facts)
        states = await writer.read()
        assert await writer.replace(states, states.next(attempt=1, is_active=True, pause=frozenset({5})))
        await fleet.close()

    asyncio.run(leave_paused())
    result = run(data_dir, "doctor")
    assert result.exit_code == 1
    assert "1 slots are paused (5)" in result.stdout
    assert "doctor --mend" in result.stdout
    assert run(data_dir, "doctor", "--mend", "--dry-run").exit_code == 1
    assert "1 slots are paused (5)" in run(data_dir, "doctor").stdout  # nothing was done
    assert run(data_dir, "doctor", "--mend").exit_code == 0
    assert run(data_dir, "run", "--dry-run").exit_code == 0
    told(data_dir, "start", "add", "--detach")
    result = run(data_dir, "doctor")
    assert result.exit_code == 1
    assert "no mover works at it" in result.stdout


def test_a_mistyped_command_is_told_in_one_line(tmp_path: Path, data_dir: Path) -> None:
    """What cannot be meant ends with exit code 2 and one line; nothing is made where nothing was."""
    missing = run(tmp_path / "nowhere", "status")
    assert missing.exit_code == 2
    assert "there is no directory" in missing.stderr
    assert not (tmp_path / "nowhere").exists()
    assert run(data_dir, "plan", "reweight", "zero=1").exit_code == 2
    assert run(data_dir, "plan", "split").exit_code == 2
    assert run(data_dir, "start", "add", "--keep-error-rate", "2").exit_code == 2
    assert run(data_dir, "home", "plan").exit_code == 2
    unknown = run(data_dir, "plan", "drain", "9")
    assert unknown.exit_code == 3
    assert "there are 0, 1, 2" in unknown.stderr
