"""Each folder imports only what `MAY_IMPORT` lists. Imports inside functions count."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "vllama_pool"

MAY_IMPORT: dict[str, set[str]] = {
    "config": set(),
    "config/routing": {"config"},
    "workers/process": set(),
    "workers/registry": {"config", "workers/process"},
    "workers/vllm": {"workers/registry"},
    "workers/model": {"workers/vllm", "workers/registry"},
    "workers/simulated": {"workers/model", "workers/vllm", "workers/registry"},
    "workers/agent": {
        *("config", "workers/process", "workers/registry", "workers/vllm", "workers/model", "workers/simulated"),
    },
    "router/errors.py": set(),
    "router/descriptors.py": set(),
    "router/instance.py": set(),
    "router/log_once.py": set(),
    "router/offload.py": set(),
    "router/readiness.py": set(),
    "router/upstream": {"router/log_once.py", "workers/vllm"},
    "router/protocol": {"config", "config/routing", "router/errors.py", "workers/registry"},
    "router/protocol/vllm": {"config/routing", "router/protocol", "router/errors.py", "workers/registry"},
    "router/protocol/json_schema": {"router/errors.py"},
    "router/protocol/ollama": {
        *("config", "config/routing", "router/errors.py", "router/protocol", "router/protocol/json_schema"),
        *("router/protocol/vllm", "workers/registry"),
    },
    "router/protocol/openai": {
        *("config", "config/routing", "router/errors.py", "router/protocol", "router/protocol/vllm"),
        "workers/registry",
    },
    "router/protocol/openai/responses": {
        *("config/routing", "router/errors.py", "router/protocol", "router/protocol/openai", "router/protocol/vllm"),
        "workers/registry",
    },
    "router/protocol/openai/pooling": {
        *("config/routing", "router/errors.py", "router/protocol", "router/protocol/openai", "router/protocol/vllm"),
        "workers/registry",
    },
    "router/protocol/openai/audio": {
        *("config/routing", "router/errors.py", "router/protocol", "router/protocol/openai", "router/protocol/vllm"),
        "workers/registry",
    },
    "router/protocol/anthropic": {
        *("config/routing", "router/errors.py", "router/protocol", "router/protocol/vllm", "workers/registry"),
    },
    "router/protocol/table.py": {
        *("config/routing", "workers/registry"),
        *("router/protocol", "router/protocol/vllm", "router/protocol/ollama", "router/protocol/openai"),
        *("router/protocol/openai/responses", "router/protocol/openai/pooling", "router/protocol/openai/audio"),
        "router/protocol/anthropic",
    },
    "router/balance": {"config", "router/errors.py", "router/upstream", "workers/registry"},
    "router/routing": {"config", "config/routing", "router/errors.py", "router/balance", "workers/registry"},
    "router/admission": {"config", "config/routing", "router/errors.py", "router/routing", "router/telemetry"},
    "router/telemetry": {"router/balance", "router/instance.py"},
    "router/server": {
        *(
            "config",
            "router/admission",
            "router/errors.py",
            "router/offload.py",
            "router/protocol",
            "router/protocol/ollama",
        ),
        "router/telemetry",
    },
    "router/poison": {"config", "router/balance", "router/errors.py", "router/offload.py", "workers/registry"},
    "router/proxy": {
        *("config/routing", "router/admission", "router/balance", "router/errors.py", "router/offload.py"),
        "router/poison",
        *("router/protocol", "router/protocol/vllm", "router/routing", "router/telemetry", "router/upstream"),
    },
    "router/discovery": {
        *("config", "config/routing", "router/balance", "router/log_once.py", "router/upstream"),
        *("workers/registry", "workers/vllm"),
    },
    "router/virtual_models": {
        *("config", "router/balance", "router/errors.py", "router/log_once.py", "router/protocol/ollama"),
        *("router/routing", "workers/process", "workers/registry"),
    },
    "router/handlers": {
        "router/explainer.py",
        *(
            "config",
            "router/admission",
            "router/balance",
            "router/errors.py",
            "router/offload.py",
            "router/protocol",
            "router/protocol/ollama",
            "router/readiness.py",
        ),
        *(
            "router/protocol/openai",
            "router/protocol/openai/audio",
            "router/proxy",
            "router/routing",
            "router/server",
        ),
        *("router/telemetry", "router/virtual_models", "workers/registry"),
    },
    "router/explainer.py": {"router/balance", "router/errors.py", "router/protocol", "router/routing"},
    "router/wiring.py": {
        *("config", "config/routing", "router/balance", "router/discovery", "router/poison"),
        *("router/instance.py", "router/virtual_models", "workers/registry", "workers/vllm"),
    },
    "router/state.py": {
        *("config", "config/routing", "router/admission", "router/balance", "router/protocol"),
        *("router/protocol/ollama", "router/routing", "router/server", "router/telemetry", "router/upstream"),
        *("router/instance.py", "router/virtual_models", "router/wiring.py"),
    },
    "router/reports.py": {
        *("router/instance.py", "router/protocol", "router/protocol/ollama", "router/state.py", "router/telemetry"),
    },
    "router/reloadable.py": {
        *("config", "config/routing", "router/admission", "router/reload.py", "router/reports.py", "router/routing"),
        *("router/server", "router/state.py"),
    },
    "router/request_path.py": {"config", "router/admission", "router/handlers", "router/proxy", "router/state.py"},
    "router/lifespan.py": {"router/telemetry", "router/wiring.py"},
    "router/app.py": {
        *("config", "config/routing", "router/admission", "router/explainer.py", "router/handlers"),
        *("router/instance.py", "router/last_table.py", "router/lifespan.py", "router/protocol"),
        *("router/protocol/ollama", "router/protocol/table.py", "router/readiness.py", "router/reload.py"),
        "router/reloadable.py",
        *("router/reports.py", "router/request_path.py", "router/server", "router/state.py", "router/telemetry"),
        *("router/upstream", "router/virtual_models", "router/wiring.py"),
    },
    "router/last_table.py": {"config/routing"},
    "router/reload.py": {"config", "config/routing", "router/last_table.py", "router/telemetry"},
    "router/process.py": {
        *(
            "config",
            "config/routing",
            "router/app.py",
            "router/descriptors.py",
            "router/errors.py",
            "router/instance.py",
            "router/last_table.py",
            "router/readiness.py",
            "router/reload.py",
        ),
        *("router/server", "workers/process", "workers/registry"),
    },
    "router/start.py": {"router/process.py"},
    "router/supervisor": {
        *("config", "config/routing", "router/instance.py", "router/last_table.py", "router/telemetry"),
        *("workers/agent", "workers/process", "workers/registry"),
    },
    "router/compat": {"config", "workers/vllm"},
    "router/cli": {
        *("config", "config/routing", "router/balance", "router/compat", "router/routing", "router/telemetry"),
    },
    "router/cli/commands": {
        *("config", "config/routing", "router/cli", "router/compat", "router/instance.py", "router/supervisor"),
        *("router/balance", "router/errors.py", "router/explainer.py", "router/protocol", "router/protocol/table.py"),
        *("router/routing", "router/telemetry"),
        *("workers/agent", "workers/process", "workers/registry", "workers/vllm"),
    },
    "router/__main__.py": {"router/cli"},
}
"""By folder or single file: what its modules may import besides their own folder."""

PURE = ("router/protocol", "router/balance", "router/routing", "router/admission", "config/routing/schema.py")
PURE_MODULES = (
    *("router/server/access.py", "router/server/chunk_scanner.py", "router/server/cors.py", "router/server/paths.py"),
    *("router/server/request_head.py", "router/server/request_target.py", "config/names.py"),
    *("router/server/refusal.py", "router/server/zstd_stream.py", "config/redis_address.py", "config/redaction.py"),
)
INPUT_OUTPUT = {
    *("aiohttp", "anyio", "asyncio", "concurrent", "http", "httptools", "httpx", "litestar", "multiprocessing", "os"),
    *("pathlib", "redis", "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading", "uvicorn"),
    "uvloop",
}
THIRD_PARTY = {
    "litestar": ("router/handlers", "router/app.py", "router/server/error_handlers.py"),
    "redis": ("workers/registry",),
    "backports": ("router/compat/checks/compressed_bodies.py", "router/server/zstd_stream.py"),
    "multipart": ("router/protocol/openai/audio/form.py",),
    "httptools": ("router/upstream", "router/server/request_reader.py", "router/compat/wire.py", "workers/simulated"),
    "httpx": ("workers/vllm", "workers/agent", "router/discovery", "router/wiring.py", "router/cli/commands"),
    "vllm": (),
    "torch": (),
    "transformers": (),
}
"""Places that may import a library of the system's edge."""


