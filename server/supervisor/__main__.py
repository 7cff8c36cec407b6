"""The process that the command becomes: takes the ports, makes room for metrics, supervises."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from server.config import Config
from server.processes import ExitCode, Launch
from server.supervisor import ports
from server.supervisor.log import LOG, configure, fields
from server.supervisor.loop import Commands, Supervisor

_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # see _metrics_dir


def main(commands: Commands | None = None) -> ExitCode:
    """Supervises until told to stop; returns how it ended."""
    launch = Launch.from_environ(os.environ)
    config = launch.config
    configure(config.log_format, config.log_level)
    if commands is None:
        commands = Commands(
            worker=(sys.executable, "-m", "server.worker"), exporter=(sys.executable, "-m", "server.exporter")
        )
    all_ports = [config.port, *(config.worker_port(n) for n in range(config.workers)), config.metrics_port]
    try:
        with ports.held(config.host, all_ports), _metrics_dir(config) as metrics_dir:
            LOG.info(
                "starting",
                extra=fields(
                    pid=os.getpid(),
                    host=config.host,
                    port=config.port,
                    workers=config.workers,
                    metrics_port=config.metrics_port,
                    data_dir=config.data_dir,
                ),
            )
            exit_code = Supervisor(config, commands, replace(launch, metrics_dir=metrics_dir)).run()
            LOG.info("stopped", extra=fields(exit_code=int(exit_code), outcome=exit_code.name))
            return exit_code
    except ports.PortTakenError as error:
        LOG.error("%s", error, extra=fields(exit_code=int(ExitCode.PORT_TAKEN)))
        return ExitCode.PORT_TAKEN
    except Exception:  # noqa: BLE001  # the last station: it is logged, and the exit code tells
        LOG.exception("a defect ended the supervisor")
        return ExitCode.DEFECT


@contextlib.contextmanager
def _metrics_dir(config: Config) -> Iterator[Path]:
    """Makes the directory through which workers hand their metrics to the exporter.

    In memory where there is such a place: the files are mapped, and writing to a mapped file on a full disk kills the
    writer. Its name follows from the port, which this process holds, so one that a killed server has left is ours.
    """
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    path = place / f"crest-metrics-{os.getuid()}-{re.sub('[^0-9A-Za-z.]', '_', config.host)}-{config.port}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
