from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from castssl import config
from castssl.config import RunConfig
from castssl.errors import CastError, ConfigError, DataError
from castssl.training.run_folder import claim, folder_of
from tests.training.toy import Config


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("demo", "toy-demo-3"),
        ("folder:/data/imagenet", "toy-imagenet-3"),
        ("folder:/data/my images/", "toy-my-images-3"),
        ("wds/imagenet:/data/shards", "toy-shards-3"),
        ("hfds/someone/birds", "toy-birds-3"),
        ("", "toy-3"),
    ],
)
def test_the_folder_is_named_after_recipe_data_and_seed(data: str, expected: str) -> None:
    assert folder_of(Config(data=data, seed=3)) == Path("runs") / expected


def test_out_and_the_recipes_name_can_be_given() -> None:
    assert folder_of(Config(out="a/b")) == Path("a/b")
    assert folder_of(RunConfig(), "probe") == Path("runs/probe-0")


def test_a_claimed_folder_holds_the_config_and_is_locked_until_it_is_let_go(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    lock = claim(folder, Config(lr=1.0))
    assert config.load(Config, folder) == Config(lr=1.0)
    with pytest.raises(ConfigError, match="another process writes in"):
        claim(folder, Config(lr=1.0))
    lock.close()
    claim(folder, Config(lr=1.0)).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_that_outlives_its_run_does_not_hold_the_folder(tmp_path: Path) -> None:
    """The kernel would share the lock with it, and a run that was killed be refused until it has gone."""
    lock = claim(tmp_path, Config())
    parent, child = socket.socketpair()
    if (worker := os.fork()) == 0:
        parent.close()
        child.send(b"here")
        child.recv(1)
        os._exit(0)
    child.close()
    parent.recv(4)
    try:
        with pytest.raises(ConfigError, match="another process writes in"):
            claim(tmp_path, Config())
        # What the end of a process does; lock.close() would do more.
        os.close(lock.fileno())
        claim(tmp_path, Config()).close()
    finally:
        parent.close()
        os.waitpid(worker, 0)


def test_settings_of_a_run_that_has_reports_are_kept(tmp_path: Path) -> None:
    claim(tmp_path, Config(lr=1.0)).close()
    (tmp_path / "log.jsonl").write_text('{"event": "start"}\n')
    claim(tmp_path, Config(lr=2.0)).close()
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match=r"--lr: the run has 2\.0, asked for 3\.0"):
        claim(tmp_path, Config(lr=3.0))
    claim(tmp_path, Config(lr=2.0, epochs=500, workers=3)).close()
    assert config.load(Config, tmp_path).epochs == 500


def test_results_of_other_settings_are_kept_and_never_taken_for_those_of_a_run(tmp_path: Path) -> None:
    claim(tmp_path, Config(lr=1.0)).close()
    once, results = tmp_path / "once.json", tmp_path / "results.json"
    once.write_text('{"trained": {"miou": 0.5}}')
    claim(tmp_path, Config(lr=1.0)).close()
    assert once.is_file()
    results.write_text("{}")
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        claim(tmp_path, Config(lr=2.0))
    results.unlink()
    claim(tmp_path, Config(lr=2.0)).close()
    assert not once.exists()


def test_a_config_of_another_program_is_not_replaced_and_an_emptied_one_is(tmp_path: Path) -> None:
    other, ours = tmp_path / "other", tmp_path / "ours"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"config\.json, which no run of castssl made"):
        claim(other, Config())
    assert (other / "config.json").read_text() == '{"model_type": "bert"}'
    claim(ours, Config(lr=1.0)).close()
    for damaged in (b"", bytes(100), b'{"lr": 1', b"\xff"):
        (ours / "config.json").write_bytes(damaged)
        claim(ours, Config(lr=1.0)).close()
        assert config.load(Config, ours).lr == 1.0


def test_a_lock_of_another_program_makes_no_run_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text('{"lock": "of my tool"}')
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"holds \.lock, results\.json, which no run of castssl made"):
        claim(tmp_path, Config())
    assert (tmp_path / ".lock").read_text() == '{"lock": "of my tool"}'
    claim(tmp_path, Config(overwrite=True)).close()


@pytest.mark.parametrize("name", [".lock", ".config.json.partial"])
def test_a_link_in_a_folder_leads_to_no_other_file(name: str, tmp_path: Path) -> None:
    folder, other = tmp_path / "run", tmp_path / "other.txt"
    claim(folder, Config()).close()
    other.write_text("mine")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(other)
    if name == ".lock":
        with pytest.raises(ConfigError, match=r"holds \.lock|it is a link"):
            claim(folder, Config())
    else:
        claim(folder, Config()).close()
    assert other.read_text() == "mine"


def test_a_refused_claim_lets_the_folder_go(tmp_path: Path) -> None:
    claim(tmp_path, Config(lr=1.0)).close()
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError):
        claim(tmp_path, Config(lr=3.0))
    claim(tmp_path, Config(lr=1.0)).close()


def test_a_place_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--out: cannot write into"):
        claim(tmp_path / "file", Config())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / ".config.json.partial").symlink_to("/dev/full")
    with pytest.raises(CastError, match=r"cannot write the settings .* \(No space left"):
        claim(tmp_path, Config())


def test_a_start_that_fails_leaves_no_new_folder_and_its_lock_holds_until_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "a"

    def main(cfg: Config) -> None:
        lock = claim(folder, cfg)
        (folder / "log.jsonl").touch()
        with lock:
            raise DataError("there is no folder /nope")

    with pytest.raises(SystemExit):
        config.launch(main, Config, ["--out", str(folder)])
    assert capsys.readouterr().err == "error: there is no folder /nope\n"
    assert not list(tmp_path.iterdir())
