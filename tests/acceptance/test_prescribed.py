"""Every command that a document or a message prescribes works in the environment that the README makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from castssl.shipped import recipe_names
from tests.acceptance.conftest import Command
from tests.forked import ROOT

BIN = Path(sys.executable).parent
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("recipes/**/*.md"),
        *ROOT.glob("plugins/*.md"),
        *ROOT.glob("plugins/*/README.md"),
    ]
)
RECIPES = [name for name in recipe_names() if not Path(name).suffix]
PROGRAMS = {"pip", "castssl", "accelerate", "pytest", "python", "uv"}
"""What must lie in the environment itself, wherever it is prescribed."""


def prescribed(document: Path) -> list[str]:
    """The commands in a Markdown file's code, continued lines joined, comments cut off."""
    text = document.read_text(encoding="utf-8")
    fenced = re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = "\n".join([*fenced, *inline]).replace("\\\n", " ").splitlines()
    parts = (part for line in lines for part in line.split(" # ")[0].split("&&"))
    return [part.strip() for part in parts if part.strip()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_programs_of_a_document_are_in_the_environment(document: Path) -> None:
    used = {command.split()[0] for command in prescribed(document) if " " in command} & PROGRAMS
    missing = [program for program in sorted(used) if not (BIN / program).exists()]
    assert not missing, f"{document.name} prescribes {missing}, which the README's environment lacks"


def test_the_castssl_commands_of_all_documents_have_their_flags(command: Command, script: Command) -> None:
    usages: dict[str, str] = {}
    wrong = []
    for document in DOCUMENTS:
        for line in prescribed(document):
            words = line.split(" -- ")[0].split()
            if words[0] != "castssl" or len(words) < 2 or not re.fullmatch(r"[a-z][a-z-]*", words[1]):
                continue
            # castssl-mmseg has a help for each action, and `run` becomes the process of a recipe.
            if recipe := next((word for word in words if words[1] == "run" and word in RECIPES), ""):
                words = ["castssl", "run", *words[words.index(recipe) :]]
            checked = words[1:3] == ["check", "run"]
            if checked:  # What comes after the recipe's name is for the recipe.
                own = (i for i, word in enumerate(words) if word in RECIPES or ".py" in word)
                words = words[: next(own, len(words))]
            name = " ".join(words[1:3] if recipe or checked or words[1] == "mmseg" else words[1:2])
            if name not in usages:
                done = script(f"{recipe}.py", "--help") if recipe else command(*name.split(), "--help")
                assert done.code == 0, f"{document.name}: {line}: {done.err}"
                usages[name] = done.out
            flags = [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]
            wrong += [f"{document.name}: {line}: {flag}" for flag in flags if flag not in usages[name]]
    assert len(usages) > 8
    assert not wrong


@pytest.mark.parametrize("active", [True, False])
def test_doctor_prescribes_an_installer_that_is_there(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, active: bool
) -> None:
    monkeypatch.setenv("PATH", f"{BIN}:/usr/bin:/bin" if active else "/usr/bin:/bin")
    monkeypatch.syspath_prepend(str(_unmet(tmp_path)))
    lines = command("doctor").out.splitlines()
    remedies = [line.strip()[2:] for line in lines if line.strip().startswith("$ ")]
    installs = [remedy for remedy in remedies if " install " in remedy]
    assert installs
    for remedy in installs:
        program = remedy.partition(" install ")[0]
        done = subprocess.run(
            ["bash", "-c", f"{program} --version"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (remedy, done.stderr)
        assert str(BIN.parent) in done.stdout, f"{remedy} installs elsewhere: {done.stdout}"


def _unmet(folder: Path) -> Path:
    """Metadata of a castssl with a requirement that no environment has."""
    info = folder / "castssl-0.1.0.dist-info"
    info.mkdir(parents=True)
    text = "Metadata-Version: 2.1\nName: castssl\nVersion: 0.1.0\nRequires-Dist: no-such-library>=2\n"
    (info / "METADATA").write_text(text)
    return folder


def test_a_new_plugin_is_installed_by_the_printed_command(command: Command, tmp_path: Path) -> None:
    printed = command("new-plugin", "pooling", "mine", "--into", tmp_path)
    assert printed.code == 0
    (install,) = [line.strip() for line in printed.out.splitlines() if " install -e " in line]
    place = tmp_path / "installed"
    # The command itself, without the network, and beside the environment instead of into it.
    variables = {
        **{"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_PREFIX": str(place)},
        **{"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
    }
    done = subprocess.run(
        ["bash", "-c", install], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (site,) = place.glob("lib/python*/site-packages")
    listed = subprocess.run(
        [sys.executable, "-m", "castssl.cli", "list", "pooling"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"(?m)^pooling\s+mine\s+castssl-mine", listed.stdout)


def test_make_is_the_only_program_that_setup_needs() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert shutil.which("make")
    assert re.search(r"(?m)^slow: setup", text)
    assert '"pip"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_messages_take_the_installing_command_from_one_place() -> None:
    """A literal ``pip install`` is wrong in an environment that has no pip of its own."""
    sources = [*ROOT.glob("castssl/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    assert len(sources) > 100
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources
        if path.name != "installer.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"pip3? install", line)
    ]
    assert not bare, f"use castssl.installer.install: {bare}"
