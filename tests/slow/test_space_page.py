"""The page of recipes/space as a process of its own: by a client, and in a browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from castssl.checkpoints.classifier import save_classifier
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.tree_kl import TreeKL
from castssl.visualization.photographs import photographs
from recipes.space.app import VARIABLE
from tests.forked import free_port
from tests.slow.test_look_page import chrome

__all__ = ["chrome"]

ROOT = Path(__file__).parents[2]
TREE = LabelTree((2, 3), ((0, 0, 1),), (("animal", "plant"), ("bird", "cat", "oak")))
STAGES = 4
PATIENCE = 60


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page of a small classifier is served."""
    pytest.importorskip("gradio", reason="no gradio: pip install 'castssl[app]'")
    folder = tmp_path_factory.mktemp("space")
    torch.manual_seed(0)
    encoder = create("nano", image_size=64, superpixels="seeds:count=64,bins=5,iterations=2")
    save_classifier(TreeKL(encoder, TREE), folder / "encoder.safetensors", spec="tree-kl", labels=TREE)
    # As a Space has them: three files, and weights by a variable.
    shutil.copytree(ROOT / "recipes" / "space", folder / "space")
    place = f"http://127.0.0.1:{(port := free_port())}"
    variables = {**os.environ, VARIABLE: str(folder / "encoder.safetensors"), "GRADIO_SERVER_PORT": str(port)}
    with open(folder / "output.txt", "w") as output:
        command = [sys.executable, "app.py"]
        process = subprocess.Popen(
            command, cwd=folder / "space", env=variables, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait(place, process, folder / "output.txt")
        yield place
    finally:
        process.terminate()
        process.wait()


def _wait(address: str, process: subprocess.Popen[bytes], output: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, output.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"no page at {address}: {output.read_text()}")


def test_a_client_gets_stages_and_classes(address: str, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    photographs()[0][1].save(tmp_path / "photo.png")
    client = Client(address, verbose=False)
    pictures, classes = client.predict(handle_file(tmp_path / "photo.png"), api_name="/segment")
    assert len(pictures) == STAGES
    assert all(picture["caption"].endswith("segments") for picture in pictures)
    assert [row[1] in names for row, names in zip(classes["data"], TREE.names, strict=True)] == [True, True]
    with pytest.raises(Exception, match="there is no image"):
        client.predict(None, api_name="/segment")


def test_a_visitor_brings_an_image(address: str, tmp_path: Path, chrome: webdriver.Chrome) -> None:
    photographs()[1][1].save(tmp_path / "photo.png")
    chrome.get(address)
    wait = WebDriverWait(chrome, PATIENCE)
    field = wait.until(lambda page: page.find_element(By.CSS_SELECTOR, "input[type=file]"))
    field.send_keys(str(tmp_path / "photo.png"))
    wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, ".image-frame img, .image-container img"))
    next(b for b in chrome.find_elements(By.TAG_NAME, "button") if b.text == "Segment").click()
    captions = re.compile(r"\d+ segments")
    wait.until(lambda page: len(captions.findall(page.find_element(By.TAG_NAME, "body").text)) >= STAGES)
    text = chrome.find_element(By.TAG_NAME, "body").text
    assert "animal" in text or "plant" in text
    chrome.save_screenshot(str(tmp_path / "page.png"))
