"""The certificate authorities that vLLama trusts in workers: one TLS context for probes and requests.

Without SSL_CERT_FILE and SSL_CERT_DIR, these are the system's authorities and those of certifi. Each variable replaces
the system's file or folder, as in OpenSSL and Go, and certifi is then not used.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import certifi

CERT_FILE, CERT_DIR = "SSL_CERT_FILE", "SSL_CERT_DIR"
MAX_FILES = 1000
"""Per folder."""

_log = logging.getLogger(__name__)


class TrustStore:
    """One TLS context. It trusts nothing until `load`, which processes without https workers never need."""

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        self.context = ssl.create_default_context(capath=os.devnull)  # Python's defaults without its authorities
        self.context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self.loaded = False
        self._env = env
        self._loading = threading.Lock()

    def load(self) -> ssl.SSLContext:
        """Load the authorities once, in some 40 ms. Logs what SSL_CERT_FILE or SSL_CERT_DIR names and cannot be read.

        An intermediate authority in it is trusted without its root, as in Go.
        """
        with self._loading:
            if not self.loaded:
                self._load()
                self.loaded = True
        return self.context

    def _load(self) -> None:
        chosen = self._env.get(CERT_FILE), self._env.get(CERT_DIR)
        if not any(chosen):
            self.context.load_verify_locations(certifi.where())
        self.context.load_default_certs()
        for problem in _load_chosen(self.context, *chosen):
            _log.warning("%s; servers whose certificates need it are not trusted", problem)


def trust_store(env: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Return the context of a loaded TrustStore."""
    return TrustStore(env).load()


def _load_chosen(context: ssl.SSLContext, file: str | None, folders: str | None) -> Iterator[str]:
    """Load what the variables name. Yield a line for each path without certificates.

    OpenSSL ignores unreadable files, and in folders all files whose names are not hashes.
    """
    if file and (problem := _load(context, Path(file))):
        yield f"{CERT_FILE}={file}: {problem}; correct it or unset it"
    for folder in filter(None, (folders or "").split(os.pathsep)):
        try:
            paths = sorted(Path(folder).iterdir())[:MAX_FILES]
        except OSError as error:
            yield f"{CERT_DIR}={folder}: {error.strerror}; correct it or unset it"
        else:
            problems = [_load(context, path) for path in paths]
            if all(problems):
                yield f"{CERT_DIR}={folder}: no file in it holds a certificate in PEM; correct it or unset it"


def _load(context: ssl.SSLContext, path: Path) -> str:
    """Return why the file cannot be used."""
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        return "the file holds no certificate in PEM"
    except OSError as error:
        return error.strerror or "it cannot be read"
    return ""
