"""The names that an API key may use."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from vllama_pool.config.names import lookup_key
from vllama_pool.router.routing.rights import REMEMBERED_NAMES, NameList, Rights

ENTRIES = (("assistant", "chat", "helper:7b"), ("big",), ("org/coder:30b", "code"))


def names_of(name: str) -> Iterable[str]:
    key = lookup_key(name)
    return next((entry for entry in ENTRIES if key in map(lookup_key, entry)), ())


def rights(*lists: Iterable[str]) -> Rights:
    return Rights(map(NameList, lists), names_of)


@pytest.mark.parametrize(
    "spelling", ["big", "BIG", "big:latest", "library/big", "registry.ollama.ai/library/big:latest"]
)
def test_a_name_is_allowed_in_every_spelling(spelling: str) -> None:
    assert rights(["big"]).allows(spelling)
    assert rights([spelling]).allows("big")
    assert not rights(["big:7b"]).allows(spelling)


@pytest.mark.parametrize("listed", ["assistant", "chat", "helper:7b", "ass*", "c*t", "*:7b"])
@pytest.mark.parametrize("asked", ["assistant", "chat:latest", "HELPER:7b"])
def test_an_entry_is_allowed_under_all_its_names_if_one_is_listed(listed: str, asked: str) -> None:
    assert rights([listed]).allows(asked)
    assert not rights([listed]).allows("big")


def test_both_the_key_and_its_team_must_allow_a_name() -> None:
    both = rights(["chat", "big"], ["assistant", "org/*"])
    assert [name for name in ("assistant", "chat", "big", "code") if both.allows(name)] == ["assistant", "chat"]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*", "anything"),
        ("*", "/models/a path"),
        ("llama3*", "llama3"),
        ("llama3*", "Llama3.2:1b"),
        ("llama3*:1b", "llama3.2:1b"),
        ("Meta-*/*-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        ("*:latest", "llama3"),
        ("*llama*3*", "library/llama-3"),
        ("/models/*", "/models/a"),
        ("library/*", "llama3"),
    ],
)
def test_a_pattern_matches_names_as_they_are_listed(pattern: str, name: str) -> None:
    assert rights([pattern]).allows(name)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("llama3*", "llama2"), ("*:1b", "llama3"), ("aa*aa", "aaa"), ("a*b*c", "acb")],
)
def test_a_pattern_matches_no_other_names(pattern: str, name: str) -> None:
    assert not rights([pattern]).allows(name)


def test_an_empty_list_allows_nothing() -> None:
    assert not rights([]).allows("big")
    assert not rights(["*"], []).allows("big")


def test_answers_are_remembered_for_a_bounded_number_of_names() -> None:
    asked: list[str] = []
    limited = Rights([NameList(["m1"])], lambda name: asked.append(name) or ())
    for _ in range(3):
        assert limited.allows("m1")
        assert not limited.allows("unknown")
    assert asked == ["m1", "unknown"]
    for number in range(REMEMBERED_NAMES):
        limited.allows(f"other{number}")
    limited.allows("m1")
    assert asked.count("m1") == 2


def test_very_long_names_are_not_remembered() -> None:
    asked: list[str] = []
    limited = Rights([NameList(["*"])], lambda name: asked.append(name) or ())
    assert not any(limited.allows("x" * 5000) for _ in range(2))
    assert len(asked) == 2
