"""A command in a name of data runs with ``--allow-commands`` alone, which only the command line gives."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from castssl.data.evaluation_views import CenterView
from castssl.data.loader import Loader, load
from castssl.datasets.open import open_images
from castssl.errors import DataError
from tests.acceptance.conftest import Command
from tests.acceptance.test_overwrite import parsers
from tests.acceptance.test_streams import colors, evaluated, samples, tar

TINY = [
    *("--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4", "--workers", "0"),
    *("--batch-size", "2", "--superpixels", "seeds:count=16,bins=5,iterations=2", "--hidden", "16"),
    *("--out-dim", "8", "--epochs", "2", "--warmup-epochs", "0", "--knn-every", "0", "--val", "none"),
]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of two shards of two images each."""
    pytest.importorskip("webdataset")
    for number, keys in enumerate(("ab", "cd")):
        tar(tmp_path / "shards" / f"{number}.tar", samples(["x"] * 2 * number + list(keys))[4 * number :])
    return tmp_path / "shards"


def allowed(spec: str, workers: int = 0) -> Loader:
    """As ``evaluated``, with the user's leave."""
    images = open_images(spec, commands=True)
    return load(
        images, views=CenterView(8), superpixels=None, batch_size=4, train=False, rank=0, workers=workers
    )


def test_a_run_reads_what_a_command_prints_and_its_settings_do_not_keep_the_leave(
    script: Command, shards: Path, tmp_path: Path
) -> None:
    out, canary = tmp_path / "run", tmp_path / "canary"
    spec = f"wds/x:pipe:touch {canary}; cat {shards}/0.tar?num_samples=2"
    refused = script("moco_in1k.py", "--data", spec, *TINY, "--out", tmp_path / "refused")
    assert (refused.code, canary.exists()) == (1, False), refused.err
    assert "--allow-commands" in refused.err
    done = script("moco_in1k.py", "--data", spec, *TINY, "--out", out, "--max-steps", "1", "--allow-commands")
    assert (done.code, canary.exists()) == (0, True), done.err
    assert '"loss"' in (out / "log.jsonl").read_text()
    assert "allow_commands" not in (out / "config.json").read_text()
    canary.unlink()
    copied = shutil.copytree(out, tmp_path / "copied")
    refused = script("moco_in1k.py", "--config", copied, "--max-steps", "2")
    assert (refused.code, canary.exists()) == (1, False), refused.err
    assert "--allow-commands" in refused.err
    done = script("moco_in1k.py", "--config", out, "--max-steps", "2", "--allow-commands")
    assert (done.code, canary.exists()) == (0, True), done.err


@pytest.mark.parametrize("value", [True, False, 1])
def test_no_file_of_settings_gives_the_leave(value: object, script: Command, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    data = f"wds/x:pipe:touch {canary}?num_samples=4"
    (tmp_path / "config.json").write_text(json.dumps({"data": data, "allow_commands": value}))
    done = script("moco_in1k.py", "--config", tmp_path, "--out", tmp_path / "run")
    assert (done.code, canary.exists()) == (2, False), done.err
    assert "allow_commands: no file of settings may give this" in done.err


def test_no_file_of_settings_gives_flags_to_the_recipe_of_a_benchmark(
    script: Command, tmp_path: Path
) -> None:
    for key in ("flags", "recipe"):
        (tmp_path / "config.json").write_text(json.dumps({key: "--allow-commands"}))
        done = script("benchmarks/train.py", "--config", tmp_path)
        assert done.code == 2
        assert f"{key}: no file of settings may give this" in done.err


def test_every_subcommand_that_takes_a_name_of_data_has_the_flag() -> None:
    found = {}
    for name, parser in parsers().items():
        flags = {flag for action in parser._actions for flag in action.option_strings}
        if any(action.metavar == "DATA" for action in parser._actions):
            found[name] = "--allow-commands" in flags
    names = ("adapt", "attention", "evaluate", "look", "neighbors", "predict", "tree")
    assert found == dict.fromkeys(names, True)


def test_tree_and_studies_take_the_leave(command: Command, script: Command, shards: Path) -> None:
    spec = f"wds/x:pipe:cat {shards}/0.tar?num_samples=2&num_classes=3"
    refused = command("tree", spec)
    assert refused.code == 1
    assert "--allow-commands" in refused.err
    assert command("tree", spec, "--allow-commands").code == 0
    flags = ("--data", spec, "--allow-commands", "--dry-run")
    assert "--allow-commands" in script("ablations/pooling.py", *flags).out


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "spec",
    [
        "wds/x:pipe:cat {0}/{{0..1}}.tar?num_samples=4",
        "wds/x:{0}?num_samples=4&split=pipe:cat {0}/0.tar::1.tar",
        "wds/x:/none?num_samples=4&split=pipe:gzip -c {0}/0.tar | cat::pipe:cat {0}/1.tar|4",
    ],
)
def test_what_commands_print_is_read(spec: str, workers: int, shards: Path) -> None:
    loader = allowed(spec.format(shards) + "&num_classes=3", workers)
    assert colors(loader) == {0: [0], 1: [1], 2: [2], 3: [0]}
    assert not loader.bad


