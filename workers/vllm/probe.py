"""Ask one vLLM server how it is: its health, its models, its load.

Control traffic only, through httpx. `parse_metrics` is pure. Every answer is read with a bound in time and in
size, because static workers are machines that nobody here has started.
"""

from __future__ import annotations

import asyncio
import enum
import math
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import httpx
import msgspec

from vllama_pool.workers.registry.record import Load, ModelInfo, WorkerState

TIMEOUT = 2.0
"""Seconds that one question may take where the caller says nothing else."""
MAX_SECONDS = 10.0
"""Bound on a whole answer: the client's time-outs are for each read, and a trickle never meets them."""
MAX_BYTES = 4 << 20
"""More than this is no answer to any question asked here; vLLM's /metrics has some 64 KB."""


class ProbeFailed(Exception):
    """The server gave no usable answer. The text is one short line that names the URL."""


class Refused(ProbeFailed):
    """Nobody listens. vLLM binds its port first and listens only once its engine is ready."""


class TimedOut(ProbeFailed):
    """No answer in time: frozen, overloaded or cut off."""


class BadAnswer(ProbeFailed):
    """An HTTP answer, but not one that vLLM gives."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Health(enum.StrEnum):
    """What GET /health tells. It is never "loading": until vLLM is ready, connections are refused."""

    OK = "ok"
    STARTING = "starting"
    """Refused: not up yet, or gone."""
    DEAD = "dead"
    """503: the HTTP server runs, its engine has died."""
    UNREACHABLE = "unreachable"
    """No answer in time, or not vLLM's."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The figures of one /metrics page that are used here, summed over vLLM's engines."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    """Share of the KV cache in use, 0 to 1; of the fullest engine."""
    generation_tokens: int = 0
    """Counter; falls to 0 when vLLM restarts."""
    prompt_tokens: int = 0
    asleep: bool = False
    """Whether the engine sleeps: it accepts requests but answers none until it wakes up."""
    reported: bool = False
    """Whether the page had vLLM's gauges. With --disable-log-stats it has not, and zeros mean nothing."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One entry of /v1/models."""

    name: str
    root: str = ""
    """The folder or repository the model was loaded from."""
    parent: str = ""
    """For a LoRA adapter: the served name of its base."""
    max_model_len: int = 0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one look at a server showed. Without OK health the other fields are empty."""

    health: Health
    models: tuple[ServedModel, ...] = ()
    version: str = ""
    metrics: Metrics = Metrics()
    tasks: tuple[str, ...] = ()
    """What its routes serve: "completion" (chat and completions) or "embedding"; in Ollama's words."""
    problem: str = ""
    """Why the health is not OK, in one short line."""

    @property
    def load(self) -> Load:
        """The load report that follows from health and metrics."""
        return to_load(self.metrics, _STATES[self.health])


@cache
def _trusted_authorities() -> ssl.SSLContext:
    """Loaded once per process, because that takes 20 ms."""
    return httpx.create_ssl_context(trust_env=False)


def http_client(timeout: float = TIMEOUT, *, verify: bool = True) -> httpx.AsyncClient:
    """A client for control traffic: no proxies from the environment and no redirects.

    Without `verify` any certificate will do: only for a server that the caller has started itself.
    """
    return httpx.AsyncClient(
        verify=_trusted_authorities() if verify else False,
        timeout=httpx.Timeout(timeout),
        trust_env=False,
        follow_redirects=False,
        # No bound on connections: httpx 0.28 loses a slot of its pool with every request that is cancelled.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=4.0),
    )


# --- pure ---

_WANTED = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|generation_tokens_total"
    r"|prompt_tokens_total|engine_sleep_state)(\{.*\})?[ \t]+(\S+)",
    re.MULTILINE,
)
"""Only the wanted lines: "num_requests_waiting_by_reason" and "_created" do not match."""


