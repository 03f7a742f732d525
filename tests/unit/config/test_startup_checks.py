from __future__ import annotations

from typing import Any

import pytest

from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.config.settings import RegistrySettings, RouterSettings
from vllama_pool.config.startup_checks import listen_problem, startup_problem


def settings(**values: Any) -> RouterSettings:
    """Return settings with defaults, whatever the environment holds."""
    return RouterSettings.model_construct(**values)


@pytest.mark.parametrize(
    ("values", "starts"),
    [
        ({"host": "127.0.0.1"}, True),
        ({"host": "::1"}, True),
        ({"host": "localhost"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "10.0.0.1"}, False),
        ({"host": "gpu-5.example.com"}, False),
        ({"host": "0.0.0.0", "allow_anonymous": True}, True),
        ({"host": "0.0.0.0", "api_keys": (ApiKey("anna", digest("annas-key")),)}, True),
    ],
)
def test_a_public_address_needs_keys_or_allow_anonymous(values: dict[str, Any], starts: bool) -> None:
    problem = listen_problem(settings(**values))
    assert (problem is None) is starts
    if problem:
        for cure in (values["host"], "VLLAMA_API_KEYS", "--allow-anonymous", "127.0.0.1"):
            assert cure in problem
        assert "\n" not in problem


def test_a_public_address_may_have_its_keys_in_the_routing_file() -> None:
    assert listen_problem(settings(host="0.0.0.0"), file_has_keys=True) is None
    assert startup_problem(settings(host="0.0.0.0", registry=RegistrySettings()), file_has_keys=True) is None
    assert "`keys`" in str(listen_problem(settings(host="0.0.0.0")))


def test_a_public_ollama_host_needs_keys_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "0.0.0.0")
    monkeypatch.delenv("VLLAMA_API_KEYS", raising=False)
    assert startup_problem(RouterSettings())
