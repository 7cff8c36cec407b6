"""Several processes on one shard's file, some of them killed."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.contract import Consistency, Verdict
from shards.stores.embedded import EmbeddedStore, iterate_rows, prepare, shard_path
from shards.stores.embedded.control import EmbeddedFacts
from shards.stores.embedded.datadir import control_path
from shards.stores.embedded.turns import PATIENCE_POLLS, POLLS_MAX, Turns
from shards.topology import Topology
from shards.topology_store import TopologyStore
from tests.support.deadlines import eventually
from tests.support.rows import new_row
from tests.support.store_committer import row_of


class Committer:
    """A committing process and what it has acknowledged so far."""

    def __init__(self, path: Path, name: str, rows: int) -> None:
        self.name = name
        self.acknowledged: list[bytes] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.store_committer", str(path), name, str(rows)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def wait_beyond(self, commits: int) -> None:
        """Waits until so many commits more are acknowledged."""
        goal = len(self.acknowledged) + commits
        eventually(lambda: len(self.acknowledged) >= goal, f"{commits} commits more of {self.name}")

    def kill(self) -> None:
        """Kills it with no warning; afterwards ``acknowledged`` is complete."""
        self.process.kill()
        self.process.wait()
        self._reading.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                # A line that was cut off is none; what it would have told is allowed to be there or not.
                if line.endswith("\n") and line != "ready\n":
                    self.acknowledged += [bytes.fromhex(text) for text in line.split()]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with one shard."""
    directory = tmp_path / "data"
    os.close(prepare(directory, 1))
    return directory


@pytest.fixture
def committers(data_dir: Path) -> Iterator[list[Committer]]:
    """Two processes that commit to the same file."""
    started = [Committer(shard_path(data_dir, 0), f"process{n}", rows) for n, rows in enumerate((1, 20))]
    yield started
    for committer in started:
        committer.kill()


async def test_killed_writer_loses_nothing_acknowledged(data_dir: Path, committers: list[Committer]) -> None:
    """A writer killed with -9 leaves what it acknowledged, nothing half, and lets the others go on."""
    path = shard_path(data_dir, 0)
    acknowledged: list[tuple[str, bytes]] = []
    for round_number in range(4):
        for committer in committers:
            committer.wait_beyond(20)
        victim = committers[round_number % 2]
        victim.kill()
        acknowledged += [(victim.name, request_id) for request_id in victim.acknowledged]
        committers[1 - round_number % 2].wait_beyond(20)
        committers[round_number % 2] = Committer(path, victim.name, 1 + round_number * 7)
    for committer in committers:
        committer.kill()
        acknowledged += [(committer.name, request_id) for request_id in committer.acknowledged]

    store = await EmbeddedStore.open(path)
    expected = [row_of(name, request_id) for name, request_id in acknowledged]
    for start in range(0, len(expected), 500):
        chunk = expected[start : start + 500]
        assert await store.read([row.key for row in chunk], Consistency.STRONG) == chunk
    await store.close()


async def test_every_row_is_whole(data_dir: Path, committers: list[Committer]) -> None:
    """After all writers are killed amid their commits, each row that is there is the row that was written."""
    facts = await EmbeddedFacts.open(control_path(data_dir))
    await TopologyStore(facts).create(Topology.initial(1))
    await facts.close()
    for committer in committers:
        committer.wait_beyond(30)
    for committer in committers:
        committer.process.send_signal(signal.SIGKILL)
    for committer in committers:
        committer.kill()
    rows = list(iterate_rows(data_dir))
    assert len(rows) >= sum(len(committer.acknowledged) for committer in committers)
    for row in rows:
        assert row == row_of(row.customer.partition("-")[0], row.marks[:16])


async def test_writer_in_line_has_its_turn(data_dir: Path, committers: list[Committer]) -> None:
    """A store commits while other processes write without a pause."""
    for committer in committers:
        committer.wait_beyond(1)
    store = await EmbeddedStore.open(shard_path(data_dir, 0))
    for n in range(50):
        (outcome,) = await store.commit([new_row(f"customer {n}")])
        assert outcome.verdict is Verdict.APPLIED
    await store.close()


def test_gate_is_shut_by_who_starves(tmp_path: Path) -> None:
    """A writer that loses its patience gets in before anyone who comes after it, and lets the others in again."""
    path = tmp_path / "file.db"
    starving, late = Turns(path), Turns(path)
    order: list[str] = []
    shut, has_lock = threading.Event(), threading.Event()

    def starve() -> None:
        with starving:
            assert starving.poll(0)
            assert starving.poll(PATIENCE_POLLS)
            shut.set()
            has_lock.wait()
            order.append("starving")

    def come_late() -> None:
        with late:
            order.append("late")

    with late:
        order.append("before")
    threads = [threading.Thread(target=starve, daemon=True), threading.Thread(target=come_late, daemon=True)]
    threads[0].start()
    shut.wait()
    threads[1].start()
    inode = path.with_name(path.name + ".gate").stat().st_ino
    eventually(lambda: _is_waited_for(inode), "the late one waits at the gate")
    has_lock.set()
    for thread in threads:
        thread.join()
    assert order == ["before", "starving", "late"]
    assert not starving.poll(POLLS_MAX)
    starving.close()
    late.close()


def _is_waited_for(inode: int) -> bool:
    locks = Path("/proc/locks").read_text(encoding="ascii")
    return any(" -> FLOCK" in line and line.split()[6].endswith(f":{inode}") for line in locks.splitlines())
