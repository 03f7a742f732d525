"""Access control by Host, Origin, API key and client address."""

import hashlib
import json
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from tests.support.asgi import Scope, http_scope
from tests.support.keys import grants
from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.admission.grant import NAMELESS
from vllama_pool.router.server.access import (
    REMEMBERED_DECISIONS,
    REMEMBERED_LENGTH,
    Access,
    AccessDecisions,
    AccessRequest,
    Allowed,
    EarlyResponse,
)
from vllama_pool.router.server.asgi import request_headers
from vllama_pool.router.server.cors import Origins
from vllama_pool.router.server.refusal import Reason

CHAT = AccessRequest("POST", "/api/chat", host="127.0.0.1:11434", client="127.0.0.1")
API_KEYS = (ApiKey("anna", digest("annas-key")), ApiKey("bob", digest("bobs-key")))
KEYS = grants(API_KEYS)
ADMIN = "0123456789abcdef0123"

LOOPBACK = Access(own_names=frozenset({"gpu-5"}))
PUBLIC = Access(check_host=False, keys=KEYS, allow_anonymous=False)


def settings(**fields: Any) -> RouterSettings:
    """Make settings without reading the environment."""
    return RouterSettings.model_construct(**fields)


def refusal(access: Access, request: AccessRequest) -> int:
    decision = access.decide(request)
    assert isinstance(decision, EarlyResponse), decision
    return decision.status


def refused(access: Access, request: AccessRequest) -> Reason:
    """Return the reason of an empty 403."""
    decision = access.decide(request)
    assert isinstance(decision, EarlyResponse), decision
    assert (decision.status, decision.text, decision.headers) == (403, "", ())
    assert decision.refusal is not None
    return decision.refusal.reason


def passes(access: Access, request: AccessRequest) -> Allowed:
    decision = access.decide(request)
    assert isinstance(decision, Allowed), decision
    return decision


# The Host header, R183.


@pytest.mark.rule(183)
@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "localhost",
        "LocalHost:11434",
        "127.0.0.1",
        "127.0.0.1:11434",
        "127.9.9.9:1",
        "[::1]",
        "[::1]:11434",
        "0.0.0.0:11434",
        "10.1.2.3:11434",
        "172.31.0.1",
        "192.168.1.5:80",
        "[fd00::1]:11434",
        "[::ffff:127.0.0.1]:11434",
        "gpu-5:11434",
        "GPU-5",
        "app.localhost",
        "printer.local:11434",
        "host.docker.internal:11434",
    ],
)
def test_host_names_of_this_machine_and_its_network_are_accepted(host: str | None) -> None:
    assert passes(LOOPBACK, CHAT._replace(host=host))


@pytest.mark.rule(164, 183)
@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "evil.com:11434",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "127.0.0.1.nip.io",
        "notlocal",
        "evillocal:11434",
        "8.8.8.8",
        "172.32.0.1",
        "169.254.169.254",
        "[2001:db8::1]:11434",
        "2130706433",
        "0x7f000001",
        "evil.com:localhost",
        "localhost:1:2",
        "localhost@evil.com",
        "gpu-55",
    ],
)
def test_foreign_host_names_get_an_empty_403(host: str) -> None:
    assert refused(LOOPBACK, CHAT._replace(host=host)) == Reason.HOST


@pytest.mark.rule(183)
def test_any_host_is_accepted_on_a_public_address() -> None:
    assert passes(Access(check_host=False), CHAT._replace(host="ollama.example.com"))


@pytest.mark.parametrize(
    ("host", "passing"),
    [
        ("ollama.example.com:443", True),
        ("OLLAMA.example.com", True),
        ("a.lan", True),
        ("a.b.lan", True),
        ("lan", False),
        ("evillan", False),
        ("example.com", False),
        ("127.0.0.1:11434", True),
    ],
)
def test_configured_host_names_are_accepted(host: str, passing: bool) -> None:
    access = Access(allowed_hosts=frozenset({"ollama.example.com", "*.lan"}))
    assert isinstance(access.decide(CHAT._replace(host=host)), Allowed) is passing


