"""What a plugin's factory accepts, read from its source: nothing is imported, so it costs no second."""

from __future__ import annotations

import ast
from typing import NamedTuple

from castssl.docstrings import Definition, source

HOPS = 4
"""How many base classes and names for types are followed."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Written(NamedTuple):
    """What the source says of a factory."""

    options: list[str]
    """``key: type = default`` for each option."""
    docstring: str


def written(module: str, attribute: str, arguments: int) -> Written | None:
    """Options and docstring of the class or function ``module:attribute``.

    Args:
        module: dotted name.
        attribute: name at its top level.
        arguments: how many parameters come before the options.

    Returns:
        None where this source alone does not tell for certain what a call accepts: re-exports, decorators,
        metaclasses, ``__new__``, an ``__init__`` from elsewhere, ``*args``, defaults that are missing or
        computed.
    """
    try:
        origin = source(module)
        tree = ast.parse(origin.read_bytes()) if origin else ast.Module([], [])
        node = _top(tree, attribute)
        call = _init(tree, node, HOPS) if isinstance(node, ast.ClassDef) else node
        if node is None or call is None or call.decorator_list or call.args.vararg or call.args.kwarg:
            return None
        own = arguments + isinstance(node, ast.ClassDef)
        parameters = _parameters(call)
        if len(parameters) < own or any(default is None for _, default in parameters[own:]):
            return None
        package = module.partition(".")[0]
        options = [_option(tree, package, name, default) for name, default in parameters[own:] if default]
    except (OSError, SyntaxError, ValueError):
        return None
    return Written(options, ast.get_docstring(node) or "")


def _top(tree: ast.Module, name: str) -> Definition | None:
    found = [node for node in tree.body if isinstance(node, Definition) and node.name == name]
    return found[0] if len(found) == 1 and not found[0].decorator_list else None


def _init(tree: ast.Module, node: ast.ClassDef, hops: int) -> Function | None:
    """The ``__init__`` of a class: its own, or that of its only base in the same module."""
    own = {part.name: part for part in node.body if isinstance(part, Function)}
    if node.keywords or "__new__" in own or not hops:
        return None
    if "__init__" in own:
        return own["__init__"]
    base = node.bases[0] if len(node.bases) == 1 else None
    above = _top(tree, base.id) if isinstance(base, ast.Name) else None
    return _init(tree, above, hops - 1) if isinstance(above, ast.ClassDef) else None


def _parameters(call: Function) -> list[tuple[ast.arg, ast.expr | None]]:
    """Each parameter with its default, in order."""
    given = call.args
    plain = [*given.posonlyargs, *given.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(given.defaults))
    defaults = [*missing, *given.defaults, *given.kw_defaults]
    return list(zip([*plain, *given.kwonlyargs], defaults, strict=True))


def _option(tree: ast.Module, package: str, argument: ast.arg, default: ast.expr) -> str:
    hint = argument.annotation
    # A name that stands for a constant of this module is shown as its value; what is computed is refused.
    value = ast.literal_eval(_meaning(tree, default, package))
    if isinstance(hint, ast.Constant) and isinstance(hint.value, str):
        hint = ast.parse(hint.value, mode="eval").body
    spelt = "" if hint is None else f": {ast.unparse(_Spelt(tree, package).visit(hint))}"
    return f"{argument.arg}{spelt} = {value!r}"


def _meaning(tree: ast.Module, node: ast.expr, package: str = "", hops: int = HOPS) -> ast.expr:
    """What a name is assigned at the module's top level, if it is so once; else the node itself.

    A name that comes from another module of the same ``package`` is looked up there.
    """
    if not isinstance(node, ast.Name) or not hops:
        return node
    for part in tree.body:
        names = [alias.asname or alias.name for alias in getattr(part, "names", ())]
        if isinstance(part, ast.ImportFrom) and node.id in names and (part.module or "").startswith(package):
            origin = source(part.module or "") if package else None
            if origin is not None:
                there = ast.Name(part.names[names.index(node.id)].name)
                found = _meaning(ast.parse(origin.read_bytes()), there, package, hops - 1)
                return node if isinstance(found, ast.Name) else found
    assigned = [
        part.value
        for part in tree.body
        if isinstance(part, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == node.id for target in part.targets)
    ]
    return assigned[0] if len(assigned) == 1 else node


class _Spelt(ast.NodeTransformer):
    """Writes a type out where the module gave it a name."""

    def __init__(self, tree: ast.Module, package: str) -> None:
        self._tree, self._package = tree, package

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return _meaning(self._tree, node, self._package)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return ast.Name(node.attr) if isinstance(node.value, ast.Name) and node.value.id == "typing" else node
