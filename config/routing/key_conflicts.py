"""Conflicts among the API keys of a routing file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from vllama_pool.config.routing.yaml_document import Document, Problem, dotted


def find_key_conflicts(document: Document) -> list[Problem]:
    """Find keys with the same secret, and teams that do not exist."""
    problems: list[Problem] = []
    keys, teams = _mapping(document.value.get("keys")), _mapping(document.value.get("teams"))
    owners: dict[str, tuple[str, int]] = {}
    for name, key in keys.items():
        digest, team = _mapping(key).get("sha256"), _mapping(key).get("team")
        if isinstance(digest, str):
            path = ("keys", name, "sha256")
            position = document.value_position(path)
            owner, line = owners.setdefault(digest.lower(), (name, position.line))
            if owner != name:
                message = f"the same key as '{owner}' in line {line}; give each its own"
                problems.append(Problem(position.line, position.column, dotted(path), message))
        if isinstance(team, str) and team not in teams:
            path = ("keys", name, "team")
            position = document.value_position(path)
            problems.append(Problem(position.line, position.column, dotted(path), _unknown_team(team, teams)))
    return problems


def _unknown_team(team: str, teams: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(team, teams, n=1)
    cure = f"did you mean '{near[0]}'?" if near else "add it under teams, or remove it"
    return f"'{team}' is no team; {cure}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