@pytest.mark.rule(183)
@pytest.mark.parametrize(
    ("fields", "checked"),
    [
        ({"host": "127.0.0.1"}, True),
        ({"host": "::1"}, True),
        ({"host": "localhost"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "10.0.0.1"}, False),
        ({"host": "0.0.0.0", "allowed_hosts": ("a.example.com",)}, True),
    ],
)
def test_the_host_is_checked_on_loopback_and_if_host_names_are_configured(
    fields: dict[str, Any], checked: bool
) -> None:
    assert Access.from_settings(settings(**fields), {}).check_host is checked


# The Origin header, R181; its rules are in test_cors.py.


@pytest.mark.rule(181)
def test_an_allowed_origin_passes_and_its_response_gets_cors_headers() -> None:
    allowed = passes(LOOPBACK, CHAT._replace(origin="http://localhost:3000"))
    assert allowed.headers == Origins().headers("http://localhost:3000")


@pytest.mark.rule(165, 181)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_unlisted_origins_get_an_empty_403(method: str) -> None:
    assert refused(LOOPBACK, CHAT._replace(origin="https://evil.com", method=method)) == Reason.ORIGIN


@pytest.mark.rule(181, 186)
def test_origins_come_from_the_settings() -> None:
    access = Access.from_settings(settings(origins=("https://*.example.com",)), {})
    assert passes(access, CHAT._replace(origin="https://a.example.com"))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_of_this_server_is_same_origin(scheme: str) -> None:
    access = Access(check_host=False)
    request = CHAT._replace(host="ollama.example.com:8443", origin=f"{scheme}://Ollama.example.com:8443")
    assert passes(access, request).headers == ()
    assert refusal(access, request._replace(origin=f"{scheme}://ollama.example.com:9")) == 403


def test_dns_rebinding_is_refused_by_host_although_the_origin_matches() -> None:
    assert refusal(LOOPBACK, CHAT._replace(host="evil.com:11434", origin="http://evil.com:11434")) == 403


@pytest.mark.rule(181, 182)
def test_a_cors_preflight_needs_no_key() -> None:
    decision = PUBLIC.decide(CHAT._replace(method="OPTIONS", origin="http://localhost:3000"))
    assert decision == EarlyResponse(204, headers=Origins().preflight("http://localhost:3000"))


def test_options_without_an_origin_gets_a_plain_204() -> None:
    assert LOOPBACK.decide(CHAT._replace(method="OPTIONS")) == EarlyResponse(204)
    assert refusal(LOOPBACK, CHAT._replace(method="OPTIONS", host="evil.com")) == 403


def test_a_401_has_the_cors_headers_of_an_allowed_origin() -> None:
    decision = PUBLIC.decide(CHAT._replace(origin="http://localhost:3000"))
    assert isinstance(decision, EarlyResponse)
    assert decision.status == 401
    assert (b"access-control-allow-origin", b"http://localhost:3000") in decision.headers


# Pages of other sites.


@pytest.mark.parametrize(
    ("method", "site", "origin", "passing"),
    [
        ("POST", "cross-site", None, False),
        ("DELETE", "cross-site", None, False),
        ("POST", "cross-site", "http://localhost:3000", True),
        ("POST", "same-site", None, True),
        ("POST", "same-origin", None, True),
        ("POST", "none", None, True),
        ("POST", None, None, True),
        ("GET", "cross-site", None, True),
        ("HEAD", "cross-site", None, True),
    ],
)
def test_a_cross_site_form_post_is_refused(method: str, site: str | None, origin: str | None, passing: bool) -> None:
    request = CHAT._replace(method=method, fetch_site=site, origin=origin)
    assert isinstance(LOOPBACK.decide(request), Allowed) is passing


def test_a_cross_site_form_post_passes_if_any_origin_is_allowed() -> None:
    assert passes(Access(origins=Origins(["*"])), CHAT._replace(fetch_site="cross-site"))


