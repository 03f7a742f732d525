"""The routing file in an editor: its first line names the schema, by which a YAML language server checks it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.clients.language_server import Editor, editing
from vllama_pool.config.routing.table import DEFAULT_FILE

pytestmark = pytest.mark.clients
EXAMPLES = sorted((path.name, path.read_text()) for path in DEFAULT_FILE.with_name("examples").glob("*.yaml"))
ENTRY = """\
models:
  llama3.2:
    serve: meta-llama/Llama-3.2-1B-Instruct
"""
HEAD = DEFAULT_FILE.read_text().splitlines(keepends=True)[0]


@pytest.fixture
async def editor(tmp_path: Path) -> AsyncIterator[Editor]:
    shutil.copy(DEFAULT_FILE.with_name("routing.schema.json"), tmp_path)
    async with editing(tmp_path / "routing.yaml") as opened:
        yield opened


async def test_an_editor_finds_nothing_in_the_default_file_and_marks_a_typo(editor: Editor) -> None:
    text = DEFAULT_FILE.read_text()
    assert await editor.open(text) == []
    line = text.splitlines().index("models: {}")
    [typo] = await editor.change(text.replace("\nmodels: {}", "\nmodel: {}"))
    assert typo["message"] == "Property model is not allowed."
    assert typo["range"]["start"] == {"line": line, "character": 0}
    assert await editor.change(text, finds=False) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("    polcy: round-robin", "Property polcy is not allowed."),
        ("    policy: fastest", 'Value is not accepted. Valid values: "least-load", "round-robin", "prefix-affinity"'),
        ("    serve: [{modle: a}]", "Incorrect type."),
        ("    options: {temperature: warm}", 'Incorrect type. Expected "number'),
        ("    limits: {output: 0}", "Value is below the minimum of 1."),
        ("    timeouts: {stall: 5 minutes}", 'Incorrect type. Expected "number'),
    ],
)
async def test_an_editor_marks_the_line_of_a_mistake(editor: Editor, line: str, message: str) -> None:
    good = HEAD + "models:\n  llama3.2:\n    aliases: [small]\n"
    assert await editor.open(good) == []
    found = await editor.change(f"{good}{line}\n")
    assert found
    assert {each["range"]["start"]["line"] for each in found} == {4}
    assert any(message in each["message"] for each in found), found


async def test_an_editor_shows_the_description_of_a_key_and_offers_keys(editor: Editor) -> None:
    await editor.open(HEAD + ENTRY + "    \n")
    assert "The model as vLLM serves it" in await editor.hover(3, 6)
    assert {"aliases", "fallback", "policy", "limits"} <= await editor.complete(4, 4)


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
async def test_an_editor_finds_nothing_in_the_examples(tmp_path: Path, name: str, text: str) -> None:
    shutil.copy(DEFAULT_FILE.with_name("routing.schema.json"), tmp_path)
    shutil.copytree(DEFAULT_FILE.with_name("examples"), tmp_path / "examples")
    async with editing(tmp_path / "examples" / name) as editor:
        assert await editor.open(text) == []
        assert await editor.change(text + "\nnope: 1\n"), "the example names the schema"
