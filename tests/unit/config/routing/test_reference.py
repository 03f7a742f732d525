"""The reference page and the JSON Schema, which are made from the declaration."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from vllama_pool.config.routing import schema
from vllama_pool.config.routing.editor_schema import VARIABLE, with_variables
from vllama_pool.config.routing.reference import reference

PAGE = Path(__file__).parents[4] / "docs" / "routing-file.md"


def mappings() -> dict[str, dict[str, Any]]:
    root = schema.base_schema()
    return {"": root, **root["$defs"]}


def test_the_page_is_what_the_declaration_makes() -> None:
    assert PAGE.read_text() == reference(), (
        "regenerate it: python -m vllama_pool.config.routing.reference > docs/routing-file.md"
    )


@pytest.mark.parametrize("name", mappings())
def test_each_key_has_a_row_with_a_meaning(name: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    for key in mappings()[name]["properties"]:
        meanings = [meaning for each, _, _, meaning in rows if each == key]
        assert meanings
        assert all(meanings)


def test_all_links_lead_to_a_heading() -> None:
    page = PAGE.read_text()
    headings = re.findall("^#+ (.+)$", page, re.MULTILINE)
    anchors = [re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= set(anchors)


def test_a_value_is_described_with_its_type_bounds_and_default() -> None:
    page = PAGE.read_text()
    assert "| `weight` | whole number, 0 to 10,000 | `1` | Share of the requests, " in page
    assert "| `stall` | duration, such as `20s` or `1h30m`, or seconds |  | " in page
    assert "| `url` | text | required | " in page
    assert "| `options` | [mapping](#modelsnameoptions) |  | " in page


def test_an_editor_accepts_a_variable_for_all_but_plain_texts() -> None:
    kinds = {"n": {"type": "integer", "default": 1}, "t": {"type": "string"}, "e": {"type": "string", "enum": ["a"]}}
    allowed = with_variables({"properties": kinds})["properties"]
    assert allowed["n"] == {"default": 1, "anyOf": [{"type": "integer"}, VARIABLE]}
    assert allowed["t"] == {"type": "string"}
    assert allowed["e"] == {"anyOf": [{"type": "string", "enum": ["a"]}, VARIABLE]}
    assert re.match(VARIABLE["pattern"], "${SLOTS:-8}")
    assert not re.match(VARIABLE["pattern"], "${SLOTS}0")
    assert json.dumps(VARIABLE) in json.dumps(schema.json_schema())
