"""Headers of the client's response and of the request to a worker."""

from __future__ import annotations

import pytest

from vllama_pool.router.proxy.headers import JSON, response_headers, upstream_headers


def test_caches_do_not_keep_a_stream_of_events() -> None:
    assert response_headers("text/event-stream") == (
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-cache"),
    )


@pytest.mark.parametrize("content_type", [JSON, "application/x-ndjson", "text/plain; charset=utf-8"])
def test_other_responses_have_a_content_type_only(content_type: str) -> None:
    assert response_headers(content_type) == ((b"content-type", content_type.encode()),)


def test_workers_are_asked_for_events() -> None:
    assert upstream_headers("multipart/form-data") == (
        ("content-type", "multipart/form-data"),
        ("accept", "text/event-stream"),
    )
