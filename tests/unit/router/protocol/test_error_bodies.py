import json

from vllama_pool.router.protocol.error_bodies import error_body


def test_error_bodies_are_in_the_format_of_their_clients() -> None:
    assert error_body("/api/chat", 404, 'no "x"') == b'{"error":"no \\"x\\""}'
    assert error_body("/v1/models/x", 404, "no") == (
        b'{"error":{"message":"no","type":"not_found_error","param":null,"code":null}}'
    )
    assert json.loads(error_body("/v1/models", 400, "no"))["error"]["type"] == "invalid_request_error"
    assert json.loads(error_body("/v1/messages", 429, "no"))["error"]["type"] == "rate_limit_error"
