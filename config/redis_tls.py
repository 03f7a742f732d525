"""Checks the files that a Redis address names for TLS, before the first connection."""

from __future__ import annotations

import ssl
from pathlib import Path

from vllama_pool.config.redis_address import InvalidAddress, RedisAddress


def check_files(address: RedisAddress) -> RedisAddress:
    """Return the address. Raises InvalidAddress."""
    options = address.options
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in options:
            _check_readable(name, Path(options[name]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if "ssl_ca_certs" in options:
        _load_ca(context, options["ssl_ca_certs"])
    if "ssl_ca_path" in options and not Path(options["ssl_ca_path"]).is_dir():
        raise InvalidAddress("the option ssl_ca_path names no folder; correct it")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise InvalidAddress("the option ssl_keyfile needs ssl_certfile; add it")
    if "ssl_certfile" in options:
        _load_certificate(context, options["ssl_certfile"], options.get("ssl_keyfile"), options.get("ssl_password", ""))
    return address


def _check_readable(name: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise InvalidAddress(f"the file of the option {name}: {error.strerror}; name a readable file") from None
    except ValueError:
        raise InvalidAddress(f"the file of the option {name} cannot be opened; name a readable file") from None


def _load_ca(context: ssl.SSLContext, file: str) -> None:
    try:
        context.load_verify_locations(file)
    except ssl.SSLError:
        raise InvalidAddress("the file of the option ssl_ca_certs has no certificate; name a PEM file") from None


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str | None, password: str) -> None:
    """The password is never asked for on the terminal."""
    try:
        context.load_cert_chain(certificate, key, password)
    except (ssl.SSLError, ValueError):
        raise InvalidAddress(
            "the files of the options ssl_certfile and ssl_keyfile are not a PEM certificate with its key; "
            "correct them, or ssl_password"
        ) from None
