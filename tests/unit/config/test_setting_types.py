"""The types of settings: parsing, checks, and messages without secrets."""

import hashlib
import math
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from vllama_pool.config import redis_address, setting_types
from vllama_pool.config.api_keys import ApiKey
from vllama_pool.config.environment import FromFile, HostPort

ANNA, BOB = (hashlib.sha256(name.encode()).hexdigest() for name in ("anna", "bob"))


def parse(kind: Any, value: object) -> Any:
    return TypeAdapter(kind).validate_python(value)


def error(kind: Any, value: object) -> str:
    """The message of the only error."""
    with pytest.raises(ValidationError) as raised:
        parse(kind, value)
    (item,) = raised.value.errors(include_input=False)
    return item["msg"].removeprefix("Value error, ")


@pytest.mark.parametrize(("value", "seconds"), [("90", 90), ("1m30s", 90), (2.5, 2.5), ("250ms", 0.25)])
def test_a_duration_is_a_number_of_seconds_or_a_go_duration(value: object, seconds: float) -> None:
    assert parse(setting_types.Duration, value) == seconds


@pytest.mark.parametrize("value", ["0", "-1s", 0, 86400 * 365 + 1])
def test_a_duration_is_positive_and_at_most_a_year(value: object) -> None:
    assert "should be" in error(setting_types.Duration, value)


@pytest.mark.parametrize(("value", "seconds"), [("-1", math.inf), ("-1ms", math.inf), ("0", 0), ("5m", 300)])
def test_a_negative_keep_alive_is_infinite_and_zero_is_zero(value: str, seconds: float) -> None:
    assert parse(setting_types.InfiniteIfNegative, value) == seconds


@pytest.mark.parametrize(("value", "seconds"), [("-1", math.inf), ("0", math.inf), ("5m", 300)])
def test_a_load_timeout_of_zero_or_less_is_infinite(value: str, seconds: float) -> None:
    assert parse(setting_types.InfiniteUnlessPositive, value) == seconds


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("10.0.0.1:80", "10.0.0.1", 80), (":80", "0.0.0.0", 80), ("[::1]", "::1", 11434), ("http://gpu", "gpu", 80)],
)
def test_one_variable_sets_host_and_port(text: str, host: str, port: int) -> None:
    assert parse(setting_types.ListenHost, HostPort(text)) == host
    assert parse(setting_types.ListenPort, HostPort(text)) == port


def test_a_port_variable_holds_a_number() -> None:
    assert parse(setting_types.ListenPort, "8080") == 8080
    assert "integer" in error(setting_types.ListenPort, "0.0.0.0:80")


@pytest.mark.parametrize(
    ("text", "advice"), [("https://x", "put a TLS proxy in front"), ("ftp://x", "write HOST:PORT")]
)
def test_a_listen_address_with_another_scheme_is_refused(text: str, advice: str) -> None:
    assert advice in error(setting_types.ListenHost, text)
    assert advice in error(setting_types.ListenPort, HostPort(text))


@pytest.mark.parametrize("url", ["redis://h:6379/0", "rediss://:p@h", "unix:///run/r.sock", "/run/r.sock"])
def test_a_redis_url_is_a_server_or_a_socket(url: str) -> None:
    assert parse(setting_types.RedisUrl, url) == redis_address.parse(url)


@pytest.mark.parametrize("url", ["", "http://h", "h:6379", "run/r.sock"])
def test_an_invalid_redis_url_is_refused(url: str) -> None:
    assert error(setting_types.RedisUrl, url).startswith("not a Redis address; write redis://HOST")


def test_the_files_of_a_redis_url_must_exist() -> None:
    assert "ssl_ca_certs" in error(setting_types.RedisUrl, "rediss://h?ssl_ca_certs=/no/such.pem")


def test_networks_are_separated_by_commas_or_blanks() -> None:
    networks = parse(setting_types.Networks, "10.0.0.0/8, fd00::/8\n10.1.2.3")
    assert networks == tuple(ip_network(text) for text in ("10.0.0.0/8", "fd00::/8", "10.1.2.3/32"))


