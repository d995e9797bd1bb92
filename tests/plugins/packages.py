"""Distributions, most of them broken on purpose, written with real metadata into a folder of the path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

HEALTHY_SOURCE = '''
"""A module that says so when it is imported."""
import sys

from castssl.contracts import Pooling

sys.modules["imported_by_listing"] = sys.modules[__name__]


class Pool(Pooling):
    """Pools nothing."""

    def __init__(self, dim, *, rounds: int = 3, mode: str = "fast"):
        super().__init__()
        self.dim, self.rounds, self.mode = dim, rounds, mode


class Hollow:
    def __init__(self, dim):
        pass
'''


@dataclass(frozen=True)
class Package:
    """One distribution: ``points`` maps a kind to names and values, ``sources`` a file to its text."""

    name: str
    points: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    version: str = "1.0"
    entry_points: str | None = None
    """The file's text, if it is not to be made from ``points``."""

    def write(self, folder: Path) -> Path:
        """Write it as an installer would; returns the folder."""
        info = folder / f"{self.name.replace('-', '_')}-{self.version}.dist-info"
        info.mkdir(parents=True)
        head = f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n"
        (info / "METADATA").write_text(head, encoding="utf-8")
        text = "".join(
            f"[castssl.{kind}]\n" + "".join(f"{name} = {value}\n" for name, value in table.items())
            for kind, table in self.points.items()
        )
        (info / "entry_points.txt").write_text(self.entry_points or text, encoding="utf-8")
        for file, source in self.sources.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(source, encoding="utf-8")
        return folder


HEALTHY = Package(
    "castssl-healthy",
    {"pooling": {"healthy": "castssl_healthy:Pool", "hollow": "castssl_healthy:Hollow"}},
    {"castssl_healthy.py": HEALTHY_SOURCE},
)
UNIMPORTABLE = Package(
    "castssl-unimportable",
    {"pooling": {"unimportable": "castssl_unimportable:Pool"}},
    {"castssl_unimportable.py": '"""Needs what nobody has."""\nimport library_that_nobody_has\n'},
)
MISSING = Package(
    "castssl-missing",
    {"pooling": {"missing": "castssl_missing:Pool"}},
    {"castssl_missing.py": '"""Does not define what it registers."""\n'},
)
EXITING = Package(
    "castssl-exiting",
    {"pooling": {"exiting": "castssl_exiting:Pool"}},
    {"castssl_exiting.py": '"""Leaves when it is imported."""\nraise SystemExit(3)\n'},
)
DUPLICATE = Package(
    "castssl-duplicate",
    {"pooling": {"graph": "castssl_duplicate:Pool"}},
    {"castssl_duplicate.py": HEALTHY_SOURCE},
)
SECOND = replace(DUPLICATE, name="castssl-second", version="2.0")
WRONG_SIGNATURE = Package(
    "castssl-wrong-signature",
    {
        "pooling": {
            "no_dim": "castssl_wrong_signature:no_dim",
            "no_default": "castssl_wrong_signature:no_default",
            "no_factory": "castssl_wrong_signature:no_factory",
        }
    },
    {
        "castssl_wrong_signature.py": '''
def no_dim():
    """Takes no width."""


def no_default(dim, *, heads):
    """Has an option without default."""


no_factory = 7
'''
    },
)
MALFORMED = Package("castssl-malformed", entry_points="[castssl.pooling]\nthis is no entry point\n")
BROKEN = (UNIMPORTABLE, MISSING, EXITING, DUPLICATE, WRONG_SIGNATURE, MALFORMED)
