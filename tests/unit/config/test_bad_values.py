"""Bad values of numbers and durations: each is one line with the variable, the value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from pydantic import ValidationError

from vllama_pool.config.environment import values_for
from vllama_pool.config.ollama_env import warnings
from vllama_pool.config.settings import RouterSettings, error_lines

YEAR_AND_MORE = "9999h"
ENDLESS = "9" * 400
NO_DURATION = "'{}' is not a duration; write seconds, or a duration such as 30s, 5m or 1h30m"
NO_COUNT = "'{}' is not a whole number from 0 to 10000000; correct it"
TOO_LONG = "'{}' is more than 8760h, a year; write 8760h or less"
NEGATIVE = "'{}' is less than 0; write 0 or more"

UNLIMITED = ("VLLAMA_CLIENT_STALL", "VLLAMA_TOTAL_TIMEOUT", "VLLAMA_HEAD_TIMEOUT", "VLLAMA_BODY_TIMEOUT")
"""0 or less means no limit."""
OR_ZERO = ("VLLAMA_DRAIN_DELAY", "VLLAMA_CANARY", "VLLAMA_REDIS_WAIT")
DURATIONS = (*UNLIMITED, *OR_ZERO)
COUNTS = ("VLLAMA_MAX_CONNECTIONS", "VLLAMA_MAX_CONNECTIONS_PER_CLIENT")
FIELDS = {
    "VLLAMA_CLIENT_STALL": "client_stall",
    "VLLAMA_TOTAL_TIMEOUT": "total_timeout",
    "VLLAMA_HEAD_TIMEOUT": "head_timeout",
    "VLLAMA_BODY_TIMEOUT": "body_timeout",
    "VLLAMA_DRAIN_DELAY": "drain_delay",
    "VLLAMA_CANARY": "canary",
    "VLLAMA_MAX_CONNECTIONS": "max_connections",
    "VLLAMA_MAX_CONNECTIONS_PER_CLIENT": "max_connections_per_client",
    "VLLAMA_MAX_QUEUE": "max_queue",
    "OLLAMA_MAX_QUEUE": "max_queue",
}

BAD = [
    *(
        (name, bad, NO_DURATION)
        for name in DURATIONS
        for bad in ("soon", "5 min", "5x", "s", "1e3", "inf", "nan", "1h30")
    ),
    *((name, YEAR_AND_MORE, TOO_LONG) for name in DURATIONS),
    *((name, bad, NEGATIVE) for name in OR_ZERO for bad in ("-1", "-1ms")),
    *(
        (name, bad, NO_COUNT)
        for name in COUNTS
        for bad in ("-1", "many", "1.5", "10000001", "64k", "1e3", "inf", "0x10")
    ),
    ("VLLAMA_MAX_QUEUE", "-1", "'{}' is not a whole number from 0 to 1000000000; correct it"),
    ("VLLAMA_MAX_QUEUE", "512 requests", "'{}' is not a whole number from 0 to 1000000000; correct it"),
    ("VLLAMA_POISON_TIME", "0", "'{}' is not more than 0; write more than 0"),
    ("VLLAMA_BODY_LIMIT", "5GiB", "'{}' is more than 4294967296; write 4294967296 or less"),
]


def settings(environ: Mapping[str, str]) -> RouterSettings:
    return RouterSettings(**values_for(RouterSettings, environ))


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_a_bad_value_is_one_line_with_its_variable_and_what_is_allowed(name: str, value: str, message: str) -> None:
    environ = {name: value}
    with pytest.raises(ValidationError) as raised:
        settings(environ)
    assert error_lines(raised.value, environ) == [f"{name}: {message.format(value)}"]


@pytest.mark.parametrize("name", [*DURATIONS, *COUNTS])
def test_an_endless_number_is_refused_and_shown_in_part(name: str) -> None:
    environ = {name: ENDLESS}
    with pytest.raises(ValidationError) as raised:
        settings(environ)
    (line,) = error_lines(raised.value, environ)
    assert line.startswith(f"{name}: '99999")
    assert len(line) < 160


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", ["", " ", "''"])
def test_an_empty_value_counts_as_unset(name: str, value: str) -> None:
    field = FIELDS[name]
    assert getattr(settings({name: value}), field) == RouterSettings.model_fields[field].default


@pytest.mark.parametrize("name", UNLIMITED)
@pytest.mark.parametrize("value", ["0", "-1", "-5m"])
def test_a_time_limit_of_zero_or_less_is_none(name: str, value: str) -> None:
    assert getattr(settings({name: value}), FIELDS[name]) == math.inf


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "9999999999", "1e3", "0x10"])
def test_a_bad_queue_length_of_ollamas_is_ignored_with_a_line_that_names_it(value: str) -> None:
    environ = {"OLLAMA_MAX_QUEUE": value}
    assert settings(environ).max_queue == 512
    assert warnings(environ) == [
        f"OLLAMA_MAX_QUEUE: '{value}' is not a whole number from 0 to 999999999: the default applies, as in Ollama"
    ]
