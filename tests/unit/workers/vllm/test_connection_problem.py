"""Reasons of failed connections, from the errors of asyncio, uvloop, anyio and ssl."""

from __future__ import annotations

import errno
import socket
import ssl

import httpx
import pytest

from vllama_pool.workers.vllm.connection_problem import (
    CLIENT_CERTIFICATE,
    CLOSED_IN_HANDSHAKE,
    EXPIRED,
    NO_ANSWER,
    NO_TLS,
    NOT_YET_VALID,
    OLD_TLS,
    REFUSED,
    explain,
    explain_protocol_error,
    is_refused,
    speaks_tls,
)


def verification(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return error


def handshake(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), REFUSED),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111] Connect"), REFUSED),
        (ExceptionGroup("several", [ConnectionRefusedError(errno.ECONNREFUSED, "no")]), REFUSED),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route to the host"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no route to its network"),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), "in time"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), CLOSED_IN_HANDSHAKE),
        (ConnectionResetError(), CLOSED_IN_HANDSHAKE),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "does not resolve"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "cannot be resolved now"),
        (UnicodeError("label empty or too long"), "host name is invalid"),
        (verification(20, "unable to get local issuer certificate"), "SSL_CERT_FILE"),
        (verification(18, "self-signed certificate"), "not trusted: self-signed certificate"),
        (verification(19, "self-signed certificate in certificate chain"), "SSL_CERT_FILE"),
        (verification(62, "Hostname mismatch, certificate is not valid for 'a'."), "another name: Hostname mismatch"),
        (verification(64, "IP address mismatch"), "another name"),
        (verification(10, "certificate has expired"), EXPIRED),
        (verification(9, "certificate is not yet valid"), NOT_YET_VALID),
        (verification(23, "certificate revoked"), "not valid: certificate revoked"),
        (handshake("WRONG_VERSION_NUMBER"), NO_TLS),
        (handshake("RECORD_LAYER_FAILURE"), NO_TLS),
        (handshake("UNSUPPORTED_PROTOCOL"), OLD_TLS),
        (handshake("TLSV13_ALERT_CERTIFICATE_REQUIRED"), CLIENT_CERTIFICATE),
        (handshake("SSLV3_ALERT_HANDSHAKE_FAILURE"), "handshake failed: sslv3 alert handshake failure"),
        (ssl.SSLEOFError(8, "EOF occurred"), CLOSED_IN_HANDSHAKE),
        (ValueError("odd"), "odd"),
        (ValueError(), "ValueError"),
    ],
)
def test_each_failure_has_its_reason(error: BaseException, words: str) -> None:
    assert words in explain(error, tls=True)


def test_the_reason_is_found_among_the_causes() -> None:
    outer = httpx.ConnectError("All connection attempts failed")
    middle = OSError("All connection attempts failed")
    outer.__cause__, middle.__cause__ = middle, ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    assert explain(outer, tls=False) == REFUSED
    assert is_refused(outer)
    assert not is_refused(httpx.ConnectError(""))


def test_a_cycle_of_causes_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert explain(first, tls=True) == "first"


def test_a_reset_of_plain_http_is_not_called_a_handshake() -> None:
    assert "resets connections" in explain(ConnectionResetError(errno.ECONNRESET, "reset"), tls=False)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<center>The plain HTTP request was sent to HTTPS port</center>",
        b"Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
    ],
)
def test_the_answer_of_a_tls_server_to_plain_http_is_recognized(answer: bytes) -> None:
    assert speaks_tls(answer)


def test_other_answers_are_not_those_of_a_tls_server() -> None:
    assert not speaks_tls(b'{"error": "unexpected request"}')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Server disconnected without sending a response.", NO_ANSWER),
        ("illegal request line", "use https://"),
        ("illegal status line: bytearray(b'SSH-2.0-OpenSSH_9')", "is not HTTP"),
        ("peer closed connection", "peer closed connection"),
    ],
)
def test_invalid_responses_have_reasons(text: str, words: str) -> None:
    assert words in explain_protocol_error(text, tls=False)
