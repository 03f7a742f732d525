"""One site for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fleet.forged_records import Trap
from tests.support.fleet.network_namespaces import network
from tests.support.fleet.two_hosts import OUTSIDE_ADDRESS, Site


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with network("front", "b", "c") as (front, b, c):
        b.add_address(OUTSIDE_ADDRESS, front)
        running = Site(front, b, c, tmp_path_factory.mktemp("site"))
        with running.registry(), running.router():
            yield running


@pytest.fixture
def traps(site: Site) -> Iterator[tuple[Trap, Trap]]:
    """One inside the fleet's networks, one outside."""
    both = Trap(site.b, site.b.address), Trap(site.b, OUTSIDE_ADDRESS)
    yield both
    for trap in both:
        trap.close()
