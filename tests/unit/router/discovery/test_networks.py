"""Worker URLs and the allowlist of networks."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from vllama_pool.router.discovery.networks import UrlRefused, WorkerUrl, parse_url, permitted

NETWORKS = [ip_network("10.0.0.0/8"), ip_network("::1/128"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://10.0.0.5:8100", WorkerUrl("http", "10.0.0.5", 8100)),
        ("http://10.0.0.5:8100/", WorkerUrl("http", "10.0.0.5", 8100)),
        ("HTTP://GPU-1.example.com", WorkerUrl("http", "gpu-1.example.com", 80)),
        ("https://gpu_1/vllm/", WorkerUrl("https", "gpu_1", 443, "/vllm")),
        ("http://[FD00:0::5]:8100/a/b", WorkerUrl("http", "fd00::5", 8100, "/a/b")),
    ],
)
def test_a_base_url_is_parsed(url: str, parts: WorkerUrl) -> None:
    assert parse_url(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "10.0.0.5:8100",
        "ftp://10.0.0.5",
        "file:///etc/passwd",
        "unix:///run/docker.sock",
        "http://user@10.0.0.5",
        "http://user:secret@10.0.0.5",
        "http://10.0.0.5@169.254.169.254/",
        "http://10.0.0.5:0",
        "http://10.0.0.5:65536",
        "http://10.0.0.5:80a",
        "http://10.0.0.5:",
        "http://",
        "http:///path",
        "http://10.0.0.5?x=1",
        "http://10.0.0.5/#x",
        "http://10.0.0.5/../admin",
        "http://10.0.0.5\\@evil",
        "http://10.0.0.5 .evil",
        "http://10.0.0.5\r\nHost: evil",
        "http://10.0.0.5\tx",
        "http://[fe80::1%eth0]:80",
        "http://[::1",
        "http://２.example",
        "http://0x0a000005",
        "http://" + "a" * 3000,
    ],
)
def test_a_url_that_is_not_an_http_base_url_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused) as refused:
        parse_url(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("169.254.169.254", False),
        ("127.0.0.1", False),
        ("::1", True),
        ("fd12::1", True),
        ("fe80::1", False),
        ("::ffff:10.0.0.5", True),
        ("::ffff:169.254.169.254", False),
    ],
)
def test_only_addresses_in_the_fleets_networks_are_permitted(address: str, inside: bool) -> None:
    assert permitted(ip_address(address), NETWORKS) is inside


def test_without_networks_no_address_is_permitted() -> None:
    assert not permitted(ip_address("127.0.0.1"), [])


def test_the_address_of_a_url_is_none_for_a_host_name() -> None:
    assert parse_url("http://gpu:8100").address is None
    assert parse_url("http://[::ffff:10.0.0.5]").address == ip_address("10.0.0.5")
