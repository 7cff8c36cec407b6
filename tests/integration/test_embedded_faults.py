"""Disks that are full, read-only or damaged: a clear error, and nothing more is lost."""

import asyncio
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw
import pytest

from shards.contract import Consistency, Corrupt, Full, Invalid, Overloaded, Row, StoreError, Unavailable, Verdict
from shards.stores.embedded import (
    DataDirCorrupt,
    DataDirError,
    DataDirFull,
    EmbeddedStore,
    prepare,
    shard_path,
    statements,
)
from tests.support.rows import new_row

DISK_BYTES = 2 * 1024 * 1024


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command and returns what came of it."""
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk))
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small file system is not permitted here: {mounted.stderr.strip()}")
    yield disk
    unmounted = run("umount", "--lazy", str(disk))  # a test that failed may have left files open
    assert unmounted.returncode == 0, unmounted.stderr


async def commit_until_it_fails(store: EmbeddedStore) -> tuple[list[Row], StoreError]:
    """Commits row after row; returns those that were acknowledged, and the error."""
    acknowledged: list[Row] = []
    for n in range(DISK_BYTES // 4_000):
        row = new_row(f"customer {n}", body=os.urandom(4_000))
        try:
            (outcome,) = await store.commit([row])
        except StoreError as error:
            return acknowledged, error
        assert outcome.verdict is Verdict.APPLIED
        acknowledged.append(row)
    raise AssertionError("the disk never became full")


async def test_full_disk_refuses_and_recovers(small_disk: Path) -> None:
    """On a full disk a commit is refused as Full, all that was acknowledged is read, and writing resumes with room."""
    directory = small_disk / "data"
    os.close(prepare(directory, 1))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(DISK_BYTES // 4))
    store = await EmbeddedStore.open(shard_path(directory, 0))
    acknowledged, error = await commit_until_it_fails(store)
    assert isinstance(error, Full)
    assert str(error).startswith("shard-0.db: the disk is full")
    assert len(acknowledged) > 20
    keys = [row.key for row in acknowledged]
    assert await store.read(keys, Consistency.STRONG) == acknowledged
    with pytest.raises(Full):
        await store.commit([new_row(body=os.urandom(30_000))])

    ballast.unlink()
    late = new_row("late")
    (outcome,) = await store.commit([late])
    assert outcome.verdict is Verdict.APPLIED
    await store.close()
    os.close(prepare(directory, 1))
    store = await EmbeddedStore.open(shard_path(directory, 0))
    assert await store.read([*keys, late.key], Consistency.STRONG) == [*acknowledged, late]
    await store.close()


def test_disk_too_small_for_the_directory_is_told(small_disk: Path) -> None:
    """A directory for which there is no room is refused in one line, and made once there is room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(DISK_BYTES - 100_000))
    with pytest.raises(DataDirFull, match="the disk is full"):
        prepare(small_disk / "data", 4)
    ballast.unlink()
    os.close(prepare(small_disk / "data", 4))


async def test_read_only_disk_is_told(small_disk: Path) -> None:
    """A directory on a read-only disk is refused in one line, by the server's start and by a worker's."""
    directory = small_disk / "data"
    os.close(prepare(directory, 1))
    assert run("mount", "-o", "remount,ro", str(small_disk)).returncode == 0
    with pytest.raises(DataDirError, match=r"[Rr]ead-only"):
        prepare(directory, 1)
    with pytest.raises(DataDirError, match="read-only"):
        await EmbeddedStore.open(shard_path(directory, 0))


async def test_read_only_file_is_told(small_disk: Path) -> None:
    """A file that may not be written is refused in one line, instead of at the first order."""
    directory = small_disk / "data"
    os.close(prepare(directory, 1))
    path = shard_path(directory, 0)
    path.chmod(0o400)
    if os.access(path, os.W_OK):  # for the superuser permissions mean nothing: only a fixed file is read-only
        fixed = run("chattr", "+i", str(path))
        if fixed.returncode != 0:
            pytest.skip(f"files cannot be fixed here: {fixed.stderr.strip()}")
    with pytest.raises(DataDirError, match=r"shard-0\.db: the file is read-only"):
        prepare(directory, 1)
    with pytest.raises(DataDirError, match=r"shard-0\.db: the file is read-only"):
        await EmbeddedStore.open(path)


