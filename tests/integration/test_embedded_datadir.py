"""The data directory: taken by one server, checked before it is served, copied and restored."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from shards.contract import Consistency, Row, Verdict
from shards.homes import Passing, Step
from shards.stores.embedded import (
    DataDirCorrupt,
    DataDirError,
    DataDirLocked,
    DataDirNewer,
    EmbeddedFacts,
    EmbeddedStore,
    add_shard,
    backup,
    control_path,
    iterate_rows,
    prepare,
    restore,
    shard_path,
)
from shards.stores.embedded.datadir import check
from shards.topology import Topology
from shards.topology_store import NAME, SCOPE, TopologyStore
from tests.support.rows import new_row, next_version

SHARDS = 2


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A new data directory."""
    directory = tmp_path / "data"
    os.close(prepare(directory, SHARDS))
    return directory


def to_schema_1(path: Path, mode: str = "wal") -> None:
    """Makes a control file what the first schema had it be."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", mode)
    connection.execute("""
        CREATE TABLE topology (only INTEGER PRIMARY KEY CHECK (only = 1), epoch INTEGER NOT NULL,
            topology BLOB NOT NULL) STRICT;
        INSERT INTO topology SELECT 1, revision, value FROM facts WHERE scope = 'topology';
        DROP TABLE facts;
        PRAGMA user_version = 1;
    """)
    connection.close()


async def fill(data_dir: Path, count: int = 60) -> list[Row]:
    """Creates the topology and commits rows where they belong; returns them by ascending id."""
    facts = await EmbeddedFacts.open(control_path(data_dir))
    topology = await TopologyStore(facts).create(Topology.initial(SHARDS))
    await facts.close()
    rows = [new_row(f"customer {n}", body=b"body %d" % n) for n in range(count)]
    for shard in range(SHARDS):
        store = await EmbeddedStore.open(shard_path(data_dir, shard))
        mine = [row for row in rows if topology.slot_shards[row.key.slot] == shard]
        assert {outcome.verdict for outcome in await store.commit(mine)} == {Verdict.APPLIED}
        # rows that a move has left behind
        left = [row._replace(key=row.key._replace(gen=7), body=b"left behind") for row in mine[:5]]
        await store.commit(left)
        await store.close()
    return sorted(rows, key=lambda row: row.key.order_id)


def contents(data_dir: Path) -> list[Row]:
    """All rows by ascending id."""
    return sorted(iterate_rows(data_dir), key=lambda row: row.key.order_id)


def change(path: Path, sql: str) -> None:
    """Changes a file behind the store's back."""
    connection = apsw.Connection(str(path))
    connection.execute(sql)
    connection.close()


# ------------------------------------------------------------------------------------------------------------- prepare


async def test_directory_is_kept_between_runs(data_dir: Path) -> None:
    """What one run stored the next one finds: preparing again changes nothing."""
    rows = await fill(data_dir)
    os.close(prepare(data_dir, SHARDS))
    assert contents(data_dir) == rows


def test_second_server_is_refused_by_name(data_dir: Path) -> None:
    """While one server holds the directory another is refused, and told the process that holds it."""
    lock = prepare(data_dir, SHARDS)
    with pytest.raises(DataDirLocked, match=rf"in use by process {os.getpid()}\b"):
        prepare(data_dir, SHARDS)
    os.close(lock)
    os.close(prepare(data_dir, SHARDS))


def test_worker_that_outlives_its_supervisor_keeps_the_directory(data_dir: Path) -> None:
    """The directory stays taken as long as any process that inherited the lock lives."""
    lock = prepare(data_dir, SHARDS)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    os.close(lock)
    with pytest.raises(DataDirLocked):
        prepare(data_dir, SHARDS)
    child.communicate(b"\n")
    os.close(prepare(data_dir, SHARDS))


def test_preparation_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    """A directory whose making was cut off after any file is completed by the next start."""
    whole = tmp_path / "whole"
    os.close(prepare(whole, SHARDS))
    for shard in range(SHARDS):
        directory = tmp_path / f"cut-{shard}"
        directory.mkdir()
        for name in ["control.db", *(f"shard-{n}.db" for n in range(shard))]:
            (directory / name).write_bytes((whole / name).read_bytes())
        change(control_path(directory), "UPDATE about SET value = 'preparing' WHERE name = 'state'")
        shard_path(directory, shard).touch()  # created, and killed before its first commit
        os.close(prepare(directory, SHARDS))
        os.close(prepare(directory, SHARDS))
    directory = tmp_path / "cut-control"
    directory.mkdir()
    control_path(directory).touch()
    os.close(prepare(directory, SHARDS))


