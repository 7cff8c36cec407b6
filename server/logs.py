"""Log lines of the workers and the exporter: the same shape as the supervisor's, from any logger of the process.

Code logs with the standard library, facts as attributes of the record (``extra=``); here they become fields. No line
carries anything of a customer but ids: whoever logs sees to that.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger


def configure(process: str, log_format: str, level: str) -> None:
    """Sends this process's lines to standard error, as ``console`` or ``json``; ``auto`` looks for a terminal.

    ``process`` names the process in each line, such as ``worker-0``.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())

    def name_process(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        line["process"] = process
        return line

    before: list[Processor] = [
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", key="time") if not console else _clock_time,
        name_process,
    ]
    after: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if console:
        after.append(_console())
    else:
        after += [structlog.processors.format_exc_info, _head_first, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=after, foreign_pre_chain=before))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # grpc logs a traceback for each connection that a port scanner leaves half open
    logging.getLogger("grpc").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _clock_time(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    record: logging.LogRecord = line["_record"]
    line["time"] = f"{logging.Formatter().formatTime(record, '%H:%M:%S')}.{int(record.msecs):03}"
    return line


def _head_first(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Puts what every line has before what only this one has."""
    return {**{name: line.pop(name) for name in ("time", "level", "event", "process")}, **line}


def _console() -> Processor:
    colors = sys.stderr.isatty()
    styles = structlog.dev.ConsoleRenderer.get_default_column_styles(colors)

    def plain(style: str) -> structlog.dev.KeyValueColumnFormatter:
        return structlog.dev.KeyValueColumnFormatter(None, style, styles.reset, str)

    levels = structlog.dev.ConsoleRenderer.get_default_level_styles(colors)
    others = structlog.dev.KeyValueColumnFormatter(styles.kv_key, styles.kv_value, styles.reset, str)
    return structlog.dev.ConsoleRenderer(
        columns=[
            structlog.dev.Column("time", plain(styles.timestamp)),
            structlog.dev.Column("level", structlog.dev.LogLevelColumnFormatter(levels, styles.reset)),
            structlog.dev.Column("process", plain(styles.logger_name)),
            structlog.dev.Column("event", plain(styles.bright)),
            structlog.dev.Column("", others),
        ],
        exception_formatter=structlog.dev.plain_traceback,
    )
