"""Patterns of model names, alone and among many."""

import random
from fnmatch import fnmatchcase

import pytest

from vllama_pool.config.names import lookup_key
from vllama_pool.config.patterns import Pattern, spellings
from vllama_pool.router.routing.pattern_index import PatternIndex


def captures(pattern: str, name: str) -> tuple[str, ...] | None:
    found = PatternIndex([(pattern, True)]).find(lookup_key(name))
    return None if found is None else found[2]


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("llama3*", "llama3", ("",)),
        ("llama3*", "llama3.2:1b", (".2:1b",)),
        ("llama3*", "LLAMA3.2", (".2",)),
        ("Llama3*", "llama3.2:latest", (".2",)),
        ("llama3*", "library/llama3.2", (".2",)),
        ("llama3*", "registry.ollama.ai/library/llama3.2", (".2",)),
        ("library/llama3*", "llama3", ("",)),
        ("llama3*", "mistral", None),
        ("llama3*", "me/llama3", None),
        ("qwen3:*", "qwen3", ("latest",)),
        ("qwen3:*", "qwen3:8b", ("8b",)),
        ("qwen3:*", "qwen3.5", None),
        ("*:latest", "qwen3", ("qwen3",)),
        ("*:latest", "qwen3:8b", None),
        ("*", "anything/at:all", ("anything/at:all",)),
        ("*", "/models/Llama", ("/models/Llama",)),
        ("team-*/*", "team-red/llama", ("red", "llama")),
        ("*/llama*-chat", "hf.co/me/llama-2-chat", ("hf.co/me", "-2")),
        ("a*b*c", "abbc", ("", "b")),
        ("a*a", "a", None),
        ("a*a", "aa", ("",)),
        ("*aa*aa*", "aaa", None),
        ("llama3*", "llama3:local", ("",)),
        ("llama3*", "llama3:cloud", None),
        ("llama3*", "llama3:8b-cloud", None),
    ],
)
def test_a_pattern_matches_names_by_ollamas_rules(pattern: str, name: str, expected: tuple[str, ...] | None) -> None:
    assert captures(pattern, name) == expected


def test_names_too_long_for_any_model_match_no_pattern() -> None:
    assert captures("*", "x" * 2000) is None


def test_the_first_pattern_in_the_file_wins() -> None:
    index = PatternIndex([("llama*", 1), ("*", 2), ("llama3*", 3), ("*-chat", 4)])
    for name, expected in {"llama3": 1, "qwen-chat": 2}.items():
        found = index.find(lookup_key(name))
        assert found is not None
        assert found[1] == expected
    assert PatternIndex[int]([]).find("x") is None


@pytest.mark.parametrize("seed", range(20))
def test_an_index_finds_what_a_search_in_order_finds(seed: int) -> None:
    rng = random.Random(seed)
    letters = "ab-" if seed % 2 else "alt:"

    def text(longest: int) -> str:
        return "".join(rng.choice(letters) for _ in range(rng.randint(0, longest)))

    patterns = ["*".join(text(4) for _ in range(rng.randint(2, 4))) for _ in range(rng.choice((3, 30, 300)))]
    index = PatternIndex((pattern, number) for number, pattern in enumerate(patterns))
    for _ in range(300):
        name = "a" + text(12)
        key = lookup_key(name)
        expected = next(
            (n for n, each in enumerate(patterns) if any(fnmatchcase(one, each) for one in spellings(key))), None
        )
        found = index.find(key)
        assert (None if found is None else found[1]) == expected
        if found is not None:
            parts = patterns[found[1]].split("*")
            joined = "".join(part + capture for part, capture in zip(parts, (*found[2], ""), strict=True))
            assert joined in spellings(key)


def test_matching_takes_linear_time() -> None:
    """A regular expression of the same pattern would try all ways to divide the name."""
    name = "a" * 1000
    assert Pattern("a*a*a*b").match(name) is None
    assert Pattern("*aaab*aaab*c").match(name) is None
