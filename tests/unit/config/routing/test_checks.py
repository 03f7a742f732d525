"""Conflicts between the entries of a routing file."""

import pytest

from vllama_pool.config.routing.checks import find_conflicts
from vllama_pool.config.routing.yaml_document import parse


def conflicts(text: str) -> list[str]:
    document = parse(text.encode(), "f.yaml")
    assert document.problems == []
    return [str(problem) for problem in find_conflicts(document)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "models: {x: {serve: [a, {model: A}]}}\n",
            "f.yaml:1:33: models.x.serve[1].model: 'A' is listed twice, first in line 1; give it one weight",
        ),
        (
            "models:\n  llama3: {serve: a}\n  LLAMA3:latest: {serve: b}\n",
            "f.yaml:3:3: models.LLAMA3:latest: the same model name as 'llama3' in line 2; keep one of them",
        ),
        (
            "models:\n  x: {serve: a, aliases: [X:latest]}\n",
            "f.yaml:2:27: models.x.aliases[0]: 'X:latest' is the model's own name, in line 2; remove it",
        ),
        (
            "models:\n  x: {serve: a, aliases: [y, Y]}\n",
            "f.yaml:2:30: models.x.aliases[1]: the same alias as 'y' in line 2; remove it",
        ),
        (
            "models:\n  x: {serve: a, aliases: [y]}\n  y: {serve: b}\n",
            "f.yaml:2:27: models.x.aliases[0]: 'y' already stands for 'y' in line 3; keep one of them",
        ),
        (
            "models:\n  x: {serve: a, aliases: [z]}\n  y:\n    serve: b\n    aliases: [z]\n",
            "f.yaml:5:15: models.y.aliases[0]: 'z' already stands for 'x' in line 2; keep one of them",
        ),
        (
            "models:\n  x: {serve: a}\n  y: {serve: X}\n",
            "f.yaml:3:14: models.y.serve: 'X' is another entry, in line 2; write what workers serve, such as 'a', "
            "or make 'y' an alias of it",
        ),
        (
            "workers:\n  - url: http://a:80\n  - url: HTTP://A/\n",
            "f.yaml:3:10: workers[1].url: the same url as in line 2; keep one of them",
        ),
        (
            "workers:\n  - {url: 'http://a', name: n}\n  - {url: 'http://b', name: n}\n",
            "f.yaml:3:29: workers[1].name: the same name as in line 2; keep one of them",
        ),
    ],
)
def test_a_conflict_names_both_lines(text: str, line: str) -> None:
    assert conflicts(text) == [line]


def test_entries_that_serve_each_other_are_each_refused() -> None:
    lines = conflicts("models:\n  a: {serve: b}\n  b: {serve: c}\n  c: {serve: a}\n")
    assert [line.partition(" is another entry")[0] for line in lines] == [
        "f.yaml:2:14: models.a.serve: 'b'",
        "f.yaml:3:14: models.b.serve: 'c'",
        "f.yaml:4:14: models.c.serve: 'a'",
    ]


@pytest.mark.parametrize("entry", ["{options: {seed: 1}}", "{serve: B:latest}", "{serve: [x, {model: b}]}"])
def test_an_entry_that_serves_its_own_name_may_be_served_by_others(entry: str) -> None:
    assert conflicts(f"models:\n  a: {{serve: [b, c]}}\n  b: {entry}\n") == []


def test_a_weighted_target_that_is_another_entry_is_reported_at_its_model() -> None:
    (line,) = conflicts("models:\n  a: {serve: [x, {model: b, weight: 2}]}\n  b: {serve: [y]}\n")
    assert line.startswith("f.yaml:2:26: models.a.serve[1].model: 'b' is another entry, in line 3; ")
    assert "such as 'y'" in line


@pytest.mark.parametrize(
    "text",
    [
        "models: [x]\nworkers: {url: a}\n",
        "models: {x: 1, y: [], z: {serve: 3, aliases: a}}\n",
        "models: {x: {serve: [1, [], {model: 2}], aliases: [1, {}]}}\nworkers: [1, {url: 2, name: []}]\n",
    ],
)
def test_values_of_wrong_types_are_skipped(text: str) -> None:
    assert conflicts(text) == []


def test_two_workers_with_the_same_invalid_url_conflict() -> None:
    (line,) = conflicts("workers:\n  - url: ftp://a\n  - url: ftp://a\n")
    assert line == "f.yaml:3:10: workers[1].url: the same url as in line 2; keep one of them"


def test_different_workers_and_models_do_not_conflict() -> None:
    text = "models: {a: {serve: m, aliases: [b]}, c: {serve: m}}\nworkers: [{url: 'http://x'}, {url: 'http://y'}]\n"
    assert conflicts(text) == []