def parse_metrics(text: str) -> Metrics:
    """Read a Prometheus page. Missing names count as 0; values that are no numbers are skipped."""
    totals = dict.fromkeys(("num_requests_running", "num_requests_waiting", "generation_tokens_total"), 0.0)
    totals["prompt_tokens_total"] = kv = 0.0
    asleep = reported = False
    for name, labels, value in _WANTED.findall(text):
        number = _number(value)
        if number is None:
            continue
        if name == "kv_cache_usage_perc":
            kv = max(kv, number)
        elif name == "engine_sleep_state":
            asleep = asleep or ('sleep_state="awake"' in labels and number == 0)
        else:
            totals[name] += number
            reported = reported or name == "num_requests_running"
    return Metrics(
        running=int(totals["num_requests_running"]),
        waiting=int(totals["num_requests_waiting"]),
        kv_usage=min(1.0, kv),
        generation_tokens=int(totals["generation_tokens_total"]),
        prompt_tokens=int(totals["prompt_tokens_total"]),
        asleep=asleep,
        reported=reported,
    )


def to_load(metrics: Metrics, state: WorkerState = WorkerState.READY, tokens_per_second: float = 0.0) -> Load:
    """The load report that follows from the metrics. A READY server that sleeps is reported as SLEEPING."""
    asleep = metrics.asleep and state is WorkerState.READY
    return Load(
        state=WorkerState.SLEEPING if asleep else state,
        running=metrics.running,
        waiting=metrics.waiting,
        kv_usage=metrics.kv_usage,
        tokens_per_second=tokens_per_second,
    )


def model_infos(served: Iterable[ServedModel], tasks: tuple[str, ...] = ("completion",)) -> tuple[ModelInfo, ...]:
    """What can be said of models whose files cannot be read: names, parents and context lengths.

    vLLM lists each further served name as a model of its own; those with the root of the first become its
    aliases. An adapter has no context length of its own: it gets its base's.
    """
    served = tuple(served)
    bases = [model for model in served if not model.parent]
    infos: list[ModelInfo] = []
    grouped: dict[tuple[str, int], list[ServedModel]] = {}
    for base in bases:
        grouped.setdefault((base.root, base.max_model_len), []).append(base)
    for first, *others in grouped.values():
        infos.append(
            ModelInfo(
                name=first.name,
                aliases=tuple(other.name for other in others),
                context_length=first.max_model_len,
                capabilities=tasks,
            )
        )
    length = {base.name: base.max_model_len for base in bases}
    for adapter in served:
        if adapter.parent:
            infos.append(
                ModelInfo(
                    name=adapter.name,
                    parent=adapter.parent,
                    context_length=adapter.max_model_len or length.get(adapter.parent, 0),
                    capabilities=tasks,
                )
            )
    return tuple(infos)


# --- questions ---


async def check_health(
    client: httpx.AsyncClient, url: str, key: str | None = None, server_name: str | None = None
) -> Health:
    """GET /health. Never raises ProbeFailed: that is the answer too. `server_name` is the name that the URL's address
    was resolved from: for the Host header and the certificate."""
    try:
        await _get(client, url, "/health", key, server_name)
    except Refused:
        return Health.STARTING
    except BadAnswer as error:
        return Health.DEAD if error.status == 503 else Health.UNREACHABLE
    except ProbeFailed:
        return Health.UNREACHABLE
    return Health.OK


async def scrape(client: httpx.AsyncClient, url: str, key: str | None = None) -> Metrics:
    """GET /metrics, and GET /is_sleeping where the page has none of vLLM's gauges. Raises ProbeFailed."""
    metrics = parse_metrics((await _get(client, url, "/metrics", key)).decode("utf-8", "replace"))
    return metrics if metrics.reported else replace(metrics, asleep=await is_sleeping(client, url, key))


async def is_sleeping(client: httpx.AsyncClient, url: str, key: str | None = None) -> bool:
    """GET /is_sleeping. False where there is no such route: vLLM has it in development mode only. Raises ProbeFailed
    when the server cannot be reached."""
    try:
        return msgspec.json.decode(await _get(client, url, "/is_sleeping", key), type=_Sleeping).is_sleeping
    except (BadAnswer, msgspec.DecodeError):
        return False


