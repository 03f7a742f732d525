"""The description of a model in the catalogue, by the state of its workers."""

from __future__ import annotations

import random

import pytest

from tests.support.balance import DRAINING, READY, RESTARTING, Clock, found, pool_of
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.handlers.catalogue import model_view
from vllama_pool.router.protocol.model_view import ModelView
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of

LONG, SHORT = (ModelInfo(name="m", digest="ab" * 32, context_length=length) for length in (4096, 1024))


def view_of(pool: Pool, name: str = "m", *made: VirtualModel) -> ModelView:
    routes = ModelRoutes(RoutingTable(), random.Random(1), virtual={key_of(model.name): model for model in made})
    listed = routes.find(name, pool)
    assert listed is not None
    return model_view(listed)


@pytest.mark.rule(22)
def test_a_model_is_loaded_while_any_of_its_workers_serves() -> None:
    pool = pool_of(Clock(), found("a", LONG, load=READY), found("b", LONG, load=RESTARTING))
    assert view_of(pool).loaded
    pool.report("a", DRAINING)
    assert not view_of(pool).loaded


def test_a_down_worker_describes_the_model_only_if_no_other_worker_does() -> None:
    pool = pool_of(Clock(), found("a", LONG, load=READY), found("b", SHORT, load=READY))
    assert view_of(pool).merged.info.context_length == 1024
    pool.mark_down("b")
    assert view_of(pool).merged.info.context_length == 4096
    assert view_of(pool).merged.differ == {}
    pool.mark_down("a")
    assert view_of(pool).merged.info.context_length == 1024
    assert not view_of(pool).loaded


def test_a_restarting_worker_keeps_its_model_listed() -> None:
    pool = pool_of(Clock(), found("a", LONG, load=READY), found("b", SHORT, load=RESTARTING))
    assert view_of(pool).merged.differ == {"context_length": [1024, 4096]}


@pytest.mark.rule(174)
def test_a_plain_copy_keeps_the_models_digest_and_a_changed_one_gets_its_own() -> None:
    pool = pool_of(Clock(), found("a", LONG, load=READY))
    copy = VirtualModel(name="copy:latest", revision=1, base="m:latest", changed=5.0)
    mario = VirtualModel(name="mario:latest", revision=1, base="m:latest", system="You are Mario.", changed=7.0)
    served = view_of(pool, "m", copy, mario)
    assert view_of(pool, "copy", copy, mario).digest == served.digest
    made = view_of(pool, "mario", copy, mario)
    assert len({made.digest, served.digest}) == 2
    assert (made.base, made.modified, made.defaults.system) == ("m:latest", 7.0, "You are Mario.")