@cache
def modules() -> dict[str, Path]:
    """Return our files by path from the root."""
    paths = (path for folder in ("config", "workers", "router") for path in (ROOT / folder).rglob("*.py"))
    return {str(path.relative_to(ROOT)): path for path in paths}


@cache
def imports(module: str) -> frozenset[str]:
    """Return the dotted names of a module's imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(), module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def ours(module: str) -> Iterator[str]:
    """Yield the paths of our modules that a module imports."""
    for name in imports(module):
        if name.split(".")[0] == PACKAGE:
            path = name.removeprefix(f"{PACKAGE}.").replace(".", "/")
            options = (f"{path}.py", f"{path}/__init__.py", f"{path.rpartition('/')[0]}.py")
            yield next((option for option in options if option in modules()), f"{path.rpartition('/')[0]}/__init__.py")


def outside(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)}


def entry(module: str) -> str:
    """Return the row of `MAY_IMPORT` for a module: its own, or its nearest folder's."""
    path = module
    while path not in MAY_IMPORT:
        path, _, _ = path.rpartition("/")
        assert path, f"{module} belongs to no row of MAY_IMPORT"
    return path


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}/") for place in places)


def is_bare(module: str) -> bool:
    """True for `__init__.py` of a folder without modules."""
    return module in ("workers/__init__.py", "router/__init__.py")


