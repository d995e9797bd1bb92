"""Files in a distribution of castssl that are not modules: the recipes and the template of plugins.

In a wheel they are in the package (``hatch_build.py``); in a checkout they are beside it.
"""

from __future__ import annotations

from pathlib import Path

from castssl.errors import ConfigError
from castssl.registry import did_you_mean

PACKAGE = Path(__file__).parent
CHECKOUT = {"recipes": Path("recipes"), "template": Path("plugins", "template")}
"""Where a checkout has each folder."""


def folder(name: str) -> Path:
    """A folder of :data:`CHECKOUT`, in the installed package or in the checkout.

    Raises:
        ConfigError: if it is in neither place.
    """
    for path in (PACKAGE / name, PACKAGE.parent / CHECKOUT[name]):
        if path.is_dir():
            return path
    raise ConfigError(f"the folder {name} is missing in {PACKAGE}; install castssl again")


def recipe_names() -> list[str]:
    """Names of the recipes, such as ``moco_in1k`` and ``ablations/pooling``, and of the files beside them."""
    root = folder("recipes")
    paths = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    names = (path.with_suffix("") if path.suffix == ".py" else path for path in paths)
    left_out = {".md", ".pyc"}
    return sorted(name.as_posix() for name in names if name.suffix not in left_out)


def programs() -> list[str]:
    """Those of :func:`recipe_names` that run: neither launch files nor lists."""
    return [name for name in recipe_names() if "." not in name]


def recipe(name: str, *, runs: bool = True) -> Path:
    """The file of a recipe.

    Args:
        name: one of :func:`programs`, or the path of a file that ends in ``.py``.
        runs: False allows all of :func:`recipe_names`.

    Raises:
        ConfigError: if there is neither.
    """
    own = Path(name)
    if own.suffix == ".py" and own.is_file():
        return own
    names = programs() if runs else recipe_names()
    if name in names:
        path = folder("recipes") / name
        return path if path.is_file() else path.with_name(f"{path.name}.py")
    hint = did_you_mean(name, names)
    raise ConfigError(f"no recipe {name!r}{hint}; give a file that ends in .py, or one of {', '.join(names)}")
