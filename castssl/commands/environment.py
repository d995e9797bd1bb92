"""``castssl doctor``: what is installed, what is broken, and the command that repairs it."""

from __future__ import annotations

import argparse
import importlib
import platform
import shutil
import sys
from collections.abc import Collection, Iterator
from importlib import metadata
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from castssl import registry
from castssl.commands.arguments import Commands, subcommand
from castssl.errors import PluginError
from castssl.installer import OPENCV, install, installed, restore_ximgproc, uninstall

State = Literal["ok", "note", "broken"]
COLORS = {"ok": "green", "note": "yellow", "broken": "red"}
WRITERS = (OPENCV, "opencv-contrib-python", "opencv-python-headless", "opencv-python")
"""Distributions that all write the same folder ``cv2``; the first two bring ``ximgproc``."""
MODULES = {"markdown-it-py": "markdown_it", "pillow": "PIL", "scikit-learn": "sklearn"}
"""Modules whose name does not follow from that of their distribution."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    topic: str
    state: State
    """``broken`` if castssl cannot do without it, ``note`` if it can."""
    text: str
    remedy: str = ""
    """A command, or ``""``."""


def add(commands: Commands) -> None:
    """Add it to the command line."""
    subcommand(commands, "doctor", "what is installed, what is broken, and how to repair it", _doctor)


def _doctor(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True)
    broken = 0
    for topic, state, text, remedy in examine():
        broken += state == "broken"
        console.print(f"[{COLORS[state]}]{state:<6}[/]  {topic:<20}  {escape(text)}", highlight=False)
        if remedy:
            console.print(f"{'':30}$ {escape(remedy)}", highlight=False)
    console.print(f"{broken} broken" if broken else "nothing that castssl needs is broken")
    return 1 if broken else 0


def examine() -> Iterator[Finding]:
    """Look at everything, one finding at a time; imports the required libraries and every plugin."""
    yield python()
    try:
        needed = [Requirement(text) for text in metadata.requires("castssl") or ()]
    except metadata.PackageNotFoundError:
        yield Finding(
            "castssl", "broken", "runs from a folder, but is not installed", install(".", options="-e")
        )
        needed = []
    for requirement in needed:
        if not requirement.marker and requirement.name not in WRITERS:
            yield required(requirement)
    yield accelerator()
    yield opencv()
    for requirement in needed:
        if requirement.marker:
            yield optional(requirement)
    yield from plugins()


def python() -> Finding:
    """The interpreter."""
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def required(requirement: Requirement) -> Finding:
    """A library that castssl's own metadata ask for: installed, new enough, and it imports."""
    name, wish = requirement.name, f"{requirement.name}{requirement.specifier}"
    version = installed(name)
    if not version:
        return Finding(name, "broken", f"is not installed; castssl needs {requirement}", install(wish))
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(name, "broken", f"{version} is installed; castssl needs {requirement}", install(wish))
    try:
        importlib.import_module(MODULES.get(name, name.replace("-", "_")))
    except Exception as fault:
        text = f"{version} does not import: {type(fault).__name__}: {fault}"
        return Finding(name, "broken", text, install(wish, reinstall=True))
    return Finding(name, "ok", f"{version} ({requirement.specifier})")


def accelerator() -> Finding:
    """What torch computes on."""
    try:
        import torch
    except Exception as fault:
        return Finding("device", "broken", f"torch does not import: {fault}")
    if torch.cuda.is_available():
        named = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("device", "ok", f"CUDA {torch.version.cuda}: {', '.join(named)}")
    if shutil.which("nvidia-smi") and torch.version.cuda is None and torch.version.hip is None:
        remedy = install("torch", "torchvision", reinstall=True)
        return Finding("device", "note", "this machine has an NVIDIA GPU, but torch is built for CPU", remedy)
    return Finding(
        "device", "note", f"no GPU is visible: torch runs on {torch.get_num_threads()} CPU threads"
    )


def opencv() -> Finding:
    """Whether cv2 has the superpixels, and which distributions wrote it."""
    owners = {name: version for name in WRITERS if (version := installed(name))}
    written = ", ".join(f"{name} {version}" for name, version in owners.items()) or "no distribution"
    others = owners.keys() - {OPENCV}
    users, remedy = _users(others), restore_ximgproc()
    if others and not users:
        remedy = f"{uninstall(*sorted(others))} && {remedy}"
    try:
        cv2 = importlib.import_module("cv2")
    except Exception as fault:
        return Finding("cv2", "broken", f"does not import: {fault}; installed: {written}", remedy)
    version = cv2.__version__ if "__version__" in dir(cv2) else "of unknown version"
    if "ximgproc" not in dir(cv2) or "createSuperpixelSEEDS" not in dir(cv2.ximgproc):
        text = f"{version} has no ximgproc, so there is no SEEDS; written by {written}, the last one wins"
        return Finding("cv2", "broken", text, remedy)
    if len(owners) == 1:
        return Finding("cv2", "ok", f"{version} with ximgproc, from {written}")
    text = f"{version} with ximgproc, but written by {written}: the next upgrade of one breaks it"
    if users:
        return Finding("cv2", "note", f"{text}; required by {', '.join(users)}")
    return Finding("cv2", "note", text, remedy)


def _users(names: Collection[str]) -> list[str]:
    """The installed distributions that require one of these."""
    return sorted(
        {
            found.name
            for found in metadata.distributions()
            for requirement in map(Requirement, found.requires or ())
            if requirement.name in names and (not requirement.marker or requirement.marker.evaluate())
        }
    )


def optional(requirement: Requirement) -> Finding:
    """A library of one of castssl's extras, such as a tracker."""
    version = installed(requirement.name)
    extra = str(requirement.marker).partition("==")[2].strip(" '\"")
    if not version:
        text = f"is not installed (optional, extra {extra!r})"
        return Finding(requirement.name, "note", text, install(requirement.name))
    return Finding(requirement.name, "ok", f"{version} (optional, extra {extra!r})")


def plugins() -> Iterator[Finding]:
    """Every registered plugin, imported; of a plugin that is not castssl's own, a fault is a note."""
    for kind in registry.KINDS:
        owners: dict[str, set[str]] = {}
        for entry in registry.names(kind):
            owners.setdefault(entry.name, set()).add(entry.distribution)
        for name, distributions in owners.items():
            yield _plugin(kind, name, distributions)
    for text in registry.faults():
        yield Finding("plugins", "note", text)


def _plugin(kind: str, name: str, distributions: set[str]) -> Finding:
    try:
        registry.load(kind, name)
    except PluginError as fault:
        return Finding(f"{kind} {name}", "broken" if "castssl" in distributions else "note", str(fault))
    return Finding(f"{kind} {name}", "ok", f"from {', '.join(sorted(distributions))}")