# Keys, R179.


@pytest.mark.rule(179)
@pytest.mark.parametrize(
    "authorization", [None, "Bearer ollama", "Bearer", "Basic eDp5", "whatever", "Bearer annas-key"]
)
def test_without_configured_keys_every_request_is_anonymous(authorization: str | None) -> None:
    assert passes(LOOPBACK, CHAT._replace(authorization=authorization)).key_name == ""


@pytest.mark.parametrize(
    ("authorization", "name"),
    [
        ("Bearer annas-key", "anna"),
        ("bearer bobs-key", "bob"),
        ("Bearer   bobs-key ", "bob"),
    ],
)
def test_a_bearer_key_gives_the_request_the_keys_name(authorization: str, name: str) -> None:
    assert passes(PUBLIC, CHAT._replace(authorization=authorization)).key_name == name


def test_x_api_key_is_accepted_unless_a_bearer_token_is_sent() -> None:
    assert passes(PUBLIC, CHAT._replace(x_api_key="annas-key")).key_name == "anna"
    assert refusal(PUBLIC, CHAT._replace(x_api_key="bobs-key", authorization="Bearer wrong")) == 401


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer annas-key x",
        "Bearer Annas-key",
        "annas-key",
        "Basic YW5uYXMta2V5",
        "Bearer " + hashlib.sha256(b"annas-key").hexdigest(),
        "Bearer " + "x" * 100_000,
        "Bearer \xff",
    ],
)
def test_an_unknown_authorization_gets_401(authorization: str | None) -> None:
    decision = PUBLIC.decide(CHAT._replace(authorization=authorization))
    assert isinstance(decision, EarlyResponse)
    assert (decision.status, decision.text) == (401, "unauthorized")
    assert (b"www-authenticate", b"Bearer") in decision.headers


def test_configured_keys_are_required_on_loopback_too() -> None:
    access = Access.from_settings(settings(), KEYS)
    assert refusal(access, CHAT) == 401
    assert passes(access, CHAT._replace(authorization="Bearer annas-key")).key_name == "anna"


def test_allow_anonymous_lets_requests_without_a_valid_key_pass() -> None:
    access = Access.from_settings(settings(allow_anonymous=True), KEYS)
    assert passes(access, CHAT).key_name == ""
    assert passes(access, CHAT._replace(authorization="Bearer wrong")).key_name == ""
    assert passes(access, CHAT._replace(authorization="Bearer annas-key")).key_name == "anna"


@pytest.mark.parametrize(
    ("method", "path", "open_"),
    [
        ("GET", "/", True),
        ("HEAD", "/", True),
        ("GET", "/health", True),
        ("HEAD", "/health/", True),
        ("POST", "/", False),
        ("GET", "/healthz", False),
        ("GET", "/api/version", False),
        ("GET", "/api/tags", False),
        ("GET", "/nowhere", False),
    ],
)
def test_only_the_health_checks_need_no_key(method: str, path: str, open_: bool) -> None:
    assert isinstance(PUBLIC.decide(AccessRequest(method, path)), Allowed) is open_


NO_KEY = "the request has no API key; send one of this server's as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"error": "unauthorized"}),
        ("/metrics", {"error": "unauthorized"}),
        (
            "/v1/chat/completions",
            {
                "error": {
                    "message": NO_KEY,
                    "type": "authentication_error",
                    "param": None,
                    "code": "invalid_api_key",
                }
            },
        ),
        (
            "/v1/messages",
            {
                "type": "error",
                "error": {"type": "authentication_error", "message": NO_KEY},
                "request_id": "req_id-1",
            },
        ),
    ],
)
def test_a_401_body_has_the_shape_of_the_paths_api(path: str, body: dict[str, Any]) -> None:
    access = replace(PUBLIC, admin_digest=digest(ADMIN))
    decision = access.decide(AccessRequest("POST", path, client="10.0.0.1"))
    assert isinstance(decision, EarlyResponse)
    assert json.loads(decision.body(path, "id-1")) == body


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "//v1/messages", "/tokenize"])
def test_a_wrong_key_is_called_wrong_on_routes_of_openai_and_anthropic(path: str) -> None:
    decision = PUBLIC.decide(CHAT._replace(path=path, authorization="Bearer wrong"))
    assert isinstance(decision, EarlyResponse)
    assert (decision.status, decision.text) == (401, "the API key is wrong; send one of this server's")