async def list_models(client: httpx.AsyncClient, url: str, key: str | None = None) -> tuple[ServedModel, ...]:
    """GET /v1/models: every served name and every LoRA adapter, in vLLM's order. Raises ProbeFailed."""
    body = await _get(client, url, "/v1/models", key)
    try:
        page = msgspec.json.decode(body, type=_ModelsPage)
    except msgspec.DecodeError as error:
        raise BadAnswer(f"{url}/v1/models: not a list of models ({error})") from error
    return tuple(ServedModel(m.id, m.root or "", m.parent or "", m.max_model_len or 0) for m in page.data if m.id)


async def version(client: httpx.AsyncClient, url: str, key: str | None = None) -> str:
    """GET /version, "" where the server does not tell. Raises ProbeFailed when it cannot be reached."""
    try:
        body = await _get(client, url, "/version", key)
        return msgspec.json.decode(body, type=_Version).version
    except (BadAnswer, msgspec.DecodeError):
        return ""


async def tasks(client: httpx.AsyncClient, url: str, key: str | None = None) -> tuple[str, ...]:
    """What the server's routes serve: ("completion",), else ("embedding",), () for neither.

    vLLM has only the routes of its model's task. A GET runs nothing: it is 404 where there is no such route, and
    something else where there is (405 from vLLM itself, whatever it likes from a proxy). Raises ProbeFailed when
    the server cannot be reached.
    """
    for task, path in (("completion", "/v1/completions"), ("embedding", "/v1/embeddings")):
        try:
            await _get(client, url, path, key)
        except BadAnswer as error:
            if error.status == 404:
                continue
        return (task,)
    return ()


async def probe(client: httpx.AsyncClient, url: str, key: str | None = None) -> ProbeResult:
    """Ask everything. Never raises ProbeFailed: a server that does not answer is a result.

    The time-outs are the client's, for each of the six small requests.
    """
    health = await check_health(client, url, key)
    if health is not Health.OK:
        return ProbeResult(health, problem=_PROBLEMS[health].format(url=url))
    try:
        models = await list_models(client, url, key)
        metrics = await scrape(client, url, key)
        number = await version(client, url, key)
        served = await tasks(client, url, key)
    except ProbeFailed as error:
        return ProbeResult(Health.UNREACHABLE, problem=str(error))
    return ProbeResult(Health.OK, models, number, metrics, served)


_STATES = {
    Health.OK: WorkerState.READY,
    Health.STARTING: WorkerState.STARTING,
    Health.DEAD: WorkerState.STOPPED,
    Health.UNREACHABLE: WorkerState.STOPPED,
}
_PROBLEMS = {
    Health.STARTING: "{url} refuses connections: not started yet, or gone",
    Health.DEAD: "{url} says that its engine has died",
    Health.UNREACHABLE: "{url} gives no healthy answer; is that a vLLM?",
}


class _ModelEntry(msgspec.Struct):
    id: str = ""
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _ModelsPage(msgspec.Struct):
    data: list[_ModelEntry] = []


class _Sleeping(msgspec.Struct):
    is_sleeping: bool = False


class _Version(msgspec.Struct):
    version: str = ""


async def _get(
    client: httpx.AsyncClient, url: str, path: str, key: str | None, server_name: str | None = None
) -> bytes:
    """The body of a 200 answer, else one of ProbeFailed's kinds."""
    address = url.rstrip("/") + path
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    extensions = {}
    if server_name:
        headers["Host"] = httpx.URL(url).copy_with(host=server_name).netloc.decode()
        extensions["sni_hostname"] = server_name
    try:
        async with (
            asyncio.timeout(MAX_SECONDS),
            client.stream("GET", address, headers=headers, extensions=extensions) as response,
        ):
            if response.status_code != 200:
                refused = response.status_code in (401, 403)
                cure = "; it wants another key, set VLLAMA_WORKER_KEY to it" if refused else ""
                raise BadAnswer(f"{address}: HTTP {response.status_code}{cure}", response.status_code)
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise BadAnswer(f"{address}: an answer of more than {MAX_BYTES} bytes")
            return bytes(body)
    except httpx.ConnectError as error:
        raise Refused(f"{address}: {error or 'no connection'}") from error
    except (httpx.TimeoutException, TimeoutError) as error:
        raise TimedOut(f"{address}: no answer in time") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BadAnswer(f"{address}: {error or type(error).__name__}") from error


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
