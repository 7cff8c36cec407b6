"""The pure side of the development cluster: what may be asked for, and what its nodes are told."""

import errno
import hashlib
import itertools
import json
import os
import struct
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.cluster import ClusterError, ClusterSpec, CommitLogSync, SpecError, cassandra, cql, describe, jars, redis
from deploy.cluster.leaflets import leaflets
from deploy.cluster.spec import JMX_STRIDE, RINGS_MAX, SHARDS_MAX
from deploy.cluster.state import Made, StateDirectory
from server.config import Config
from server.config import settings as server_settings
from shards.settings import parse

SPECS = st.builds(
    ClusterSpec,
    shards=st.integers(1, RINGS_MAX),
    replicas=st.sampled_from([1, 3]),
    redis=st.booleans(),
    first_address=st.integers(1, 250).map(lambda last: f"127.0.0.{last}"),
    jmx_first_port=st.sampled_from([None, 7_199]),
    heap_mib=st.integers(256, 8_192),
    quick_start=st.booleans(),
    commit_log_sync=st.sampled_from(CommitLogSync),
)
JARS = [Path("/jars/cassandra-all-5.0.6.jar"), Path("/jars/jamm-0.4.0.jar")]


def test_a_new_cluster_has_three_shards_of_one_node_and_redis() -> None:
    """The default is three shards on 127.0.0.1-3 with 1 GiB each and Redis on 6401-6406."""
    spec = ClusterSpec()
    assert [place.address for place in spec.cassandra] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert {place.token for place in spec.cassandra} == {0}
    assert spec.redis_ports == (6401, 6402, 6403, 6404, 6405, 6406)
    assert (spec.cql_port, spec.heap_mib, spec.commit_log_sync) == (9042, 1024, CommitLogSync.GROUP)


