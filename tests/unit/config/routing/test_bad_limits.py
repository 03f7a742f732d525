"""Bad values under `limits`, `timeouts` and `scale`: each is one line with its place, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllama_pool.config.routing.table import RoutingError, load

COUNTS = {"limits": ("concurrency", "queue", "output", "context")}
DAYS = {"limits": ("wait",), "scale": ("wait", "hold")}
TIMES = {"timeouts": ("connect", "first_content", "stall", "answer", "total")}

NO_COUNT = {
    "-1s": "expected a whole number, got the text '-1s'; correct it",
    "64k": "expected a whole number, got the text '64k'; correct it",
    "''": "expected a whole number, got the text ''; correct it",
    "1.5": "expected a whole number, got the number 1.5; correct it",
    "true": "expected a whole number, got the value true; correct it",
    "[1]": "expected a whole number, got a list; correct it",
    ".inf": "expected a whole number, got no finite number; correct it",
}
NO_DURATION = "'{}' is not a duration; write seconds, or a duration such as 30s, 5m or 1h30m"
NO_TIME = {
    **{text: NO_DURATION.format(text) for text in ("5 min", "5x", "soon", "1_000")},
    "''": NO_DURATION.format(""),
    "-1": "should be greater than 0, got the number -1; write more than 0",
    "0s": "should be greater than 0, got the number 0; write more than 0",
    "{}": "expected a number, got a mapping; correct it",
    "true": "expected a number, got the value true; correct it",
    ".nan": "should be a finite number, got no finite number; write another number",
}
LONGER_THAN_A_DAY = "should be less than or equal to 86400, got the number 90000; write 86400 or less"
LONGER_THAN_MONTHS = "should be less than or equal to 10000000, got the number 3.6e+07; write 10000000 or less"

BAD = [
    *(
        (where, key, text, message)
        for where, keys in COUNTS.items()
        for key in keys
        for text, message in NO_COUNT.items()
    ),
    *(
        (where, key, text, message)
        for kinds in (DAYS, TIMES)
        for where, keys in kinds.items()
        for key in keys
        for text, message in NO_TIME.items()
    ),
    *((where, key, "25h", LONGER_THAN_A_DAY) for where, keys in DAYS.items() for key in keys),
    *((where, key, "10000h", LONGER_THAN_MONTHS) for where, keys in TIMES.items() for key in keys),
]


def problem(folder: Path, text: str) -> str:
    """Return the only problem of a file, without the file's name."""
    file = folder / "routing.yaml"
    file.write_text(text)
    with pytest.raises(RoutingError) as raised:
        load(file, {})
    (line,) = str(raised.value).splitlines()
    return line.removeprefix(f"{file}:")


@pytest.mark.parametrize(("section", "key", "value", "message"), BAD)
def test_a_bad_limit_is_one_line_with_its_key_and_what_is_allowed(
    tmp_path: Path, section: str, key: str, value: str, message: str
) -> None:
    first = "from_zero: true, " if section == "scale" else ""
    line = f"    {section}: {{{first}"
    column = len(line) + len(f"{key}: ") + 1
    text = f"models:\n  m:\n{line}{key}: {value}}}\n"
    assert problem(tmp_path, text) == f"3:{column}: models.m.{section}.{key}: {message}"


@pytest.mark.parametrize("section", ["limits", "timeouts", "scale"])
@pytest.mark.parametrize(
    ("value", "given"), [("5", "the number 5"), ("[]", "a list"), ("off", "the text 'off'"), ("true", "the value true")]
)
def test_a_section_of_limits_is_a_mapping(tmp_path: Path, section: str, value: str, given: str) -> None:
    line = f"    {section}: "
    text = f"models:\n  m:\n{line}{value}\n"
    expected = f"3:{len(line) + 1}: models.m.{section}: expected a mapping, got {given}; correct it"
    assert problem(tmp_path, text) == expected


@pytest.mark.parametrize(("section", "key"), [("limits", "queue"), ("limits", "wait"), ("timeouts", "total")])
def test_an_endless_number_is_refused_and_shown_in_part(tmp_path: Path, section: str, key: str) -> None:
    text = f"models:\n  m:\n    {section}: {{{key}: {'9' * 5000}}}\n"
    line = problem(tmp_path, text)
    assert "is not a usable number; write another" in line
    assert len(line) < 160


def test_places_in_progress_may_wait_for_the_first_worker_without_a_queue(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("models:\n  m: {scale: {from_zero: true}, limits: {queue: 0, concurrency: 4}}\n")
    assert load(file, {}).models["m"].limits is not None
