"""API keys and teams of a routing file, among themselves and against VLLAMA_API_KEYS."""

from __future__ import annotations

import pytest

from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.config.routing.key_checks import check_keys
from vllama_pool.config.routing.table import RoutingError, RoutingTable, parse

ANNA, BOB = digest("annas-key").hex(), digest("bobs-key").hex()
FILE = f"""
teams:
  blue: {{models: [tiny, "org/*"]}}
keys:
  anna: {{sha256: {ANNA}, team: blue}}
  bob: {{sha256: {BOB.upper()}, models: []}}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(RoutingError) as raised:
        parse(text.encode(), "f.yaml")
    return str(raised.value).splitlines()


def test_keys_and_teams_are_read() -> None:
    entries = parse(FILE.encode()).entries
    assert entries.keys is not None
    assert entries.teams is not None
    assert (entries.keys["anna"].sha256, entries.keys["anna"].team, entries.keys["anna"].models) == (ANNA, "blue", None)
    assert (entries.keys["bob"].sha256, entries.keys["bob"].models) == (BOB, ())
    assert entries.teams["blue"].models == ("tiny", "org/*")


def test_a_secret_has_one_name() -> None:
    text = f"keys:\n  anna: {{sha256: {ANNA}}}\n  bob: {{sha256: {ANNA.upper()}}}"
    assert problems(text) == ["f.yaml:3:17: keys.bob.sha256: the same key as 'anna' in line 2; give each its own"]


@pytest.mark.parametrize(
    ("team", "cure"), [("blu", "did you mean 'blue'?"), ("green", "add it under teams, or remove it")]
)
def test_a_team_must_exist(team: str, cure: str) -> None:
    (problem,) = problems(FILE.replace("team: blue", f"team: {team}"))
    assert problem.startswith("f.yaml:5:")
    assert problem.endswith(f" keys.anna.team: '{team}' is not a team; {cure}")


@pytest.mark.parametrize("text", ["plain secret", "abc", ANNA[:-1], f"{ANNA}0"])
def test_a_digest_that_is_no_sha256_is_refused_without_being_shown(text: str) -> None:
    (problem,) = problems(f"keys: {{anna: {{sha256: {text}}}}}")
    assert "is not a SHA-256 of 64 hex digits" in problem
    assert text not in problem


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (ApiKey("anna", digest("x")), "keys.anna: VLLAMA_API_KEYS has a key of this name, too; rename or remove one"),
        (ApiKey("eve", bytes.fromhex(BOB)), "keys.bob: the same key as 'eve' of VLLAMA_API_KEYS; remove one"),
    ],
)
def test_a_key_in_the_file_and_in_the_settings_is_refused_with_its_place(other: ApiKey, message: str) -> None:
    table = parse(FILE.encode(), "f.yaml")
    check_keys(table, [ApiKey("ci", digest("ci"))], required=True)
    with pytest.raises(RoutingError) as raised:
        check_keys(table, [ApiKey("ci", digest("ci")), other], required=False)
    assert str(raised.value) == f"f.yaml:{5 if 'anna' in message else 6}:3: {message}"


def test_a_table_without_keys_is_refused_where_one_is_required() -> None:
    without = parse(b"models: {}", "f.yaml")
    check_keys(without, [], required=False)
    check_keys(without, [ApiKey("ci", digest("ci"))], required=True)
    for table in (without, RoutingTable(), parse(b"keys: {}", "f.yaml")):
        with pytest.raises(RoutingError, match="keys: has no key, so that anyone could use the models; add one "):
            check_keys(table, [], required=True)


def test_weights_of_teams_and_of_keys_without_a_team_are_read() -> None:
    keys = f"{{anna: {{sha256: {ANNA}, team: blue}}, bob: {{sha256: {BOB}, weight: 5}}}}"
    text = f"teams: {{blue: {{weight: 3}}}}\nkeys: {keys}"
    entries = parse(text.encode()).entries
    assert entries.keys is not None
    assert entries.teams is not None
    assert (entries.teams["blue"].weight, entries.keys["bob"].weight, entries.keys["anna"].weight) == (3, 5, 1)


def test_a_key_of_a_team_has_no_weight_of_its_own() -> None:
    text = f"teams: {{blue: {{}}}}\nkeys:\n  anna: {{sha256: {ANNA}, team: blue, weight: 2}}"
    assert problems(text) == [
        "f.yaml:3:96: keys.anna.weight: the team 'blue' has the weight of its keys; remove this one, or move it to the "
        "team"
    ]


@pytest.mark.parametrize("weight", ["0", "-1", "1001", "1.5", "'3'", "yes", "[]", "null"])
def test_a_weight_is_a_whole_number_from_1_to_1000(weight: str) -> None:
    (team,) = problems(f"teams: {{blue: {{weight: {weight}}}}}")
    (key,) = problems(f"keys: {{bob: {{sha256: {BOB}, weight: {weight}}}}}")
    assert " teams.blue.weight: " in team
    assert " keys.bob.weight: " in key