@pytest.mark.parametrize("damage", ["header", "truncated", "emptied"])
async def test_damaged_file_is_refused_at_the_start(tmp_path: Path, damage: str) -> None:
    """A file whose head is overwritten or cut off is refused at the start, is named, and stays as it is."""
    directory = tmp_path / "data"
    os.close(prepare(directory, 2))
    path = shard_path(directory, 1)
    whole = path.read_bytes()
    path.write_bytes({"header": b"garbage!" * 64 + whole[512:], "truncated": whole[:4096], "emptied": b""}[damage])
    before = path.read_bytes()
    with pytest.raises(DataDirCorrupt, match=r"shard-1\.db"):
        prepare(directory, 2)
    assert path.read_bytes() == before
    with pytest.raises(Corrupt, match=r"shard-1\.db"):
        await EmbeddedStore.open(path)


async def test_damage_inside_is_told_and_contained(tmp_path: Path) -> None:
    """A damaged page answers Corrupt where it is touched, while rows on other pages are still read."""
    directory = tmp_path / "data"
    os.close(prepare(directory, 1))
    path = shard_path(directory, 0)
    store = await EmbeddedStore.open(path)
    rows = [new_row(f"customer {n}", body=bytes(300)) for n in range(200)]
    await store.commit(rows)
    await store.close()
    content = bytearray(path.read_bytes())
    pages = sorted(content.index(row.customer.encode() + row.marks) // 4096 * 4096 for row in rows)
    # a page above the leaves holds rows, too, and without it none of those below are found (format: byte 0 is the kind)
    page = next(page for page in pages if content[page] == 0x0A)
    content[page : page + 4096] = b"\xee" * 4096
    path.write_bytes(content)

    store = await EmbeddedStore.open(path)
    failures = []
    for row in rows:
        try:
            assert await store.read([row.key], Consistency.STRONG) == [row]
        except Corrupt as error:
            failures.append(str(error))
    assert 0 < len(failures) < len(rows)
    assert all(text.startswith("shard-0.db: the file is damaged; restore it from a backup") for text in failures)
    await store.close()


async def test_failed_commit_is_settled_before_it_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an I/O error STRONG reads wait for a commit to write over what the failed one may have left behind."""
    os.close(prepare(tmp_path / "data", 1))
    store = await EmbeddedStore.open(shard_path(tmp_path / "data", 0))
    there, failed = new_row("there"), new_row("failed")
    await store.commit([there])

    def fail(connection: apsw.Connection, rows: Sequence[Row]) -> bool:
        raise apsw.IOError(f"{len(rows)} rows for {connection.filename}")

    monkeypatch.setattr(statements, "write", fail)
    monkeypatch.setattr(statements, "SETTLE", "INSERT INTO no_such_table VALUES (1)")
    with pytest.raises(StoreError) as raised:
        await store.commit([failed])
    assert type(raised.value) is StoreError, "the outcome is unknown"
    with pytest.raises(StoreError):
        await store.read([failed.key], Consistency.STRONG)
    assert await store.read([there.key], Consistency.CACHED) == [there]

    monkeypatch.undo()
    assert await store.read([there.key, failed.key], Consistency.STRONG) == [there, None]
    (outcome,) = await store.commit([failed])
    assert outcome.verdict is Verdict.APPLIED
    await store.close()


async def test_impossible_text_harms_no_other_call(tmp_path: Path) -> None:
    """A customer that is no valid text is refused, and calls that are answered together with it are answered."""
    os.close(prepare(tmp_path / "data", 1))
    store = await EmbeddedStore.open(shard_path(tmp_path / "data", 0))
    row = new_row()
    await store.commit([row])
    pages = [store.list_customer(customer, *row.key[:3], None, 10) for customer in (row.customer, "\ud800")]
    answers = await asyncio.gather(*pages, store.read([row.key], Consistency.STRONG), return_exceptions=True)
    assert answers[0] == answers[2] == [row]
    assert isinstance(answers[1], Invalid)
    await store.close()


async def test_waiting_calls_are_bounded(tmp_path: Path) -> None:
    """Beyond its bound the store refuses calls at once as Overloaded, and answers all that it took."""
    os.close(prepare(tmp_path / "data", 1))
    store = await EmbeddedStore.open(shard_path(tmp_path / "data", 0))
    answers = await asyncio.gather(*(store.commit([new_row(f"{n}")]) for n in range(100)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(refused) == 100 - 64
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 64
    assert "writes=0 reads=0" in repr(store)
    await store.close()


async def test_closed_store_says_so(tmp_path: Path) -> None:
    """After close every call is refused as Unavailable, which means that nothing was written."""
    os.close(prepare(tmp_path / "data", 1))
    store = await EmbeddedStore.open(shard_path(tmp_path / "data", 0))
    await store.close()
    row = new_row()
    with pytest.raises(Unavailable):
        await store.commit([row])
    with pytest.raises(Unavailable):
        await store.read([row.key], Consistency.STRONG)
    with pytest.raises(Unavailable):
        await store.seal(row.key)
