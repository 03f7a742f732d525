"""The files that a Redis address names for TLS are checked before the first connection."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from vllama_pool.config.redis_address import InvalidAddress, parse
from vllama_pool.config.redis_tls import check_files

PASSWORD = "hunter2tiger"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(path / "ca.pem"))
    issued = authority.issue_cert("host.example")
    issued.cert_chain_pems[0].write_to_path(str(path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(path / "key.pem"))
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD.encode()))
    (path / "locked.pem").write_bytes(locked)
    (path / "text.pem").write_text("nothing")
    return path


@pytest.mark.parametrize(
    "query",
    [
        "ssl_ca_certs={0}/ca.pem&ssl_ca_path={0}",
        "ssl_certfile={0}/cert.pem&ssl_keyfile={0}/key.pem",
        f"ssl_certfile={{0}}/cert.pem&ssl_keyfile={{0}}/locked.pem&ssl_password={PASSWORD}",
        "ssl_cert_reqs=CERT_NONE&ssl_check_hostname=false",
    ],
)
def test_usable_files_are_accepted(folder: Path, query: str) -> None:
    address = parse("rediss://h?" + query.format(folder))
    assert check_files(address) is address
    assert PASSWORD not in repr(address)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("ssl_ca_certs={0}/none.pem", "the file of the option ssl_ca_certs: No such file"),
        ("ssl_ca_certs={0}", "the file of the option ssl_ca_certs: Is a directory"),
        ("ssl_ca_certs={0}/text.pem", "has no certificate"),
        ("ssl_ca_certs=%00", "cannot be opened"),
        ("ssl_ca_path={0}/ca.pem", "ssl_ca_path names no folder"),
        ("ssl_keyfile={0}/key.pem", "needs ssl_certfile"),
        ("ssl_certfile={0}/cert.pem", "not a PEM certificate with its key"),
        ("ssl_certfile={0}/cert.pem&ssl_keyfile={0}/ca.pem", "not a PEM certificate with its key"),
        ("ssl_certfile={0}/cert.pem&ssl_keyfile={0}/locked.pem", "not a PEM certificate with its key"),
    ],
)
def test_unusable_files_are_refused(folder: Path, query: str, problem: str) -> None:
    with pytest.raises(InvalidAddress) as refused:
        check_files(parse("rediss://h?" + query.format(folder)))
    assert problem in str(refused.value)
    assert ";" in str(refused.value)
