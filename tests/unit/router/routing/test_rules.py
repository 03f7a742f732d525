"""Compiled rules: which entry a name finds, and the models behind it."""

import itertools
import random
import time
from pathlib import Path

import pytest

from tests.support.tables import routing_table
from vllama_pool.config.names import lookup_key
from vllama_pool.config.routing.table import Place, RoutingTable, load
from vllama_pool.router.routing.rules import Rules

TABLE = routing_table(
    models={
        "llama3*": {"serve": "big-{1}", "aliases": ["short"]},
        "llama3.2": {"serve": "exact", "aliases": ["Small:1b", "llama3-mini"]},
        "*-*": {"serve": ["{2}/{1}", "other"], "fallback": ["plain-{2}"]},
        "*": {"policy": "round-robin"},
    }
)


def served(name: str, rules: Rules | None = None) -> list[str]:
    match = (rules or Rules(TABLE)).find(name)
    assert match is not None
    return [served for _, served in match.served(name)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LLAMA3.2:latest", ["exact"]),
        ("small:1b", ["exact"]),
        ("llama3-mini", ["exact"]),
        ("llama3.3", ["big-.3"]),
        ("Llama3.3:70B", ["big-.3:70b"]),
        ("short", ["big-{1}"]),
        ("x-y-z", ["y-z/x", "other"]),
        ("Anything:1b", ["Anything:1b"]),
    ],
)
def test_exact_names_win_then_the_first_pattern(name: str, expected: list[str]) -> None:
    assert served(name) == expected


def test_a_name_without_a_rule_finds_none() -> None:
    rules = Rules(routing_table(models={"a": {"serve": "b"}}))
    assert rules.find("b") is None
    assert Rules(RoutingTable()).find("") is None


def test_a_rule_knows_its_place() -> None:
    table = RoutingTable(TABLE.entries, {("models", "llama3*"): Place("routing.yaml", 7, 3)})
    match = Rules(table).find("llama3")
    assert match is not None
    assert str(match.rule.place) == "routing.yaml:7"


@pytest.mark.parametrize(
    ("pattern", "entry", "expected"),
    [("a*", {}, True), ("a*", {"serve": "x-{1}"}, True), ("a*", {"serve": "x"}, False), ("a1", {}, False)],
)
def test_only_some_patterns_serve_each_name_by_a_model_of_its_own(
    pattern: str, entry: dict[str, str], expected: bool
) -> None:
    match = Rules(routing_table(models={pattern: entry})).find("a1")
    assert match is not None
    assert match.rule.follows_name is expected


CHAINS = routing_table(
    models={
        "a": {"serve": "x", "fallback": ["b", "C:latest"]},
        "b": {"serve": "x", "fallback": {"no_worker": ["d", "served"], "error": ["c"]}},
        "c": {"serve": "x", "aliases": ["see"], "fallback": ["see-d"]},
        "d": {"serve": "x"},
        "see-*": {"serve": "{1}", "fallback": ["{1}", "last"]},
    }
)


def test_a_chain_has_the_own_fallbacks_first_then_theirs_for_the_same_reason_without_repeats() -> None:
    rules = Rules(CHAINS)
    assert rules.chain("A", "no_worker") == ("b", "C:latest", "d", "served", "see-d", "last")
    assert rules.chain("a", "error") == ("b", "C:latest", "see-d", "d", "last")
    assert rules.chain("b", "context") == ()
    assert rules.chain("served", "error") == ()


def test_a_chain_that_grows_without_end_is_cut() -> None:
    rules = Rules(routing_table(models={"a*": {"fallback": ["a{1}x"]}}))
    assert len(rules.chain("a", "error")) == 20


def test_an_asker_is_needed_where_the_rule_or_a_fallback_reads_traits() -> None:
    split = {"serve": ["x", "y"], "split": "user"}
    rules = Rules(
        routing_table(
            models={
                "split": split,
                "session": {"policy": "session"},
                "plain": {"serve": "x", "fallback": {"error": ["other"]}},
                "falls": {"serve": "x", "fallback": {"context": ["middle"]}},
                "middle": {"serve": "x", "fallback": ["split"]},
            }
        )
    )
    needs = {name: rules.needs_asker(name) for name in ("split", "session", "plain", "falls", "unknown")}
    assert needs == {"split": True, "session": True, "plain": False, "falls": True, "unknown": False}


def test_looking_a_name_up_takes_microseconds_with_thousands_of_entries_and_hundreds_of_patterns() -> None:
    """Bounded for busy machines; `tests.bench.resolution` measures."""
    entries = {f"model-{number}:{number % 7}b": {"serve": f"org/model-{number}"} for number in range(5000)}
    patterns = {f"team-{number}-*": {"serve": f"org/{{1}}-{number}"} for number in range(500)}
    rules = Rules(routing_table(models={**entries, **patterns}))
    names = itertools.count()
    rng = random.Random(1)

    def batch() -> float:
        made = [f"team-{rng.randrange(1000)}-{next(names)}" for _ in range(1000)]
        for name in made:
            lookup_key(name)  # measured apart
        started = time.thread_time()
        for name in made:
            rules.find(name)
        return (time.thread_time() - started) / len(made)

    assert min(batch() for _ in range(5)) < 50e-6


def test_rules_of_entries_that_a_reload_keeps_are_taken_over_with_their_new_places(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    text = "models:\n" + "".join(f"  m{n}: {{serve: s{n}, aliases: [a{n}]}}\n" for n in range(4)) + "  'm*': {}\n"
    file.write_text(text)
    before = load(file)
    file.write_text(text.replace("  m1:", "# a line more\n  m1:").replace("s2", "other"))
    after = load(file, previous=before)
    first, fresh = Rules(before), Rules(after)
    second = Rules(after, first)
    assert [rule.name for rule in second.exact] == [rule.name for rule in fresh.exact]
    assert [rule.place for rule in second.by_name.values()] == [rule.place for rule in fresh.by_name.values()]
    assert [first.by_name[f"m{n}"].place for n in range(4)] == [Place(str(file), n + 2, 3) for n in range(4)]
    for name in ("m0", "a0", "m1:latest", "a2", "m3", "mx", "unknown"):
        assert (second.find(name) is None) == (fresh.find(name) is None)
        if fresh.find(name) is not None:
            assert served(name, second) == served(name, fresh)
    kept = [second.by_name[f"m{n}"].defaults is first.by_name[f"m{n}"].defaults for n in range(4)]
    assert kept == [False, True, False, True]  # a comment belongs to the entry above it