@pytest.mark.parametrize("workers", [0, 1])
def test_a_command_that_fails_is_an_error(workers: int, shards: Path) -> None:
    loader = allowed(f"wds/x:pipe:cat {shards}/0.tar; exit 3?num_samples=2", workers)
    with pytest.raises(DataError, match=r"exit 3' ended with exit code 3, expected 0"):
        list(loader)


def test_a_command_prints_one_split_and_does_not_say_of_how_many_images(shards: Path) -> None:
    command = f"wds/x:pipe:cat {shards}/0.tar"
    with pytest.raises(DataError, match="counts as the train split"):
        open_images(f"{command}?num_samples=2", split="val", commands=True)
    with pytest.raises(DataError, match="counts as the train split"):
        open_images(f"{command}?num_samples=2&split=0.tar", commands=True)
    with pytest.raises(DataError, match=r"give \?num_samples=N"):
        open_images(command, commands=True)


def test_only_the_name_itself_holds_commands(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    monkeypatch.chdir(shards)
    monkeypatch.setenv("WDS_PIPED", "pipe:touch ../canary #")
    for spec in (
        "wds/x:.?split=${PIPED}.tar|4",
        "wds/x:${PIPED}?num_samples=4",
        "wds/x:.?split=PIPE:a.tar|4",
    ):
        with pytest.raises(DataError, match=r"variable in|cannot start a command|holds no .tar shards"):
            list(allowed(spec))
    (shards / "0.tar").rename(shards / "pipe:touch canary #.tar")
    assert len(colors(allowed("wds/x:."))) == 4
    split = {"name": "train", "num_samples": 4, "filenames": ["pipe:touch ../canary #"], "shard_lengths": [4]}
    (shards / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    with pytest.raises(DataError, match="cannot start a command"):
        allowed("wds/x:.")
    assert not canary.exists()
    assert not (shards / "canary").exists()


# Shards by address


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def served(shards: Path) -> Iterator[str]:
    """The address under which a server of this process has the shards."""
    pytest.importorskip("aiohttp")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(shards))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_shards_by_http_start_no_command(
    served: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curl = tmp_path / "bin" / "curl"  # What webdataset would start.
    curl.parent.mkdir()
    curl.write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
    curl.chmod(0o755)
    monkeypatch.setenv("PATH", str(curl.parent), prepend=":")
    expected = {0: [0], 1: [1], 2: [2], 3: [0]}
    assert colors(evaluated(f"wds/x:{served}?split={{0..1}}.tar&num_samples=4&num_classes=3")) == expected
    (shards / "1.tar.gz").write_bytes(gzip.compress((shards / "1.tar").read_bytes()))
    names = ["0.tar", "1.tar.gz"]
    split = {"name": "train", "num_samples": 4, "filenames": names, "shard_lengths": [2, 2]}
    (shards / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    assert colors(evaluated(f"wds/x:{served}?num_classes=3")) == expected
    missing = evaluated(f"wds/x:{served}?split=0.tar::none.tar&num_samples=4&num_classes=3")
    assert colors(missing) == {0: [0], 1: [1]}
    assert list(missing.bad) == [f"{served}/none.tar"]
    assert not (tmp_path / "canary").exists()