@pytest.mark.parametrize("row", MAY_IMPORT)
def test_a_folder_imports_only_what_its_row_lists(row: str) -> None:
    for module in modules():
        if not is_bare(module) and entry(module) == row:
            known = {entry(other) for other in ours(module)} - {row}
            assert known <= MAY_IMPORT[row], f"{module} imports from {sorted(known - MAY_IMPORT[row])}"
    assert (ROOT / row).exists(), f"{row} does not exist"


def test_the_import_table_has_no_cycle() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()


def test_no_modules_import_each_other_in_a_cycle() -> None:
    try:
        TopologicalSorter({module: set(ours(module)) - {module} for module in modules()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_package_has_a_docstring_of_one_sentence() -> None:
    for module, path in modules().items():
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text()))
            assert text, f"{module} has no docstring"
            assert text.splitlines()[0].endswith("."), f"{module}: its first line is not a sentence"


@pytest.mark.parametrize("module", [name for name in modules() if within(name, PURE) or name in PURE_MODULES])
def test_pure_modules_import_no_input_or_output(module: str) -> None:
    assert not outside(module) & INPUT_OUTPUT


@pytest.mark.parametrize("library", THIRD_PARTY)
def test_a_library_is_imported_only_at_its_edge(library: str) -> None:
    for module in modules():
        if library in outside(module):
            assert within(module, THIRD_PARTY[library]), f"{module} imports {library}"


def test_only_discovery_virtual_models_and_poison_read_the_registry() -> None:
    client = "workers/registry/client.py"
    readers = {module for module in modules() if module.startswith("router/") and client in set(ours(module))}
    assert readers <= {
        "router/discovery/drains.py",
        "router/discovery/registry_loop.py",
        "router/poison/messenger.py",
        "router/poison/trials.py",
        "router/virtual_models/sync.py",
        "router/wiring.py",
        "router/supervisor/registry_server.py",
    }


def test_no_source_imports_our_folders_without_the_import_package() -> None:
    """Only `vllama_pool` exists in the wheel: `import config` would find a foreign package."""
    folders = {"config", "workers", "router"}
    for top in (*folders, "tests", "deploy", PACKAGE):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module or ""]
                assert not folders & {name.split(".")[0] for name in names}, path


def test_no_module_uses_asyncio_wait_for() -> None:
    """Before Python 3.12, asyncio.wait_for loses a cancellation that arrives together with the result."""
    assert not [module for module, path in modules().items() if "asyncio.wait_for(" in path.read_text()]
