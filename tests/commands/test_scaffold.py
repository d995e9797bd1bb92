from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from castssl import registry
from castssl.cli import main
from castssl.commands import scaffold
from castssl.errors import ConfigError
from tests import forked

ROOT = Path(__file__).parents[2]


def wheel(project: Path, folder: Path) -> Path:
    """The project's wheel, built by its own backend without network, unpacked as pip would."""
    code = "import sys; from hatchling import build; print(build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    site = folder / "site"
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as archive:
        archive.extractall(site)
    return site


def run(*arguments: str, site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python with ``site`` first on its path."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_new_plugin_installs_and_passes_as_it_is(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"new-{kind}"
    folder = scaffold.write(kind, name, tmp_path)
    assert folder == tmp_path / f"castssl-{name}"
    site = wheel(folder, tmp_path / "wheel")
    monkeypatch.syspath_prepend(str(site))
    assert main(["list", kind]) == 0
    assert f"castssl-{name}" in capsys.readouterr().out
    assert main(["check", kind, name]) == 0, capsys.readouterr().out
    # The checks have just run: of its own test, a part shows that it is collected and passes.
    words = ["-m", "pytest", "-q", "-k", "conforms or wrong", str(folder)]
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    tested = forked.run(words, environment=environment, cwd=folder)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert " passed" in tested.stdout


@pytest.mark.parametrize("kind", registry.KINDS)
def test_only_files_and_names_of_this_plugin_are_written(kind: str) -> None:
    files = scaffold.render(kind, "my_pool2")
    paths = {str(path) for path in files}
    assert {
        "pyproject.toml",
        "README.md",
        f"src/castssl_my_pool2/{kind}.py",
        f"tests/test_{kind}.py",
    } <= paths
    assert len([p for p in paths if p.endswith(".py")]) == 3
    for path, text in files.items():
        assert "emplate" not in f"{path}{text}", path
    project = files[Path("pyproject.toml")]
    assert project.count("entry-points") == 1
    assert f'[project.entry-points."castssl.{kind}"]\nmy_pool2 = "castssl_my_pool2.{kind}:MyPool2' in project


@pytest.mark.parametrize("name", ["", "Pool", "a b", "1a", "a-", "a--b", "class", "../a", "a.b"])
def test_malformed_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name"):
        scaffold.write("pooling", name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_taken_name_or_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="registered by castssl already"):
        scaffold.write("pooling", "graph", tmp_path)
    scaffold.write("pooling", "mine", tmp_path)
    with pytest.raises(ConfigError, match="these files exist"):
        scaffold.write("pooling", "mine", tmp_path)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'pooling'"):
        scaffold.write("poolin", "mine", tmp_path)


def test_a_wheel_of_castssl_brings_the_template_and_the_recipes(tmp_path: Path) -> None:
    site = wheel(ROOT, tmp_path / "wheel")
    assert (site / "castssl" / "py.typed").is_file()
    assert not (site / "tests").exists()
    assert not (site / "recipes").exists()
    code = "from castssl.shipped import *; print(folder('template'), recipe('ablations/pooling'), sep='\\n')"
    shown = run("-c", code, site=site, cwd=tmp_path).stdout.splitlines()
    assert [Path(line) for line in shown] == [
        site / "castssl" / "template",
        site / "castssl" / "recipes" / "ablations" / "pooling.py",
    ]
    made = run("-m", "castssl.cli", "new-plugin", "pooling", "mine", site=site, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    written = {path.relative_to(tmp_path / "castssl-mine") for path in (tmp_path / "castssl-mine").rglob("*")}
    assert {path for path in written if path.suffix} == {
        path for path in scaffold.render("pooling", "mine") if path.suffix
    }
    study = ["run", "ablations/latency", "--data", "demo", "--dry-run"]
    planned = run("-m", "castssl.cli", *study, site=site, cwd=tmp_path)
    assert "castssl/recipes/benchmarks/stages.py" in planned.stdout, planned.stderr
