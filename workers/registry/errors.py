"""Errors of the registry in words: what Redis said, or why nothing was heard, and what to do. Pure."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from redis.exceptions import InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as ReplyTimeout

from vllama_pool.config.redis_address import RedisAddress

MAX_QUOTED = 160
MIN_HIDDEN = 4
"""Characters. A shorter password would also match parts of ordinary words, which would show it."""

_MOVED = (
    "that Redis is part of a cluster whose node does not keep the fleet's keys; write "
    "redis+cluster://HOST:PORT,HOST:PORT with several of its nodes"
)
_MIGRATING = "its cluster moves the fleet's keys to another node; wait until it has"
_CREDENTIALS = "correct the user name and the password in REDIS_URL"
_ACL = "give its user the permissions that deploy/README.md lists"
_MEMORY = "raise its maxmemory"
_TOO_OLD = "use Redis 6.2 or later, or Valkey, with Lua scripts"

_BY_CODE = {
    "MOVED": _MOVED,
    "ASK": _MIGRATING,
    "CROSSSLOT": "it does not keep keys with one hash tag together; use a Redis, or a cluster without a proxy",
    "TRYAGAIN": _MIGRATING,
    "CLUSTERDOWN": "repair its cluster, or point REDIS_URL at a Redis that is not part of one",
    "LOADING": "wait until it has loaded its data",
    "MASTERDOWN": "it is a replica without its primary; point REDIS_URL at the primary",
    "READONLY": "it is a replica; point REDIS_URL at the primary",
    "NOREPLICAS": "start its replicas, or lower its min-replicas-to-write",
    "OOM": _MEMORY,
    "MISCONF": "it cannot save its data; see its log, and free space on its disk",
    "NOAUTH": "put its password into REDIS_URL, such as with ?password=PASSWORD",
    "WRONGPASS": _CREDENTIALS,
    "NOPERM": _ACL,
    "DENIED": "set a password in its configuration (requirepass), and put it into REDIS_URL",
    "BUSY": "it runs another client's script; wait, or end it with SCRIPT KILL",
    "WRONGTYPE": "its keys hold what no vLLama has written; remove them, or change VLLAMA_FLEET",
    "NOPROTO": _TOO_OLD,
}
_BY_TEXT = (
    (re.compile(r"max(imum)? number of clients|maxclients", re.I), "raise its maxclients, or stop clients"),
    (re.compile(r"DB index|SELECT is not allowed", re.I), "write a database that it has, such as /0, in REDIS_URL"),
    (re.compile(r"without any password configured|no password is set", re.I), "remove the password from REDIS_URL"),
    (re.compile(r"invalid (username|password)", re.I), _CREDENTIALS),
    (re.compile(r"number of arguments for 'auth'", re.I), "it is older than Redis 6; leave the user name out"),
    (re.compile(r"operation not permitted|Authentication required", re.I), _BY_CODE["NOAUTH"]),
    (re.compile(r"ACL failure|no permissions|access to", re.I), _ACL),
    (re.compile(r"unknown (sub)?command", re.I), _TOO_OLD),
    (re.compile(r"maxmemory", re.I), _MEMORY),
)
_PASSING = frozenset({"LOADING", "MASTERDOWN", "CLUSTERDOWN", "ASK", "TRYAGAIN", "READONLY", "NOREPLICAS", "BUSY"})
"""States of a Redis that starts or takes over from another, such as a replica that becomes the primary."""
_LASTING = frozenset({errno.EACCES, errno.EPERM, errno.ENOTSOCK, errno.EPROTOTYPE})
"""Failures to connect that waiting does not cure."""
_UNEXPECTED = frozenset({"Invalid Username or Password", "Invalid Database", "Error setting client name"})
"""The text of redis-py for an answer that is neither OK nor an error."""
_CODE = re.compile(r"[A-Z]{3,20}\Z")
_CODE_INSIDE = re.compile(rf"(?:^|[\s:-])({'|'.join(_BY_CODE)})(?=[\s:])")


@dataclass(frozen=True, slots=True)
class Explanation:
    text: str
    """One line: what is wrong; what to do."""
    passing: bool = False
    """True if waiting alone may help."""


class PrimaryUnknown(RedisError):
    """Sentinels do not name a primary. `str()` is one line: what is wrong; what to do."""

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing


def explain(error: Exception, address: RedisAddress) -> Explanation:
    """Describe an error of the client library."""
    where = address.endpoint
    for cause in _causes(error):
        if isinstance(cause, PrimaryUnknown):
            return Explanation(str(cause), cause.passing)
    if isinstance(error, InvalidResponse):
        return Explanation(_not_redis(str(error), where))
    if (code := _code(error)) is not None:
        said = _quoted(code, error, address)
        return Explanation(f'the registry at {where} answered "{said}"; {_cure(code, said)}', code in _PASSING)
    if str(error) in _UNEXPECTED:
        return Explanation(_not_redis("", where))
    return Explanation(_silence(error, address), _is_passing(error))


def _is_passing(error: Exception) -> bool:
    """Return True for silence that a starting Redis, or its network, explains."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            return False
        if isinstance(cause, socket.gaierror):
            return cause.errno == socket.EAI_AGAIN
        if isinstance(cause, OSError) and cause.errno:
            return cause.errno not in _LASTING
    return True