# Operations.

OPERATIONS = [
    "/metrics",
    "/admin",
    "/admin/workers",
    "//metrics",
    "/metrics/",
    "/admin//workers",
    "//admin/workers/",
    "/Metrics",
]


@pytest.mark.parametrize("path", OPERATIONS)
@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_admin_and_metrics_are_open_to_this_machine_only(path: str, client: str) -> None:
    access = Access.from_settings(
        settings(
            host="0.0.0.0",
        ),
        KEYS,
    )
    assert passes(access, AccessRequest("GET", path, client=client))
    assert refusal(access, AccessRequest("GET", path, client="10.0.0.9")) == 403
    assert refusal(access, AccessRequest("GET", path, client="10.0.0.9", authorization="Bearer annas-key")) == 403
    assert refusal(access, AccessRequest("GET", path)) == 403


@pytest.mark.parametrize("own", ["10.0.0.5", "192.0.2.7", "fd00::5", "::ffff:10.0.0.5"])
def test_admin_is_open_to_this_machine_by_each_of_its_addresses(own: str) -> None:
    access = Access.from_settings(
        settings(
            host=own,
        ),
        KEYS,
    )
    request = AccessRequest(
        "GET", "/admin/workers", host=f"[{own}]:11434" if ":" in own else own, client=own, server=own
    )
    assert passes(access, request)
    assert refusal(access, request._replace(client="10.0.0.9")) == 403
    assert refusal(access, request._replace(forwarded=True)) == 403
    assert refusal(access, request._replace(client=None, server=None)) == 403


@pytest.mark.parametrize("client", ["127.0.0.1", "10.0.0.5"])
def test_dns_rebinding_in_a_local_browser_does_not_reach_admin(client: str) -> None:
    access = Access.from_settings(
        settings(
            host="0.0.0.0",
        ),
        KEYS,
    )
    request = AccessRequest("GET", "/admin/workers", host="evil.example:11434", client=client, server=client)
    assert refusal(access, request) == 403
    assert passes(access, request._replace(host="localhost:11434"))


