"""Query one vLLM server for its health, models and load. Responses are bounded: static workers are untrusted."""

from __future__ import annotations

import asyncio
import enum
import math
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, replace

import httpx
import msgspec

from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerState
from vllama_pool.workers.vllm import connection_problem
from vllama_pool.workers.vllm.connection_problem import explain, explain_protocol_error, is_refused
from vllama_pool.workers.vllm.server_identity import Observation
from vllama_pool.workers.vllm.trust_store import trust_store

TIMEOUT = 2.0
"""Seconds per request."""
MAX_SECONDS = 10.0
"""For a whole response. The client's timeouts apply to single reads."""
MAX_BYTES = 4 << 20
"""Per body. vLLM's /metrics has about 64 KB."""


class ProbeFailed(Exception):
    """No usable response. One line with the URL."""


class ConnectionRefused(ProbeFailed):
    """vLLM binds its port early but listens only once its engine is ready."""


class NotConnected(ProbeFailed):
    """Unresolvable, without a route, or TLS failed."""


class TimedOut(ProbeFailed):
    """Frozen, overloaded or cut off."""


class AnswerTimedOut(TimedOut):
    """It was connected."""


class BadResponse(ProbeFailed):
    """Not a response of vLLM."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Health(enum.StrEnum):
    """Result of GET /health."""

    OK = "ok"
    STARTING = "starting"
    """Connection refused: not ready yet, or gone."""
    DEAD = "dead"
    """503: its engine has died."""
    UNREACHABLE = "unreachable"
    """No response, or not vLLM's."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Values of /metrics, summed over vLLM's engines."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    """0 to 1, of the fullest engine."""
    generation_tokens: int = 0
    """Counter; resets when vLLM restarts."""
    prompt_tokens: int = 0
    asleep: bool = False
    reported: bool = False
    """False if --disable-log-stats hides the gauges."""
    started: float | None = None
    """Unix seconds at which the process started; None with several API servers."""

    @property
    def observation(self) -> Observation:
        return Observation(self.started, self.generation_tokens + self.prompt_tokens)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One entry of /v1/models."""

    name: str
    root: str = ""
    """Folder or repository."""
    parent: str = ""
    """Served name of the base model, for a LoRA adapter."""
    max_model_len: int = 0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Other fields than `health` and `problem` are empty unless the health is OK."""

    health: Health
    models: tuple[ServedModel, ...] = ()
    version: str = ""
    metrics: Metrics = Metrics()
    tasks: tuple[str, ...] = ()
    """"completion" or "embedding"."""
    problem: str = ""
    """Why the health is not OK."""

    @property
    def load(self) -> LoadReport:
        return to_load(self.metrics, _STATES[self.health])


def http_client(
    timeout: float = TIMEOUT, *, verify: bool = True, trust: ssl.SSLContext | None = None
) -> httpx.AsyncClient:
    """Return a client without environment proxies and redirects. `verify=False` only for a server of our own.

    `trust`: the trust store; None loads it.
    """
    return httpx.AsyncClient(
        verify=(trust or trust_store()) if verify else False,
        timeout=httpx.Timeout(timeout),
        trust_env=False,
        follow_redirects=False,
        # no connection limit: httpx 0.28 leaks a slot with every cancelled request
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=4.0),
    )


# --- pure ---

_METRIC = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|generation_tokens_total"
    r"|prompt_tokens_total|engine_sleep_state)(\{.*\})?[ \t]+(\S+)",
    re.MULTILINE,
)
"""Whole names only: not "num_requests_waiting_by_reason" and "_created"."""
_STARTED = re.compile(r"^process_start_time_seconds[ \t]+(\S+)", re.MULTILINE)


def parse_metrics(text: str) -> Metrics:
    """Missing metrics count as 0; invalid values are skipped."""
    totals = dict.fromkeys(("num_requests_running", "num_requests_waiting", "generation_tokens_total"), 0.0)
    totals["prompt_tokens_total"] = kv = 0.0
    asleep = reported = False
    for name, labels, value in _METRIC.findall(text):
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
        started=_number(started[1]) if (started := _STARTED.search(text)) else None,
    )


def to_load(metrics: Metrics, state: WorkerState = WorkerState.READY, tokens_per_second: float = 0.0) -> LoadReport:
    """A READY server in sleep mode becomes SLEEPING."""
    asleep = metrics.asleep and state is WorkerState.READY
    return LoadReport(
        state=WorkerState.SLEEPING if asleep else state,
        running=metrics.running,
        waiting=metrics.waiting,
        kv_usage=metrics.kv_usage,
        tokens_per_second=tokens_per_second,
    )


def model_infos(
    served: Iterable[ServedModel], tasks: tuple[str, ...] = ("completion",), undetected: tuple[str, ...] = ()
) -> tuple[ModelInfo, ...]:
    """Return names, parents, context lengths and capabilities.

    Served names with equal root and length become aliases of the first. An adapter inherits its base's length.
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
                undetected=undetected,
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
                    undetected=undetected,
                )
            )
    return tuple(infos)


# --- requests ---


async def check_health(
    client: httpx.AsyncClient, url: str, key: str | None = None, server_name: str | None = None
) -> Health:
    """GET /health. `server_name`: host name, if the URL has its resolved address."""
    return (await examine(client, url, key, server_name)).health


