"""The loop is the same in every recipe, and the README knows them all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house import source

MODEL = Path("recipes/moco_in1k.py")
"""The recipe whose loop the others repeat."""
RECIPES = [path for path in source.python("recipes") if len(path.parts) == 2]
MEASURE_ONLY = {"retrieve_voc.py"}
"""Recipes that train nothing."""
README = (source.ROOT / "recipes" / "README.md").read_text(encoding="utf-8")


def loop(tree: ast.Module) -> ast.For:
    """The one loop over ``run.steps(...)``."""
    (found,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.For) and "run.steps(" in ast.unparse(node.iter)
    )
    return found


def alike(node: ast.For) -> list[str]:
    """The lines of a loop, less what may differ: how the rate is reckoned, and what is looked at when."""
    lines = [f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}:"]
    for statement in node.body:
        text = ast.unparse(statement)
        if isinstance(statement, ast.If) and text.startswith("if run.every(cfg."):
            continue
        lines.append("set_rate(optimizer, ...)" if text.startswith("set_rate(optimizer, ") else text)
    return lines


@pytest.mark.parametrize("path", [path for path in RECIPES if path.name not in MEASURE_ONLY], ids=str)
def test_the_loop_is_that_of_every_recipe(path: Path) -> None:
    assert alike(loop(source.tree(path))) == alike(loop(source.tree(MODEL)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("check(batch)", "pass"),
        ("run.finite(outcome.loss)", "outcome.loss"),
        ("optimizer.zero_grad()", "optimizer.zero_grad(); print()"),
        ("run.progress(step + 1)", "run.progress(step)"),
        ("if run.every(cfg.knn_every):", "if step:"),
        ("evaluation.due(run.every)", "evaluation.evaluators"),
    ],
)
def test_another_loop_is_noticed(before: str, after: str) -> None:
    text = (source.ROOT / MODEL).read_text(encoding="utf-8")
    assert before in text
    changed = ast.parse(text.replace(before, after))
    assert alike(loop(changed)) != alike(loop(source.tree(MODEL)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("warmup_cosine(run.progress(step)", "other(run.progress(step)"),
        ("run.picture(picture())\n    weights", "pass\n    weights"),
    ],
)
def test_schedules_and_looks_may_differ(before: str, after: str) -> None:
    text = (source.ROOT / MODEL).read_text(encoding="utf-8")
    assert before in text
    assert alike(loop(ast.parse(text.replace(before, after)))) == alike(loop(source.tree(MODEL)))


def test_the_readme_lists_every_recipe_and_no_other() -> None:
    named = {word for word in README.replace("`", " ").split() if word.endswith(".py") and "/" not in word}
    assert named == {path.name for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_a_recipe_says_how_it_is_run_and_what_to_expect(path: Path) -> None:
    said = ast.get_docstring(source.tree(path)) or ""
    assert f"accelerate launch {path}" in said
    assert "Expect" in said
