"""The reason of a failed connection to a worker, in words, with the remedy. Pure."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator

REFUSED = "refuses connections: not started yet, or gone"
NO_TLS = "the port does not speak TLS; use http:// in its URL"
TLS_PORT = "the port speaks TLS; use https:// in its URL"
NO_ANSWER = "it closes connections without an answer; if the port speaks TLS, use https:// in its URL"
NO_ANSWER_TLS = "it closes connections without an answer; does it require a client certificate?"
BINARY = "its answer is not HTTP; if the port speaks TLS, use https:// in its URL"
NOT_HTTP = "its answer is not HTTP; is that a vLLM?"
CLOSED_IN_HANDSHAKE = "it closes the connection during the TLS handshake; is that an https:// port?"
UNTRUSTED = "its certificate is not trusted: {why}; set SSL_CERT_FILE to a file with the certificate of its authority"
ANOTHER_NAME = "its certificate is for another name: {why}; use a name of the certificate in its URL"
EXPIRED = "its certificate has expired; renew it"
NOT_YET_VALID = "its certificate is not valid yet; check the clocks of both machines"
CLIENT_CERTIFICATE = "it requires a client certificate, which is not supported; use VLLAMA_WORKER_KEY instead"
OLD_TLS = "it has no TLS version in common with this machine; enable TLS 1.2 or later in it"

_HTTP_AT_TLS = re.compile(
    rb"HTTP request (was sent )?to (an )?HTTPS (port|server)|plain HTTP to an SSL|requires TLS", re.IGNORECASE
)
"""In the 400 of nginx, Go and Apache."""
_NUMBER = re.compile(r"\[Errno (\d+)\]")
_MAX_CAUSES = 12
_HOST_MISMATCH, _IP_MISMATCH = 62, 64
_UNTRUSTED_CODES = frozenset({2, 18, 19, 20, 21, 24, 27, 28})
"""X509_V_ERR_*: no issuer, self-signed, or an authority that must not sign."""
_NO_TLS_REASONS = frozenset(
    {
        *("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"),
        *("PACKET_LENGTH_TOO_LONG", "RECORD_TOO_SMALL", "UNEXPECTED_MESSAGE", "UNEXPECTED_RECORD"),
    }
)
_OLD_TLS_REASONS = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"})
_BY_ERRNO = {
    errno.ECONNREFUSED: REFUSED,
    errno.ETIMEDOUT: "it does not answer in time",
    errno.EHOSTUNREACH: "no route to the host; check the network",
    errno.ENETUNREACH: "no route to its network; check the network",
    errno.EHOSTDOWN: "the host is down",
    errno.EACCES: "this machine does not permit the connection; check its firewall",
    errno.EPERM: "this machine does not permit the connection; check its firewall",
    errno.EADDRNOTAVAIL: "this machine has no free port or no such address",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this machine",
}
_BROKEN = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ENOTCONN})


def explain(error: BaseException, *, tls: bool) -> str:
    """Return the reason of a failed connection from the error and its causes. `tls`: the connection uses TLS."""
    chain = tuple(_causes(error))
    for cause in chain:
        if reason := _reason(cause, tls):
            return reason
    return next((text for text in map(str, chain) if text), type(error).__name__)


def is_refused(error: BaseException) -> bool:
    """True if the host answered that nothing listens at the port."""
    return explain(error, tls=False) == REFUSED


def speaks_tls(answer: bytes) -> bool:
    """True if the answer to plain HTTP begins with a TLS alert, or is the complaint of a TLS server."""
    return answer.startswith(b"\x15\x03") or _HTTP_AT_TLS.search(answer) is not None


def explain_protocol_error(text: str, *, tls: bool) -> str:
    """Return the reason of an invalid response from the HTTP library's words."""
    if "without sending a response" in text:
        return NO_ANSWER_TLS if tls else NO_ANSWER
    if not tls and "illegal request line" in text:  # a line that begins with a control character
        return BINARY
    return f"{NOT_HTTP} ({text[:200]})" if "illegal" in text else text


def _causes(error: BaseException) -> Iterator[BaseException]:
    pending: list[BaseException] = [error]
    for _ in range(_MAX_CAUSES):
        if not pending:
            return
        cause = pending.pop(0)
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            pending += cause.exceptions
        if (deeper := cause.__cause__ or cause.__context__) is not None:
            pending.append(deeper)


def _reason(error: BaseException, tls: bool) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return _certificate(error)
        case ssl.SSLWantReadError() | ssl.SSLWantWriteError():
            return ""
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return CLOSED_IN_HANDSHAKE
        case ssl.SSLError():
            return _handshake(error)
        case socket.gaierror():
            return _name(error)
        case UnicodeError():
            return "its host name is invalid; correct its URL"
        case OSError():
            return _network(error, tls)
    return ""


def _certificate(error: ssl.SSLCertVerificationError) -> str:
    why = str(error.verify_message or "verification failed").rstrip(".")
    if error.verify_code in (_HOST_MISMATCH, _IP_MISMATCH):
        return ANOTHER_NAME.format(why=why)
    if error.verify_code in _UNTRUSTED_CODES:
        return UNTRUSTED.format(why=why)
    return {9: NOT_YET_VALID, 10: EXPIRED}.get(error.verify_code, f"its certificate is not valid: {why}; renew it")


def _handshake(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if reason in _NO_TLS_REASONS:
        return NO_TLS
    if reason in _OLD_TLS_REASONS:
        return OLD_TLS
    if reason.endswith("CERTIFICATE_REQUIRED"):
        return CLIENT_CERTIFICATE
    return f"the TLS handshake failed: {reason.lower().replace('_', ' ') or error}"


def _name(error: socket.gaierror) -> str:
    if error.errno == socket.EAI_AGAIN:
        return "its host name cannot be resolved now; check the DNS server"
    return f"its host name does not resolve ({error.strerror}); correct its URL or the DNS"


def _network(error: OSError, tls: bool) -> str:
    number = error.errno
    if number is None and (listed := _NUMBER.findall(str(error))):
        number = int(listed[-1])  # asyncio joins the errors of several addresses into one text
    if number in _BROKEN or (isinstance(error, ConnectionError) and number is None):
        return CLOSED_IN_HANDSHAKE if tls else "it resets connections; if the port speaks TLS, use https:// in its URL"
    return _BY_ERRNO.get(number or 0, "")
