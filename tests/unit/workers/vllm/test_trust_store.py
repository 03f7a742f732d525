"""Authorities from the system, SSL_CERT_FILE and SSL_CERT_DIR."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from vllama_pool.workers.vllm.trust_store import TrustStore, trust_store


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.crt"
    authority.cert_pem.write_to_path(str(path))
    return path


def accepts(trust: ssl.SSLContext, authority: trustme.CA, name: str = "gpu.example") -> bool:
    """Do a handshake in memory."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(serving)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trust.wrap_bio(to_client, to_server, server_hostname="gpu.example")
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
            if side is client:
                return True
    raise AssertionError("the handshake does not end")


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_an_authority_named_by_the_environment_is_trusted(variable: str, authority: trustme.CA, file: Path) -> None:
    """The folder need not have hashed names, as OpenSSL requires."""
    trust = trust_store({variable: str(file if variable == "SSL_CERT_FILE" else file.parent)})
    assert accepts(trust, authority)
    assert not accepts(trust, authority, "elsewhere.example")
    assert not accepts(trust, trustme.CA())


def test_nothing_is_trusted_or_logged_before_the_store_is_loaded_once(
    authority: trustme.CA, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trust = TrustStore({"SSL_CERT_FILE": str(file), "SSL_CERT_DIR": str(tmp_path / "none")})
    assert not accepts(trust.context, authority)
    assert caplog.messages == []
    assert [trust.load(), trust.load()] == [trust.context, trust.context]
    assert accepts(trust.context, authority)
    assert len(caplog.messages) == 1


def test_several_folders_are_separated_as_in_path(authority: trustme.CA, file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.txt").write_text("no certificate")
    (file.parent / "folder").mkdir()
    assert accepts(trust_store({"SSL_CERT_DIR": f"{tmp_path / 'other'}:{file.parent}"}), authority)


def test_an_intermediate_authority_is_trusted_without_its_root(authority: trustme.CA, tmp_path: Path) -> None:
    child = authority.create_child_ca()
    child.cert_pem.write_to_path(str(tmp_path / "child.pem"))
    assert accepts(trust_store({"SSL_CERT_FILE": str(tmp_path / "child.pem")}), child)


def test_without_the_variables_public_authorities_are_trusted_and_private_ones_are_not(authority: trustme.CA) -> None:
    trust = trust_store({})
    assert trust.cert_store_stats()["x509_ca"] > 50
    assert trust.verify_mode is ssl.CERT_REQUIRED
    assert trust.check_hostname
    assert not accepts(trust, authority)


@pytest.mark.parametrize(
    ("variable", "content", "words"),
    [
        ("SSL_CERT_FILE", None, "No such file"),
        ("SSL_CERT_FILE", "nonsense", "no certificate in PEM"),
        ("SSL_CERT_DIR", None, "No such file"),
    ],
)
def test_an_unusable_path_is_logged_with_the_variable(
    variable: str, content: str | None, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ca"
    if content is not None:
        path.write_text(content)
    trust_store({variable: str(path)})
    (message,) = caplog.messages
    assert message.startswith(f"{variable}={path}: ")
    assert words in message


def test_a_folder_without_certificates_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "readme.txt").write_text("no certificate")
    trust_store({"SSL_CERT_DIR": str(tmp_path)})
    assert "no file in it holds a certificate" in caplog.messages[0]