def _code(error: Exception) -> str | None:
    """Return the code of an answer such as MOVED; "" for one without a code; None if Redis has said nothing."""
    text, code = str(error), getattr(error, "status_code", None)
    if code is None and not isinstance(error, ResponseError):
        return None
    inside = _CODE_INSIDE.search(text)
    if code in (None, "ERR") and inside:
        return inside[1]
    first = text.partition(" ")[0]
    return code or (first if _CODE.match(first) else "")


def _cure(code: str, said: str) -> str:
    if code in _BY_CODE:
        return _BY_CODE[code]
    return next((cure for pattern, cure in _BY_TEXT if pattern.search(said)), "see its documentation")


def _quoted(code: str, error: Exception, address: RedisAddress) -> str:
    """Return what Redis said in one short line. It can repeat our arguments, and so the password."""
    text = re.split(r",? with args beginning with|,? near ", str(error), maxsplit=1)[0]
    status = getattr(error, "status_code", None)
    if status and not text.startswith(status):
        text = f"{status} {text}"
    for secret in _secrets(address):
        text = text.replace(secret, "***")
    text = "".join(c if c.isprintable() else " " for c in text).rstrip(" .,")
    return text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED].rpartition(" ")[0] + " …"


def _secrets(address: RedisAddress) -> Iterator[str]:
    for name in ("password", "ssl_password", "sentinel_password"):
        secret = str(address.options.get(name, ""))
        if len(secret) >= MIN_HIDDEN:
            yield secret


def _not_redis(text: str, where: str) -> str:
    """`text` is never quoted: it holds whatever bytes the server sent."""
    if "HTTP/" in text:
        return f"an HTTP server answers at {where}, not a Redis; correct host and port in REDIS_URL"
    return f"what answers at {where} is not a Redis; correct host and port in REDIS_URL"


def _silence(error: Exception, address: RedisAddress) -> str:
    where = address.endpoint
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError) and address.tls:
            return _tls_problem(cause, where)
    check = "is Redis running there?" if address.path else "is Redis running there, and is REDIS_URL right?"
    if address.tls:
        check = "is Redis running there with TLS, and is REDIS_URL right?"
    elif address.host and _closed(error):
        check = "is Redis running there? If it expects TLS, write rediss:// in REDIS_URL"
    return f"no answer from the registry at {where} ({reason(error)}); {check}"


def _tls_problem(error: ssl.SSLError, where: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        return f"the certificate of the registry at {where} is not trusted ({why}); {_certificate_cure(error)}"
    if "CERTIFICATE" in (error.reason or "") or "ALERT" in (error.reason or ""):
        why = (error.reason or "").lower().replace("_", " ")
        return (
            f"the registry at {where} refuses the TLS connection ({why}); name a certificate that it accepts in "
            "REDIS_URL with ?ssl_certfile=FILE&ssl_keyfile=FILE"
        )
    return f"the registry at {where} does not speak TLS; write redis:// in REDIS_URL, or its TLS port"


def _certificate_cure(error: ssl.SSLCertVerificationError) -> str:
    if "mismatch" in error.verify_message:
        return "write the name that its certificate has"
    cures = {9: "check the clocks of both machines", 10: "renew it"}
    return cures.get(error.verify_code, "name its CA in REDIS_URL with ?ssl_ca_certs=FILE, or in SSL_CERT_FILE")


def reason(error: Exception) -> str:
    """Why nothing was heard. Prefer the system's error text: redis-py's repeats the address."""
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return str(cause.strerror)
        if isinstance(cause, ConnectionResetError) and not cause.errno:  # by asyncio, in the TLS handshake
            return "it closed the connection"
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        if isinstance(cause, OSError) and (number := _ERRNO.search(str(cause))):  # of each address of the host
            return os.strerror(int(number[1]))
    if isinstance(error, ReplyTimeout | TimeoutError):
        connecting = "connecting" in str(error)
        return "timed out while connecting" if connecting else "timed out while waiting for a reply"
    return "it closed the connection" if _closed(error) else type(error).__name__


def _closed(error: Exception) -> bool:
    return any(text in str(error) for text in ("closed by server", "Connection lost"))


_ERRNO = re.compile(r"\[Errno (\d+)\]")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        cause = pending.pop(0)
        if cause is not None and cause not in seen:
            seen.append(cause)
            yield cause
            pending += [cause.__cause__, cause.__context__]
