import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.config.urls import InvalidUrl, worker_url


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("http://10.0.0.5:8000", "http://10.0.0.5:8000"),
        ("http://10.0.0.5:8000/", "http://10.0.0.5:8000"),
        ("HTTP://GPU-5.Example.com:8000", "http://gpu-5.example.com:8000"),
        ("http://gpu_5:80", "http://gpu_5"),
        ("https://gpu:443/", "https://gpu"),
        ("https://gpu:80", "https://gpu:80"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://[0:0::0:1]", "http://[::1]"),
        ("http://proxy/vllm/a-1/", "http://proxy/vllm/a-1"),
        ("http://010a.example", "http://010a.example"),
    ],
)
def test_urls_are_normalised(text: str, normal: str) -> None:
    assert worker_url(text) == normal


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not an http"),
        ("10.0.0.5:8000", "not an http"),
        ("gpu:8000", "not an http"),
        ("http:gpu", "not an http"),
        ("ftp://gpu", "not an http"),
        ("file:///etc/passwd", "not an http"),
        ("unix:///run/x.sock", "not an http"),
        ("http://", "the host is not a name"),
        ("http:///v", "the host is not a name"),
        ("http://:8000", "the host is not a name"),
        ("http://user:secret@gpu:8000", "user name or password"),
        ("http://user@gpu", "user name or password"),
        ("http://gpu:8000?x=1", "a query"),
        ("http://gpu:8000/?", "a query"),
        ("http://gpu:8000#a", "a query, fragment"),
        ("http://gpu\\@evil", "user name or password"),
        ("http://gpu/a\\b", "backslash"),
        ("http://gpu:0", "invalid port"),
        ("http://gpu:", "invalid port"),
        ("http://gpu:65536", "invalid host or port"),
        ("http://gpu:x", "invalid host or port"),
        ("http://[::1", "invalid host or port"),
        ("http://[fe80::1%25eth0]:80", "zone"),
        ("http://gpu/../admin", "'..'"),
        ("http://gpu/a//b", "empty part"),
        ("http://gpu/%2e%2e", "'%'"),
        ("http://gpu/v1", "ends in /v1"),
        ("http://gpu:8000/v1/", "ends in /v1"),
        ("http://gpu /", "blanks"),
        ("http://gpu\n", "blanks"),
        ("http://gpü", "non-ASCII"),
        ("http://-gpu", "the host is not a name"),
        ("http://999.1.1.1", "not an IPv4 address"),
        ("http://0x7f.1", "not an IPv4 address"),
        ("http://2130706433", "not an IPv4 address"),
    ],
)
def test_an_invalid_url_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidUrl, match=why) as raised:
        worker_url(text)
    assert ";" in str(raised.value) or "," in str(raised.value)
    assert "secret" not in str(raised.value)


@given(st.text(alphabet="htps:/[]0123456789.abv@?#%\\ -", max_size=40).map(lambda rest: f"http://{rest}"))
def test_normalising_a_url_twice_changes_nothing(text: str) -> None:
    try:
        normal = worker_url(text)
    except InvalidUrl:
        return
    assert worker_url(normal) == normal
    assert not set(normal) & set("@?#%\\ ")
    assert ".." not in normal.partition("://")[2].partition("/")[2]
