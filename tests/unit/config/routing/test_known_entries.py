"""A reading that keeps entries whose text is unchanged ends as one of the whole file does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllama_pool.config.routing.table import RoutingError, RoutingTable, load

ENVIRONMENT = {"SIZE": "8b", "SLOTS": "4"}
HEAD = "# the models of all teams\nx-common: &common {temperature: 0.7, top_p: 0.9}\nx-small: &small [h100]\n"
TAIL = """\
workers:
  - {url: http://gpu-1:8000, name: gpu-1, tags: [h100]}
keys:
  m3: {sha256: "0000000000000000000000000000000000000000000000000000000000000000", models: [m1, "m2*"]}
"""
ENTRIES = (
    "  m{n}: {{serve: org/served-{n}, aliases: [a{n}], options: {{temperature: 0.7, top_k: 40}}}}\n",
    "  m{n}:\n    serve: org/served-{n}\n    # the old name\n    aliases:\n    - a{n}\n    - 'a{n}:1b'\n\n",
    "  m{n}:\n    serve:\n      - {{model: org/a, workers: {{require: [h100]}}}}\n      - {{model: org/a}}\n",
    "  m{n}:\n    options: {{<<: *common, num_ctx: 8192}}\n    serve: org/served-{n}\n",
    "  m{n}: {{workers: {{require: *small}}, serve: [org/served-{n}, other]}}\n",
    "  m{n}:\n    limits: &limits-{n} {{concurrency: 4}}\n    serve: x\n",
    '  "m{n}*":\n    serve: "org/{{1}}"\n    fallback: [m1]\n',
    "  m{n}:\n    serve: org/served-{n}\n    fallback: {{no_worker: [m1, org/large], context: [m2]}}\n",
    "  m{n}:\n    serve: x\n    system: |+\n      You are\n        helpful.\n\n\n",
    "  m{n}:\n    serve: x\n    system: >\n     Be\n     brief.\n  # the next one\n",
    "  m{n}:\n    serve: x\n    system: Be\n      brief,\n      please.\n",
    '  m{n}:\n    serve: "org/a-\\\n      b"\n    aliases: [a{n},\n    b{n}\n  ]\n',
    "  m{n}:\n    serve: x\n    system: 'two\n\n  lines'\n",
    "  m{n}: {{serve: 'org/${{SIZE}}', timeouts: {{stall: 30s}}}}\n",
    "  m{n}:\n    serve: org/served-{n}\t# after a tab\n",
    '  m{n}:\n    serve: "\\ud83d\\ude00"\n',
    "  m{n}: {{}}\n",
    "  ? m{n}\n  : serve: org/served-{n}\n",
    "  m{n}: {{policy: {{type: session, by: user}}, serve: x}}\n  \n\n#comment\n",
)
PIECES = (
    *(
        "",
        " ",
        "  ",
        "\n",
        "\n\n",
        "  m1:\n",
        "  m9: {}\n",
        "    serve: z\n",
        "    aliases: [m2]\n",
        "models:\n",
        "x-a:\n",
    ),
    *(
        "workers:\n",
        "# note\n",
        "  # note\n",
        "'",
        '"',
        "{",
        "}",
        "[",
        "]",
        ": ",
        "- ",
        "  - a\n",
        "? ",
        "  ? m7\n",
        "|",
        ">",
    ),
    *(
        "&common ",
        "&small ",
        "*common",
        "*small",
        "&limits-1 {}",
        "${SLOTS}",
        "${",
        "\t",
        "\r",
        "\r\n",
        "\x85",
        "\u2028",
    ),
    *(
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "~known-0~",
        "  ~known-0~:\n",
        "  ~known-1~: {}\n",
        "!!str ",
        "0.8",
        "<<: *common\n",
    ),
    *(
        "  system: |\n",
        "    system: |\n",
        "    system: 'it\n",
        'system: "it\n',
        "    fallback: [m2]\n",
        "a2",
        "m2",
        "null",
    ),
)

Edit = tuple[int, int, str | None]
"""The line, lines to take away, and what to put there: a piece, or what was taken away twice (None)."""
Change = tuple[int, int, str]
"""The character, characters to take away, and what to put there."""

entries = st.lists(st.sampled_from(ENTRIES), min_size=1, max_size=8)
edits = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6), st.sampled_from(PIECES) | st.none()), max_size=2)
changes = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 5), st.sampled_from(PIECES)), max_size=1)


def written(parts: list[str]) -> str:
    return HEAD + "models:\n" + "".join(part.format(n=n) for n, part in enumerate(parts, 1)) + TAIL


def edited(text: str, edits: list[Edit], changes: list[Change]) -> str:
    for line, count, piece in edits:
        lines = text.splitlines(keepends=True)
        taken = lines[line : line + count]
        text = "".join([*lines[:line], *(taken * 2 if piece is None else [piece]), *lines[line + count :]])
    for start, count, piece in changes:
        text = text[:start] + piece + text[start + count :]
    return text


def outcome(file: Path, previous: RoutingTable | None) -> tuple[RoutingTable | None, Any]:
    """Return the table, and all that can be seen of it or of the error."""
    try:
        table = load(file, ENVIRONMENT, previous=previous)
    except RoutingError as error:
        return None, (str(error), error.problems, error.files, error.patterns, error.revision)
    order, places = list(table.models), list(table.places.items())
    return table, (table.entries, order, places, table.revision, table.files, table.patterns)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def assert_same(file: Path, texts: list[str]) -> None:
    """Save texts one after the other. Each is read with what is known of the one before, and without."""
    previous: RoutingTable | None = None
    for text in texts:
        file.write_text(text, newline="")
        table, found = outcome(file, previous)
        assert found == outcome(file, None)[1]
        previous = table or previous


@pytest.mark.parametrize("part", ENTRIES)
def test_each_generated_entry_is_valid(tmp_path: Path, part: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(written([ENTRIES[0], ENTRIES[0], part]), newline="")
    assert len(load(file, ENVIRONMENT).models) == 3


@given(entries, st.lists(st.tuples(edits, changes), min_size=1, max_size=3))
@example([ENTRIES[0]] * 3, [([(4, 1, '  m1: {serve: "x\n'), (6, 1, '  c": {}\n')], [])])
@example([ENTRIES[3]] * 3, [([(1, 1, "x-common: &common {temperature: 0.1}\n")], [])])
@example([ENTRIES[3]] * 3, [([(0, 0, "# one more line\n")], [])])
def test_edited_files_are_read_as_without_what_is_known(
    parts: list[str], steps: list[tuple[list[Edit], list[Change]]]
) -> None:
    texts = [written(parts)]
    for lines, characters in steps:
        texts.append(edited(texts[-1], lines, characters))
    with folder() as path:
        assert_same(path / "r.yaml", texts)


@given(entries, entries, st.randoms(use_true_random=False))
def test_entries_that_are_added_removed_and_moved_are_read_as_without_what_is_known(
    parts: list[str], others: list[str], rng: Any
) -> None:
    named = [part.format(n=n) for n, part in enumerate([*parts, *others], 1)]
    texts = []
    for _ in range(3):
        chosen = rng.sample(named, rng.randint(1, len(named)))
        sections = [HEAD, "models:\n" + "".join(chosen), TAIL]
        texts.append("".join(sections))
    with folder() as path:
        assert_same(path / "r.yaml", texts)


@given(entries, entries, edits, st.integers(0, 1))
def test_edited_includes_are_read_as_without_what_is_known(
    parts: list[str], others: list[str], lines: list[Edit], which: int
) -> None:
    second = HEAD + "models:\n" + "".join(part.format(n=n) for n, part in enumerate(others, 20))
    texts = ["include: [more.yaml]\n" + written(parts), second]
    with folder() as path:
        files = [path / "r.yaml", path / "more.yaml"]
        for file, text in zip(files, texts, strict=True):
            file.write_text(text, newline="")
        table, found = outcome(files[0], None)
        files[which].write_text(edited(texts[which], lines, []), newline="")
        _, found = outcome(files[0], table)
        assert found == outcome(files[0], None)[1]


PLAIN = "  m2: {serve: y}\n"
PAIRS = {
    "entries become a part of a text in quotes": (
        ["  m1: {serve: x}\n", PLAIN, "  m3: {serve: z}\n"],
        ['  m1: {serve: "x\n', PLAIN, '  z"}\n'],
    ),
    "entries become a part of a block of text": (
        ["  m1: {serve: x}\n", PLAIN, "  m3: {serve: z}\n"],
        ["  m1: {serve: x, system:\n", PLAIN, "  z}\n"],
    ),
    "an anchor of another entry changes": (
        ["  m1: {limits: &a {concurrency: 4}}\n", "  m2: {limits: *a}\n", PLAIN.replace("m2", "m3")],
        ["  m1: {limits: &a {concurrency: 5}}\n", "  m2: {limits: *a}\n", PLAIN.replace("m2", "m3")],
    ),
    "an anchor of another entry is set twice": (
        ["  m1: {limits: &a {concurrency: 4}}\n", PLAIN, "  m3: {}\n"],
        ["  m1: {limits: &a {concurrency: 4}}\n", PLAIN, "  m3: {limits: &a {concurrency: 5}}\n"],
    ),
    "the name of another entry is written twice": (
        [PLAIN, "  m3: {serve: z}\n"],
        [PLAIN, "  m2: {serve: z}\n"],
    ),
    "the last entry goes on at the left margin": (
        ["  m1: {serve: x}\n", '  m2: {serve: "a\nworkers: [] #x"}\n'],
        ["  m1: {serve: z}\n", '  m2: {serve: "a\nworkers: [] #x"}\n'],
    ),
    "the models become another section": (
        ["  m1: {}\n", "  m2: {}\n"],
        ["x-old:\n", "  m1: {}\n", "  m2: {}\n"],
    ),
    "a mark of our own is written": (
        ["  m1: {serve: x}\n", PLAIN, "  m3: {serve: z}\n"],
        ["  m1: {serve: x}\n", "  ~known-0~:\n", PLAIN, "  m3: {serve: z}\n"],
    ),
}


@pytest.mark.parametrize(("before", "after"), PAIRS.values(), ids=PAIRS)
def test_what_is_around_an_unchanged_text_counts(tmp_path: Path, before: list[str], after: list[str]) -> None:
    assert_same(tmp_path / "r.yaml", ["models:\n" + "".join(before), "models:\n" + "".join(after)])


def test_entries_with_variables_follow_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("models:\n  m1: {serve: 'org/${SIZE}'}\n  m2: {}\n  m3: {}\n")
    first = load(file, {"SIZE": "8b"})
    assert load(file, {"SIZE": "70b"}, previous=first).models["m1"].serve == "org/70b"


CHANGED: dict[str, Callable[[str], str]] = {
    "a changed entry": lambda text: text.replace("org/served-3", "org/other"),
    "an entry more": lambda text: text.replace("models:\n", "models:\n  new: {serve: x}\n"),
    "a comment more": lambda text: "# one more\n" + text,
    "another section": lambda text: text.replace("gpu-1", "gpu-2"),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_entries_with_the_same_text_are_kept(tmp_path: Path, change: Callable[[str], str]) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(written([ENTRIES[0], ENTRIES[1], ENTRIES[0], ENTRIES[8], ENTRIES[7], ENTRIES[0]]))
    tables = [load(file)]
    for _ in range(2):
        file.write_text(change(file.read_text()) if len(tables) == 1 else file.read_text() + "# end\n")
        tables.append(load(file, previous=tables[-1]))
    for before, after in pairwise(tables):
        kept = [name for name in before.models if after.models[name] is before.models[name]]
        assert set(kept) >= {"m1", "m2", "m4", "m5"}


def test_entries_with_aliases_are_kept_until_the_anchors_change(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(written([ENTRIES[3]] * 4))
    first = load(file)
    file.write_text(file.read_text().replace("org/served-4", "y"))
    second = load(file, previous=first)
    assert second.models["m1"] is first.models["m1"]
    file.write_text(file.read_text().replace("temperature: 0.7", "temperature: 0.1"))
    third = load(file, previous=second)
    assert third.models["m1"].option_values()["temperature"] == 0.1
