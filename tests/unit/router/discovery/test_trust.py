"""Records are checked before anything is contacted; host names are resolved once."""

from __future__ import annotations

import logging
from ipaddress import ip_address, ip_network

import pytest

from vllama_pool.router.discovery.networks import IPAddress
from vllama_pool.router.discovery.trust import Endpoints, RecordChecker, Unresolved
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import WorkerRecord
from vllama_pool.workers.registry.signature import sign_record
from vllama_pool.workers.vllm.trust_store import TrustStore

SECRET = b"fleet secret"
NETWORKS = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


class Names:
    """A resolver that records its queries."""

    def __init__(self, **addresses: list[str]) -> None:
        self.addresses = addresses
        self.queries: list[str] = []

    async def __call__(self, host: str, port: int) -> list[IPAddress]:
        self.queries.append(host)
        if host not in self.addresses:
            raise Unresolved(f"its host {host} cannot be resolved")
        return [ip_address(address) for address in self.addresses[host]]


def record_checker(
    names: Names | None = None,
    *,
    allow_unsigned: bool = False,
    secret: bytes | None = SECRET,
    trust: TrustStore | None = None,
) -> RecordChecker:
    return RecordChecker(
        fleet="f",
        secret=secret,
        allow_unsigned=allow_unsigned,
        networks=NETWORKS,
        endpoints=Endpoints("key", trust),
        resolve=names or Names(),
    )


def signed(url: str, worker_id: str = "a", secret: bytes | None = SECRET) -> bytes:
    return sign_record(WorkerRecord(id=worker_id, generation=1, url=url), fleet="f", secret=secret)


async def test_a_signed_record_inside_the_networks_is_accepted_with_the_workers_key() -> None:
    found = await record_checker().check("a", signed("http://10.0.0.5:8100/vllm"))
    assert found is not None
    assert found.endpoint == Endpoint("10.0.0.5", 8100, "/vllm", None, "Bearer key")


async def test_a_wrong_signature_is_refused_before_its_host_name_is_resolved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = Names(evil=["10.0.0.5"])
    checker = record_checker(names)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await checker.check("a", signed("http://evil:80", secret=b"guess")) is None
    assert names.queries == []
    assert checker.refusals == 1
    assert "signature is wrong" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "url", ["http://11.0.0.5:80", "http://127.0.0.1:80", "http://169.254.169.254", "http://[::1]:80"]
)
async def test_an_address_outside_the_networks_is_refused(url: str, caplog: pytest.LogCaptureFixture) -> None:
    checker = record_checker()
    assert await checker.check("a", signed(url)) is None
    assert "outside the networks" in caplog.text


@pytest.mark.parametrize("url", ["http://me@10.0.0.5", "ftp://10.0.0.5", "http://10.0.0.5:0", "http://10.0.0.5/?a"])
async def test_a_record_with_an_invalid_url_is_refused(url: str) -> None:
    checker = record_checker()
    assert await checker.check("a", signed(url)) is None
    assert checker.refusals == 1


async def test_a_name_is_resolved_once_and_pinned() -> None:
    names = Names(gpu=["10.0.0.7"])
    checker = record_checker(names)
    envelope = signed("http://gpu:8100")
    first = await checker.check("a", envelope)
    names.addresses["gpu"] = ["169.254.169.254"]  # another answer of the name server
    second = await checker.check("a", envelope)
    assert first is not None
    assert first == second
    assert first.endpoint.host == "10.0.0.7"
    assert names.queries == ["gpu"]


async def test_only_an_address_inside_the_networks_is_pinned() -> None:
    found = await record_checker(Names(gpu=["192.0.2.1", "fd00::7"])).check("a", signed("http://gpu:8100"))
    assert found is not None
    assert found.endpoint.host == "fd00::7"
    assert await record_checker(Names(gpu=["192.0.2.1"])).check("a", signed("http://gpu:8100")) is None


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("https", 443)])
async def test_a_pinned_worker_keeps_its_host_name_for_tls(scheme: str, port: int) -> None:
    found = await record_checker(Names(gpu=["192.0.2.1", "10.0.0.7"])).check("a", signed(f"{scheme}://gpu"))
    assert found is not None
    endpoint = found.endpoint
    assert (endpoint.host, endpoint.port, endpoint.server_name) == ("10.0.0.7", port, "gpu")
    assert (endpoint.tls is not None) is (scheme == "https")


async def test_the_first_permitted_https_worker_loads_the_trust_store() -> None:
    trust = TrustStore({})
    checker = record_checker(trust=trust)
    assert await checker.check("a", signed("http://10.0.0.7"))
    assert await checker.check("b", signed("https://192.0.2.1", "b")) is None
    assert not trust.loaded
    found = await checker.check("c", signed("https://10.0.0.7", "c"))
    assert trust.loaded
    assert found is not None
    assert found.endpoint.tls is trust.context


async def test_an_endpoint_by_address_has_no_server_name() -> None:
    found = await record_checker().check("a", signed("https://10.0.0.7"))
    assert found is not None
    assert (found.endpoint.host, found.endpoint.server_name) == ("10.0.0.7", None)


async def test_a_host_name_that_does_not_resolve_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    names = Names()
    checker = record_checker(names)
    envelopes = {"a": signed("http://gpu:8100")}
    assert await checker.check_all(envelopes) == {}
    assert checker.pending
    assert checker.refusals == 0
    assert "gpu cannot be resolved" in caplog.text
    names.addresses["gpu"] = ["10.0.0.7"]
    assert set(await checker.check_all(envelopes)) == {"a"}
    assert not checker.pending


async def test_a_bad_record_does_not_affect_the_others() -> None:
    checker = record_checker()
    found = await checker.check_all({"a": signed("http://10.0.0.5"), "b": b"{}", "c": signed("http://10.0.0.6", "x")})
    assert set(found) == {"a"}
    assert checker.refusals == 2
    assert set(await checker.check_all({"a": signed("http://10.0.0.5")})) == {"a"}


async def test_an_invalid_worker_id_is_refused() -> None:
    checker = record_checker(allow_unsigned=True, secret=None)
    assert await checker.check("static/a", signed("http://10.0.0.5", "static/a", None)) is None
    assert await checker.check("b", signed("http://10.0.0.5", "b", None)) is not None