def test_two_rings_of_three() -> None:
    """With three replicas the nodes of a ring are each other's seeds, and their tokens a third of the ring apart."""
    spec = ClusterSpec(shards=2, replicas=3)
    assert spec.contact_points(1) == ("127.0.0.4", "127.0.0.5", "127.0.0.6")
    for shard in range(2):
        ring = [place for place in spec.cassandra if place.shard == shard]
        assert {place.seeds for place in ring} == {spec.contact_points(shard)}
        low, middle, high = (place.token for place in ring)
        assert low == -(2**63)
        assert abs((middle - low) - (high - middle)) <= 1


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"shards": 0}, f"1-{SHARDS_MAX}"),
        ({"shards": SHARDS_MAX + 1}, f"1-{SHARDS_MAX}"),
        ({"shards": 3, "replicas": 3}, f"1-{RINGS_MAX}"),
        ({"replicas": 2}, "1 and 3"),
        ({"heap_mib": 64}, "256"),
        ({"first_address": "10.0.0.1"}, "127.0.0.0/8"),
        ({"first_address": "here"}, "here"),
        ({"first_address": "127.255.255.255"}, "127.0.0.0/8"),
        ({"cql_port": 80}, "1024-65535"),
        ({"redis_first_port": 65_500}, "1024-65535"),
        ({"jmx_first_port": 65_500}, "1024-65535"),
        ({"redis_first_port": 7_000}, "overlap"),
        ({"storage_port": 9_042}, "overlap"),
        ({"redis_memory_mib": 0}, "1 and more"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(fields: dict[str, int | str], told: str) -> None:
    """A spec outside its limits is an error that names what is allowed."""
    with pytest.raises(SpecError, match=told):
        ClusterSpec(**fields)  # type: ignore[arg-type]  # the wrong values are the test


@given(SPECS)
def test_no_two_nodes_share_a_place(spec: ClusterSpec) -> None:
    """Every node of any cluster has a name, an address and a JMX port of its own."""
    nodes = spec.cassandra
    assert len({place.name for place in nodes}) == len({place.address for place in nodes}) == len(nodes)
    ports = [place.jmx_port for place in nodes if place.jmx_port is not None]
    assert ports == sorted(set(ports))
    assert all(b - a == JMX_STRIDE for a, b in itertools.pairwise(ports))


@given(SPECS)
def test_a_spec_survives_its_record(spec: ClusterSpec) -> None:
    """What is recorded of a cluster is read back equal."""
    assert ClusterSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("change", [{"shards": "3"}, {"shards": True}, {"commit_log_sync": "never"}, {"colour": "red"}])
def test_a_foreign_record_is_refused(change: dict[str, object]) -> None:
    """A record with a field that is unknown or of the wrong type is an error, not a guess."""
    with pytest.raises(SpecError):
        ClusterSpec.from_json(ClusterSpec().to_json() | change)


def test_shards_may_be_added_and_rings_not_cut_anew() -> None:
    """A recorded cluster takes more shards and other settings, never fewer shards or other tokens and addresses."""
    made = ClusterSpec(shards=2)
    assert ClusterSpec(shards=3, heap_mib=512).keeps_data_of(made)
    assert ClusterSpec(shards=3, heap_mib=512).changes_from(made) == ("shards", "heap_mib")
    for other in (ClusterSpec(shards=1), ClusterSpec(shards=2, replicas=3), ClusterSpec(shards=2, cql_port=9_043)):
        assert not other.keeps_data_of(made)


@pytest.mark.parametrize("sync", CommitLogSync)
def test_cassandra_is_told_the_commit_log_sync(sync: CommitLogSync) -> None:
    """The chosen mode, and no setting of another, stands in the node's configuration."""
    spec = ClusterSpec(shards=1, commit_log_sync=sync)
    told = cassandra.settings(spec, spec.cassandra[0], Path("/c/node"))
    assert told["commitlog_sync"] == sync
    assert {name for name in told if name.startswith("commitlog_sync_")} == set(cassandra.SYNC_SETTINGS[sync]) - {
        "commitlog_sync"
    }


def test_the_commit_log_goes_past_the_page_cache_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that refuses O_DIRECT gets a mapped log; any other error is told; no probe stays behind."""
    refusal = errno.EINVAL

    def refuse(path: Path, flags: int, _mode: int) -> int:
        assert flags & os.O_DIRECT
        raise OSError(refusal, os.strerror(refusal), str(path))

    assert cassandra.log_access(tmp_path) in {"direct", "mmap"}
    monkeypatch.setattr(os, "open", refuse)
    assert cassandra.log_access(tmp_path) == "mmap"
    refusal = errno.EACCES
    with pytest.raises(PermissionError):
        cassandra.log_access(tmp_path)
    assert list(tmp_path.iterdir()) == []
    spec = ClusterSpec(shards=1)
    for mode in ("direct", "mmap"):
        told = cassandra.settings(spec, spec.cassandra[0], tmp_path, log_access=mode)
        assert told["commitlog_disk_access_mode"] == mode


@given(SPECS)
def test_a_cassandra_node_keeps_to_its_folder_and_address(spec: ClusterSpec) -> None:
    """A node's files stand in its folder, it listens on its own address, and its heap is as asked."""
    for place in spec.cassandra:
        folder = Path("/c") / place.name
        told = cassandra.settings(spec, place, folder)
        assert json.loads(json.dumps(told)) == told
        assert told["listen_address"] == told["rpc_address"] == place.address
        assert told["initial_token"] == str(place.token)
        paths = [value for name, value in told.items() if name.endswith("_directory")]
        assert all(str(path).startswith(f"{folder}/") for path in paths)
        words = cassandra.command(spec, place, folder, java="/bin/java", jars=JARS)
        assert f"-Xmx{spec.heap_mib}M" in words
        assert f"-javaagent:{JARS[1]}" in words
        assert ("-XX:TieredStopAtLevel=1" in words) == spec.quick_start
        assert any("jmx" in word and "port" in word for word in words) == (place.jmx_port is not None)


def test_redis_is_told_its_place() -> None:
    """A Redis node binds its address and port alone, as a member of a cluster, with its data on disk."""
    told = redis.settings(ClusterSpec(first_address="127.0.0.9"), 6403, Path("/c/redis-6403"))
    assert {"bind 127.0.0.9", "port 6403", "cluster-port 6503", "cluster-enabled yes", "appendonly yes"} <= set(told)


def test_the_containers_are_of_the_same_cluster() -> None:
    """The compose file takes the version, the addresses and the ports that the default cluster has."""
    compose = (Path(cassandra.__file__).parents[1] / "compose.yaml").read_text()
    (version,) = (name for name in jars.expected() if name.startswith("cassandra-all-"))
    assert f"image: cassandra:{version.removeprefix('cassandra-all-').removesuffix('.jar')}\n" in compose
    spec = ClusterSpec()
    for place in spec.cassandra:
        assert f"CASSANDRA_LISTEN_ADDRESS: {place.address}\n" in compose
        assert f'CREST_JMX_PORT: "{place.jmx_port}"' in compose
    assert all(f"{spec.first_address}:{port}" in compose for port in spec.redis_ports)
    assert "commitlog_sync: group\n" in compose


def test_the_jars_are_recorded_with_one_cassandra() -> None:
    """The recorded jars hold the Cassandra that the pom asks for, and each checksum is a SHA-256."""
    recorded = jars.expected()
    (version,) = (name for name in recorded if name.startswith("cassandra-all-"))
    assert f"<version>{version.removeprefix('cassandra-all-').removesuffix('.jar')}</version>" in jars.POM.read_text()
    assert all(len(bytes.fromhex(digest)) == hashlib.sha256().digest_size for digest in recorded.values())


def test_a_damaged_jar_is_found(tmp_path: Path) -> None:
    """A jar that is missing, changed or too many is named."""
    checksums = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a.jar", "b.jar", "c.jar")}
    for name in checksums:
        (tmp_path / name).write_text(name)
    assert jars.differences(tmp_path, checksums) == []
    (tmp_path / "a.jar").unlink()
    (tmp_path / "b.jar").write_text("cut sho")
    (tmp_path / "d.jar").write_text("d")
    assert jars.differences(tmp_path, checksums) == ["a.jar", "b.jar", "d.jar"]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo '[ERROR] Could not transfer artifact'; echo '[ERROR] see above'; exit 1", "Could not transfer artifact"),
        ("mkdir -p ${6#*=} && echo swapped > ${6#*=}/a.jar", "a.jar other than recorded"),
        ("exit 1", "it said nothing"),
    ],
)
def test_maven_fails_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str) -> None:
    """A Maven that fails, or brings something else, becomes one clear line, and what was cached stays."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "mvn").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "mvn").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    cache = tmp_path / "jars"
    cache.mkdir()
    (cache / "a.jar").write_text("old")
    with pytest.raises(ClusterError, match=told) as caught:
        jars.ensure(cache, checksums={"a.jar": hashlib.sha256(b"new").hexdigest()})
    assert "\n" not in str(caught.value)
    assert (cache / "a.jar").read_text() == "old"


def test_what_maven_brings_replaces_what_was_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged cache is fetched again, once, and then found right without Maven."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "mvn").write_text("#!/bin/sh\nmkdir -p ${6#*=} && printf new > ${6#*=}/a.jar\n")
    (tools / "mvn").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    cache = tmp_path / "jars"
    cache.mkdir()
    (cache / "stray.jar").write_text("old")
    checksums = {"a.jar": hashlib.sha256(b"new").hexdigest()}
    assert jars.ensure(cache, checksums=checksums) == (cache / "a.jar",)
    assert [path.name for path in cache.iterdir()] == ["a.jar"]
    (tools / "mvn").write_text("#!/bin/sh\nexit 1\n")
    assert jars.ensure(cache, checksums=checksums) == (cache / "a.jar",)


def test_maven_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Maven the error names the packages to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="apt-get install"):
        jars.ensure(tmp_path / "jars", checksums={"a.jar": ""})


def test_rows_are_read_from_a_result() -> None:
    """A RESULT without metadata gives its rows, nulls among them, and one without rows gives none."""
    head = struct.pack(">iiii", 2, 0x04, 2, 2)
    values = struct.pack(">i1si", 1, b"a", -1) + struct.pack(">ii2s", 0, 2, b"bc")
    assert cql._rows(head + values) == [(b"a", None), (b"", b"bc")]
    assert cql._rows(struct.pack(">i", 1)) == []


def test_a_record_is_kept_and_a_strange_folder_left_alone(tmp_path: Path) -> None:
    """A state folder returns what was saved, refuses a folder with other content, and wipes only its own."""
    state = StateDirectory(tmp_path / "new")
    with state.held():
        state.save(Made(ClusterSpec(), rings_formed=2, redis_formed=True))
    assert state.load() == Made(ClusterSpec(), rings_formed=2, redis_formed=True)
    state.wipe()
    assert not state.path.exists()

    (tmp_path / "precious").write_text("mine")
    strange = StateDirectory(tmp_path)
    with pytest.raises(ClusterError, match="not empty"), strange.held():
        pass
    strange.wipe()
    assert (tmp_path / "precious").read_text() == "mine"


def test_one_at_a_time(tmp_path: Path) -> None:
    """Who comes second while the folder is held is told so at once."""
    with (
        StateDirectory(tmp_path).held(),
        pytest.raises(ClusterError, match="under way"),
        StateDirectory(tmp_path).held(),
    ):
        pass


@given(SPECS)
def test_what_is_left_for_the_service_is_what_it_reads(spec: ClusterSpec) -> None:
    """The files in a cluster's folder are a topology file and server settings, and name all shards and Redis nodes."""
    files = leaflets(spec, Path("/a folder"))
    topology = parse(tomllib.loads(files["topology.toml"]), {}, Path())
    assert {shard: found.contact_points for shard, found in topology.shards.items()} == {
        shard: spec.contact_points(shard) for shard in range(spec.shards)
    }
    for found in topology.shards.values():
        assert (found.port, found.data_center) == (spec.cql_port, cassandra.DATA_CENTRE)
        assert found.replication == {cassandra.DATA_CENTRE: spec.replicas}
    told = tomllib.loads(files["server.toml"])
    assert set(told) <= set(server_settings())
    config = Config(**told)
    assert (config.store, config.topology_file) == ("cassandra", "/a folder/topology.toml")
    assert config.redis_addresses() == tuple((spec.first_address, port) for port in spec.redis_ports)
    assert (config.cache == "redis_cluster") == spec.redis


def test_a_line_names_who_does_not_serve() -> None:
    """The brief status names the first nodes that do not serve and counts the others; empty when all do."""

    def report(name: str, state: describe.NodeState) -> describe.NodeReport:
        return describe.NodeReport(name, "127.0.0.1:1", "shard 0", state, None, "")

    ready, down = describe.NodeState.READY, describe.NodeState.DOWN
    assert describe.missing((report("a", ready),)) == ""
    assert describe.missing((report("a", ready), report("b", down))) == "b is down"
    assert describe.missing(tuple(report(name, down) for name in "abcde")).endswith("c is down and 2 more")
