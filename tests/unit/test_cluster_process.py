"""Processes that are recorded, found again, and ended without hitting another."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cluster.process import ProcessId, identify, spawn
from tests.support.deadlines import eventually


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[ProcessId]:
    """A process that does nothing for some minutes."""
    process = spawn(["/bin/sleep", "300"], log=tmp_path / "log")
    yield process
    process.send(signal.SIGKILL)
    assert process.wait(60)


def test_a_process_is_known_by_more_than_its_pid(sleeper: ProcessId) -> None:
    """A pid of another start time or another boot is somebody else's: not alive, and no signal reaches it."""
    for other in (
        dataclasses.replace(sleeper, start_ticks=sleeper.start_ticks + 1),
        dataclasses.replace(sleeper, boot_id="another boot"),
    ):
        assert not other.alive()
        assert not other.send(signal.SIGKILL)
        assert other.wait(0)
    assert sleeper.alive()
    assert not sleeper.wait(0)


def test_a_process_is_paused_and_goes_on(sleeper: ProcessId) -> None:
    """SIGSTOP pauses a process, which stays alive, and SIGCONT lets it go on."""
    sleeper.send(signal.SIGSTOP)
    eventually(sleeper.paused, "paused")
    assert sleeper.alive()
    sleeper.send(signal.SIGCONT)
    eventually(lambda: not sleeper.paused(), "goes on")


def test_an_ended_process_is_not_alive_before_it_is_collected(sleeper: ProcessId) -> None:
    """A process that has ended counts as gone, and waiting for it collects it."""
    os.kill(sleeper.pid, signal.SIGKILL)
    assert sleeper.wait(60)
    assert not sleeper.alive()
    assert not sleeper.send(signal.SIGTERM)
    with pytest.raises(ChildProcessError):
        os.waitpid(sleeper.pid, os.WNOHANG)


def test_a_process_is_alive_while_any_thread_is(tmp_path: Path) -> None:
    """A process whose first thread has ended is alive, and can be killed, while another one runs on."""
    code = (
        "import ctypes, threading; threading.Thread(target=threading.Event().wait).start();"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    process = spawn([sys.executable, "-c", code], log=tmp_path / "log")
    eventually(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "half gone")
    assert process.alive()
    assert not process.wait(0)
    assert process.send(signal.SIGKILL)
    assert process.wait(60)


def test_its_timers_are_as_coarse_as_asked(tmp_path: Path) -> None:
    """A program has the timer slack that it is given, else that of who starts it, whose own stays as it was."""
    own = Path("/proc/self/timerslack_ns")
    before = own.read_text()
    asked: tuple[tuple[int | None, bool], ...] = ((700, False), (None, False), (700, True), (None, True))
    for slack_us, dies_with_parent in asked:
        argv = ["/bin/cat", str(own)]
        process = spawn(argv, log=tmp_path / "log", dies_with_parent=dies_with_parent, timer_slack_us=slack_us)
        assert process.wait(60)
    assert (tmp_path / "log").read_text().split() == ["700000", before.strip()] * 2
    assert own.read_text() == before


def test_what_it_prints_is_kept(tmp_path: Path) -> None:
    """Both outputs are added to the log, and input is empty."""
    for word in ("one", "two"):
        process = spawn(["/bin/sh", "-c", f"cat; echo {word}; echo {word} >&2"], log=tmp_path / "log")
        assert process.wait(60)
    assert (tmp_path / "log").read_text() == "one\none\ntwo\ntwo\n"


def test_a_node_of_a_test_dies_with_the_test(tmp_path: Path) -> None:
    """A process that is to die with its parent is killed by the kernel when that is killed."""
    code = (
        "import sys; from pathlib import Path; from deploy.cluster.process import spawn;"
        f"log = Path({str(tmp_path / 'log')!r});"
        "print(spawn(['/bin/sleep', '60'], log=log, dies_with_parent=True).pid, flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as parent:
        assert parent.stdout is not None
        orphan = identify(int(parent.stdout.readline()))
        # The program replaces setpriv only after the wish is set.
        eventually(lambda: Path(f"/proc/{orphan.pid}/comm").read_text() == "sleep\n", "setpriv became sleep")
        assert orphan.alive()
        parent.kill()
        assert orphan.wait(60)


def test_a_node_of_a_test_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """A process that is to die with its parent lives on when a passing thread of that started it and ended."""
    started: list[ProcessId] = []

    def start() -> None:
        process = spawn(["/bin/sleep", "300"], log=tmp_path / "log", dies_with_parent=True)
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "setpriv became sleep")
        started.append(process)

    passing = threading.Thread(target=start)
    passing.start()
    passing.join()
    (process,) = started
    assert not process.wait(0.2)
    assert process.send(signal.SIGKILL)
    assert process.wait(60)