def test_missing_shard_is_never_replaced(data_dir: Path) -> None:
    """A complete directory that misses a file is refused, and no empty file takes its place."""
    shard_path(data_dir, 1).unlink()
    with pytest.raises(DataDirCorrupt, match=r"shard-1\.db: the file is missing; restore it from a backup"):
        prepare(data_dir, SHARDS)
    assert not shard_path(data_dir, 1).exists()


def test_exchanged_files_are_noticed(data_dir: Path, tmp_path: Path) -> None:
    """Files in each other's place, or out of another directory, are refused."""
    one, two, aside = shard_path(data_dir, 0), shard_path(data_dir, 1), tmp_path / "aside"
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    with pytest.raises(DataDirCorrupt, match=r"shard-0\.db: the file is that of shard 1"):
        prepare(data_dir, SHARDS)
    stranger = tmp_path / "stranger"
    os.close(prepare(stranger, SHARDS))
    shard_path(stranger, 0).replace(one)
    with pytest.raises(DataDirCorrupt, match=r"shard-0\.db: the file belongs to another data directory"):
        prepare(data_dir, SHARDS)


@pytest.mark.parametrize(("name", "known"), [("control.db", 2), ("shard-1.db", 1)])
async def test_newer_schema_is_left_alone(data_dir: Path, name: str, known: int) -> None:
    """A file of a newer Crest is refused with both versions in the message, and not one byte of it is changed."""
    change(data_dir / name, f"PRAGMA user_version = {known + 1}")
    before = (data_dir / name).read_bytes()
    with pytest.raises(
        DataDirNewer, match=rf"{name}: schema version {known + 1}, but this Crest knows version {known}"
    ):
        prepare(data_dir, SHARDS)
    assert (data_dir / name).read_bytes() == before
    if name != "control.db":
        with pytest.raises(DataDirNewer):
            await EmbeddedStore.open(data_dir / name)


def test_other_number_of_shards_is_told(data_dir: Path) -> None:
    """Asking an existing directory for another number of shards is refused, and the message has the right number."""
    with pytest.raises(DataDirError, match=r"holds 2 shards, but 4 are asked for; set the number to 2"):
        prepare(data_dir, 4)


