"""The supervisor over trivial children: what each signal, death and silence leads to."""

import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from server.config import Config
from server.processes import ExitCode, Launch
from tests.support.addresses import loopback
from tests.support.deadlines import eventually
from tests.support.server_process import ServerProcess, alive

HOST = loopback(23)
CONFIG = Config(
    host=HOST,
    port=20100,
    metrics_port=20190,
    workers=2,
    log_format="json",
    stall_timeout_s=60.0,  # a child that gets no processor for a while has not stalled
    boot_timeout_s=60.0,
    drain_wait_s=0.0,
    drain_grace_s=30.0,
    roll_settle_s=0.0,
)

Start = Callable[..., ServerProcess]


@pytest.fixture
def behaviour(tmp_path: Path) -> Path:
    """Files here say which child is to misbehave, and how."""
    return tmp_path


@pytest.fixture
def start(behaviour: Path) -> Start:
    """Starts a supervisor with settings changed."""

    def start(*arguments: str, **changes: object) -> ServerProcess:
        environ = Launch(config=replace(CONFIG, **changes)).environ({"CREST_TEST_BEHAVIOUR": str(behaviour)})  # type: ignore[arg-type]  # settings by name
        return ServerProcess([sys.executable, "-m", "tests.support.trivial_server", *arguments], environ)

    return start


def ready(server: ServerProcess) -> tuple[int, int, int]:
    """Waits until all are ready; returns the pids of the two workers and the exporter."""
    return server.wait_ready("worker-0"), server.wait_ready("worker-1"), server.wait_ready("exporter")


def test_stops_when_asked(start: Start) -> None:
    """At SIGTERM every child is asked to end, and the exit code says that nothing was cut."""
    with start() as server:
        pids = ready(server)
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == ExitCode.STOPPED
        assert not [pid for pid in pids if alive(pid)]
        assert not server.logged("a child has ended", level="error")


def test_interrupt_is_a_request_to_stop(start: Start) -> None:
    """Ctrl-C drains as SIGTERM does."""
    with start() as server:
        ready(server)
        server.signal(signal.SIGINT)
        assert server.wait_exit() == ExitCode.STOPPED


def test_second_signal_stops_at_once(start: Start, behaviour: Path) -> None:
    """A second SIGTERM kills what still drains, and the exit code says so."""
    (behaviour / "worker-1").write_text("deaf")
    with start() as server:
        ready(server)
        server.signal(signal.SIGTERM)
        server.wait_logged("draining; a second signal stops at once")
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == ExitCode.CUT
        assert server.logged("a child has ended", child="worker-1", ended="SIGKILL")


def test_drain_ends_by_force(start: Start, behaviour: Path) -> None:
    """A child that does not end within wait, grace and slack is killed."""
    (behaviour / "worker-0").write_text("deaf")
    with start(drain_grace_s=0.0) as server:
        ready(server)
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == ExitCode.CUT
        assert server.logged("killing a child that does not end", child="worker-0")


def test_worker_that_cut_calls_shows_in_the_exit_code(start: Start, behaviour: Path) -> None:
    """When a worker reports that calls outlasted the grace, the server's exit code reports it."""
    (behaviour / "worker-0").write_text("cut")
    with start() as server:
        ready(server)
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == ExitCode.CUT


def test_killed_worker_is_replaced(start: Start) -> None:
    """A worker killed with -9 is started again, the others are left alone, and all are told of the restart."""
    with start() as server:
        first, second, _ = ready(server)
        os.kill(first, signal.SIGKILL)
        assert server.wait_ready("worker-0", 2) != first
        assert alive(second)
        told = "worker-1 open=True ['SERVING 1', 'SERVING 0']"
        eventually(lambda: told in server.stdout, told)


def test_dead_exporter_is_replaced(start: Start) -> None:
    """The exporter is started again as a worker is."""
    with start() as server:
        *_, exporter = ready(server)
        os.kill(exporter, signal.SIGKILL)
        assert server.wait_ready("exporter", 2) != exporter


def test_server_lives_without_exporter(start: Start, behaviour: Path) -> None:
    """An exporter that never starts does not stop the workers."""
    (behaviour / "exporter").write_text("die at boot")
    with start(boot_failures_max=1) as server:
        worker = server.wait_ready("worker-0")
        server.wait_logged("a child has ended", 2, child="exporter", ended="STORE_REFUSED")
        assert alive(worker)


@pytest.mark.parametrize("sent", [None, signal.SIGSTOP], ids=["blocked", "stopped"])
def test_stalled_worker_is_aborted_and_killed(start: Start, behaviour: Path, sent: signal.Signals | None) -> None:
    """A worker that goes silent is aborted, killed when that does not help, and replaced."""
    if sent is None:
        (behaviour / "worker-0").write_text("stall")
    with start(stall_timeout_s=3.0) as server:
        stalled = server.wait_ready("worker-0")
        (behaviour / "worker-0").unlink(missing_ok=True)
        if sent is not None:
            os.kill(stalled, sent)
        server.wait_logged("a child has ended", pid=stalled, ended="SIGABRT" if sent is None else "SIGKILL")
        server.wait_ready("worker-0", 2)


def test_boot_failures_stop_the_server(start: Start, behaviour: Path) -> None:
    """A worker that cannot start is tried as often as the setting says; then all end, with the exit code for it."""
    (behaviour / "worker-1").write_text("die at boot")
    with start(boot_failures_max=2) as server:
        assert server.wait_exit() == ExitCode.BOOT_FAILED
        assert len(server.logged("a child has ended", child="worker-1", ended="STORE_REFUSED")) == 2
        assert server.logged("a child has ended", child="worker-0")


