from __future__ import annotations

from pathlib import Path

import pytest

from castssl.cli import main
from castssl.verification.promises import PROMISES
from castssl.verification.suite import CHECKS
from tests.soak.soak import RECIPES


def test_a_recipe_passes(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """tests/slow makes all checks of all recipes."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("COLUMNS", "300")
    only = [word for name in ("resume", "processes", "batch") for word in ("--only", name)]
    flags = [*RECIPES["moco_in1k"], "--data", f"folder:{image_folder}", "--epochs", "2", "--workers", "0"]
    assert main(["check", "run", *only, "moco_in1k", *flags]) == 0, capsys.readouterr()
    shown = capsys.readouterr()
    assert "4 steps, a stop after step 2 within an epoch: equal bit for bit" in shown.out
    assert "gradients within" in shown.out
    assert "alone and among 7 images" in shown.out
    assert "3 of 6 checks passed, 3 skipped" in shown.out
    assert "1 of 6: resume equals never stopped" in shown.err
    assert not list(tmp_path.iterdir())


def test_a_recipe_that_refuses_its_flags_is_no_failed_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "run", "--only", "batch", "moco_in1k", "--data", "nowhere:/here"]) == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert "does not run with these flags" in shown.err
    assert "nowhere" in shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["moco"], "did you mean 'moco_in1k'"),
        (["--only", "onnx", "--skip", "onnx", "moco_in1k"], "leave no check"),
        (["--keep", ".", "moco_in1k"], "--keep: . is there already"),
        (["--limit", "inf", "moco_in1k"], "--limit: got inf, expected seconds above 0"),
    ],
)
def test_a_wrong_command_line_starts_nothing(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "run", *words]) == 2
    assert message in capsys.readouterr().err


def test_each_promise_has_its_check_and_its_line_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(CHECKS) == list(PROMISES)
    with pytest.raises(SystemExit):
        main(["check", "run", "--help"])
    shown = capsys.readouterr().out
    for name, promise in PROMISES.items():
        assert f"  {name}  " in shown
        assert promise.about.split(".")[0][:40] in shown
