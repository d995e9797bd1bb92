"""The subcommands of ``castssl``; each file has ``add``, and imports the work when it runs."""

from __future__ import annotations

from castssl.commands import ablate, convert, doctor, export, flops, plugins, segment, superpixels

ALL = (plugins, superpixels, segment, convert, export, flops, ablate, doctor)
"""In the order of ``castssl --help``."""
