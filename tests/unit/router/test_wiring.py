"""Decisions about the sources of workers and models: signatures, writes, the save file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from vllama_pool.config import redis_address
from vllama_pool.config.settings import RegistrySettings, RouterSettings
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.instance import RouterInstance
from vllama_pool.router.virtual_models.change_plans import UNSIGNED, WRITES_OFF
from vllama_pool.router.virtual_models.model_signer import SignaturePolicy
from vllama_pool.router.virtual_models.savefile import SaveFile
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.router.wiring import Sources, open_sources, save_file, signature_policy, writes_refusal
from vllama_pool.workers.registry.virtual_model import VirtualModel

REDIS = "redis://10.0.0.1:6379/0"
SECRET = "0123456789abcdef"


def settings(*, model_writes: bool = True, **registry: Any) -> RouterSettings:
    """Make settings without reading the environment."""
    fields = {"redis_url": None, "fleet": "f", "fleet_secret": None, "state_dir": Path("/nowhere"), **registry}
    if fields["fleet_secret"] is not None:
        fields["fleet_secret"] = SecretStr(fields["fleet_secret"])
    if fields["redis_url"] is not None:
        fields["redis_url"] = redis_address.parse(fields["redis_url"])
    return RouterSettings.model_construct(
        registry=RegistrySettings.model_construct(**fields), model_writes=model_writes, worker_key=None
    )


@pytest.mark.parametrize(
    ("registry", "unsigned"),
    [
        ({}, True),
        ({"redis_url": "unix:///run/redis.sock"}, True),
        ({"redis_url": REDIS}, False),
        ({"fleet_secret": SECRET}, False),
        ({"redis_url": REDIS, "fleet_secret": SECRET}, False),
    ],
)
def test_unsigned_records_are_accepted_only_in_a_private_registry_without_a_secret(
    registry: dict[str, str], unsigned: bool
) -> None:
    secret = SECRET.encode() if "fleet_secret" in registry else None
    assert signature_policy(settings(**registry)) == SignaturePolicy("f", secret, unsigned)


@pytest.mark.parametrize(
    ("registry", "model_writes", "refusal"),
    [
        ({}, True, ""),
        ({}, False, WRITES_OFF),
        ({"redis_url": REDIS}, True, UNSIGNED),
        ({"redis_url": REDIS}, False, WRITES_OFF),
        ({"redis_url": REDIS, "fleet_secret": SECRET}, True, ""),
    ],
)
def test_models_may_be_changed_if_the_setting_allows_it_and_the_change_can_be_signed(
    registry: dict[str, str], model_writes: bool, refusal: str
) -> None:
    assert writes_refusal(settings(model_writes=model_writes, **registry)) == refusal


def test_only_the_embedded_registry_has_a_save_file(tmp_path: Path) -> None:
    file = save_file(settings(state_dir=tmp_path))
    assert file is not None
    assert file.path.is_relative_to(tmp_path)
    assert save_file(settings(state_dir=tmp_path, redis_url=REDIS)) is None
    assert save_file(settings(state_dir=tmp_path, redis_url="unix:///run/redis.sock")) is None


async def test_saved_virtual_models_are_loaded_before_the_registry_is_reached(tmp_path: Path) -> None:
    embedded = settings(state_dir=tmp_path)
    saved = save_file(embedded)
    assert isinstance(saved, SaveFile)
    saved.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    assert saved.save([VirtualModel(name="mario:latest", revision=1, base="m:latest")])
    store = ModelStore()
    sources = open_sources(embedded, (), Pool(time.monotonic), store, tuple, RouterInstance())
    await sources.aclose()
    assert [model.name for model in store.live.values()] == ["mario:latest"]


async def test_closing_the_sources_closes_every_client() -> None:
    closed: list[str] = []

    async def control() -> None:
        closed.append("control")

    async def redis() -> None:
        closed.append("redis")

    sources = open_sources(settings(), (), Pool(time.monotonic), ModelStore(), tuple, RouterInstance())
    assert len(sources.closing) == 4
    await sources.aclose()
    await Sources(
        sources.discovery, sources.static, sources.sync, sources.drains, sources.poison, (control, redis)
    ).aclose()
    assert closed == ["control", "redis"]
