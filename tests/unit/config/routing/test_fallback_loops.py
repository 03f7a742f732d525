"""Loops of fallbacks, and references to the texts of patterns."""

import pytest

from vllama_pool.config.routing.checks import find_conflicts
from vllama_pool.config.routing.fallback_loops import fallback_loops, find_loops
from vllama_pool.config.routing.yaml_document import parse


def loops(text: str) -> list[tuple[int, str]]:
    return [(problem.line, problem.message) for problem in fallback_loops(parse(text.encode(), "f.yaml"))]


def circle(*names: str) -> str:
    return f"the fallbacks lead in a circle: {' -> '.join(names)}; remove one of them"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: {a: {fallback: [b]}, b: {fallback: [c]}, c: {}}", []),
        ("models: {a: {fallback: [a]}}", [(1, "'a' falls back to itself; name another model")]),
        ("models: {a: {fallback: [A:latest]}}", [(1, "'a' falls back to itself; name another model")]),
        ("models: {a: {fallback: [b]}, b: {fallback: [a]}}", [(1, circle("a", "b", "a"))]),
        ("models:\n  a: {fallback: [b]}\n  b: {fallback:\n   [c]}\n  c: {fallback: [b]}", [(5, circle("b", "c", "b"))]),
        ("models: {a: {aliases: [x], fallback: [b]}, b: {fallback: [x]}}", [(1, circle("a", "b", "a"))]),
        ("models: {a: {fallback: {error: [b]}}, b: {fallback: {error: [a]}}}", [(1, circle("a", "b", "a"))]),
        ("models: {a: {fallback: {error: [b]}}, b: {fallback: {context: [a]}}}", []),
        ("models: {a: {fallback: {error: [b]}}, b: {fallback: [a]}}", [(1, circle("a", "b", "a"))]),
        ("models: {llama*: {fallback: [b]}, b: {fallback: [llama3]}}", [(1, circle("llama*", "b", "llama*"))]),
        ("models: {llama*: {fallback: [llama-small]}}", []),
        ("models: {'a-*': {fallback: ['b-{1}']}, 'b-*': {fallback: ['a-{1}']}}", [(1, circle("a-*", "b-*", "a-*"))]),
        ("models: {'*': {fallback: [b]}, b: {serve: x, fallback: [served]}}", [(1, circle("*", "b", "*"))]),
        ("models: {a: {fallback: [b, c]}, b: {fallback: [d]}, c: {fallback: [d]}, d: {}}", []),
        ("models: {a: {fallback: 3}, b: {fallback: [4]}, c: [], d: {fallback: {error: x}}}", []),
        ("models: 3", []),
    ],
)
def test_loops_are_found_over_names_aliases_and_patterns(text: str, expected: list[tuple[int, str]]) -> None:
    assert loops(text) == expected


def test_a_long_chain_is_searched_without_recursion() -> None:
    chain = {str(number): [(str(number + 1), ("at", number))] for number in range(5000)}
    assert list(find_loops(chain)) == []
    chain["5000"] = [("4998", ("at", 5000))]
    assert list(find_loops(chain)) == [(("4998", "4999", "5000", "4998"), ("at", 5000))]


def messages(text: str) -> list[str]:
    problems = find_conflicts(parse(text.encode(), "f.yaml"))
    return [problem.message for problem in problems if "{" in problem.message]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: {'a-*-*': {serve: 'x-{1}-{2}'}}", []),
        ("models: {'a-*': {serve: 'x-{2}'}}", ["{2} stands for a '*' of the entry's name, which has 1 of them"]),
        ("models: {a: {serve: 'x-{1}'}}", ["{1} stands for a '*' of the entry's name, which has none"]),
        ("models: {a: {fallback: ['x-{1}']}}", ["{1} stands for a '*' of the entry's name, which has none"]),
        (
            "models: {'a*': {fallback: {error: ['{3}']}}}",
            ["{3} stands for a '*' of the entry's name, which has 1 of them"],
        ),
        ("models: {a: {serve: ['{x}', {model: '{0}'}]}}", []),
    ],
)
def test_references_without_a_star_are_refused(text: str, expected: list[str]) -> None:
    assert messages(text) == [f"{message}; correct it" for message in expected]


def test_one_model_may_be_listed_once_for_each_sort_of_workers() -> None:
    twice = "models: {a: {serve: [{model: x, workers: {require: [h100]}}, {model: x, workers: {require: [a100]}}]}}"
    assert not [each for each in find_conflicts(parse(twice.encode(), "f.yaml")) if "twice" in each.message]
    same = twice.replace("a100", "h100")
    assert [each for each in find_conflicts(parse(same.encode(), "f.yaml")) if "twice" in each.message]
