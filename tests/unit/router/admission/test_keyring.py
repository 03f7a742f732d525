"""Grants of the keys in the settings and in the routing file, and what survives a reload."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.keys import key
from tests.support.tables import routing_table
from vllama_pool.config.api_keys import digest
from vllama_pool.config.routing.table import RoutingError, RoutingTable
from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.admission.grant import Grant
from vllama_pool.router.admission.keyring import Keyring, KeyTable
from vllama_pool.router.errors import TooManyRequests
from vllama_pool.router.telemetry.usage import UsageByKey


def keyring(usage: UsageByKey | None = None, **settings: Any) -> Keyring:
    return Keyring(RouterSettings.model_construct(**settings), usage or UsageByKey())


def table(*names: str, teams: dict[str, Any] | None = None, **key: Any) -> RoutingTable:
    keys = {name: {"sha256": digest(f"{name}s-key").hex(), **key} for name in names}
    return routing_table(keys=keys, teams=teams or {})


def use(ring: Keyring, each: RoutingTable) -> KeyTable:
    keys = ring.read(each, lambda name: ())
    ring.use(keys)
    return keys


def by_name(ring: Keyring, each: RoutingTable) -> dict[str, Grant]:
    grants = use(ring, each).grants
    for secret, grant in grants.items():
        assert secret == digest(f"{grant.name}s-key")
    return {grant.name: grant for grant in grants.values()}


def test_keys_of_the_settings_and_of_the_file_are_granted_together() -> None:
    found = by_name(keyring(api_keys=(key("anna"),)), table("bob", teams={"blue": {}}, team="blue"))
    assert {name: grant.team for name, grant in found.items()} == {"anna": "", "bob": "blue"}
    assert all(grant.rights is None for grant in found.values())


def test_a_key_may_use_what_both_it_and_its_team_allow() -> None:
    found = by_name(keyring(), table("anna", teams={"blue": {"models": ["a", "b"]}}, team="blue", models=["b", "c"]))
    rights = found["anna"].rights
    assert rights is not None
    assert [name for name in "abcd" if rights.allows(name)] == ["b"]


@pytest.mark.parametrize(
    ("team", "models"), [({"models": ["a"]}, {}), ({}, {"models": ["a"]}), ({"models": ["a"]}, {"models": ["*"]})]
)
def test_a_missing_list_allows_all_models(team: dict[str, Any], models: dict[str, Any]) -> None:
    rights = by_name(keyring(), table("anna", teams={"blue": team}, team="blue", **models))["anna"].rights
    assert rights is not None
    assert rights.allows("a")
    assert not rights.allows("b")


def test_keys_with_the_same_models_share_their_rights() -> None:
    found = by_name(keyring(), table("anna", "bob", teams={"blue": {"models": ["a"]}}, team="blue"))
    assert found["anna"].rights is found["bob"].rights


def test_a_reload_adds_and_removes_keys_and_keeps_what_they_have_used() -> None:
    ring = keyring()
    first = by_name(ring, table("anna", "bob"))
    first["anna"].usage.requests = 3
    second = by_name(ring, table("anna", "carol"))
    assert sorted(second) == ["anna", "carol"]
    assert second["anna"].usage.requests == 3
    assert by_name(ring, table("bob"))["bob"].usage is first["bob"].usage


def test_a_reload_does_not_remove_the_last_key() -> None:
    """A file without `keys` may be a half-written one, which would open the router to everybody."""
    ring = keyring()
    use(ring, table())
    use(ring, table("anna"))
    with pytest.raises(RoutingError, match="has no key"):
        use(ring, table())
    use(ring, table("bob"))


@pytest.mark.parametrize("settings", [{"allow_anonymous": True}, {"api_keys": (key("ci"),)}])
def test_a_reload_removes_the_last_key_of_the_file_if_that_opens_nothing(settings: dict[str, Any]) -> None:
    ring = keyring(**settings)
    use(ring, table("anna"))
    use(ring, table())


def test_a_router_on_a_public_address_does_not_start_without_a_key() -> None:
    with pytest.raises(RoutingError, match="has no key"):
        use(keyring(host="0.0.0.0"), table())
    use(keyring(host="0.0.0.0"), table("anna"))
    use(keyring(host="0.0.0.0", allow_anonymous=True), table())


def limits(each: Grant) -> list[int | None]:
    return [cap.limits.places for cap in each.caps]


@pytest.mark.parametrize(("processes", "team", "own"), [(1, 8, 3), (2, 4, 2), (16, 1, 1)])
def test_limits_of_team_and_key_are_shared_by_the_router_processes(processes: int, team: int, own: int) -> None:
    ring = Keyring(RouterSettings.model_construct(), UsageByKey(), processes)
    teams = {"blue": {"limits": {"concurrency": 8}}}
    found = by_name(ring, table("anna", "bob", teams=teams, team="blue", limits={"concurrency": 3}))
    assert limits(found["anna"]) == limits(found["bob"]) == [team, own]
    assert found["anna"].caps[0] is found["bob"].caps[0]
    assert found["anna"].caps[1] is not found["bob"].caps[1]


def test_a_reload_changes_limits_and_keeps_what_is_in_progress() -> None:
    ring = keyring()
    cap = by_name(ring, table("anna", limits={"concurrency": 1}))["anna"].caps[0]
    ticket = cap.enter()
    with pytest.raises(TooManyRequests):
        cap.enter()
    raised = by_name(ring, table("anna", limits={"concurrency": 2}))["anna"].caps
    assert raised == (cap,)
    cap.enter()
    assert by_name(ring, table("anna"))["anna"].caps == ()
    ticket.end()
    lowered = by_name(ring, table("anna", limits={"concurrency": 1}))["anna"].caps[0]
    assert lowered.in_progress == 1
    with pytest.raises(TooManyRequests):
        lowered.enter()


def test_a_table_that_is_only_read_changes_nothing() -> None:
    ring = keyring()
    cap = by_name(ring, table("anna", limits={"concurrency": 1}))["anna"].caps[0]
    ring.read(table("anna", limits={"concurrency": 9}), lambda name: ())
    assert cap.limits.places == 1


@pytest.mark.parametrize(("team", "own", "effective"), [(8, 3, 3), (3, 8, 3), (None, 8, 8), (8, None, 8)])
def test_the_smaller_limit_on_answers_of_key_and_team_counts(team: int | None, own: int | None, effective: int) -> None:
    found = by_name(
        keyring(),
        table("anna", "bob", teams={"blue": {"limits": {"output": team}}}, team="blue", limits={"output": own}),
    )
    assert found["anna"].output is found["bob"].output is not None
    assert found["anna"].output.tokens == effective


def test_a_key_without_limits_has_none() -> None:
    found = by_name(keyring(api_keys=(key("ci"),)), table("anna", limits={"concurrency": 1}))
    assert found["anna"].output is found["ci"].output is None
    assert found["ci"].caps == ()


def test_keys_of_a_team_are_one_tenant_and_other_keys_are_their_own() -> None:
    keys = {name: {"sha256": digest(f"{name}s-key").hex()} for name in ("anna", "bob", "carol")}
    keys["anna"]["team"] = keys["bob"]["team"] = "blue"
    each = routing_table(keys={**keys, "carol": {**keys["carol"], "weight": 5}}, teams={"blue": {"weight": 3}})
    found = {name: grant.tenant for name, grant in by_name(keyring(api_keys=(key("ci"),)), each).items()}
    assert found["anna"] is found["bob"]
    assert {name: (tenant.id, tenant.weight) for name, tenant in found.items() if tenant is not None} == {
        "anna": (("team", "blue"), 3),
        "bob": (("team", "blue"), 3),
        "carol": (("key", "carol"), 5),
        "ci": (("key", "ci"), 1),
    }


def test_a_reload_changes_the_weight_of_a_tenant_whose_requests_wait() -> None:
    ring = keyring()
    tenant = by_name(ring, table("anna", weight=2))["anna"].tenant
    assert tenant is not None
    ring.read(table("anna", weight=9), lambda name: ())
    assert tenant.weight == 2
    assert by_name(ring, table("anna", weight=9))["anna"].tenant is tenant
    assert tenant.weight == 9
    by_name(ring, table("bob"))
    assert tenant.weight == 1