async def examine(
    client: httpx.AsyncClient, url: str, key: str | None = None, server_name: str | None = None
) -> ProbeResult:
    """GET /health, with the problem if it is not OK. `server_name` as in `check_health`."""
    try:
        await _get(client, url, "/health", key, server_name)
    except ConnectionRefused as error:
        return ProbeResult(Health.STARTING, problem=str(error))
    except BadResponse as error:
        if error.status == 503:
            return ProbeResult(Health.DEAD, problem=f"{url} reports that its engine has died")
        return ProbeResult(Health.UNREACHABLE, problem=str(error))
    except AnswerTimedOut:
        return ProbeResult(Health.UNREACHABLE, problem=f"{url} does not answer")
    except ProbeFailed as error:
        return ProbeResult(Health.UNREACHABLE, problem=str(error))
    return ProbeResult(Health.OK)


async def scrape(client: httpx.AsyncClient, url: str, key: str | None = None, *, last: bool = False) -> Metrics:
    """GET /metrics, and /is_sleeping if the gauges are missing. Raises ProbeFailed.

    `last`: close the connection afterwards, so that a load balancer may choose another server for the next one.
    """
    metrics = parse_metrics((await _get(client, url, "/metrics", key, last=last)).decode("utf-8", "replace"))
    return metrics if metrics.reported else replace(metrics, asleep=await is_sleeping(client, url, key))


async def is_sleeping(client: httpx.AsyncClient, url: str, key: str | None = None) -> bool:
    """GET /is_sleeping; False without that development route. Raises ProbeFailed."""
    try:
        return msgspec.json.decode(await _get(client, url, "/is_sleeping", key), type=_Sleeping).is_sleeping
    except (BadResponse, msgspec.DecodeError):
        return False


async def list_models(client: httpx.AsyncClient, url: str, key: str | None = None) -> tuple[ServedModel, ...]:
    """GET /v1/models, in vLLM's order. Raises ProbeFailed."""
    body = await _get(client, url, "/v1/models", key)
    try:
        page = msgspec.json.decode(body, type=_ModelsPage)
    except msgspec.DecodeError as error:
        raise BadResponse(f"{url}/v1/models: not a list of models ({error})") from error
    return tuple(ServedModel(m.id, m.root or "", m.parent or "", m.max_model_len or 0) for m in page.data if m.id)


async def version(client: httpx.AsyncClient, url: str, key: str | None = None) -> str:
    """GET /version; "" without the route. Raises ProbeFailed."""
    try:
        body = await _get(client, url, "/version", key)
        return msgspec.json.decode(body, type=_Version).version
    except (BadResponse, msgspec.DecodeError):
        return ""


async def tasks(client: httpx.AsyncClient, url: str, key: str | None = None) -> tuple[str, ...]:
    """Return ("completion",), else ("embedding",), else (), by the server's routes. Raises ProbeFailed.

    vLLM has only the routes of its model's task: GET gives 404 for a missing one, 405 for an existing one.
    """
    for task, path in (("completion", "/v1/completions"), ("embedding", "/v1/embeddings")):
        try:
            await _get(client, url, path, key)
        except BadResponse as error:
            if error.status == 404:
                continue
        return (task,)
    return ()


async def probe(client: httpx.AsyncClient, url: str, key: str | None = None) -> ProbeResult:
    """Send all requests above. Never raises ProbeFailed."""
    result = await examine(client, url, key)
    if result.health is not Health.OK:
        return result
    try:
        models = await list_models(client, url, key)
        metrics = await scrape(client, url, key, last=True)
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
    client: httpx.AsyncClient,
    url: str,
    path: str,
    key: str | None,
    server_name: str | None = None,
    *,
    last: bool = False,
) -> bytes:
    """Raises ProbeFailed unless the status is 200. `last`: the last request of its connection."""
    address = url.rstrip("/") + path
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if last:
        headers["Connection"] = "close"
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
                raise BadResponse(f"{address}: {await _refusal(response)}", response.status_code)
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise BadResponse(f"{address}: an answer of more than {MAX_BYTES} bytes")
            return bytes(body)
    except httpx.ConnectError as error:
        raise _not_connected(url, error) from error
    except httpx.ConnectTimeout as error:
        raise TimedOut(f"{url}: no connection in time; check its address and the firewalls") from error
    except (httpx.TimeoutException, TimeoutError) as error:
        raise AnswerTimedOut(f"{address}: no answer in time") from error
    except httpx.RemoteProtocolError as error:
        raise BadResponse(f"{address}: {explain_protocol_error(str(error), tls=_is_https(url))}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BadResponse(f"{address}: {explain(error, tls=_is_https(url))}") from error


def _is_https(url: str) -> bool:
    return url.startswith("https:")


def _not_connected(url: str, error: httpx.ConnectError) -> ProbeFailed:
    reason = explain(error, tls=_is_https(url))
    if is_refused(error):
        return ConnectionRefused(f"{url} {reason}")
    known = error.__cause__ is not None or error.__context__ is not None
    return NotConnected(f"{url}: {reason}") if known else ConnectionRefused(f"{url}: {reason}")


async def _refusal(response: httpx.Response) -> str:
    """Describe a response other than 200, with the remedy."""
    status = f"HTTP {response.status_code}"
    if response.status_code in (401, 403):
        return f"{status}; it requires another key, set VLLAMA_WORKER_KEY to it"
    if response.status_code == 400:
        async for chunk in response.aiter_bytes():
            return connection_problem.TLS_PORT if connection_problem.speaks_tls(chunk) else status
    return f"{status}; is that a vLLM?" if response.status_code == 404 else status


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
