"""The subcommands of ``castssl``; each file has ``add``, and imports the work when it runs."""

from __future__ import annotations

from castssl.commands import doctor, plugins, segment

ALL = (plugins, segment, doctor)
"""In the order of ``castssl --help``."""
