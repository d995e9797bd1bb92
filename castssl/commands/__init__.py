"""The subcommands of ``castssl``; each file has ``add``, and imports the work when it runs."""

from __future__ import annotations

from castssl.commands import (
    ablate,
    adapt,
    attention,
    compare,
    convert,
    densepose,
    environment,
    evaluate,
    export,
    features,
    flops,
    look,
    neighbors,
    parts,
    plugins,
    predict,
    recipes,
    report,
    runs,
    segment,
    superpixels,
    tree,
)

ALL = (
    *(recipes, runs, report, plugins, superpixels, segment, compare, look, attention, predict, evaluate),
    *(parts, densepose, neighbors, adapt, features, convert, export, flops, ablate, tree, environment),
)
"""In the order of ``castssl --help``."""
