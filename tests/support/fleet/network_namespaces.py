"""Hosts for tests: network namespaces with cables to a hub.

The machine's own network is unchanged. Packets on a pulled cable vanish.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from vllama_pool.workers.process.lifeline import die_with_parent

P = ParamSpec("P")
T = TypeVar("T")

CLONE_NEWNET = 0x40000000
CAP_SYS_ADMIN = 21
PREFIX = "vllama-test"
THREADS = 40
"""Maximum simultaneous calls per host."""
_numbers = itertools.count()


def impossible() -> str:
    """Return the reason why namespaces are not permitted, or ""."""
    if sys.platform != "linux":
        return "network namespaces are Linux"
    if not Path("/proc/self/ns/net").exists():
        return "this kernel has no network namespaces"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    if not _capable(CAP_SYS_ADMIN):
        return "root lacks CAP_SYS_ADMIN here, which making network namespaces needs"
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    return ""


def _capable(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> number & 1)


def ip(*words: str) -> str:
    """Run `ip`. Raises AssertionError with its output."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr.strip() or done.returncode}"
    return done.stdout


class Host:
    """One namespace, with an address and a loopback interface."""

    def __init__(self, namespace: str, address: str) -> None:
        self.namespace = namespace
        self.address = address
        self._threads = ThreadPoolExecutor(THREADS, namespace, initializer=self._enter)

    def __repr__(self) -> str:
        return f"<Host {self.namespace} {self.address}>"

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call this in a thread of the host, to which its sockets then belong."""
        return self._threads.submit(function, *args, **kwargs).result()

    @property
    def threads(self) -> ThreadPoolExecutor:
        """The host's threads, for long calls."""
        return self._threads

    def start(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program in this host. It dies with the tests."""
        with log.open("ab") as out:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *argv],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509  it takes no locks
            )

    def add_address(self, address: str, hub: Host) -> None:
        """Add an address that the hub can reach."""
        ip("-n", self.namespace, "address", "add", f"{address}/32", "dev", "eth0")
        ip("-n", hub.namespace, "route", "add", address, "via", self.address)

    def pull_cable(self) -> None:
        """Drop all packets without an error."""
        ip("-n", self.namespace, "link", "set", "eth0", "down")

    def plug_in(self) -> None:
        ip("-n", self.namespace, "link", "set", "eth0", "up")

    def close(self) -> None:
        self._threads.shutdown()
        ip("netns", "delete", self.namespace)

    def _enter(self) -> None:
        """Move the calling thread into the namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/run/netns", self.namespace).open("rb") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter {self.namespace}")


@contextlib.contextmanager
def network(*names: str) -> Iterator[list[Host]]:
    """Create hosts by name in 10.77.0.0/24; the first is the hub."""
    _remove_leftovers()
    run = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
    with contextlib.ExitStack() as stack:
        hosts = [Host(f"{run}-{name}", f"10.77.0.{number}") for number, name in enumerate(names, 1)]
        for host in hosts:
            ip("netns", "add", host.namespace)
            stack.callback(host.close)
            ip("-n", host.namespace, "link", "set", "lo", "up")
        hub, *others = hosts
        for number, host in enumerate(others):
            cable = f"cable{number}"
            ip("-n", hub.namespace, *f"link add {cable} type veth peer name eth0 netns {host.namespace}".split())
            ip("-n", hub.namespace, "address", "add", f"{hub.address}/32", "dev", cable)
            ip("-n", hub.namespace, "link", "set", cable, "up")
            ip("-n", hub.namespace, "route", "add", host.address, "dev", cable)
            ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            ip("-n", host.namespace, "link", "set", "eth0", "up")
        yield hosts


def _remove_leftovers() -> None:
    """Remove the namespaces of a killed run."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        owner = name.removeprefix(f"{PREFIX}-").partition("-")[0]
        if name.startswith(f"{PREFIX}-") and owner.isdigit() and not Path("/proc", owner).exists():
            ip("netns", "delete", name)
