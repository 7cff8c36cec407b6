"""Log lines of the supervisor, in the shape of ``server.logs``, with nothing but the standard library.

Facts are given as attributes of the record, as everywhere: ``LOG.info("event", extra=fields(child="worker-0"))``.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from typing import Final

LOG: Final = logging.getLogger("crest.supervisor")

_OF_EVERY_RECORD: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})


def configure(log_format: str, level: str) -> None:
    """Sends this process's lines to standard error, as ``console`` or ``json``; ``auto`` looks for a terminal."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Console() if console else _Json())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def fields(**values: object) -> dict[str, object]:
    """Returns the facts of a line, as the ``extra`` of a logging call."""
    return values


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "process": "supervisor",
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class _Console(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        values = "".join(f" {name}={value}" for name, value in _fields(record).items())
        time = f"{self.formatTime(record, '%H:%M:%S')}.{int(record.msecs):03}"
        line = f"{time} [{record.levelname.lower():<9}] supervisor {record.getMessage()}{values}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
