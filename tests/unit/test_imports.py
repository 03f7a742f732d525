"""Imports go one way: config <- workers <- router, and inside the router protocol, balance <- forward <- handlers
<- app <- commands. Read from the sources, so that an import inside a function counts as well."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("config", "workers", "router")
PACKAGES = ("vllama_pool",)

WIRING = ("vllama_pool.router.app", "vllama_pool.router.wiring", "vllama_pool.router.process")
"""What builds the application and runs it."""
COMMANDS = (
    "vllama_pool.router.cli.main",
    "vllama_pool.router.cli.commands",
    "vllama_pool.router.supervisor.serve",
    "vllama_pool.router.supervisor.supervisor",
    "vllama_pool.router.supervisor.child",
    "vllama_pool.router.supervisor.console",
    "vllama_pool.router.supervisor.plan",
)
"""The command line and what it starts."""
FORWARDING = (
    "vllama_pool.router.proxy.forward",
    "vllama_pool.router.proxy.attempt",
    "vllama_pool.router.proxy.preflight",
    "vllama_pool.router.proxy.refusals",
    "vllama_pool.router.proxy.relay",
    "vllama_pool.router.proxy.sync_send",
)
INPUT_OUTPUT = {
    "aiohttp",
    "anyio",
    "asyncio",
    "concurrent",
    "http",
    "httptools",
    "httpx",
    "litestar",
    "multiprocessing",
    "os",
    "pathlib",
    "redis",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "uvicorn",
    "uvloop",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("vllama_pool", *parts[:-1]) if parts[-1] == "__init__" else ("vllama_pool", *parts))


@cache
def sources() -> dict[str, Path]:
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {module_name(path): path for path in paths}


@cache
def imports(module: str) -> frozenset[str]:
    """Every module that one imports, in full; of ours the very file."""
    path = sources()[module]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            submodules = {f"{base}.{alias.name}" for alias in node.names} & set(sources())
            found |= submodules or {base}
    return frozenset(found - {module})


def within(names: Iterable[str], *packages: str) -> set[str]:
    return {name for name in names for package in packages if name == package or name.startswith(f"{package}.")}


def importers_of(*packages: str) -> set[str]:
    return {module for module in sources() if within(imports(module), *packages)}


def modules(*packages: str) -> Iterator[str]:
    return iter(sorted(within(sources(), *packages)))


def test_the_sources_are_found_and_read() -> None:
    assert {
        "vllama_pool.config.names",
        "vllama_pool.workers.registry.record",
        "vllama_pool.router.protocol.operation",
    } <= set(sources())
    assert "vllama_pool.workers.registry.record" in imports("vllama_pool.router.protocol.operation")


@pytest.mark.parametrize(
    ("package", "above"),
    [
        ("vllama_pool.config", ("vllama_pool.workers", "vllama_pool.router")),
        ("vllama_pool.workers", ("vllama_pool.router",)),
    ],
)
def test_no_package_knows_those_above_it(package: str, above: tuple[str, ...]) -> None:
    for module in modules(package):
        assert not within(imports(module), *above), module


@pytest.mark.parametrize(
    ("part", "known"),
    [
        (
            "vllama_pool.router.protocol",
            (
                "vllama_pool.router.protocol",
                "vllama_pool.router.errors",
                "vllama_pool.workers.registry.record",
                "vllama_pool.config",
            ),
        ),
        (
            "vllama_pool.router.balance",
            (
                "vllama_pool.router.balance",
                "vllama_pool.router.errors",
                "vllama_pool.router.upstream.interface",
                "vllama_pool.workers.registry.record",
                "vllama_pool.workers.registry.virtual_model",
                "vllama_pool.config",
            ),
        ),
    ],
)
def test_the_pure_parts_know_little_and_do_no_input_or_output(part: str, known: tuple[str, ...]) -> None:
    for module in modules(part):
        ours = within(imports(module), *PACKAGES)
        assert ours <= within(ours, *known), f"{module} imports {ours - within(ours, *known)}"
        outside = {name.split(".")[0] for name in imports(module)}
        assert not outside & INPUT_OUTPUT, f"{module} imports {outside & INPUT_OUTPUT}"


@pytest.mark.parametrize(
    "module",
    [
        "vllama_pool.router.server.access",
        "vllama_pool.router.server.cors",
        "vllama_pool.router.server.paths",
        "vllama_pool.config.names",
        "vllama_pool.config.urls",
        "vllama_pool.config.routing.schema",
    ],
)
def test_decisions_do_no_input_or_output(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(module)} & INPUT_OUTPUT


def test_the_router_is_layered() -> None:
    above: tuple[str, ...] = COMMANDS
    for layer in (WIRING, ("vllama_pool.router.handlers",), FORWARDING):
        for module in modules(*layer):
            known = within(imports(module), *above)
            assert known <= {"vllama_pool.router.supervisor.plan"}, f"{module} imports {known}"
        above = (*above, *layer)


def test_only_the_wiring_and_the_command_line_know_the_application() -> None:
    assert importers_of("vllama_pool.router.app") <= {*WIRING, *COMMANDS}
    assert importers_of("vllama_pool.router.cli.main") == {"vllama_pool.router.__main__"}


def test_only_handlers_and_the_application_know_litestar() -> None:
    knowing = importers_of("litestar")
    assert knowing - within(knowing, "vllama_pool.router.handlers") == {"vllama_pool.router.app"}


def test_only_the_upstream_client_speaks_to_workers_while_clients_wait() -> None:
    clients = within(
        sources(),
        "vllama_pool.router.upstream.client",
        "vllama_pool.router.upstream.connection",
        "vllama_pool.router.upstream.exchange",
    )
    clients |= within(sources(), "vllama_pool.router.upstream.http1")
    assert within(importers_of("httptools"), "vllama_pool.router") <= clients | {
        "vllama_pool.router.compat.wire",
        "vllama_pool.router.server.http_protocol",
    }
    assert importers_of("vllama_pool.router.upstream.client") - clients == {"vllama_pool.router.app"}
    for module in modules("vllama_pool.router"):
        if within(imports(module), "httpx"):
            assert module in ("vllama_pool.router.cli.commands.ps", "vllama_pool.router.discovery.static_workers"), (
                f"{module} uses the slow client"
            )


def test_what_looks_at_any_server_knows_nothing_of_ours() -> None:
    for module in modules("vllama_pool.router.compat"):
        ours = within(imports(module), *PACKAGES) - within(imports(module), "vllama_pool.router.compat")
        assert ours <= {"vllama_pool.config.names", "vllama_pool.router.cli.tables"}, f"{module} imports {ours}"
    assert importers_of("vllama_pool.router.compat") - within(sources(), "vllama_pool.router.compat") == {
        "vllama_pool.router.cli.commands.compat"
    }


def test_only_discovery_reads_the_registry() -> None:
    readers = within(importers_of("vllama_pool.workers.registry.client"), "vllama_pool.router")
    assert readers <= {
        "vllama_pool.router.discovery.registry_loop",
        "vllama_pool.router.virtual_models.sync",
        "vllama_pool.router.wiring",
        "vllama_pool.router.supervisor.supervisor",
    }
    assert not within(importers_of("redis"), "vllama_pool.router", "vllama_pool.config")


def test_nothing_imports_vllm() -> None:
    assert not importers_of("vllm", "torch", "transformers")


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: within(imports(module), *PACKAGES) & set(sources()) for module in sources()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nothing_waits_by_a_call_that_loses_cancellations() -> None:
    """Before Python 3.12 asyncio.wait_for returns a result that comes with a cancellation, and the task runs on."""
    assert not [module for module, path in sources().items() if "asyncio.wait_for(" in path.read_text()]
