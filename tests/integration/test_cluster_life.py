"""A real cluster of one small shard and Redis, beside whatever else runs: up, look, kill, revive, down."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cluster import Cluster, ClusterError, ClusterSpec, CommitLogSync, MissingError, describe
from deploy.cluster.__main__ import Exit
from deploy.cluster.cql import Consistency, CqlError
from tests.support.addresses import loopback
from tests.support.deadlines import eventually

ROOT = Path(__file__).resolve().parents[2]
SPEC = ClusterSpec(
    shards=1,
    first_address=loopback(27),
    cql_port=29_042,
    storage_port=27_000,
    jmx_first_port=None,
    redis_first_port=26_401,
    heap_mib=512,
    quick_start=True,
)
BOOT_S = 300.0
"""One JVM takes 5 s on an idle machine and was seen to take a minute on two cores shared by many."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all tests here; it dies with the test run and leaves nothing."""
    made = Cluster(SPEC, tmp_path_factory.mktemp("cluster") / "state", dies_with_parent=True)
    try:
        try:
            made.up(timeout_s=BOOT_S)
        except MissingError as missing:
            pytest.skip(str(missing))
        yield made
    finally:
        made.down(grace_s=0, wipe=True)


def command(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line on the cluster."""
    argv = [sys.executable, "-m", "deploy.cluster", words[0], "--dir", str(cluster.state.path), *words[1:]]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=BOOT_S)


def test_everything_serves(cluster: Cluster) -> None:
    """After up every node serves, three of the Redis nodes are masters, and the status says so to programs."""
    told = command(cluster, "status", "--json")
    assert told.returncode == Exit.OK, told.stdout + told.stderr
    status = json.loads(told.stdout)
    assert status["ready"]
    assert status["shards"] == [{"id": 0, "contact_points": [loopback(27)], "port": 29_042}]
    roles = [node["role"] for node in status["nodes"]]
    assert sorted(roles) == ["redis master"] * 3 + ["redis replica"] * 3 + ["shard 0"]


def test_cassandra_syncs_before_it_answers(cluster: Cluster) -> None:
    """The node itself says that it syncs its commit log in groups of 5 ms."""
    with cluster.node(0).connect() as connection:
        (mode,) = connection.query("SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'")
        (window,) = connection.query(
            "SELECT value FROM system_views.settings WHERE name = 'commitlog_sync_group_window'"
        )
    assert (mode, window) == ((b"group",), (b"5ms",))


def test_up_again_changes_nothing(cluster: Cluster) -> None:
    """Up on a cluster that serves starts nothing, and refuses settings that what runs does not have."""
    before = [node.process for node in cluster.nodes]
    assert cluster.up(timeout_s=BOOT_S) == ()
    assert [node.process for node in cluster.nodes] == before
    told = command(cluster, "up", "--commit-log-sync", CommitLogSync.PERIODIC)
    assert told.returncode == Exit.FAILED
    assert told.stderr.startswith("error: the cluster runs with other settings (commit_log_sync)")
    told = command(cluster, "up", "--cql-port", "29043")
    assert told.stderr.count("\n") == 1
    assert "holds another cluster (differs in cql_port)" in told.stderr


def test_a_paused_node_answers_nothing_and_goes_on(cluster: Cluster) -> None:
    """A paused node keeps its process and answers nothing until it is resumed."""
    node = cluster.redis[5]
    node.pause()
    eventually(lambda: node.process is not None and node.process.paused(), "paused")
    assert node.probe() is not None
    assert command(cluster, "status").returncode == Exit.NOT_READY
    node.resume()
    node.wait_ready(BOOT_S)
    cluster.wait_ready(BOOT_S)


def test_a_port_in_use_is_named(cluster: Cluster, tmp_path: Path) -> None:
    """A second cluster on the same ports is refused with the port's name, and the first is not touched."""
    second = Cluster(SPEC, tmp_path / "second", dies_with_parent=True)
    with pytest.raises(ClusterError, match=re.escape(f"{loopback(27)}:26401 is taken")):
        second.up(timeout_s=BOOT_S)
    assert second.down() == ()
    assert all(node.alive for node in cluster.nodes)


def test_killed_nodes_come_back_with_their_data(cluster: Cluster) -> None:
    """Rows and keys acknowledged before kill -9 of a Cassandra node and a Redis master are there after up."""
    with cluster.node(0).connect(timeout_s=30) as connection:
        connection.query("CREATE KEYSPACE kept WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}")
        connection.query("CREATE TABLE kept.rows (id int PRIMARY KEY, word text)")
        connection.query("INSERT INTO kept.rows (id, word) VALUES (1, 'kept') IF NOT EXISTS", Consistency.QUORUM)
    # Any key will do whose slot the first master has; -c follows the redirection to it.
    cluster.redis[0].ask("-c", "SET", "kept", "1")

    cluster.node(0).kill()
    holder = next(node for node in cluster.redis[:3] if node.ask("DBSIZE") != "0")
    holder.kill(signal.SIGKILL)
    told = command(cluster, "status")
    assert told.returncode == Exit.NOT_READY
    assert told.stdout.count("down") >= 2
    with pytest.raises(CqlError):
        cluster.node(0).connect()

    assert set(cluster.up(timeout_s=BOOT_S)) == {cluster.node(0).name, holder.name}
    with cluster.node(0).connect(timeout_s=30) as connection:
        assert connection.query("SELECT word FROM kept.rows WHERE id = 1", Consistency.QUORUM) == [(b"kept",)]
    assert cluster.redis[5].ask("-c", "GET", "kept") == "1"
    assert all(report.state is describe.NodeState.READY for report in describe.examine(cluster))


def test_down_ends_all_of_it_and_nothing_else(cluster: Cluster) -> None:
    """Down ends every node, a paused one too, spares a stranger with a recorded pid, and with wipe leaves no file."""
    processes = [process for node in cluster.nodes if (process := node.process)]
    assert len(processes) == len(cluster.nodes)
    cluster.redis[4].pause()
    # A node that is gone, and whose pid somebody else has by now: here this test.
    lost = cluster.redis[3]
    lost.kill()
    record = json.loads(lost._record.read_text())
    lost._record.write_text(json.dumps(record | {"pid": os.getpid()}))

    told = command(cluster, "down", "--wipe")
    assert told.returncode == Exit.OK, told.stderr
    assert lost.name not in told.stdout
    assert all(process.wait(0) for process in processes)
    assert not cluster.state.path.exists()
    assert command(cluster, "down").stdout == "nothing was running\n"
    assert command(cluster, "status").returncode == Exit.NOT_READY
