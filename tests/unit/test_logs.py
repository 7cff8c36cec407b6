"""Log lines: one shape from every process."""

import json
import logging
from collections.abc import Callable, Iterator

import pytest

from server import logs
from server.supervisor import log as supervisor_log

Configure = Callable[[str], None]


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Leaves logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(params=["worker", "supervisor"])
def configure(request: pytest.FixtureRequest) -> Configure:
    """Sets up logging in the way of each kind of process."""
    if request.param == "worker":
        return lambda log_format: logs.configure("supervisor", log_format, "info")
    return lambda log_format: supervisor_log.configure(log_format, "info")


def write(configure: Configure, log_format: str) -> None:
    """Writes a line with a field, and one with a traceback."""
    configure(log_format)
    log = logging.getLogger("crest.test")
    log.debug("not shown")
    log.info("started %s", "a child", extra=supervisor_log.fields(child="worker-0", pid=7))
    try:
        int("boom")
    except ValueError:
        log.exception("met a defect")


def test_json_lines_have_one_shape(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line is an object whose first keys are time, level, event and process, with fields beside them."""
    write(configure, "json")
    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert list(first)[:4] == ["time", "level", "event", "process"]
    assert first["time"].endswith("Z")
    assert (first["level"], first["event"], first["process"]) == ("info", "started a child", "supervisor")
    assert (first["child"], first["pid"]) == ("worker-0", 7)
    assert second["level"] == "error"
    assert second["exception"].endswith("'boom'")


def test_console_lines_have_one_shape(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    """On a console a line is the time of day, the level, the process, the event and the fields."""
    write(configure, "console")
    first, *others = capsys.readouterr().err.splitlines()
    time, _, rest = first.partition(" ")
    assert len(time) == len("12:34:56.789")
    assert rest.startswith("[info     ] supervisor started a child")
    assert "child=worker-0 pid=7" in rest
    assert others[-1].endswith("'boom'")
