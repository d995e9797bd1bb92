"""Encoders by name; importing this room makes them known to timm, too."""

from __future__ import annotations

import castssl.models.timm_checkpoints  # noqa: F401 - registers the names, and reads runs
