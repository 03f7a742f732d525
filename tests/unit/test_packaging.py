"""The wheel and the sdist are complete, and no foreign package can stand in for ours."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("config", "workers", "router")
FOREIGN = "raise SystemExit('a foreign package was imported')\n"


def build(target: str, source: Path, folder: Path) -> Path:
    command = [sys.executable, "-P", "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (path for path in folder.iterdir() if path.suffix in (".whl", ".gz"))
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


def packaged_files() -> set[str]:
    """Every file of the import package, named as in the wheel."""
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    files = (path for path in paths if path.is_file() and "__pycache__" not in path.parts)
    ours = {f"vllama_pool/{path.relative_to(ROOT)}" for path in files}
    return ours | {"vllama_pool/__init__.py", "vllama_pool/__main__.py"}


def test_the_wheel_holds_every_file_of_the_import_package_and_nothing_else(wheel: Path) -> None:
    carried = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert carried == packaged_files()
    assert any(name.endswith("routing.yaml") for name in carried)
    assert any(name.endswith("register.lua") for name in carried)


def test_a_wheel_built_from_the_sdist_equals_the_wheel_built_from_the_checkout(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "sdist", filter="data")
    (unpacked,) = (tmp_path / "sdist").iterdir()
    (tmp_path / "built").mkdir()
    rebuilt = build("wheel", unpacked, tmp_path / "built")
    assert set(zipfile.ZipFile(rebuilt).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_names_the_command_and_carries_the_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = {name.partition("/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
    assert "vllama = vllama_pool.router.__main__:main" in archive.read(info["entry_points.txt"]).decode()
    assert "Apache License" in archive.read(info["licenses/LICENSE"]).decode()
    metadata = archive.read(info["METADATA"]).decode()
    assert "Name: vllama-pool" in metadata
    assert "Classifier: Private :: Do Not Upload" in metadata
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert [line for line in required if "vllm" in line and "extra == 'vllm'" not in line] == []


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with the wheel and the dependencies of the tests' environment."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    uv = ROOT / ".tools" / "bin" / "uv"
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--offline", "--python", folder / "bin" / "python", wheel]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    # sys.path.append, because addsitedir would read the .pth file of the editable install.
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in dependencies))
    return folder / "bin"


@pytest.mark.parametrize("how", ["command", "module"])
def test_foreign_packages_first_on_the_path_do_not_replace_ours(how: str, installed: Path, tmp_path: Path) -> None:
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(FOREIGN)
    command = [installed / "vllama"] if how == "command" else [installed / "python", "-m", "vllama_pool"]
    done = subprocess.run(
        [*command, "check", str(ROOT / "config" / "routing.yaml")],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(ROOT) not in subprocess.check_output(
        [installed / "python", "-c", "import vllama_pool; print(vllama_pool.__file__)"], text=True, cwd=tmp_path
    )
