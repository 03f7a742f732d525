"""Conflicts among the API keys of a routing file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from vllama_pool.config.routing.entries import mapping_of, texts_under
from vllama_pool.config.routing.places import Problem, dotted
from vllama_pool.config.routing.yaml_document import Document


def find_key_conflicts(document: Document) -> Iterator[Problem]:
    """Find keys with the same secret, teams that do not exist, and weights without an effect."""
    owners: dict[str, Any] = {}
    for path, digest in texts_under(document, "keys", "sha256"):
        place = document.value_place(path)
        owner, first = owners.setdefault(digest.lower(), (path[1], place))
        if owner != path[1]:
            message = f"the same key as '{owner}' in {first.beside(place)}; give each its own"
            yield Problem(place, dotted(path), message)
    teams = mapping_of(document.value.get("teams"))
    for path, team in texts_under(document, "keys", "team"):
        if team not in teams:
            yield Problem(document.value_place(path), dotted(path), _unknown_team(team, teams))
    for name, key in mapping_of(document.value.get("keys")).items():
        holder, weighed = mapping_of(key).get("team"), ("keys", name, "weight")
        if isinstance(holder, str) and "weight" in key:
            message = f"the team '{holder}' has the weight of its keys; remove this one, or move it to the team"
            yield Problem(document.key_place(weighed), dotted(weighed), message)


def _unknown_team(team: str, teams: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(team, teams, n=1)
    cure = f"did you mean '{near[0]}'?" if near else "add it under teams, or remove it"
    return f"'{team}' is not a team; {cure}"
