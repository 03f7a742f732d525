"""Every Redis key of a fleet, who writes it, and how long it lives.

All keys of a fleet share one hash tag, so they live in one slot of a cluster and scripts may touch them all;
several fleets may share one Redis. Nothing has a TTL: a TTL would make a flush, or a slow Redis, look like
the death of every worker. What is dead is collected by SNAPSHOT.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Seconds between two beats of a worker; agents add some jitter.
BEAT_INTERVAL = 1.0

#: Seconds without a beat, by Redis's own clock, after which a worker's entries are collected. Routers have
#: stopped using it long before, by their own clocks: this only keeps the store small.
COLLECT_AFTER = 60.0

#: Seconds without a poll, by Redis's own clock, after which a router process no longer counts.
ROUTER_TTL = 5.0

_FLEET = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True, slots=True)
class Keys:
    """The key names of one fleet."""

    #: HASH. epoch: random, made by whoever writes first; a new one tells a flush from many deaths.
    #: seq: counts the changes of `w`. collected: counts the collected workers. models: counts the changes of `vm`.
    meta: str
    #: HASH worker id -> signed envelope. Written at registration, gone on leave or collection.
    w: str
    #: HASH worker id -> load report ("generation:n:state:…"). Written with every beat, lives as long as `w`.
    load: str
    #: HASH worker id -> what ops want of it (drain, maintenance). Written by ops, kept until they take it back.
    want: str
    #: ZSET worker id -> Redis's time in ms at its last beat. For collection only, never for liveness.
    hbz: str
    #: ZSET router process -> Redis's time in ms at its last poll; dropped after ROUTER_TTL.
    routers: str
    #: Channel. up, down, load and model messages; what is missed is repaired by the next poll.
    ev: str
    #: HASH name's key -> signed envelope of a virtual model or of its tombstone. Written by routers.
    vm: str

    @classmethod
    def of(cls, fleet: str) -> Keys:
        """Raises ValueError for a fleet name that would break the hash tag."""
        if not _FLEET.fullmatch(fleet):
            raise ValueError(f"{fleet!r} is no fleet name; use up to 64 letters, digits, '.', '_' and '-'")
        tag = f"{{vllama:{fleet}}}:"
        return cls(*(tag + name for name in ("meta", "w", "load", "want", "hbz", "routers", "ev", "vm")))


def check_worker_id(worker_id: str) -> str:
    """Return the id. Raises ValueError for one that could not be framed in a message."""
    if not _WORKER_ID.fullmatch(worker_id):
        raise ValueError(f"{worker_id!r} is no worker id; use up to 128 letters, digits, '.', '_', ':' and '-'")
    return worker_id
