"""castssl for torch.hub: an encoder of each preset, and trained models.

    torch.hub.load("OWNER/castssl", "cast_small", pooling="tome")
    torch.hub.load("DIR", "load", "runs/moco", source="local")

torch.hub fetches the files of a repository, and neither the packages that they need nor the entry points of
plugins: castssl has to be installed, as the error says where it is not.
"""

from __future__ import annotations

from functools import partial as _partial
from importlib import metadata as _metadata
from pathlib import Path as _Path
from typing import Any as _Any

from castssl import create as _create
from castssl import load, load_encoder  # noqa: F401  (entries)
from castssl.models.presets import PRESETS as _PRESETS

try:
    _metadata.distribution("castssl")
except _metadata.PackageNotFoundError as _error:
    raise RuntimeError(
        "castssl is not installed, and its superpixels and poolings are found by the metadata of the"
        f" installed package; run: pip install {_Path(__file__).parent}"
    ) from _error


def _new(_name: str, pretrained: bool = False, **options: _Any) -> _Any:
    """An encoder with new weights; ``pretrained`` is the keyword of many other repositories."""
    if pretrained:
        raise ValueError(
            f"{_name}: got pretrained=True, but castssl comes without weights; load a file with the entry"
            " load_encoder: torch.hub.load(..., 'load_encoder', PATH)"
        )
    return _create(_name, **options)


for _name in _PRESETS:  # torch.hub lists what has no underscore.
    globals()[_name] = _partial(_new, _name)
    globals()[_name].__doc__ = f"{_name} with new weights; keywords are those of castssl.create."
