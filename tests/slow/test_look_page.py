"""The page of ``castssl look`` in a browser: it shows what Python computed, by mouse, key and finger."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from skimage import data

from castssl.checkpoints.classifier import load_classifier, save_classifier
from castssl.inference.look import of_model, of_segmenter
from castssl.inference.segment import resize_labels
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.tree_kl import TreeKL
from castssl.registry import build_segmenter
from castssl.superpixels.merge import cut
from castssl.visualization.evidence import AGAINST, FOR
from castssl.visualization.page import Parts, Shown, write_page
from castssl.visualization.photographs import photographs

NASTY = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
TREE = LabelTree((2, 3), ((0, 0, 1),), (("bird", "cat"), (NASTY, NASTY + "2", NASTY + "3")))
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}


class Page(NamedTuple):
    """A page, and what it was made of."""

    path: Path
    shown: list[Shown]

    def labels(self, image: int, model: int, segments: int) -> Any:
        """The segment of each pixel of the stored image, -1 for none."""
        parts = self.shown[image].parts[model]
        groups = np.append(cut(parts.merges, len(parts.levels[0].ids), segments), -1)
        return fit(groups[parts.finest], self.shown[image])


def fit(labels: Any, shown: Shown) -> Any:
    """A label map at the size of the picture, which is no larger than a page holds."""
    width, height = shown.picture.size
    return resize_labels(torch.from_numpy(labels), height, width).numpy()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("page")
    torch.manual_seed(0)
    encoder = create("nano", image_size=64, superpixels="seeds:count=64,bins=5,iterations=2")
    save_classifier(TreeKL(encoder, TREE), folder / "encoder.safetensors", spec="tree-kl", labels=TREE)
    classifier = load_classifier(folder / "encoder.safetensors")
    finders = [of_model(classifier.objective.encoder, classifier)]
    finders.append(of_segmenter(build_segmenter("merge:sizes=(12,5),superpixels=grid:cell=16")))
    pictures = [(f"{NASTY}.jpg", photographs()[0][1].resize((150, 130)))]
    pictures.append(("coffee.jpg", photographs()[2][1]))
    shown = [Shown(name, photo, [find(photo, name) for find in finders]) for name, photo in pictures]
    write_page(folder / "page.html", [NASTY, "merge"], shown)
    return Page(folder / "page.html", shown)


@pytest.fixture(scope="module")
def chrome() -> Iterator[webdriver.Chrome]:
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in programs.values():
        pytest.fail("no Chromium to look at the page with: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs["chromium"])
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(programs["chromedriver"])))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chrome: webdriver.Chrome, page: Page) -> Iterator[webdriver.Chrome]:
    """The page, opened anew in a large window without a network."""
    chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chrome.set_window_size(1200, 900)
    chrome.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    chrome.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    for kind in ("browser", "performance"):
        log(chrome, kind)
    chrome.get(page.path.as_uri())
    settle(chrome)
    yield chrome
    assert [entry for entry in log(chrome, "browser") if entry["level"] == "SEVERE"] == []
    assert ask(chrome, "return window.broken") is None


def ask(chrome: webdriver.Chrome, script: str, *arguments: object) -> Any:
    """What a script returns."""
    return chrome.execute_script(script, *arguments)


def log(chrome: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """What was logged since the last call."""
    return list(chrome.get_log(kind))  # type: ignore[no-untyped-call]


def settle(chrome: webdriver.Chrome) -> None:
    """Wait until the image is decoded and drawn."""
    frames = "requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))"
    chrome.execute_async_script(f"window.castssl.ready.then(() => {frames})")


def show(chrome: webdriver.Chrome, segments: int) -> None:
    ask(chrome, "window.castssl.setSegments(arguments[0])", segments)
    settle(chrome)


def press(chrome: webdriver.Chrome, *keys: str) -> int:
    """Press keys one after the other; how many segments there are then."""
    for key in keys:
        ActionChains(chrome).send_keys(key).perform()
    settle(chrome)
    return int(chrome.find_element(By.ID, "count").text.split()[0])


def facts(chrome: webdriver.Chrome, model: int) -> list[tuple[str, str]]:
    """Names and values below an image."""
    below = chrome.find_elements(By.CLASS_NAME, "facts")[model]
    terms, texts = (below.find_elements(By.TAG_NAME, tag) for tag in ("dt", "dd"))
    return [(term.text, text.text) for term, text in zip(terms, texts, strict=True)]


def same(one: Any, other: Any) -> bool:
    """Whether two label maps are one partition, whatever its numbers; -1 is -1."""
    pairs = {*zip(np.ravel(one).tolist(), np.ravel(other).tolist(), strict=True)}
    return len(pairs) == len(np.unique(one)) == len(np.unique(other)) and all(
        (a < 0) == (b < 0) for a, b in pairs
    )


def counts(parts: Parts) -> list[int]:
    """How many segments each level has, fine to coarse."""
    return [len(np.unique(level.ids)) for level in parts.levels]


def test_it_loads_without_a_network_and_shows_names_as_text(browser: webdriver.Chrome) -> None:
    entries = [json.loads(entry["message"])["message"] for entry in log(browser, "performance")]
    sent = [
        one["params"]["request"]["url"] for one in entries if one["method"] == "Network.requestWillBeSent"
    ]
    assert sent[0].startswith("file:")
    assert all(url.startswith("data:image/jpeg") for url in sent[1:])
    headings = browser.find_elements(By.TAG_NAME, "h2")
    assert [heading.text.splitlines()[0] for heading in headings] == [NASTY, "merge"]
    options = browser.find_elements(By.CSS_SELECTOR, "#images option")
    assert [option.text for option in options] == [f"{NASTY}.jpg", "coffee.jpg"]
    classes = [text for name, text in facts(browser, 0) if name in ("classes", "")]
    assert len(classes) == 2
    assert classes[1].startswith(NASTY)
    assert not browser.find_element(By.ID, "fault").is_displayed()


@pytest.mark.parametrize("image", [0, 1])
def test_each_notch_is_the_partition_of_python(image: int, browser: webdriver.Chrome, page: Page) -> None:
    for _ in range(image):
        press(browser, Keys.PAGE_DOWN)
    for model, parts in enumerate(page.shown[image].parts):
        levels = counts(parts)
        for segments in (*levels, levels[0] - 1, levels[0] // 2, 6, 3, 2, 1):
            show(browser, segments)
            read = ask(browser, "return window.castssl.partition(arguments[0])", model)
            assert len(np.unique(read)) - (min(read) < 0) == segments
            assert same(read, page.labels(image, model, segments).ravel())
            title = browser.find_elements(By.CSS_SELECTOR, "h2 span")[model].text
            assert title == f"{segments} of {levels[0]} segments"
        for segments, level in zip(levels, parts.levels, strict=True):
            whole = fit(np.append(level.ids, -1)[parts.finest], page.shown[image])
            assert same(page.labels(image, model, segments), whole)


def test_the_slider_reaches_every_number_of_segments(browser: webdriver.Chrome, page: Page) -> None:
    most = counts(page.shown[0].parts[0])[0]
    slide = """
      const slider = document.getElementById("slider"), seen = [];
      for (let at = 0; at <= Number(slider.max); at++) {
        slider.value = at;
        slider.dispatchEvent(new Event("input"));
        seen.push(window.castssl.state.segments);
      }
      return seen;"""
    seen: list[int] = ask(browser, slide)
    assert sorted(set(seen), reverse=True) == list(range(most, 0, -1))
    assert all(one - other in (0, 1) for one, other in pairwise(seen))
    slider = browser.find_element(By.ID, "slider")
    slider.click()
    middle = ask(browser, "return window.castssl.state.segments")
    assert 1 < middle < most
    slider.send_keys(Keys.ARROW_RIGHT)
    assert press(browser) == middle - 1


def test_the_colors_are_those_of_the_partition(browser: webdriver.Chrome, page: Page) -> None:
    set_colors = """
      document.getElementById("opacity").value = 100;
      document.getElementById("contours").checked = false;
      document.getElementById("colors").value = arguments[0];
      document.getElementById("colors").dispatchEvent(new Event("input"));"""
    read = """
      const canvas = document.querySelector("canvas");
      return Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);"""
    show(browser, 8)
    labels, parts = page.labels(0, 0, 8), page.shown[0].parts[0]
    for kind in ("segments", "mean", "0", "1"):
        ask(browser, set_colors, kind)
        settle(browser)
        pixels = np.array(ask(browser, read)).reshape(-1, 4)[:, :3]
        colors = [np.unique(pixels[labels.ravel() == segment], axis=0) for segment in range(8)]
        assert all(len(color) == 1 for color in colors), kind
        if kind == "segments":
            assert len({tuple(color[0]) for color in colors}) == 8
        elif kind == "mean":
            photo = np.asarray(page.shown[0].picture).reshape(-1, 3)
            means = [photo[labels.ravel() == segment].mean(0) for segment in range(8)]
            assert np.abs(np.concatenate(colors) - means).max() < 4
        else:
            group = cut(parts.merges, len(parts.levels[0].ids), 8)
            moved = np.bincount(group, parts.classes[int(kind)].moved)
            first = int(np.abs(moved).argmax())
            assert tuple(colors[first][0]) == (FOR if moved[first] > 0 else AGAINST)


def test_pointing_at_a_segment_shows_its_family(browser: webdriver.Chrome, page: Page) -> None:
    parts = page.shown[0].parts[0]
    levels = counts(parts)
    show(browser, levels[2])
    canvas = browser.find_element(By.TAG_NAME, "canvas")
    width, height = page.shown[0].picture.size
    finest = fit(parts.finest, page.shown[0])
    for x, y in ((20, 30), (75, 65), (140, 120)):
        across = (x + 0.5) / width * canvas.rect["width"] - canvas.rect["width"] / 2
        down = (y + 0.5) / height * canvas.rect["height"] - canvas.rect["height"] / 2
        ActionChains(browser).move_to_element_with_offset(canvas, round(across), round(down)).perform()
        settle(browser)
        segment = finest[y, x]
        inside = parts.levels[2].ids == parts.levels[2].ids[segment]
        area = int(np.isin(finest, np.flatnonzero(inside)).sum())
        children = sorted(set(parts.levels[1].ids[inside].tolist()))
        shown = dict(facts(browser, 0)[:5])
        assert (
            shown["segment"] == f"{parts.levels[2].ids[segment]} of 16; {inside.sum()} of {levels[0]} finest"
        )
        assert shown["area"] == f"{100 * area / finest.size:.1f} %, {area:,} pixels"
        assert shown["parents"] == f"{parts.levels[3].ids[segment]} of 8"
        assert shown["children"] == f"{', '.join(map(str, children[:8]))} of 32"
        assert "; this segment " in shown["classes"]
        support = parts.classes[0].moved[inside].sum()
        read = float(re.split("; this segment ", shown["classes"])[1].replace("\u2212", "-"))
        assert read == pytest.approx(support, rel=0.06, abs=1e-3)
        assert facts(browser, 1)[0][1].endswith("of 12 finest"), "the other model is pointed at, too"
    press(browser, Keys.ESCAPE)
    assert facts(browser, 0)[0] == ("segment", "point at one in the image")


def test_keys(browser: webdriver.Chrome, page: Page) -> None:
    most = counts(page.shown[0].parts[0])[0]
    levels = sorted({1, *(count for parts in page.shown[0].parts for count in counts(parts))})
    assert press(browser, Keys.HOME) == most
    assert press(browser, Keys.ARROW_RIGHT) == most - 1
    assert press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT) == most - 2
    ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    assert press(browser) == most - 12
    assert press(browser, Keys.END) == 1
    assert [press(browser, Keys.ARROW_UP) for _ in levels[1:]] == levels[1:]
    assert press(browser, Keys.ARROW_DOWN) == levels[-2]
    contours, opacity, colors = (
        browser.find_element(By.ID, name) for name in ("contours", "opacity", "colors")
    )
    press(browser, "c")
    assert not contours.is_selected()
    before = int(str(opacity.get_property("value")))
    press(browser, "+")
    assert int(str(opacity.get_property("value"))) == before + 10
    press(browser, "m")
    assert colors.get_property("value") == "mean"
    press(browser, Keys.PAGE_DOWN)
    assert browser.find_element(By.ID, "place").text == "2 of 2"
    assert press(browser, Keys.HOME, " ", Keys.ARROW_RIGHT) < counts(page.shown[1].parts[0])[0]
    assert browser.find_element(By.ID, "play").text == "play", "a key stops what plays"


def test_a_phone(browser: webdriver.Chrome, page: Page) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    settle(browser)
    widths = "return [document.documentElement.scrollWidth, window.innerWidth]"
    assert ask(browser, widths) == [360, 360]
    canvas = browser.find_element(By.TAG_NAME, "canvas")
    assert 300 <= canvas.rect["width"] <= 360
    point = {"x": canvas.rect["x"] + 60, "y": canvas.rect["y"] + 80}
    browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
    browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settle(browser)
    assert "pixels" in dict(facts(browser, 0))["area"], "what a finger pointed at stays"
    footer = browser.find_element(By.TAG_NAME, "footer")
    assert footer.rect["height"] < 740 / 3


def test_fifty_photographs_of_512_pixels_have_at_most_15_megabytes(tmp_path: Path) -> None:
    find = of_model(create("nano"), superpixels="seeds:count=1024")
    arrays = [getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    photos = [Image.fromarray(array).resize((512, 512)) for array in arrays]
    shown = [Shown("photograph.jpg", photo, [find(photo, "")]) for photo in photos]
    write_page(tmp_path / "page.html", ["nano"], (shown[number % 4] for number in range(50)))
    assert (tmp_path / "page.html").stat().st_size < 15e6
