"""What a worker owes the server that it belongs to: its loop answers for itself, and it holds on to the data."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from server.processes import ExitCode
from tests.support.addresses import loopback
from tests.support.crest import Crest, create_request, orders
from tests.support.deadlines import eventually
from tests.support.server_process import alive

HOST = loopback(30)
PORT = 20500

Start = Callable[..., Crest]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a server on a data directory of the test's own."""
    return lambda *flags: Crest(HOST, PORT, tmp_path / "data", *flags)


def test_worker_whose_loop_is_blocked_is_replaced(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose event loop hangs is aborted and replaced although its other threads go on."""
    # read by every Python that starts; the handler runs where the event loop does, and does not come back
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, threading\nsignal.signal(signal.SIGUSR1, lambda *_: threading.Event().wait())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with start("--stall-timeout-s", "3") as server:
        blocked, other = server.wait_serving()
        os.kill(blocked, signal.SIGUSR1)
        server.wait_ready("worker-0", 2)
        eventually(lambda: not alive(blocked), f"{blocked} ends")
        assert alive(other)
        assert [line for line in server.lines if "its event loop has not answered" in line.get("event", "")]
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == ExitCode.STOPPED


async def test_shared_port_is_closed_until_every_worker_is_ready(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one worker still boots the others serve on their own ports, and nobody on the shared one."""
    gate = tmp_path / "gate"
    (tmp_path / "sitecustomize.py").write_text(
        "import json, os, sys, time\n"
        "if 'server.worker' in sys.orig_argv and json.loads(os.environ['CREST_LAUNCH'])['number'] == 1:\n"
        f"    while not os.path.exists({str(gate)!r}):\n"
        "        time.sleep(0.01)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with start() as server:
        await asyncio.to_thread(server.wait_ready, "worker-0")
        async with server.channel(0) as channel:
            for _ in range(3):  # whatever the worker does after it is ready, it has done by then
                await orders(channel).CreateOrder(create_request(), timeout=30)
        assert not server.listens(server.port)
        gate.touch()
        await asyncio.to_thread(server.wait_serving)
        assert server.listens(server.port)
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait_exit) == ExitCode.STOPPED


def test_every_worker_holds_the_lock_of_the_data(start: Start, tmp_path: Path) -> None:
    """The data directory stays taken as long as any process that may write to it lives."""
    lock = tmp_path / "data" / "LOCK"
    with start() as server:
        for pid in (server.pid, *server.wait_serving()):
            held = {Path(file.path) for file in psutil.Process(pid).open_files()}
            assert lock in held, f"process {pid} does not hold {lock.name}"
        server.signal(signal.SIGTERM)
        server.wait_exit()
