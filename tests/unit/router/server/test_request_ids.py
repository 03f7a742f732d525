"""Request ids, and the response headers that name them."""

import pytest

from vllama_pool.router.server.request_ids import RequestIds, id_headers


@pytest.mark.parametrize("safe", ["a", "A-z_0.9", "x" * 64])
def test_a_safe_request_id_is_kept(safe: str) -> None:
    assert RequestIds().choose(safe.encode()) == safe


@pytest.mark.parametrize("unsafe", [None, "", "x" * 65, "a b", "a\n", "é"])
def test_a_missing_or_unsafe_request_id_is_replaced_by_a_new_one(unsafe: str | None) -> None:
    ids = RequestIds()
    new = {ids.choose(unsafe.encode() if unsafe is not None else None) for _ in range(1000)}
    assert len(new) == 1000
    assert all(ids.choose(known.encode()) == known for known in new)


@pytest.mark.rule(180)
@pytest.mark.parametrize(
    "path", ["/api/chat", "/api/tags", "/", "/health", "/metrics", "/v1", "/v1x/models", "/rerank/x"]
)
def test_ollamas_and_our_own_paths_have_no_id_unless_the_client_sent_one(path: str) -> None:
    assert id_headers(path, "a", sent=False) == ()
    assert id_headers(path, "a", sent=True) == ((b"x-request-id", b"a"),)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messagesx", "/rerank", "/score", "/detokenize"])
def test_openais_paths_have_its_header(path: str) -> None:
    assert id_headers(path, "a", sent=False) == ((b"x-request-id", b"a"),)


@pytest.mark.parametrize(("request_id", "shown"), [("a", b"req_a"), ("req_a", b"req_a")])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/v1/models/org/m"])
def test_anthropics_paths_have_its_header_with_its_prefix(path: str, request_id: str, shown: bytes) -> None:
    headers = id_headers(path, request_id, sent=False)
    assert headers == ((b"x-request-id", request_id.encode()), (b"request-id", shown))
