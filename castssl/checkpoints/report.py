"""What became of a checkpoint's tensors: nothing is dropped in silence."""

from __future__ import annotations

from dataclasses import dataclass, field

from castssl.errors import printable


@dataclass
class Report:
    """An account of a checkpoint; printed, it is a few lines.

    Attributes:
        variant: the published model that was recognized.
        used: the file's keys that the model holds now, as they are.
        renamed: published name -> ours, one entry a tensor.
        merged: key -> another key of the same tensor (blocks are stored twice).
        changed: key -> what was done to its values.
        ignored: key or group of keys -> why it is not in the model.
        notes: what else the reader should know.
    """

    variant: str = ""
    used: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line a fact; long lists are counted."""
        twice = f", {len(self.merged)} of them second copies of a block" if self.merged else ""
        lines = [
            f"variant {self.variant}",
            f"used: {len(self.used)} tensors{twice}",
            f"renamed: {len(self.renamed)}{_examples(self.renamed)}",
        ]
        lines += [f"changed: {name}: {how}" for name, how in self.changed.items()]
        lines += [f"ignored: {name}: {why}" for name, why in self.ignored.items()]
        return printable("\n".join([*lines, *(f"note: {note}" for note in self.notes)]))


def _examples(renamed: dict[str, str]) -> str:
    old = next((name for name in renamed if renamed[name] != name), None)
    return "" if old is None else f", such as {old} -> {renamed[old]}"
