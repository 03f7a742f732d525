"""Files that are almost good: they load, or end in messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.config.routing.table import RoutingError, parse

GOOD = """\
x-common: &common {temperature: 0.7, stop: ["</s>", '${STOP:-x}']}
models:
  llama3.2:
    serve: [meta-llama/Llama-3.2-1B, {model: "other/model", weight: 3, workers: {require: [h100]}}]
    aliases: [llama3.2:1b, "llama3:latest"]
    options: {<<: *common, num_predict: 1024, min_p: 1e-3}
    system: |
      You are a
      helpful assistant.
    policy: {type: session, by: header:X-Team}
    fallback: {overloaded: [small], error: [small, "x:1"]}
    limits: &limits {concurrency: 4, wait: 20s}
    timeouts: {stall: 1m30s}
  'qwen*':
    serve: Qwen/Qwen{1}
    limits: *limits
    shadow: {model: small, share: .5}
workers:
  - url: http://${HOST:-gpu}:8000   # a comment
    slots: ${SLOTS}
    tags: [a100, fast]
maintenance: [{workers: [gpu-5], message: 'back soon'}]
teams: {blue: {models: [qwen*], weight: 2}}
keys: {anna: {sha256: "0000000000000000000000000000000000000000000000000000000000000000", team: blue}}
reload: {orphans: allow}
"""
PIECES = [
    "\t",
    " ",
    "\n",
    "  ",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a ",
    "*a",
    "*common",
    "<<: ",
    "!!int ",
    "!",
    "|",
    ">",
]
PIECES += [
    "'",
    '"',
    "#",
    "?",
    "? ",
    "%",
    "@",
    "`",
    "\\",
    "\r",
    "\r\n",
    "\0",
    "\ufeff",
    "\u00a0",
    "\u2028",
    "\x85",
    "---\n",
    "...\n",
]
PIECES += [
    "${",
    "${SLOTS}",
    "${NONE}",
    "$${",
    "}",
    "~",
    "null",
    "-1",
    "1e999",
    "0x1F",
    ".nan",
    "9" * 400,
    "\\U00110000",
    "\\ud83d",
    "serve",
    "models:",
    "*",
    "**",
]
changes = st.lists(
    st.tuples(st.integers(0, len(GOOD)), st.integers(0, 30), st.sampled_from(PIECES) | st.just("") | st.just(None)),
    min_size=1,
    max_size=4,
)  # fmt: skip


def changed(edits: list[tuple[int, int, str | None]]) -> str:
    """Replace parts of the good file by a piece, or by a repetition of themselves (None)."""
    text = GOOD
    for start, length, piece in edits:
        part = text[start : start + length]
        text = text[:start] + (part * 2 if piece is None else piece) + text[start + length :]
    return text


def outcome(data: bytes) -> list[str]:
    try:
        parse(data, "f.yaml", {"SLOTS": "8", "HOST": "secret-host"})
    except RoutingError as error:
        return str(error).splitlines()
    return []


def test_the_file_before_its_mutation_has_no_mistakes() -> None:
    assert outcome(GOOD.encode()) == []


@given(changes)
def test_a_changed_file_loads_or_ends_in_messages(edits: list[tuple[int, int, str | None]]) -> None:
    for line in outcome(changed(edits).encode()):
        assert line.startswith("f.yaml:")
        assert ";" in line
        assert "secret-host" not in line


@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.binary(max_size=3)), min_size=1, max_size=3))
def test_changed_bytes_load_or_end_in_messages(edits: list[tuple[int, bytes]]) -> None:
    data = GOOD.encode()
    for start, piece in edits:
        data = data[:start] + piece + data[start + len(piece) :]
    assert all(line.startswith("f.yaml:") for line in outcome(data))


@given(st.integers(0, len(GOOD)))
def test_a_file_that_is_cut_off_loads_or_ends_in_messages(length: int) -> None:
    assert all(line.startswith("f.yaml:") for line in outcome(GOOD.encode()[:length]))
