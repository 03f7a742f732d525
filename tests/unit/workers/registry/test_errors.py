"""Errors of the registry: Redis's own words with the cure, the true reason of silence, and no password."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import AuthenticationError, ConnectionError, InvalidResponse, RedisError, TimeoutError

from vllama_pool.config.redaction import redacted
from vllama_pool.config.redis_address import parse
from vllama_pool.workers.registry.errors import MAX_QUOTED, explain

ADDRESS = parse("redis://user:hunter2tiger@host:7000/1")
TLS = parse("rediss://:hunter2tiger@host:7000")


def caused_by(error: Exception, cause: BaseException) -> Exception:
    error.__context__ = cause
    return error


@pytest.mark.parametrize(
    ("answer", "said", "cure"),
    [
        ("MOVED 3999 127.0.0.1:6381", "MOVED 3999 127.0.0.1:6381", "redis+cluster://HOST"),
        ("ASK 3999 127.0.0.1:6381", "ASK 3999", "wait until it has"),
        ("CROSSSLOT Keys in request don't hash to the same slot", "CROSSSLOT Keys", "one hash tag"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN", "wait until it has"),
        ("CLUSTERDOWN Hash slot not served", "CLUSTERDOWN Hash slot", "repair its cluster"),
        ("CLUSTERDOWN The cluster is down", "The cluster is down", "repair its cluster"),
        ("LOADING Redis is loading the dataset in memory", "LOADING Redis is loading", "wait until"),
        ("MASTERDOWN Link with MASTER is down", "MASTERDOWN Link", "point REDIS_URL at the primary"),
        ("READONLY You can't write against a read only replica.", "READONLY You can't", "at the primary"),
        ("NOREPLICAS Not enough good replicas to write.", "NOREPLICAS", "min-replicas-to-write"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM command", "raise its maxmemory"),
        ("MISCONF Errors writing to the AOF file: No space left", "MISCONF Errors", "free space"),
        ("NOAUTH Authentication required.", "NOAUTH Authentication required", "?password=PASSWORD"),
        ("WRONGPASS invalid username-password pair", "WRONGPASS invalid", "correct the user name and the password"),
        ("ERR invalid password", "ERR invalid password", "correct the user name and the password"),
        ("NOPERM User user has no permissions to run the 'evalsha' command", "NOPERM User", "deploy/README.md"),
        ("ERR ACL failure in script: no permission", "ACL failure", "deploy/README.md"),
        ("DENIED Redis is running in protected mode because", "DENIED Redis", "requirepass"),
        ("BUSY Redis is busy running a script.", "BUSY Redis", "SCRIPT KILL"),
        ("WRONGTYPE Operation against a key", "WRONGTYPE Operation", "VLLAMA_FLEET"),
        ("ERR max number of clients reached", "ERR max number of clients", "raise its maxclients"),
        ("ERR DB index is out of range", "ERR DB index", "such as /0"),
        ("ERR invalid DB index", "ERR invalid DB index", "such as /0"),
        ("ERR SELECT is not allowed in cluster mode", "ERR SELECT", "such as /0"),
        (
            "ERR AUTH <password> called without any password configured for the default user. Are you sure",
            "ERR AUTH",
            "rem",
        ),
        ("ERR Client sent AUTH, but no password is set", "ERR Client sent AUTH", "remove the password"),
        ("ERR wrong number of arguments for 'auth' command", "ERR wrong number", "leave the user name out"),
        ("ERR unknown command 'EVALSHA', with args beginning with: 'x' ", "ERR unknown command 'EVALSHA'", "Lua"),
        ("ERR AUTH <password> called without any password configured", "ERR AUTH", "remove the password"),
        (
            "ERR Error running script (call to f_1): @user_script:19: -READONLY You can't write against a read only",
            "Error running script",
            "at the primary",
        ),
        ("ERR Error running script: @user_script: 3: OOM command not allowed", "script", "raise its maxmemory"),
        ("ERR something of a later version", "ERR something of a later version", "see its documentation"),
        ("-?- odd", "-?- odd", "see its documentation"),
    ],
)
def test_what_redis_answers_is_quoted_with_the_cure(answer: str, said: str, cure: str) -> None:
    text = explain(BaseParser.parse_error(answer), ADDRESS).text
    assert text.startswith('the registry at host:7000 answered "')
    assert said in text
    assert cure in text
    assert "no answer" not in text
    assert redacted(text) == text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("answer", "passing"),
    [
        *(
            (code, True)
            for code in ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "NOREPLICAS", "BUSY")
        ),
        ("ERR Error running script: @user_script: 3: -READONLY You can't write", True),
        *((code, False) for code in ("NOAUTH", "WRONGPASS", "NOPERM", "DENIED", "OOM", "MISCONF")),
        ("MOVED 3999 127.0.0.1:6381", False),
        ("ERR DB index is out of range", False),
        ("ERR max number of clients reached", False),
        ("ERR unknown command 'EVALSHA'", False),
    ],
)
def test_only_states_that_pass_by_themselves_are_waited_for(answer: str, passing: bool) -> None:
    assert explain(BaseParser.parse_error(answer if " " in answer else f"{answer} text"), ADDRESS).passing is passing


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (caused_by(ConnectionError("x"), ConnectionRefusedError(errno.ECONNREFUSED, "x")), True),
        (caused_by(ConnectionError("x"), FileNotFoundError(errno.ENOENT, "x")), True),
        (OSError(errno.EHOSTUNREACH, "x"), True),
        (TimeoutError("Timeout connecting to server"), True),
        (ConnectionError("Connection closed by server."), True),
        (caused_by(ConnectionError("x"), socket.gaierror(socket.EAI_AGAIN, "Temporary failure")), True),
        (caused_by(ConnectionError("x"), socket.gaierror(socket.EAI_NONAME, "Name or service not known")), False),
        (caused_by(ConnectionError("x"), PermissionError(errno.EACCES, "x")), False),
        (caused_by(ConnectionError("x"), ssl.SSLError(1, "WRONG_VERSION_NUMBER")), False),
        (InvalidResponse("Protocol Error: b'HTTP/1.1 400 Bad Request'"), False),
    ],
)
def test_silence_of_a_redis_that_may_still_start_is_waited_for(error: Exception, passing: bool) -> None:
    assert explain(error, ADDRESS).passing is passing


@pytest.mark.parametrize(
    "answer",
    [
        "ERR unknown command `AUTH`, with args beginning with: `user`, `hunter2tiger`, ",
        "ERR no such user:hunter2tiger",
        "hunter2tiger",
    ],
)
def test_a_password_that_the_server_repeats_is_removed(answer: str) -> None:
    assert "hunter2tiger" not in explain(BaseParser.parse_error(answer), ADDRESS).text


def test_a_long_answer_is_shortened() -> None:
    text = explain(BaseParser.parse_error("DENIED " + "word " * 500), ADDRESS).text
    assert len(text) < MAX_QUOTED + 160
    assert " …" in text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (caused_by(ConnectionError("Error 111"), ConnectionRefusedError(111, "x")), "(Connection refused)"),
        (
            caused_by(ConnectionError("x"), OSError("Multiple: [Errno 111] Connect")),
            "(Connection refused)",
        ),
        (
            caused_by(ConnectionError("x"), socket.gaierror(-2, "Name or service not known")),
            "(Name or service not known)",
        ),
        (OSError(113, "x"), f"({os.strerror(113)})"),
        (TimeoutError("Timeout connecting to server"), "(timed out while connecting)"),
        (TimeoutError("Timeout reading from host:7000"), "(timed out while waiting for a reply)"),
        (ConnectionError("Connection closed by server."), "(it closed the connection); is Redis running there? If it"),
        (ConnectionError("Error UNKNOWN while writing to socket. Connection lost."), "(it closed the connection)"),
        (RedisError(), "(RedisError)"),
    ],
)
def test_silence_has_its_true_reason(error: Exception, reason: str) -> None:
    text = explain(error, ADDRESS).text
    assert text.startswith("no answer from the registry at host:7000 (")
    assert reason in text
    assert "Redis running there" in text


def not_trusted(message: str, code: int = 18) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "failed")
    error.verify_message, error.verify_code = message, code
    return error


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (not_trusted("self-signed certificate"), ["not trusted (self-signed certificate)", "?ssl_ca_certs=FILE"]),
        (not_trusted("Hostname mismatch, certificate is not valid for 'host'."), ["mismatch", "name that its cert"]),
        (not_trusted("certificate has expired", 10), ["certificate has expired); renew it"]),
        (not_trusted("certificate is not yet valid", 9), ["check the clocks"]),
        (tls_error("WRONG_VERSION_NUMBER"), ["does not speak TLS", "write redis://"]),
        (tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), ["certificate required", "?ssl_certfile=FILE"]),
    ],
)
def test_a_failure_of_tls_has_its_true_reason(cause: ssl.SSLError, words: list[str]) -> None:
    text = explain(caused_by(ConnectionError("x"), cause), TLS).text
    assert all(word in text for word in words), text
    assert "not permitted" not in text


def test_a_connection_that_ends_in_the_tls_handshake_is_said_to_be_closed() -> None:
    text = explain(caused_by(ConnectionError("x"), ConnectionResetError()), TLS).text
    assert "(it closed the connection); is Redis running there with TLS" in text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InvalidResponse("Protocol Error: b'HTTP/1.1 400 Bad Request'"), "an HTTP server answers at host:7000"),
        (InvalidResponse("Protocol Error: b'hunter2tiger'"), "is not a Redis"),
        (AuthenticationError("Invalid Username or Password"), "is not a Redis"),
    ],
)
def test_another_server_is_recognised(error: Exception, words: str) -> None:
    text = explain(error, ADDRESS).text
    assert words in text
    assert "hunter2tiger" not in text
