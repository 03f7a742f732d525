"""Endpoints as keys of the connection pool."""

from vllama_pool.router.upstream.interface import Endpoint


def test_equal_endpoints_are_one_key_and_different_ones_are_not() -> None:
    endpoint = Endpoint("worker", 8100, "/a", None, "Bearer k", "name")
    same = Endpoint("worker", 8100, "/a", None, "Bearer k", "name")
    others = [
        Endpoint("worker", 8101, "/a", None, "Bearer k", "name"),
        Endpoint("worker", 8100, "/a", None, None, "name"),
    ]
    assert (endpoint, hash(endpoint)) == (same, hash(same))
    assert {endpoint: 1}[same] == 1
    assert len({endpoint, same, *others}) == 3
    assert "Bearer" not in repr(endpoint)
