"""A request's demand: what its model's policy and replicas need to know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllama_pool.router.balance.demand import Demand
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.policies.prefix_affinity import PrefixAffinity
from vllama_pool.router.balance.policies.session import Session
from vllama_pool.router.balance.select import POLICIES
from vllama_pool.router.routing.asker import Asker
from vllama_pool.router.routing.prompt_prefixes import NO_PREFIXES, prompt_prefixes
from vllama_pool.router.routing.prompt_size import PromptSize, prompt_size
from vllama_pool.router.routing.splits import identity_hash

if TYPE_CHECKING:
    from vllama_pool.config.routing.model_entry import PolicyChoice


def make_policy(choice: PolicyChoice) -> Policy:
    """Return a new policy as the routing file describes it."""
    if isinstance(choice, str):
        return POLICIES[choice]()
    return Session(choice.by) if choice.type == "session" else PrefixAffinity(choice.bound)


def read_demand(policy: Policy, model: str, request: Any, asker: Asker | None, *, measured: bool) -> Demand:
    """`model`: its key. `asker`: of a request whose policy asks for an identity. `measured`: the prompt's size
    matters."""
    key, prefixes = prompt_prefixes(request, model) if policy.reads_prefixes else NO_PREFIXES
    if policy.by and asker is not None:
        key = identity_hash(asker.identity(policy.by))
    size = prompt_size(request) if measured else PromptSize()
    return Demand(key, prefixes, size.at_least, size.at_most)
