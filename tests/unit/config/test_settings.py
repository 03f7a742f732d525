import hashlib
import math
import os
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vllama_pool.config.settings import LOOPBACK, PRIVATE, RegistrySettings, RouterSettings, WorkerSettings, error_lines

Set = Callable[..., None]
SECRET = "0123456789abcdef"
ANNA, BOB = (hashlib.sha256(name.encode()).hexdigest() for name in ("anna", "bob"))


@pytest.fixture(autouse=True)
def setenv(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Set variables in an environment without any of ours."""
    for name in os.environ:
        if name.startswith(("VLLAMA_", "OLLAMA_", "REDIS_", "XDG_")):
            monkeypatch.delenv(name)

    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def errors(kind: Any = RouterSettings, **arguments: Any) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        kind(**arguments)
    return error_lines(raised.value)


def test_the_defaults_are_ollamas_and_listen_on_loopback() -> None:
    settings = RouterSettings()
    assert (settings.host, settings.port) == ("127.0.0.1", 11434)
    assert (settings.api_keys, settings.allow_anonymous, settings.admin_key) == ((), False, None)
    assert (settings.keep_alive, settings.max_queue, settings.version) == (300, 512, "0.33.0")
    assert (settings.registry.redis_url, settings.registry.fleet) == (None, "default")
    assert settings.registry.worker_networks == LOOPBACK
    assert settings.routing_file is None


def test_settings_are_frozen() -> None:
    settings = RouterSettings()
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.registry.fleet = "x"  # type: ignore[misc]


@pytest.mark.rule(185)
@pytest.mark.parametrize(
    ("variables", "host", "port"),
    [
        ({"OLLAMA_HOST": "0.0.0.0"}, "0.0.0.0", 11434),
        ({"OLLAMA_HOST": ' "0.0.0.0:80" '}, "0.0.0.0", 80),
        ({"OLLAMA_HOST": ":8080"}, "0.0.0.0", 8080),
        ({"OLLAMA_HOST": "http://gpu.example.com/ollama"}, "gpu.example.com", 80),
        ({"OLLAMA_HOST": "[::1]"}, "::1", 11434),
        ({"OLLAMA_HOST": "0.0.0.0:80", "VLLAMA_HOST": "::1"}, "::1", 11434),
        ({"OLLAMA_HOST": "0.0.0.0:80", "VLLAMA_PORT": "81"}, "0.0.0.0", 81),
        ({"OLLAMA_HOST": ""}, "127.0.0.1", 11434),
        ({"OLLAMA_HOST": "' '"}, "127.0.0.1", 11434),
    ],
)
def test_host_and_port_come_from_the_environment(setenv: Set, variables: dict[str, str], host: str, port: int) -> None:
    setenv(**variables)
    settings = RouterSettings()
    assert (settings.host, settings.port) == (host, port)


def test_arguments_override_the_environment(setenv: Set) -> None:
    setenv(OLLAMA_HOST="0.0.0.0:80", VLLAMA_FLEET="a", REDIS_URL="redis://r", VLLAMA_GRACE="5")
    settings = RouterSettings(port=0, grace=7, registry={"fleet": "b"})  # type: ignore[arg-type]
    assert (settings.host, settings.port, settings.grace) == ("0.0.0.0", 0, 7)
    assert (settings.registry.fleet, str(settings.registry.redis_url)) == ("b", "redis://r:6379/0")


def test_vllama_variables_override_ollamas(setenv: Set) -> None:
    setenv(VLLAMA_KEEP_ALIVE="10m", OLLAMA_KEEP_ALIVE="1m", VLLAMA_ORIGINS="http://a", OLLAMA_ORIGINS="http://b")
    settings = RouterSettings()
    assert (settings.keep_alive, settings.origins) == (600, ("http://a",))


@pytest.mark.rule(187)
@pytest.mark.parametrize(
    ("value", "seconds"),
    [("10m", 600), ("90", 90), ("-1", math.inf), ("-1m", math.inf), ("0", 0), ("soon", 300), ("1.5", 300), ("", 300)],
)
def test_ollama_keep_alive_sets_keep_alive(setenv: Set, value: str, seconds: float) -> None:
    setenv(OLLAMA_KEEP_ALIVE=value)
    assert RouterSettings().keep_alive == seconds


@pytest.mark.parametrize(("value", "seconds"), [("", 3600), ("10m", 600), ("0", math.inf), ("-1", math.inf)])
def test_idle_timeout_is_unlimited_unless_positive(setenv: Set, value: str, seconds: float) -> None:
    setenv(VLLAMA_IDLE_TIMEOUT=value)
    assert RouterSettings().idle_timeout == seconds


@pytest.mark.rule(192)
@pytest.mark.parametrize(("value", "seconds"), [("10m", 600), ("0", math.inf), ("-1", math.inf), ("x", 1800)])
def test_ollama_load_timeout_sets_the_load_timeout(setenv: Set, value: str, seconds: float) -> None:
    setenv(OLLAMA_LOAD_TIMEOUT=value)
    assert WorkerSettings().load_timeout == seconds


@pytest.mark.rule(188)
@pytest.mark.parametrize(("value", "queue"), [("7", 7), ("0", 0), ("-1", 512), ("many", 512)])
def test_ollama_max_queue_sets_the_queue_limit(setenv: Set, value: str, queue: int) -> None:
    setenv(OLLAMA_MAX_QUEUE=value)
    assert RouterSettings().max_queue == queue


@pytest.mark.rule(193)
@pytest.mark.parametrize(
    ("value", "level"),
    [("1", "debug"), ("true", "debug"), ("2", "debug"), ("0", "info"), ("false", "info"), ("x", "info")],
)
def test_ollama_debug_sets_the_log_level(setenv: Set, value: str, level: str) -> None:
    setenv(OLLAMA_DEBUG=value)
    assert RouterSettings().log_level == level


def test_lists_are_separated_by_commas_or_blanks(setenv: Set) -> None:
    setenv(
        OLLAMA_ORIGINS="http://a, https://*.Example.com ,chrome-extension://*",
        VLLAMA_ALLOWED_HOSTS="Gpu.Example.com *.lan",
    )
    settings = RouterSettings()
    assert settings.origins == ("http://a", "https://*.example.com", "chrome-extension://*")
    assert settings.allowed_hosts == ("gpu.example.com", "*.lan")


def test_api_keys_come_from_the_variable_and_the_file_together(setenv: Set, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# team\nbob:{BOB}\n")
    setenv(VLLAMA_API_KEYS=f"anna:{ANNA}", VLLAMA_API_KEYS_FILE=str(file))
    assert [key.name for key in RouterSettings().api_keys] == ["anna", "bob"]


def test_a_key_file_without_keys_is_refused(setenv: Set, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# nobody yet\n")
    setenv(VLLAMA_API_KEYS_FILE=str(file))
    assert errors() == ["VLLAMA_API_KEYS_FILE: contains no key; write NAME:SHA256, or leave it unset"]


def test_a_key_in_both_variable_and_file_is_refused(setenv: Set, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"bob:{ANNA}\n")
    setenv(VLLAMA_API_KEYS=f"anna:{ANNA}", VLLAMA_API_KEYS_FILE=str(file))
    assert errors() == ["VLLAMA_API_KEYS: 'anna' and 'bob' are the same key; give each its own"]


def test_secrets_are_read_from_files_and_hidden_in_repr(setenv: Set, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    setenv(VLLAMA_FLEET_SECRET_FILE=str(file), VLLAMA_WORKER_KEY="short", REDIS_URL="redis://:hunter2@r")
    settings = RouterSettings()
    assert settings.registry.fleet_secret is not None
    assert settings.registry.fleet_secret.get_secret_value() == SECRET
    assert settings.worker_key is not None
    for shown in (repr(settings), str(settings)):
        assert SECRET not in shown
        assert "short" not in shown
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("url", "networks"),
    [
        (None, LOOPBACK),
        ("unix:///run/r.sock", LOOPBACK),
        ("/run/r.sock", LOOPBACK),
        ("redis://r", (*LOOPBACK, *PRIVATE)),
    ],
)
def test_default_worker_networks_depend_on_the_registry(url: str | None, networks: tuple[Any, ...]) -> None:
    assert RegistrySettings(redis_url=url).worker_networks == networks
    assert RegistrySettings(redis_url=url).embedded == (networks == LOOPBACK)


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200", "fe80::1", "8.8.8.8", "0.0.0.0"])
def test_metadata_services_are_outside_the_default_networks(address: str) -> None:
    assert not any(ip_address(address) in network for network in (*LOOPBACK, *PRIVATE))


def test_worker_networks_are_read_from_the_environment(setenv: Set) -> None:
    setenv(VLLAMA_WORKER_NETWORKS="10.1.0.0/16,fd00::/8, 10.2.0.1")
    expected = tuple(ip_network(text) for text in ("10.1.0.0/16", "fd00::/8", "10.2.0.1/32"))
    assert RegistrySettings().worker_networks == LOOPBACK, "nothing but the command line builds it alone"
    assert WorkerSettings().registry.worker_networks == expected


def test_the_state_directory_follows_xdg(setenv: Set, tmp_path: Path) -> None:
    setenv(HOME=str(tmp_path))
    assert RouterSettings().registry.state_dir == tmp_path / ".local/state/vllama"
    setenv(XDG_STATE_HOME=str(tmp_path / "state"))
    assert RouterSettings().registry.state_dir == tmp_path / "state/vllama"
    setenv(XDG_STATE_HOME="relative")
    assert RouterSettings().registry.state_dir == tmp_path / ".local/state/vllama"
    setenv(VLLAMA_STATE_DIR="~/mine")
    assert RouterSettings().registry.state_dir == tmp_path / "mine"


def test_sizes_and_durations_are_parsed(setenv: Set) -> None:
    setenv(VLLAMA_BODY_LIMIT="2MiB", VLLAMA_CONNECT_TIMEOUT="250ms", VLLAMA_STALL_TIMEOUT="1m30s")
    settings = RouterSettings()
    assert (settings.body_limit, settings.connect_timeout, settings.stall_timeout) == (2 << 20, 0.25, 90)


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"OLLAMA_HOST": "https://x"},
            "OLLAMA_HOST: https is not supported; listen on http:// and put a TLS proxy in front",
        ),
        ({"VLLAMA_HOST": "ftp://x"}, "VLLAMA_HOST: ftp:// is not supported; write HOST:PORT"),
        ({"VLLAMA_PORT": "port"}, "VLLAMA_PORT: 'port' is not a whole number from 0 to 65535; correct it"),
        ({"VLLAMA_PORT": "99999"}, "VLLAMA_PORT: '99999' is not a whole number from 0 to 65535; correct it"),
        ({"VLLAMA_PROCESSES": "many"}, "VLLAMA_PROCESSES: 'many' is not a whole number from 1 to 64; correct it"),
        ({"VLLAMA_PROCESSES": "0"}, "VLLAMA_PROCESSES: '0' is not a whole number from 1 to 64; correct it"),
        ({"VLLAMA_ALLOW_ANONYMOUS": "maybe"}, "VLLAMA_ALLOW_ANONYMOUS: expected true or false; write 1 or 0"),
        ({"VLLAMA_BODY_LIMIT": "big"}, "VLLAMA_BODY_LIMIT: expected a size; write one such as 64MiB"),
        ({"VLLAMA_GRACE": "0"}, "VLLAMA_GRACE: '0' is not more than 0; write more than 0"),
        (
            {"VLLAMA_GRACE": "long"},
            "VLLAMA_GRACE: 'long' is not a duration; write seconds, or a duration such as 30s, 5m or 1h30m",
        ),
        (
            {"VLLAMA_LOG_LEVEL": "loud"},
            "VLLAMA_LOG_LEVEL: expected 'debug', 'info', 'warning' or 'error'; write one of them",
        ),
        (
            {"VLLAMA_OLLAMA_VERSION": "0.33.0+x"},
            "VLLAMA_OLLAMA_VERSION: must be three numbers, because clients parse it; write a version such as 0.33.0",
        ),
        (
            {"REDIS_URL": "http://r"},
            "REDIS_URL: not a Redis address; write redis://HOST:6379/0, rediss:// for TLS, "
            "redis+sentinel://HOST:26379,HOST:26379/MASTER, redis+cluster://HOST:6379,HOST:6379, or unix:///PATH",
        ),
        (
            {"VLLAMA_REDIS_URL": "redis://:hunter2@r:99999/0"},
            "VLLAMA_REDIS_URL: the port is not a number between 1 and 65535; write one such as 6379, and a ':' or '/' "
            "of the password as %3A or %2F",
        ),
        (
            {"VLLAMA_FLEET": "{a}"},
            "VLLAMA_FLEET: may have up to 64 letters, digits, '.', '_' and '-'; rename it",
        ),
        (
            {"VLLAMA_FLEET_SECRET": "hunter2"},
            "VLLAMA_FLEET_SECRET: shorter than 16 characters; make one with: openssl rand -hex 32",
        ),
        (
            {"VLLAMA_WORKER_KEY": "hunter 2"},
            "VLLAMA_WORKER_KEY: has blanks or non-ASCII characters; make one with: openssl rand -hex 32",
        ),
        (
            {"VLLAMA_ADMIN_KEY_FILE": "/nope"},
            "VLLAMA_ADMIN_KEY_FILE: /nope: No such file or directory; name a readable file",
        ),
        (
            {"VLLAMA_API_KEYS": "anna:hunter2"},
            "VLLAMA_API_KEYS: key 1 has no SHA-256 of 64 hex digits; make one with: printf %s KEY | sha256sum",
        ),
        (
            {"VLLAMA_WORKER_NETWORKS": "10.0.0.5/8"},
            "VLLAMA_WORKER_NETWORKS: '10.0.0.5/8' has bits beyond its prefix; write 10.0.0.0/8",
        ),
        (
            {"VLLAMA_WORKER_NETWORKS": "lan"},
            "VLLAMA_WORKER_NETWORKS: 'lan' is not a network; write one such as 10.0.0.0/8",
        ),
        (
            {"OLLAMA_ORIGINS": "example.com"},
            "OLLAMA_ORIGINS: 'example.com' is not an origin; write scheme://host[:port], with * for any part, or *",
        ),
        (
            {"VLLAMA_ALLOWED_HOSTS": "http://x"},
            "VLLAMA_ALLOWED_HOSTS: 'http://x' is not a host; write a name without port, or *.example.com",
        ),
    ],
)
def test_an_invalid_value_is_one_line_with_the_variable(setenv: Set, variables: dict[str, str], line: str) -> None:
    setenv(**variables)
    lines = errors()
    assert lines == [line]
    assert "hunter" not in lines[0]


def test_all_invalid_values_are_reported_together(setenv: Set) -> None:
    setenv(
        VLLAMA_FLEET="a b", VLLAMA_PORT="x y", VLLAMA_PROCESSES="x", VLLAMA_LOAD_TIMEOUT="x", OLLAMA_HOST="1.2.3.4:80"
    )
    assert [line.partition(":")[0] for line in errors()] == ["VLLAMA_FLEET", "VLLAMA_PORT", "VLLAMA_PROCESSES"]
    assert [line.partition(":")[0] for line in errors(WorkerSettings)] == ["VLLAMA_FLEET", "VLLAMA_LOAD_TIMEOUT"]


def test_an_unknown_argument_is_reported_by_its_own_name() -> None:
    assert errors(RouterSettings, hots="x")[0].startswith("hots: ")


def test_vllama_model_writes_turns_model_changes_off(setenv: Set) -> None:
    assert RouterSettings().model_writes
    setenv(VLLAMA_MODEL_WRITES="0")
    assert not RouterSettings().model_writes