def test_a_network_with_host_bits_is_refused_with_the_network_that_it_may_mean() -> None:
    assert error(setting_types.Networks, "10.1.2.3/8") == "'10.1.2.3/8' has bits beyond its prefix; write 10.0.0.0/8"
    assert "is not a network; write one such as" in error(setting_types.Networks, "lan")


def test_api_keys_of_all_sources_are_joined(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"bob:{BOB}\n")
    keys = parse(setting_types.ApiKeys, [f"anna:{ANNA}", FromFile(file), ApiKey("ci", bytes(32))])
    assert [key.name for key in keys] == ["anna", "bob", "ci"]


def test_a_source_without_api_keys_is_refused() -> None:
    assert error(setting_types.ApiKeys, [f"anna:{ANNA}", "# none yet"]).startswith("contains no key; ")


def test_sources_that_share_a_name_or_an_api_key_are_refused() -> None:
    assert "two keys are named 'anna'" in error(setting_types.ApiKeys, [f"anna:{ANNA}", f"anna:{BOB}"])
    assert "are the same key" in error(setting_types.ApiKeys, [f"anna:{ANNA}", f"bob:{ANNA}"])


def test_a_secret_is_read_from_a_file_and_not_printed(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(" hunter2\n")
    secret = parse(setting_types.Secret, FromFile(file))
    assert secret.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(secret)


@pytest.mark.parametrize("text", ["hunter 2", "hünter2", "hunter2\x00", ""])
def test_a_secret_that_a_header_cannot_carry_is_refused_without_repeating_it(text: str) -> None:
    message = error(setting_types.Secret, text)
    assert message.endswith("make one with: openssl rand -hex 32")
    assert "nter" not in message


@pytest.mark.parametrize(
    ("content", "why"), [(b"\xff", "not UTF-8 text"), (b"x" * 65537, "larger than 64 KiB"), (None, "No such file")]
)
def test_a_secret_file_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    assert error(setting_types.Secret, FromFile(file)).startswith(f"{file}: {why}")


def test_a_strong_secret_has_16_characters() -> None:
    assert parse(setting_types.StrongSecret, "x" * 16).get_secret_value() == "x" * 16
    assert error(setting_types.StrongSecret, "x" * 15).startswith("shorter than 16 characters; ")


def test_origins_are_lower_case_and_may_have_wildcards() -> None:
    origins = parse(setting_types.Origins, "https://*.Example.com, chrome-extension://* *")
    assert origins == ("https://*.example.com", "chrome-extension://*", "*")


@pytest.mark.parametrize("text", ["example.com", "https://", "https://a/b", "a://b c://"])
def test_an_origin_needs_scheme_and_host_and_no_path(text: str) -> None:
    assert "is not an origin; write scheme://host" in error(setting_types.Origins, text)


def test_allowed_hosts_are_names_addresses_and_subdomain_patterns() -> None:
    hosts = parse(setting_types.HostPatterns, "Gpu.Lan. *.example.com 10.0.0.1 [::1]")
    assert hosts == ("gpu.lan", "*.example.com", "10.0.0.1", "[::1]")


@pytest.mark.parametrize("text", ["http://x", "gpu:80", "a.*.com", "*", "gpu/x"])
def test_an_allowed_host_has_no_scheme_port_path_or_inner_wildcard(text: str) -> None:
    assert "is not a host; write a name without port" in error(setting_types.HostPatterns, text)


@pytest.mark.parametrize("text", ["{a}", "", "-a", "a" * 65, "a:b"])
def test_a_fleet_name_fits_into_a_redis_key(text: str) -> None:
    assert parse(setting_types.FleetName, "team-1.a_B") == "team-1.a_B"
    assert "may have up to 64 letters" in error(setting_types.FleetName, text)


@pytest.mark.parametrize("text", ["0.33", "v0.33.0", "0.33.0-rc1", "0.33.0+x", "1234567.0.0"])
def test_ollamas_version_is_three_numbers(text: str) -> None:
    assert parse(setting_types.OllamaVersion, "0.33.0") == "0.33.0"
    assert "must be three numbers" in error(setting_types.OllamaVersion, text)


def test_a_local_path_is_absolute() -> None:
    assert parse(setting_types.LocalPath, "state") == Path.cwd() / "state"
    assert parse(setting_types.LocalPath, "~/state") == Path.home() / "state"
