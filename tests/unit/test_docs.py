"""The documents name files that exist, and the README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "deploy/README.md"),
    *("docs/ollama-compatibility.md", "docs/openai-anthropic.md", "docs/performance.md", "docs/checking-routes.md"),
)
FOLDERS = ("", "router/", "workers/", "config/", "router/protocol/")
"""Paths in the prose start at one of these."""
PATH = re.compile(r"`([a-z_]+(?:/[\w.-]+)*/(?:[\w-]+\.(?:py|md|yaml|json))?|(?:[a-z_]+/)+[\w-]+\.(?:py|md|yaml|json))`")
LINK = re.compile(r"\]\(((?!https?:)[^)#]+)\)")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_and_links_lead_to_files_that_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    missing = [path for path in PATH.findall(text) if not any((ROOT / folder / path).exists() for folder in FOLDERS)]
    missing += [link for link in LINK.findall(text) if not ((ROOT / document).parent / link).exists()]
    assert not missing


def test_the_readme_has_fewer_than_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
