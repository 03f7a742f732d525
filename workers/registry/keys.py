"""Redis keys of a fleet: contents, writers and lifetimes.

One hash tag per fleet, so that scripts work on a cluster. No key has a TTL, because a slow Redis would then look like
the death of every worker: the snapshot script collects dead entries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Seconds between beats of a worker; agents add jitter.
BEAT_INTERVAL = 1.0

#: Seconds without a beat, by Redis's clock, after which a worker's entries are deleted.
COLLECT_AFTER = 60.0

#: Seconds without a poll, by Redis's clock, after which a router is no longer counted.
ROUTER_TTL = 5.0

_FLEET = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True, slots=True)
class Keys:
    #: HASH. epoch: random, set by the first writer; changes on a flush.
    #: seq: counts changes of `w`. collected: counts collected workers. models: counts changes of `vm`.
    meta: str
    #: HASH worker id -> signed envelope. Written at registration, removed at deregistration or collection.
    w: str
    #: HASH worker id -> load report ("generation:number:state:…"). Written with every beat, removed with `w`.
    load: str
    #: ZSET worker id -> Redis time in ms of its last beat, for collection.
    hbz: str
    #: ZSET router process -> Redis time in ms of its last poll; removed after ROUTER_TTL.
    routers: str
    #: Channel for events; polling repairs lost ones.
    ev: str
    #: HASH name key -> signed envelope of a virtual model or its tombstone. Written by routers.
    vm: str
    #: HASH worker id -> "revision\nenvelope" of what operators ask of the worker. Written by routers, and after a flush
    #: by agents too. Stays when the worker leaves.
    want: str
    #: HASH digest -> signed envelope of a request that routers refuse, for those that start later. Dropped by each
    #: router's own clock.
    poison: str
    #: HASH worker id -> "owner:Redis time in ms at which it ends": the one suspect request that a worker is tried with.
    trials: str

    @classmethod
    def of(cls, fleet: str) -> Keys:
        """Raises ValueError for a name that would break the hash tag."""
        if not _FLEET.fullmatch(fleet):
            raise ValueError(f"{fleet!r} is not a valid fleet name; use up to 64 letters, digits, '.', '_' and '-'")
        tag = f"{{vllama:{fleet}}}:"
        return cls(
            *(tag + name for name in ("meta", "w", "load", "hbz", "routers", "ev", "vm", "want", "poison", "trials"))
        )


def check_worker_id(worker_id: str) -> str:
    """Return the id. Raises ValueError if messages cannot contain it."""
    if not _WORKER_ID.fullmatch(worker_id):
        raise ValueError(
            f"{worker_id!r} is not a valid worker id; use up to 128 letters, digits, '.', '_', ':' and '-'"
        )
    return worker_id