@pytest.mark.parametrize("name", [b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"])
def test_a_forwarding_header_makes_a_request_not_local(name: bytes) -> None:
    def request(headers: list[tuple[bytes, bytes]]) -> AccessRequest:
        scope = {"method": "GET", "path": "/metrics", "client": ("127.0.0.1", 1), "headers": headers}
        return AccessRequest.from_scope(scope)

    assert not request([(name, b"x")]).local
    assert request([]).local


def test_a_local_proxy_does_not_open_admin_to_its_clients() -> None:
    request = AccessRequest("GET", "/admin/workers", host="localhost", client="127.0.0.1", forwarded=True)
    assert refusal(LOOPBACK, request) == 403


def test_the_admin_key_opens_metrics_from_any_address() -> None:
    access = Access.from_settings(settings(host="0.0.0.0", admin_key=SecretStr(ADMIN)), KEYS)
    request = AccessRequest("GET", "/metrics", client="10.0.0.9")
    assert passes(access, request._replace(authorization=f"Bearer {ADMIN}")).key_name == "admin"
    for authorization in (None, "Bearer annas-key", "Bearer wrong", ADMIN):
        assert refusal(access, request._replace(authorization=authorization)) == 401


def test_the_admin_key_does_not_open_models() -> None:
    access = Access.from_settings(settings(admin_key=SecretStr(ADMIN)), KEYS)
    assert refusal(access, CHAT._replace(authorization=f"Bearer {ADMIN}")) == 401


def test_allow_anonymous_does_not_open_admin() -> None:
    access = Access.from_settings(settings(host="0.0.0.0", allow_anonymous=True), {})
    assert passes(access, CHAT._replace(client="10.0.0.9"))
    assert refusal(access, AccessRequest("GET", "/admin/workers", client="10.0.0.9")) == 403


def test_plain_path_normalises_as_litestar_does() -> None:
    from litestar.utils import normalize_path

    for path in ["", "/", "//", "/a", "/a/", "//a//b//", "a/b", "/a/%2e/b", "/admin/../api"]:
        assert normalize_path(path) == normalize_path(path)


# Reading ASGI scopes.


def test_an_access_request_is_read_from_an_asgi_scope() -> None:
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/chat",
        "client": ("10.0.0.1", 4242),
        "server": ("10.0.0.2", 11434),
        "headers": [
            (b"host", b"localhost:1"),
            (b"host", b"evil.com"),
            (b"origin", b"http://localhost"),
            (b"authorization", b"Bearer \xff"),
            (b"x-api-key", b"k"),
            (b"sec-fetch-site", b"none"),
            (b"x-forwarded-for", b"1.2.3.4"),
        ],
    }
    assert AccessRequest.from_scope(scope) == AccessRequest(
        method="POST",
        path="/api/chat",
        host="localhost:1",
        origin="http://localhost",
        authorization="Bearer \xff",
        x_api_key="k",
        fetch_site="none",
        client="10.0.0.1",
        server="10.0.0.2",
        forwarded=True,
    )
    assert AccessRequest.from_scope({"method": "GET", "path": "/", "client": None, "headers": []}) == AccessRequest(
        "GET", "/"
    )


def forwarded_scope(**headers: str) -> Scope:
    return {**http_scope("GET", "/metrics", **headers), "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 11434)}


@pytest.mark.parametrize(
    "scope",
    [
        http_scope("POST", "/api/chat", host="localhost"),
        http_scope("POST", "/api/chat", host="evil.example"),
        http_scope("POST", "/api/chat", host="localhost", origin="http://localhost:3000"),
        http_scope("OPTIONS", "/api/chat", host="localhost", origin="http://localhost:3000"),
        http_scope("POST", "/api/chat", host="localhost", sec_fetch_site="cross-site"),
        http_scope("POST", "/api/chat", host="localhost", authorization="Bearer annas-key"),
        http_scope("POST", "/api/chat", host="localhost", x_api_key="annas-key"),
        http_scope("POST", "/api/" + "a" * 10_000, host="localhost"),
        forwarded_scope(host="localhost"),
        forwarded_scope(host="localhost", x_forwarded_for="10.0.0.9"),
        {**forwarded_scope(host="localhost"), "client": None, "server": None},
    ],
)
@pytest.mark.parametrize("access", [LOOPBACK, Access(keys=KEYS, allow_anonymous=False)])
def test_remembered_decisions_are_those_of_the_access(access: Access, scope: Scope) -> None:
    decisions = AccessDecisions(access)
    for _ in range(2):
        assert decisions.decide(scope, request_headers(scope)) == access.decide(AccessRequest.from_scope(scope))


class Recording(Access):
    """Knows the key "k". Records the requests that it decides on."""

    decided: ClassVar[list[AccessRequest]]

    def decide(self, request: AccessRequest) -> Allowed | EarlyResponse:
        self.decided.append(request)
        if request.authorization is None:
            return Allowed()
        return Allowed("anna") if request.authorization == "Bearer k" else EarlyResponse(401)


def times_decided(scope: Scope, *others: Scope) -> int:
    """Decide on each request twice. Return how often access was asked about the first one."""

    class Asked(Recording):
        decided: ClassVar[list[AccessRequest]] = []

    asked = Asked(keys=KEYS)
    decisions = AccessDecisions(asked)
    for each in (scope, *others) * 2:
        assert decisions.decide(each, request_headers(each)) == asked.decide(AccessRequest.from_scope(each))
        Asked.decided.pop()
    wanted = AccessRequest.from_scope(scope)
    return sum((one.host, one.authorization) == (wanted.host, wanted.authorization) for one in Asked.decided)


def test_short_requests_are_remembered() -> None:
    assert times_decided(http_scope("POST", "/api/chat", host="localhost")) == 1
    assert times_decided(http_scope("POST", "/api/chat", host="a" * REMEMBERED_LENGTH)) == 2
    assert times_decided(http_scope("X" * REMEMBERED_LENGTH, "/api/chat", host="localhost")) == 2


def test_only_credentials_that_open_access_are_remembered() -> None:
    good = http_scope("POST", "/api/chat", host="localhost", authorization="Bearer k")
    bad = http_scope("POST", "/api/chat", host="localhost", authorization="Bearer kk")
    none = http_scope("POST", "/api/chat", host="localhost")
    assert times_decided(good, bad, none) == 1
    assert times_decided(bad, good, none) == 2


@pytest.mark.parametrize(
    ("access", "remembered"),
    [
        (Access(), True),
        (Access(keys=KEYS), False),
        (Access(allow_anonymous=False), False),
        (Access(admin_digest=digest("admin")), False),
    ],
)
def test_credentials_are_ignored_if_no_key_is_configured(access: Access, remembered: bool) -> None:
    decisions = AccessDecisions(access)
    scopes = [http_scope("POST", "/api/chat", host="localhost", authorization=f"Bearer {i}") for i in range(2)]
    first, second = [decisions.decide(scope, request_headers(scope)) for scope in scopes]
    assert first == second
    assert (first is second) == remembered


@pytest.mark.parametrize("header", ["x_forwarded_for", "sec_fetch_site"])
def test_requests_of_proxies_and_pages_are_decided_each_time(header: str) -> None:
    assert times_decided(http_scope("POST", "/api/chat", host="localhost", **{header: "x"})) == 2


def test_a_bounded_number_of_decisions_is_remembered() -> None:
    decided = 0

    class Counting(Access):
        def decide(self, request: AccessRequest) -> Allowed | EarlyResponse:
            nonlocal decided
            decided += 1
            return Allowed()

    decisions = AccessDecisions(Counting())
    for number in range(2 * REMEMBERED_DECISIONS):
        decisions.decide(http_scope("POST", "/api/chat"), {b"host": b"host-%d" % number})
    decisions.decide(http_scope("POST", "/api/chat"), {b"host": b"host-0"})
    assert decided == 2 * REMEMBERED_DECISIONS + 1


def test_probes_of_the_process_and_of_readiness_need_no_key() -> None:
    livez = AccessRequest("GET", "/livez", host="10.1.2.3:11434", client="10.9.9.9", server="10.1.2.3")
    assert passes(PUBLIC, livez).grant is None
    assert passes(PUBLIC, livez._replace(path="/readyz")).grant is NAMELESS
    assert passes(PUBLIC, livez._replace(path="/readyz", authorization="Bearer wrong")).grant is NAMELESS


def test_readiness_names_models_to_keys_the_admin_key_and_this_machine() -> None:
    ready = AccessRequest("HEAD", "/readyz", host="10.1.2.3", client="10.9.9.9", server="10.1.2.3")
    access = replace(PUBLIC, admin_digest=digest(ADMIN))
    assert passes(access, ready._replace(authorization="Bearer annas-key")).grant is KEYS[digest("annas-key")]
    assert passes(access, ready._replace(authorization=f"Bearer {ADMIN}")).grant is None
    assert passes(access, ready._replace(host="localhost", client="127.0.0.1")).grant is None
    assert passes(access, ready._replace(host="evil.example", client="127.0.0.1")).grant is NAMELESS
    assert passes(LOOPBACK, ready._replace(host="localhost")).grant is None


def test_readiness_is_keyless_for_reading_only() -> None:
    assert refusal(PUBLIC, AccessRequest("POST", "/readyz", client="10.9.9.9")) == 401
