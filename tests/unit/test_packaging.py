"""The names config, workers and router are common ones: nothing else may stand in for them, and the wheel must
carry all that they read at run time."""

import json
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("config", "workers", "router")
GENERATED = {"__pycache__"}


def test_imports_find_this_checkout_from_anywhere(tmp_path: Path) -> None:
    """In a process of its own: inside pytest the checkout comes first whatever is installed."""
    for name in PACKAGES:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the working directory')\n")
    code = "import config, json, router, workers; print(json.dumps([m.__file__ for m in (config, workers, router)]))"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [Path(path) for path in json.loads(done.stdout)] == [ROOT / name / "__init__.py" for name in PACKAGES]


def test_no_other_distribution_ships_our_names() -> None:
    rivals = {
        f"{distribution.name}: {file}"
        for distribution in distributions()
        if distribution.name != "vllama"
        for file in distribution.files or ()
        if file.parts[0] in PACKAGES or (len(file.parts) == 1 and file.stem in PACKAGES and file.suffix == ".py")
    }
    assert not rivals


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-P", "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_carries_every_file_of_the_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and not GENERATED & set(path.parts)
    }
    assert {"config/routing.yaml", "config/routing.schema.json", "workers/scripts/register.lua"} <= expected
    carried = {name for name in names if ".dist-info/" not in name}
    assert carried == expected


def test_the_wheel_has_the_command_and_the_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = {name.partition("/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
    assert "vllama = router.__main__:main" in archive.read(info["entry_points.txt"]).decode()
    assert "Apache License" in archive.read(info["licenses/LICENSE"]).decode()
    metadata = archive.read(info["METADATA"]).decode()
    assert "Classifier: Private :: Do Not Upload" in metadata
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert [line for line in required if "vllm" in line and "extra == 'vllm'" not in line] == []
