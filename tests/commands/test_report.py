"""What ``castssl report`` writes and refuses: runs in every state, a study, strangers' files."""

from __future__ import annotations

import fcntl
import html
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from castssl.checkpoints import load_encoder
from castssl.checkpoints.checkpoint import Checkpoint
from castssl.checkpoints.native import Weights, save_encoder
from castssl.cli import main
from castssl.models.create import create
from castssl.reports.gather import gather
from castssl.training import checkpoint
from castssl.visualization.page import markup
from tests.visualization.test_page import stored

NASTY = "<script>window.broken=1</script>\x1b'\"&"
SHAPE: dict[str, Any] = {"image_size": 32, "sizes": (16, 8, 4), "superpixels": "grid:cell=32"}


PLACE: dict[str, Any] = {"castssl": "0", "config": "{}", "step": 3, "batches": 1, "module": {}}
"""Entries of a checkpoint beside the weights."""


def write(
    folder: Path,
    *,
    results: dict[str, Any] | None = None,
    start: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A run's folder with a log of three steps."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"epochs": 8, "out": str(folder), "seed": 0, **settings}))
    argv = ["recipes/moco_in1k.py", "--data", "folder:a b", "--out", str(folder)]
    environment = {"python": "3.11", "machine": "two cores", "packages": {"torch": "2.9"}}
    lines: list[dict[str, Any]] = [
        {
            "time": 100.0,
            "event": "start",
            "after": 0,
            "argv": argv,
            "environment": environment,
            **(start or {}),
        }
    ]
    for step in (1, 2, 3):
        speed = {"images_per_second": 50.0, "waiting": 0.25}
        lines.append(
            {"time": 100.0 + step, "step": step, "epoch": step / 2, "loss": 3.0 / step, "rate": 0.1, **speed}
        )
    lines.append({"time": 110.0, "step": 3, "knn": 0.375})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    return folder


def page(tmp_path: Path, *words: str | Path, code: int = 0) -> str:
    out = tmp_path / "page.html"
    assert main(["report", *map(str, words), "--out", str(out), "--overwrite"]) == code
    return out.read_text(encoding="utf-8")


def drawn(text: str) -> dict[str, Any]:
    (block,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', text)
    return dict(json.loads(block))


def levels(chart: dict[str, Any]) -> list[str]:
    return [f"{one['name']} {one['shown']}" for one in chart["levels"]]


def visible(text: str) -> str:
    """The text of the page's sections."""
    return re.sub(r"<[^>]*>", " ", text.partition("<main>")[2].partition("</main>")[0])


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = {"trained": {"knn": 0.5}, "untrained": {"knn": 0.25}, "chance": {"knn": 0.125}}
    run = write(tmp_path / "run", results=results, lr=0.003, val=None, mean=[])
    with (run / "log.jsonl").open("a") as log:
        log.write('{"time": 111, "step": 3, "epoch": 1.5, "images_per_second": 50, "match": 0.25}\n')
    text = page(tmp_path, run, "--no-images")
    assert "1 run, " in capsys.readouterr().out
    shown = visible(text)
    assert re.search(r"kNN accuracy\s+%\s+50\.0\s+25\.0\s+12\.5", shown)
    assert all(part in shown for part in ("finished", "moco_in1k", "1.5 of 8", "two cores", "0.003", "2.9"))
    assert "recipes/moco_in1k.py --data &#x27;folder:a b&#x27;" in shown
    assert "castssl run moco_in1k --config" in shown
    charts = {chart["title"]: chart for chart in drawn(text)["charts"]}
    assert list(charts)[:4] == ["loss", "learning rate", "kNN accuracy", "waiting for data"]
    assert charts["loss"]["curves"][0]["values"] == [3.0, 1.5, 1.0]
    assert charts["loss"]["curves"][0]["places"][:2] == [[1.0, 2.0, 3.0], [0.5, 1.0, 1.5]]
    assert charts["kNN accuracy"]["curves"][0]["values"] == [37.5]
    assert levels(charts["kNN accuracy"]) == ["chance 12.5", "untrained 25.0"]
    assert charts["view matching in the batch"]["curves"][0]["values"] == [25.0]
    assert text.count('<figure class="chart"') == len(charts) == 6
    assert re.findall(r"(\w+)\s+default\s", shown) == ["val", "mean"], "none is a value of --val"
    assert "default: not set" in shown


def test_the_page_loads_nothing_and_runs_its_own_scripts_alone(tmp_path: Path) -> None:
    text = page(tmp_path, write(tmp_path / "run"), "--no-images")
    assert not re.search(r"https?:|\b(src|action)=|@import|url\(|//[a-z]+\.|href=\"[^#]", text)
    assert "default-src 'none'" in text
    assert text.count("'sha256-") == 3
    assert not re.search(r"<[^>]*\s(style|on\w+)=", text)


def test_every_state(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write(runs / "done", results={"trained": {"knn": 0.5}})
    write(runs / "still")
    diverged = write(runs / "wild")
    (diverged / "diverged.txt").write_text("a.png\n")
    (diverged / "log.jsonl").write_text("")
    (diverged / "once.json").write_text('{"untrained": {}}')
    (write(runs / "empty") / "log.jsonl").write_bytes(b"")
    damaged = write(runs / "torn", results={})
    (damaged / "results.json").write_text('{"trained": {')
    (damaged / "config.json").write_text("[" * 100_000)
    with (damaged / "log.jsonl").open("ab") as log:
        log.write(b'\0\0\n{"time": 1e300, "event": "note", "step": [], "text": 3}\n{"time": 9, "st')
    with (write(runs / "now") / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = page(tmp_path, runs, "--no-images")
    rows = dict(re.findall(r'<span class="swatch[^>]*></span>(\w+).*?<span class="badge (\w+)">', text))
    assert rows == {
        **{"done": "finished", "still": "stopped", "wild": "diverged", "empty": "stopped"},
        **{"torn": "stopped", "now": "running"},
    }
    assert "running: a process trains in its folder" in visible(text)
    for folder in sorted(runs.iterdir()):
        text = page(tmp_path, folder, "--no-images")
        assert "<h2>Run</h2>" in text
        assert ("Nothing was measured" in text) == (folder.name in ("wild", "empty"))


def test_several_runs_are_named_by_what_differs(tmp_path: Path) -> None:
    for name, rate, knn in (("a", 0.1, 0.25), ("b", 0.2, 0.75)):
        results = {"trained": {"knn": knn}, "chance": {"knn": 0.125}, "untrained": {"knn": rate}}
        write(tmp_path / "runs" / name, results={**results, "pixels": {"knn": 0.875}}, lr=rate)
    text = page(tmp_path, tmp_path / "runs" / "a", tmp_path / "runs", "--no-images")
    assert [run["name"] for run in drawn(text)["runs"]] == ["a: lr=0.1", "b: lr=0.2"]
    assert [run["color"] for run in drawn(text)["runs"]] == [0, 1]
    assert all(len(chart["curves"]) == 2 for chart in drawn(text)["charts"])
    assert '<td class="number best">75.0</td>' in text
    assert text.count('number best"') == 1
    row = r"kNN accuracy, %\s+25\.0\s+75\.0\s+10\.0 to 20\.0\s+87\.5\s+12\.5"
    assert re.search(row, visible(text)), "a baseline that is better than both runs"
    chart = next(chart for chart in drawn(text)["charts"] if chart["title"] == "kNN accuracy")
    assert levels(chart) == ["chance 12.5", "untrained 10.0 to 20.0"]
    assert (chart["levels"][1]["low"], chart["levels"][1]["high"]) == (10.0, 20.0)
    settings = visible(text).partition("What differs")[2].partition("settings that all share")[0]
    assert re.findall(r"\w+", settings)[:8] == ["setting", "a", "b", "lr", "0", "1", "0", "2"]


def test_results_with_other_evaluation_settings_are_a_chart_of_their_own(tmp_path: Path) -> None:
    first = {"trained": {"knn": 0.375}, "untrained": {"knn": 0.25}}
    write(tmp_path / "a", results=first)
    write(tmp_path / "b", results={**first, "trained": {"knn": 0.5}}, start={"measured_with": " --val x"})
    write(tmp_path / "c", results={**first, "trained": {"knn": 0.25}})
    text = page(tmp_path, *(tmp_path / name for name in "abc"), "--no-images")
    knn = [chart for chart in drawn(text)["charts"] if chart["title"] == "kNN accuracy"]
    assert [[curve["run"] for curve in chart["curves"]] for chart in knn] == [[0, 2], [1]]
    notes = ["of held-out images", "of held-out images, evaluated with --val x"]
    assert [chart["note"] for chart in knn] == notes
    shown = visible(text)
    assert "of these runs, not of the baselines; of runs with equal evaluation settings" in shown
    assert "evaluated with --val x: b" in shown
    assert re.findall(r'<td class="number best">([^<]*)</td>', text) == ["37.5"], "b has no other run to beat"


def test_runs_and_studies_of_one_name_have_as_much_of_their_paths_as_differs(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, lr=0.1) for name in ("a/x/run", "b/x/run", "b/x/run/run", "alone")]
    found = gather(folders).runs
    assert [run.name for run in found] == ["a/x/run", "b/x/run", "run/run", "alone"]
    name, lines = "moco_in1k-pooling=graph-seed=0-0123abcd", "pooling,seed,finished,knn,seconds,command\n"
    for study, place, chance in (("one", "tables", 0.125), ("two", "", 0.25)):
        write(tmp_path / study / name, results={"trained": {"knn": 0.5}, "chance": {"knn": chance}})
        (tables := tmp_path / study / place).mkdir(exist_ok=True)
        (tables / "cells.csv").write_text(f"{lines}graph,0,True,0.5,1.0,python r.py --out runs/{name}\n")
        (tables / "table.md").write_text("# Poolings\n")
    text = page(tmp_path, tmp_path / "one", tmp_path / "two", "--no-images")
    assert re.findall(r"<h2>(Poolings.*?)</h2>", text) == ["Poolings (tables)", "Poolings (two)"]
    dots = [chart for chart in drawn(text)["charts"] if "rows" in chart]
    assert [levels(chart) for chart in dots] == [["chance 12.5"], ["chance 25.0"]]
    runs = [(run["name"], run["color"]) for run in drawn(text)["runs"]]
    assert runs == [("graph (one)", 0), ("graph (two)", 1)]
    write(tmp_path / "two" / "probe")
    command = f"python r.py --out runs/{name} && python p.py --out runs/probe"
    (tmp_path / "two" / "cells.csv").write_text(f"{lines}graph,0,True,0.5,1.0,{command}\n")
    titles = [run.title for run in gather([tmp_path / "two"]).runs]
    assert titles == [f"graph, seed 0 ({name})", "graph, seed 0 (probe)"]


def test_a_run_alone_has_its_name_above_its_segments(tmp_path: Path) -> None:
    (found,) = gather([write(tmp_path / "deit_in1k-imagenet100-0")]).runs
    assert found.short == found.title == "deit_in1k-imagenet100-0"


def test_a_long_command_is_whole() -> None:
    words = f"python recipe.py --data folder:{'x' * 3000} --seed 1"
    assert words in markup.command(words)
    assert markup.text(words).endswith("x ...")


def test_texts_of_files_are_shown_as_text(tmp_path: Path) -> None:
    start = {
        "argv": [NASTY, NASTY],
        "environment": {NASTY: NASTY, "packages": {NASTY: [NASTY]}},
        "device": NASTY,
    }
    results = {NASTY: {NASTY: 1.0}, "trained": {NASTY: 2.0}}
    run = write(
        tmp_path / NASTY.replace("/", ""), results=results, start=start, **{NASTY: NASTY, "data": NASTY}
    )
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"time": 120, "event": NASTY, "text": NASTY, "image": NASTY}) + "\n")
        log.write(json.dumps({"time": 121, "step": 3, "images_per_second": 1, NASTY: 4}) + "\n")
    text = page(tmp_path, run, "--no-images")
    assert "<script>window" not in text
    assert "\x1b" not in text
    assert text.count("<script") == text.count("</script>") == 2
    assert html.escape(shlex.quote(NASTY).replace("\x1b", r"\x1b")) in text