def test_strangers_are_not_touched(tmp_path: Path) -> None:
    """A directory with anything else in it, or a database of somebody else, is refused and stays as it is."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataDirError, match=r"not a data directory of Crest, and not empty"):
        prepare(tmp_path, SHARDS)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["LOCK", "thesis.txt"]
    other = tmp_path / "other"
    other.mkdir()
    change(other / "control.db", "CREATE TABLE theirs (x)")
    with pytest.raises(DataDirNewer, match=r"control\.db: not a control file of Crest"):
        prepare(other, SHARDS)


def test_file_in_place_of_a_directory_is_told(tmp_path: Path) -> None:
    """A data directory that is a file is refused in one line."""
    (tmp_path / "data").write_text("")
    with pytest.raises(DataDirError, match="is a file and no directory"):
        prepare(tmp_path / "data", SHARDS)


# ------------------------------------------------------------------------------------------------------------ topology


async def test_control_file_of_the_first_schema_is_upgraded(data_dir: Path) -> None:
    """A topology written under schema 1 is there under the present one, once a server was started."""
    rows = await fill(data_dir)
    to_schema_1(control_path(data_dir))
    with pytest.raises(DataDirError, match="the server brings it to version 2"):
        contents(data_dir)
    for _ in range(2):
        os.close(prepare(data_dir, SHARDS))
        assert contents(data_dir) == rows


async def test_backup_of_the_first_schema_is_restored(data_dir: Path, tmp_path: Path) -> None:
    """A backup that an older Crest has made becomes a directory of the present schema."""
    rows = await fill(data_dir)
    source = tmp_path / "backup"
    backup(data_dir, source)
    to_schema_1(source / "control.db", mode="delete")
    manifest = json.loads((source / "manifest.json").read_text())
    content = (source / "control.db").read_bytes()
    manifest["files"][0] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (source / "manifest.json").write_text(json.dumps(manifest | {"schema": 1}))
    restore(source, tmp_path / "restored")
    assert contents(tmp_path / "restored") == rows


# ---------------------------------------------------------------------------------------------------- backup and export


async def test_export_holds_each_reachable_row_once(data_dir: Path) -> None:
    """All orders come out, each once, and none that a move has left behind."""
    assert contents(data_dir) == []
    rows = await fill(data_dir, 200)
    assert contents(data_dir) == rows


async def test_backup_of_a_served_directory_restores(data_dir: Path, tmp_path: Path) -> None:
    """A backup taken while a store is open holds what was acknowledged; restored, it is a directory to be served."""
    rows = await fill(data_dir)
    store = await EmbeddedStore.open(shard_path(data_dir, 0))
    assert backup(data_dir, tmp_path / "backup") == len(rows) + 10
    mine = [row for row in await store.read([row.key for row in rows], Consistency.STRONG) if row is not None]
    await store.commit([next_version(mine[0])])
    assert restore(tmp_path / "backup", tmp_path / "restored") == len(rows) + 10
    os.close(prepare(tmp_path / "restored", SHARDS))
    assert contents(tmp_path / "restored") == rows
    assert contents(data_dir) != rows
    await store.close()


async def test_damaged_backup_is_refused_before_anything_is_touched(data_dir: Path, tmp_path: Path) -> None:
    """A backup with a changed byte, a missing file or no manifest restores nothing."""
    await fill(data_dir)
    source = tmp_path / "backup"
    backup(data_dir, source)
    file = source / "shard-1.db"
    whole = file.read_bytes()
    file.write_bytes(whole[:5000] + b"\0" + whole[5001:] if whole[5000] else whole[:5000] + b"\1" + whole[5001:])
    with pytest.raises(DataDirCorrupt, match=r"shard-1\.db: differs from what was backed up"):
        restore(source, tmp_path / "restored")
    file.unlink()
    with pytest.raises(DataDirCorrupt, match=r"shard-1\.db: missing"):
        restore(source, tmp_path / "restored")
    file.write_bytes(whole)
    manifest = source / "manifest.json"
    known = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(known | {"schema": 3}))
    with pytest.raises(DataDirError, match="run the version that made the backup"):
        restore(source, tmp_path / "restored")
    manifest.write_text(json.dumps(known | {"files": [known["files"][0] | {"name": "../elsewhere"}]}))
    with pytest.raises(DataDirCorrupt, match="the list of files is not that of a backup"):
        restore(source, tmp_path / "restored")
    manifest.unlink()
    with pytest.raises(DataDirCorrupt, match=r"manifest\.json: missing; this is not a complete backup"):
        restore(source, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


async def test_nothing_is_overwritten(data_dir: Path, tmp_path: Path) -> None:
    """A backup goes into an empty directory, and so does a restore, unless a server holds it."""
    rows = await fill(data_dir)
    backup(data_dir, tmp_path / "backup")
    with pytest.raises(DataDirError, match="not empty"):
        backup(data_dir, tmp_path / "backup")
    with pytest.raises(DataDirError, match="not empty"):
        restore(tmp_path / "backup", data_dir)
    lock = prepare(data_dir, SHARDS)
    with pytest.raises(DataDirLocked):
        restore(tmp_path / "backup", data_dir)
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)
    assert contents(data_dir) == rows


def test_a_shard_can_be_added(tmp_path: Path) -> None:
    """A directory that gained a shard is taken with its first number of shards and with the present one, no other."""
    os.close(prepare(tmp_path, 2))
    add_shard(tmp_path, 2)
    add_shard(tmp_path, 2)
    add_shard(tmp_path, 1)
    assert check(tmp_path) == 3
    for shards in (2, 3):
        os.close(prepare(tmp_path, shards))
    with pytest.raises(DataDirError, match="holds 3 shards, but 4 are asked for"):
        prepare(tmp_path, 4)


async def test_what_has_moved_away_is_told(data_dir: Path, tmp_path: Path) -> None:
    """A directory whose topology is about to move is copied as ever; one whose topology has moved says where to."""
    rows = await fill(data_dir)
    topology = Topology.initial(SHARDS)
    for step in (Step.OFFERED, Step.MOVED):
        facts = await EmbeddedFacts.open(control_path(data_dir))
        passing = Passing(step, "id", "keyspace next at node-1:9042", topology.to_bytes())
        assert await facts.replace(SCOPE, NAME, topology.epoch, passing.to_fact(topology.epoch))
        await facts.close()
        if step is Step.OFFERED:
            assert sorted(iterate_rows(data_dir)) == sorted(rows)
            assert backup(data_dir, tmp_path / "backup") > len(rows)
    with pytest.raises(DataDirError, match="the topology is kept in keyspace next at node-1:9042 now"):
        list(iterate_rows(data_dir))
    with pytest.raises(DataDirError, match="the topology is kept in keyspace next at node-1:9042 now"):
        backup(data_dir, tmp_path / "another")
