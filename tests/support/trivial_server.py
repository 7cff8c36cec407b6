"""The real supervisor over children that serve nobody and behave as a test asks.

``python -m tests.support.trivial_server`` is the supervisor; with ``no-workers`` as argument its workers cannot be
executed, and with ``child`` it is one of its children. The directory ``CREST_TEST_BEHAVIOUR`` holds a file for each
name (``worker-0``, ``exporter``) whose child is to misbehave.
"""

import os
import select
import signal
import sys
from pathlib import Path

from server.processes import (
    BEAT,
    BEAT_INTERVAL_S,
    READY,
    ControlReader,
    ExitCode,
    Launch,
    die_with_parent,
    leave_terminal_to_parent,
)
from server.supervisor.__main__ import main
from server.supervisor.loop import Commands


def child() -> int:
    """Plays a child; its behaviour is a word: see the branches."""
    launch = Launch.from_environ(os.environ)
    die_with_parent(launch.parent_pid)
    leave_terminal_to_parent()
    name = "exporter" if launch.number < 0 else f"worker-{launch.number}"
    told = Path(os.environ["CREST_TEST_BEHAVIOUR"]) / name
    behaviour = told.read_text().strip() if told.exists() else ""
    if behaviour == "die at boot":
        return ExitCode.STORE_REFUSED
    asked: list[int] = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "deaf" else lambda number, _: asked.append(number))
    if behaviour != "never ready":
        os.write(launch.status_fd, READY)
    if behaviour == "die when ready":
        return ExitCode.DEFECT
    if behaviour == "stall":
        signal.pause()
    controls = ControlReader()
    while not asked:
        if select.select([launch.control_fd], [], [], BEAT_INTERVAL_S)[0]:
            data = os.read(launch.control_fd, 65536)
            if not data:
                return ExitCode.CUT
            control = controls.feed(data)
            if control is not None:
                states = [f"{w.state.value} {w.restarts}" for w in control.workers]
                line = f"{name} open={control.open_shared} {states}\n"
                os.write(1, line.encode())  # at one go: three children share the pipe
        os.write(launch.status_fd, BEAT)
    return ExitCode.CUT if behaviour == "cut" else ExitCode.STOPPED


if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        sys.exit(child())
    command = (sys.executable, "-m", "tests.support.trivial_server", "child")
    worker = ("/no/such",) if sys.argv[1:] == ["no-workers"] else command
    sys.exit(main(Commands(worker=worker, exporter=command)))