def test_a_study(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    lines = ["pooling,seed,finished,knn,seconds,command"]
    for pooling, seed, knn in (("graph", 0, 0.5), ("graph", 1, 0.25), ("tome", 0, 0.75), ("tome", 1, "")):
        name = f"moco_in1k-pooling={pooling}-seed={seed}-0123abcd"
        results = {"trained": {"knn": knn}, "chance": {"knn": 0.125}} if knn else None
        write(folder / name, results=results, seed=seed, pooling=pooling)
        lines.append(f"{pooling},{seed},{bool(knn)},{knn},1.0,python r.py --out elsewhere/{name}")
    (folder / "cells.csv").write_text("\n".join(lines))
    head = "| pooling | kNN accuracy | seeds |\n| --- | ---: | ---: |\n"
    row = f"| graph | **37.5 ± 17.7** | 2 |\n| [a](https://b.c) ![d](e) {NASTY} | 75.0 | 1 of 2 |\n"
    (folder / "table.md").write_text(
        f"# Poolings\n\n{head}{row}\nMean\n\n## Commands\n\n```bash\npython r.py\n```\n"
    )
    text = page(tmp_path, folder, "--no-images")
    assert "<h1>Poolings</h1>" in text
    assert '<td class="number"><strong>37.5 ± 17.7</strong></td>' in text
    assert "<script>window" not in text
    assert not re.search(r"<img|<a href=\"[^#]|https?:\"", text)
    (dots,) = (chart for chart in drawn(text)["charts"] if "rows" in chart)
    assert (dots["rows"], dots["seeds"]) == (["graph", "tome"], [[50.0, 25.0], [75.0]])
    assert levels(dots) == ["chance 12.5"]
    runs = [(run["name"], run["color"]) for run in drawn(text)["runs"]]
    assert runs == [("graph", 0), ("graph", 0), ("tome", 1), ("tome", 1)]
    assert "tome, seed 1" in visible(text)
    (folder / "table.md").unlink()
    (folder / "cells.csv").write_bytes(b'pooling,seed\n\0\xff,,,,\n"')
    (folder / ".castssl-study").touch()
    assert "<h2>Runs</h2>" in page(tmp_path, folder, "--no-images")


def test_hierarchies_of_kept_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(7)
    encoder = create("nano", **SHAPE)
    described = {"encoder": json.loads(json.dumps(encoder.config.to_dict()))}
    run = write(tmp_path / "run", start=described, data="hfds/nobody/nothing", seed=7)
    weights = Weights(lambda: Checkpoint(encoder.config, dict(encoder.state_dict()))).state_dict()
    for step in (1, 3):
        checkpoint.save(run / "checkpoints", {**PLACE, "weights": weights}, step=step, keep=9)
    (run / "checkpoints" / "step-00000002.pt").write_bytes(b"torn")
    image = tmp_path / "a.png"
    Image.effect_noise((40, 30), 80).save(image)
    (tmp_path / "broken.png").write_bytes(b"no image")
    text = page(tmp_path, run, "--images", image, tmp_path / "broken.png", code=1)
    assert "broken.png" in capsys.readouterr().err
    (about,) = re.findall(r'<script type="application/json" id="about">(.*?)</script>', text)
    content = json.loads(about)
    assert [moment["name"] for moment in content["moments"]] == ["new weights", "step 1", "step 3"]
    assert [moment["models"] for moment in content["moments"]] == [[0], [1], [2]]
    (shown,) = stored(text)
    assert shown["models"][0] == shown["models"][1], "the weights of the seed are those that were saved"
    assert "step 2: no segments are shown" in visible(text)
    save_encoder(encoder, run / "encoder.safetensors")
    (run / "results.json").write_text("{}")
    (about,) = re.findall(r'id="about">(.*?)</script>', page(tmp_path, run, "--images", image))
    assert [moment["name"] for moment in json.loads(about)["moments"]] == ["new weights", "step 1", "trained"]
    shutil.copytree(run, tmp_path / "again")
    (about,) = re.findall(
        r'id="about">(.*?)</script>', page(tmp_path, run, tmp_path / "again", "--images", image)
    )
    assert [moment["name"] for moment in json.loads(about)["moments"]] == ["new weights", "step 1", "trained"]
    first = next(iter(encoder.state_dict()))
    encoder.state_dict()[first].fill_(torch.nan)
    save_encoder(encoder, run / "encoder.safetensors")
    text = visible(page(tmp_path, run, "--images", image))
    assert f"trained: no segments are shown: the weights {first} are not finite" in text


def test_a_checkpoint_that_the_run_replaces_meanwhile_is_no_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = create("nano", **SHAPE)
    run = write(tmp_path / "run", data="hfds/nobody/nothing")
    state = {
        **PLACE,
        "weights": Weights(lambda: Checkpoint(encoder.config, encoder.state_dict())).state_dict(),
    }
    for step in (1, 2):
        checkpoint.save(run / "checkpoints", state, step=step, keep=2)

    def goes_on(path: Path) -> Any:
        monkeypatch.undo()
        checkpoint.save(run / "checkpoints", state, step=3, keep=1)
        return load_encoder(path)

    monkeypatch.setattr("castssl.reports.hierarchies.load_encoder", goes_on)
    image = tmp_path / "a.png"
    Image.effect_noise((40, 30), 80).save(image)
    text = page(tmp_path, run, "--images", image)
    assert "no segments are shown" not in text
    (about,) = re.findall(r'id="about">(.*?)</script>', text)
    assert [moment["name"] for moment in json.loads(about)["moments"]] == ["new weights", "step 3"]


def test_what_is_missing_is_a_remark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remote = write(tmp_path / "remote", data="hfds/nobody/nothing")
    text = page(tmp_path, remote)
    assert "its data may lie on another machine" in visible(text)
    assert "remote: no weights are kept yet" in capsys.readouterr().err
    assert 'id="viewer"' not in text
    old = write(tmp_path / "old", data=f"folder:{tmp_path / 'none'}")
    checkpoint.save(old / "checkpoints", PLACE, step=3, keep=9)
    shown = visible(page(tmp_path, old))
    assert "held-out images are not shown" in shown
    assert "does not say which model its weights are of" in shown


def test_it_tells_whose_images_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    for split in ("train", "val"):
        (private / split / "a").mkdir(parents=True)
        Image.new("RGB", (8, 8), (255, 0, 0)).save(private / split / "a" / "0.png")
    photos = [("a photograph", Image.new("RGB", (8, 8)))]
    monkeypatch.setattr("castssl.reports.hierarchies.photographs", lambda: photos)
    run = write(tmp_path / "run", data=f"folder:{private}")
    remark = f"run: the held-out images are 1 of folder:{private}, which its settings name"
    assert remark in visible(page(tmp_path, run))
    assert remark in capsys.readouterr().err
    opened: list[str] = []
    monkeypatch.setattr("castssl.reports.hierarchies.open_splits", opened.append)
    assert "held-out" not in visible(page(tmp_path, run, "--no-held-out"))
    assert not opened


def test_pictures(tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    (run / "pictures").mkdir()
    for step in range(1, 21):
        Image.new("RGB", (30, 20)).save(run / "pictures" / f"step-{step:08d}.png")
    (run / "pictures" / "step-00000020.png").write_bytes(b"half")
    text = page(tmp_path, run, "--no-images")
    steps = re.findall(r'<img alt="step (\d+)" width="30" height="20" src="data:image/webp;base64,', text)
    assert len(steps) == 7
    assert steps[0] == "1"
    assert "What the run drew" in text


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = write(tmp_path / "run"), tmp_path / "kept.html"
    out.write_text("mine")
    assert main(["report", str(run), "--no-images", "--out", str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["report", str(tmp_path / "missing"), "--out", str(out)]) == 1
    assert "there is no folder" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert main(["report", str(tmp_path / "none"), "--out", str(tmp_path / "b.html")]) == 1
    assert "holds no run and no study" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "missing"), "--out", str(tmp_path / "b.html")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "b.html").exists()
