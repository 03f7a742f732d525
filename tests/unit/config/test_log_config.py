from __future__ import annotations

import json
import logging
import sys

import pytest

from vllama_pool.config.log_config import JsonFormatter, Level, log_config


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    log_record = logging.LogRecord("vllama_pool.router.app", logging.WARNING, "app.py", 1, message, args, None)
    log_record.__dict__.update(extra)
    return log_record


def test_a_log_line_is_one_json_object_with_time_level_logger_and_message() -> None:
    text = JsonFormatter().format(record("worker %s is down\n", "gpu-1", request="r1"))
    assert "\n" not in text
    line = json.loads(text)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "vllama_pool.router.app",
        "message": "worker gpu-1 is down\n",
        "request": "r1",
    }


def test_control_characters_are_escaped_and_other_text_is_not() -> None:
    said = "\x1b[31m\x7f\x9b\u2028\u202e größer \U0001f600"
    text = JsonFormatter().format(record("%s", said))
    assert text.isprintable()
    assert "größer \U0001f600" in text
    assert json.loads(text)["message"] == said


def test_an_exception_is_a_field_of_the_json_line() -> None:
    failed = record("a fault")
    try:
        raise ValueError("boom")
    except ValueError:
        failed.exc_info = sys.exc_info()
    line = json.loads(JsonFormatter().format(failed))
    assert line["message"] == "a fault"
    assert "ValueError: boom" in line["exception"]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_log_level_applies_to_our_loggers_only(level: Level) -> None:
    assert log_config(level)["loggers"]["vllama_pool"]["level"] == level.upper()
    assert log_config(level)["root"]["level"] == "WARNING"
