"""Tutorials hold only steps that are run: ``make slow`` runs all of them, and here one of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from castssl.cli import main
from tests.house import source, tutorials

PAGE = """# Title

```python
# two.py
print("first")
print("second 2")
```

```bash
python two.py
```

```text
...rst
second ...
```
"""
ENVIRONMENT = {"PATH": os.environ["PATH"]}


def text(path: Path) -> str:
    return (source.ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", tutorials.PAGES, ids=str)
def test_a_page_has_steps_and_promises_what_they_print(path: Path) -> None:
    steps = tutorials.steps(text(path))
    assert len([step for step in steps if step.expected]) >= 3
    assert f"\n{path.stem}\n" in text(Path("docs/tutorials/index.md"))


def test_there_are_the_five_tutorials() -> None:
    names = {path.stem for path in tutorials.PAGES}
    assert names == {"own-images", "own-taxonomy", "own-masks", "own-pooling", "slurm"}


def test_steps_are_done_in_order(tmp_path: Path) -> None:
    done = list(tutorials.run(PAGE, tmp_path, ENVIRONMENT))
    assert [(step.language, step.file, step.expected) for step in done] == [
        ("python", "two.py", ()),
        ("bash", "", ("...rst", "second ...")),
    ]
    assert (tmp_path / "two.py").is_file()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("...rst", "third", "line 9: no line 'third'"),
        ("...rst\nsecond ...", "second ...\nfirst", "line 9: no line 'first'"),
        ("python two.py", "python two.py\nfalse", "line 9: exit code 1"),
        ("python two.py", "python two.py | cat nothing -", "line 9: exit code 1"),
    ],
)
def test_a_step_that_fails_or_prints_something_else_is_found(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=message):
        list(tutorials.run(PAGE.replace(old, new), tmp_path, ENVIRONMENT))


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("```console\n$ rm\n```\n", "a fence of console"),
        ("```\nrm\n```\n", "a fence of no language"),
        ("```bash\nls\n```\n\nAnd:\n\n```text\nx\n```\n", "output stands directly after"),
        ("```text\nx\n```\n", "output stands directly after"),
        ("# Title\n", "no step"),
    ],
)
def test_what_nothing_would_run_or_compare_is_refused(page: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tutorials.steps(page)


def test_the_first_step_of_own_taxonomy_writes_a_table_whose_tree_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, with smaller images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CASTSSL_CACHE", str(tmp_path / "cache"))
    (program,) = [step for step in tutorials.steps(text(Path("docs/tutorials/own-taxonomy.md"))) if step.file]
    small = program.code.replace("size=64, per_class=40", "size=32, per_class=2")
    assert small != program.code
    exec(compile(small, program.file, "exec"), {})
    assert main(["tree", "tree:labels.csv"]) == 0
    assert "butterfly  2 / 1" in capsys.readouterr().out
