"""The arguments and the environment that uv runs with."""

from __future__ import annotations

from pathlib import Path

from deploy.local.package_managers import has_python, npm_arguments, pip_variable, torch_sources, uv_environment


def test_pytorch_comes_from_pips_find_links_before_pytorchs_own_index() -> None:
    assert torch_sources("/wheels https://mirror/torch") == [
        ["--find-links", "/wheels", "--find-links", "https://mirror/torch"],
        ["--torch-backend=cpu"],
    ]


def test_pytorch_comes_from_its_own_index_if_pip_has_no_find_links() -> None:
    assert torch_sources("") == [["--torch-backend=cpu"]]


def test_uv_uses_pips_index_and_never_downloads_a_python() -> None:
    env = uv_environment({"PATH": "/bin", "UV_PYTHON_DOWNLOADS": "automatic"}, "https://mirror/simple")
    assert env == {"PATH": "/bin", "UV_PYTHON_DOWNLOADS": "never", "UV_DEFAULT_INDEX": "https://mirror/simple"}


def test_uv_default_index_overrides_pips_index() -> None:
    env = uv_environment({"UV_DEFAULT_INDEX": "https://own/simple"}, "https://mirror/simple")
    assert env["UV_DEFAULT_INDEX"] == "https://own/simple"


def test_uv_keeps_its_default_index_if_pip_has_none() -> None:
    assert "UV_DEFAULT_INDEX" not in uv_environment({}, "")


def test_pip_settings_are_read_from_pips_variables() -> None:
    assert pip_variable("find-links", {"PIP_FIND_LINKS": "/wheels"}) == "/wheels"
    assert pip_variable("index-url", {"PIP_INDEX_URL": ""}) == "", "set but empty: pip's files do not count"
    assert pip_variable("index-url", {}) is None


def test_an_environment_is_kept_only_for_the_same_python(tmp_path: Path) -> None:
    assert not has_python(tmp_path, "3.11.9")
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion_info = 3.11.9\n")
    assert has_python(tmp_path, "3.11.9")
    assert not has_python(tmp_path, "3.12.1")


def test_npm_works_in_the_folder_behind_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "node").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    arguments = npm_arguments(tmp_path / "link" / "node", "ci")
    assert arguments[:3] == ["ci", "--prefix", tmp_path.resolve() / "real" / "node"]
