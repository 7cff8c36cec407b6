"""The command that makes keyspaces, against a node."""

import asyncio
from pathlib import Path

import pytest

from shards.schema import ExitCode, main
from shards.stores.cassandra.driver_session import DriverSession
from tests.support.cassandra_node import node_address, node_settings

KEYSPACE = "crest_schema"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A topology file with one shard, whose keyspace is not there."""
    run(f"DROP KEYSPACE IF EXISTS {KEYSPACE}")
    host, port = node_address()
    path = tmp_path / "topology.toml"
    path.write_text(
        f'[[shards]]\nid = 0\ncontact_points = ["{host}"]\nport = {port}\nkeyspace = "{KEYSPACE}"\nreplication = 1\n'
    )
    return path


def run(*statements: str) -> None:
    """Executes statements as an administrator would by hand."""

    async def execute() -> None:
        session = await DriverSession.open(node_settings("cassandra-driver"))
        for statement in statements:
            await session.run(statement)
        await session.close()

    asyncio.run(execute())


def test_apply_makes_it_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status and dry run only tell; apply does it; done once more it does nothing, and status agrees."""
    arguments = ["--topology-file", str(file)]
    assert main(["status", *arguments]) is ExitCode.TO_DO
    assert main(["apply", "--dry-run", *arguments]) is ExitCode.DONE
    assert main(["status", *arguments]) is ExitCode.TO_DO
    assert capsys.readouterr().out.count("to do: create keyspace crest_schema (datacenter1: 1)") == 3
    assert main(["apply", *arguments]) is ExitCode.DONE
    assert "did: apply version 1 (orders)" in capsys.readouterr().out
    assert main(["apply", *arguments]) is ExitCode.DONE
    assert main(["status", *arguments, "--shard", "0"]) is ExitCode.DONE
    assert capsys.readouterr().out.count("version 1, nothing to do") == 2


def test_broken_off_apply_is_finished(file: Path) -> None:
    """A keyspace with some of its tables, as a killed run leaves it, is finished by the next one."""
    assert main(["apply", "--topology-file", str(file)]) is ExitCode.DONE
    run(f"DROP TABLE {KEYSPACE}.control", f"TRUNCATE {KEYSPACE}.schema_versions")
    assert main(["status", "--topology-file", str(file)]) is ExitCode.TO_DO
    assert main(["apply", "--topology-file", str(file)]) is ExitCode.DONE
    assert main(["status", "--topology-file", str(file)]) is ExitCode.DONE


def test_strange_keyspace_is_left_alone(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A keyspace that holds another table, or was made for other lanes, is refused with one line and not changed."""
    assert main(["apply", "--topology-file", str(file)]) is ExitCode.DONE
    file.write_text(file.read_text() + "lanes = 2\n")
    assert main(["apply", "--topology-file", str(file)]) is ExitCode.REFUSED
    assert "created with lanes = 1, the topology file says 2" in capsys.readouterr().err
    run(f"CREATE TABLE {KEYSPACE}.carts (id int PRIMARY KEY)")
    assert main(["apply", "--topology-file", str(file)]) is ExitCode.REFUSED
    assert "carts" in capsys.readouterr().err


def test_no_cluster_and_no_file_have_codes_of_their_own(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there, a shard that it does not name, and a cluster that does not answer can be told apart."""
    assert main(["status", "--topology-file", str(file.with_name("nope.toml"))]) is ExitCode.USAGE
    assert main(["status", "--topology-file", str(file), "--shard", "7"]) is ExitCode.USAGE
    _, port = node_address()
    file.write_text(file.read_text().replace(f"port = {port}", "port = 20999"))
    assert main(["status", "--topology-file", str(file)]) is ExitCode.UNAVAILABLE
    assert len(capsys.readouterr().err.splitlines()) == 3