def test_workers_that_cannot_be_executed_stop_the_server(start: Start) -> None:
    """When workers cannot even be executed the server gives up, and starts nobody for whom it would wait."""
    with start("no-workers", boot_failures_max=1) as server:
        assert server.wait_exit() == ExitCode.BOOT_FAILED
        assert server.logged("a child cannot be started", child="worker-0")


def test_crashes_after_ready_do_not_stop_the_server(start: Start, behaviour: Path) -> None:
    """Only workers that never became ready count towards giving up."""
    (behaviour / "worker-1").write_text("die when ready")
    with start(boot_failures_max=1) as server:
        server.wait_logged("a child has ended", 3, child="worker-1", ended="DEFECT")
        (behaviour / "worker-1").unlink()
        server.wait_ready("worker-1", 4)


def test_boot_that_takes_too_long_is_a_failure(start: Start, behaviour: Path) -> None:
    """A worker that is never ready is ended after `boot_timeout_s` and counts as failed."""
    (behaviour / "worker-0").write_text("never ready")
    with start(boot_timeout_s=1.0, boot_failures_max=1) as server:
        assert server.wait_exit() == ExitCode.BOOT_FAILED
        assert server.logged("aborting a child: not ready within 1 s", child="worker-0")


def test_hangup_replaces_one_after_the_other(start: Start) -> None:
    """At SIGHUP each child is replaced by one that is ready before the old one is asked to end, one at a time."""
    with start() as server:
        pids = ready(server)
        server.signal(signal.SIGHUP)
        for name, old in zip(("worker-0", "worker-1", "exporter"), pids, strict=True):
            server.wait_ready(name, 2)
            server.wait_logged("a child has ended", pid=old, ended="STOPPED")
        story = [
            (line["event"], line["child"])
            for line in server.lines
            if "child" in line and line["event"] in {"a child is ready", "a child has ended"}
        ][3:]
        assert story == [
            (event, name)
            for name in ("worker-0", "worker-1", "exporter")
            for event in ("a child is ready", "a child has ended")
        ]


def test_roll_goes_on_when_callers_are_back(start: Start) -> None:
    """A worker is replaced no sooner than `roll_settle_s` after the one before it has ended."""
    with start(roll_settle_s=1.5) as server:
        first, second, _ = ready(server)
        server.signal(signal.SIGHUP)
        (ended,) = server.wait_logged("a child has ended", pid=first)
        server.wait_logged("a child has ended", pid=second)
        begun = server.logged("started a child", child="worker-1")[1]
        moments = [datetime.fromisoformat(line["time"]) for line in (ended, begun)]
        assert moments[1] - moments[0] >= timedelta(seconds=1.4)  # the line comes a moment after what it tells


def test_bad_replacement_leaves_the_old_one(start: Start, behaviour: Path) -> None:
    """When a replacement cannot start, the rolling restart is given up and the old workers serve on."""
    with start(boot_failures_max=1) as server:
        first, second, _ = ready(server)
        (behaviour / "worker-0").write_text("die at boot")
        server.signal(signal.SIGHUP)
        server.wait_logged("rolling restart abandoned: a replacement did not start; the others serve on")
        assert alive(first)
        assert alive(second)
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == ExitCode.STOPPED


def test_shared_port_opens_when_all_are_ready(start: Start, behaviour: Path) -> None:
    """Workers are told to take calls on the shared port only once every one of them has been ready."""
    (behaviour / "worker-1").write_text("die when ready")
    with start() as server:
        server.wait_logged("a child has ended", 1, child="worker-1")
        (behaviour / "worker-1").unlink()
        eventually(lambda: any("open=True" in line for line in server.stdout), "the shared port opens")
        opened = next(line for line in server.stdout if "open=True" in line)
        assert opened.count("SERVING") == 2


@pytest.mark.parametrize("port", [20100, 20102, 20190], ids=["shared", "worker", "metrics"])
def test_taken_port_is_refused(start: Start, port: int) -> None:
    """A port in use refuses the server by name and exit code, though its owner would share it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((HOST, port))
        other.listen()
        with start() as server:
            assert server.wait_exit() == ExitCode.PORT_TAKEN
            assert server.logged(f"cannot listen on {HOST} port {port}: Address already in use")


@pytest.mark.parametrize("host", ["127.0.0..1", "a" * 64], ids=["empty label", "long label"])
def test_host_that_can_be_no_name_is_refused(start: Start, host: str) -> None:
    """A host whose name cannot even be asked for refuses the server with one line that names it."""
    with start(host=host) as server:
        assert server.wait_exit() == ExitCode.PORT_TAKEN
        assert server.logged_about(f"host {host} is no address of this machine: ") == server.lines


def test_second_server_is_refused(start: Start) -> None:
    """A second server on the same ports is refused although none of the first one's children listens."""
    with start() as first:
        ready(first)
        with start() as second:
            assert second.wait_exit() == ExitCode.PORT_TAKEN


def test_killed_supervisor_leaves_nobody(start: Start, behaviour: Path) -> None:
    """A supervisor killed with -9 takes its children with it, one that does not react to anything included."""
    (behaviour / "worker-0").write_text("deaf")
    with start() as server:
        pids = ready(server)
        server.signal(signal.SIGKILL)
        server.wait_exit()
        for pid in pids:
            eventually(lambda pid=pid: not alive(pid), f"{pid} ends")  # type: ignore[misc]  # bound in the loop
    (behaviour / "worker-0").unlink()
    with start() as again:
        ready(again)


def test_child_by_hand_says_what_to_run() -> None:
    """A process of the server that is started by hand says which command starts the server."""
    with ServerProcess([sys.executable, "-m", "server.supervisor"], {}) as server:
        assert server.wait_exit() == ExitCode.USAGE
        assert "python -m server" in server.lines[0]["text"]
