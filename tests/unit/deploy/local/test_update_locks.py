"""The lock files: hashes everywhere, no package index."""

from __future__ import annotations

import json

import pytest

from deploy.local.setup import LOCKS, NODE_CLIENTS
from deploy.local.update_locks import compile_arguments


@pytest.mark.parametrize("name", compile_arguments(""))
def test_a_lock_has_hashes_and_names_no_package_index(name: str) -> None:
    text = (LOCKS / name).read_text()
    assert text.count("--hash=sha256:") >= text.count("==") > 0
    assert "://" not in text


def test_the_javascript_clients_are_locked_with_hashes_and_without_a_registry() -> None:
    locked = json.loads((NODE_CLIENTS / "package-lock.json").read_text())["packages"]
    required = json.loads((NODE_CLIENTS / "package.json").read_text())["dependencies"]
    assert locked.pop("")["dependencies"] == required
    assert {f"node_modules/{name}" for name in required} <= set(locked)
    for package in locked.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package
