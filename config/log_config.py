"""The log: JSON lines on stderr, configured once in each process."""

from __future__ import annotations

import datetime
import json
import logging
import logging.config
from typing import Any, Literal

from vllama_pool.config.redaction import redacted

Level = Literal["debug", "info", "warning", "error"]

PACKAGE = "vllama_pool"
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time (RFC 3339, UTC), level, logger, message, `extra` fields.

    Message and exception are redacted, since libraries may quote an address with its password.
    """

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        return "".join(c if c.isprintable() else _escape(c) for c in json.dumps(line, ensure_ascii=False, default=str))


def _escape(character: str) -> str:
    """JSON leaves some control characters as they are, such as C1, which a terminal may obey."""
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"


def log_config(level: Level) -> dict[str, Any]:
    """Return a configuration for `logging.config.dictConfig`.

    `level` applies to our loggers. Libraries log from warning on, because httpx logs every request at info. uvicorn's
    info lines, which repeat the supervisor's, appear only at debug.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
        "loggers": {
            PACKAGE: {"level": level.upper()},
            "uvicorn": {"level": "INFO" if level == "debug" else "WARNING"},
        },
        "root": {"level": "WARNING", "handlers": ["stderr"]},
    }


def configure_logging(level: Level) -> None:
    """Call it once per process, before anything logs."""
    logging.config.dictConfig(log_config(level))
