"""The page of ``castssl report`` in a browser, light and dark: a run, several runs, a study, a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from castssl.checkpoints import load_encoder
from castssl.commands.arguments import progress
from castssl.reports.gather import gather
from castssl.reports.hierarchies import hierarchies, images, sources
from castssl.reports.write import write
from castssl.superpixels.merge import cut
from castssl.visualization.page.report import Hierarchies
from tests import forked
from tests.slow.test_look_page import PHONE, ask, chrome, fit, log, same, settle

__all__ = ["chrome"]
SHAPE = (
    *("--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4", "--hidden", "16", "--out-dim", "8"),
    *("--superpixels", "seeds:count=16,bins=5,iterations=2", "--batch-size", "16", "--workers", "0"),
)
FLAGS = (
    *SHAPE,
    "--epochs",
    "2",
    "--warmup-epochs",
    "1",
    "--knn-every",
    "1",
    "--log-every",
    "1",
    "--keep",
    "3",
)
NASTY = "<script>window.broken = 1<script><img src=x onerror='window.broken = 2'>"
PAGES = ("run", "runs", "study")
WIDE = {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False}
CONTRAST = """
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map((one) => Number(one) / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const against = (color) => {
    const one = light(color);
    return (Math.max(one, paper) + 0.05) / (Math.min(one, paper) + 0.05);
  };
  const lowest = (selector, property) => Math.min(...[...document.querySelectorAll(selector)]
    .map((element) => against(getComputedStyle(element)[property])));
  return [paper, lowest("p, h1, h2, td, th, li, a, dd, dt, .badge", "color"), lowest(".tick, .end", "fill"),
    lowest("path.curve", "stroke")];"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """A study of two rates with two seeds each."""
    out = tmp_path_factory.mktemp("studies") / "rates"
    grid = ["--recipe", "moco_in1k", "--grid", "lr=1e-3,1e-2", "--grid", "seed=0,1", "--out", str(out)]
    done = forked.run(
        ["-m", "castssl.cli", "ablate", *grid, "--", "--data", f"folder:{image_folder}", *FLAGS]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def runs(study: Path) -> list[Path]:
    """Two runs of one seed; the second has a name that must not become a part of the page."""
    first, second = sorted(study.glob("*seed=0*"))
    return [first, second]


@pytest.fixture(scope="module")
def content(runs: list[Path]) -> Hierarchies:
    """What the viewer shows of both runs."""
    found = gather(runs).runs
    shown, remarks = hierarchies(found, images(found)[0][::4], progress)
    assert not remarks
    assert shown is not None
    return shown


@pytest.fixture(scope="module")
def pages(study: Path, runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    named = folder / NASTY.replace("/", "")
    named.symlink_to(runs[1])
    with (runs[1] / "log.jsonl").open("a") as text:
        text.write(json.dumps({"time": 2e9, "event": NASTY, "text": NASTY}) + "\n")
    for name, paths in (("run", runs[:1]), ("runs", [runs[0], named]), ("study", [study])):
        found = gather(paths)
        photos = images(found.runs)[0][::4] if name != "study" else ()
        write(folder / f"{name}.html", found, photos, (), progress)
    return {name: folder / f"{name}.html" for name in PAGES}


@pytest.fixture
def browser(chrome: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """A large window without a network, in which nothing may fail."""
    chrome.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    chrome.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", WIDE)
    for kind in ("browser", "performance"):
        log(chrome, kind)
    yield chrome
    assert [entry for entry in log(chrome, "browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert ask(chrome, "return window.broken") is None
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def open_page(browser: webdriver.Chrome, path: Path) -> None:
    browser.get(path.as_uri())
    if browser.find_elements(By.ID, "viewer"):
        settle(browser)


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_readable_and_loads_nothing(
    name: str, scheme: str, browser: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    open_page(browser, pages[name])
    paper, text, ticks, curves = ask(browser, CONTRAST)
    assert paper > 0.9 if scheme == "light" else paper < 0.05
    assert min(text, ticks) >= 4.5, "as WCAG asks of text"
    assert curves >= 3, "as WCAG asks of graphics"
    for size in (WIDE, PHONE):
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_async_script("setTimeout(arguments[0], 300)")
        assert ask(browser, "return document.documentElement.scrollWidth") <= size["width"]
        charts = ask(
            browser, "return [...document.querySelectorAll('.chart svg')].map((one) => one.clientWidth)"
        )
        assert 200 < min(charts) <= max(charts) <= size["width"]
    entries = [json.loads(entry["message"])["message"] for entry in log(browser, "performance")]
    sent = [
        one["params"]["request"]["url"] for one in entries if one["method"] == "Network.requestWillBeSent"
    ]
    assert sent[0].startswith("file:")
    assert all(url.startswith(("data:image/jpeg", "data:image/webp")) for url in sent[1:])


def test_pointing_at_a_chart_shows_its_values(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    open_page(browser, pages["runs"])
    chart = json.loads(str(browser.find_element(By.ID, "charts").get_property("textContent")))["charts"][0]
    drawing = browser.find_element(By.CSS_SELECTOR, ".chart svg")
    tip = browser.find_element(By.CSS_SELECTOR, ".chart .tip")
    assert not tip.is_displayed()
    ask(browser, "arguments[0].scrollIntoView({block: 'center'})", drawing)
    ActionChains(browser).move_to_element_with_offset(drawing, 140, 0).perform()
    assert tip.is_displayed()
    lines = tip.text.splitlines()
    step = float(lines[0].removesuffix(" epochs"))
    for curve in chart["curves"]:
        place = int(np.abs(np.array(curve["places"][1]) - step).argmin())
        value = float(f"{curve['values'][place]:.4g}")
        assert any(line.endswith(f" {value:g}") for line in lines[1:])
    ActionChains(browser).move_to_element(browser.find_element(By.TAG_NAME, "h1")).perform()
    assert not tip.is_displayed()
    ask(browser, "arguments[0].focus()", drawing)
    seen = []
    for key in (Keys.HOME, Keys.ARROW_RIGHT, Keys.END):
        ActionChains(browser).send_keys(key).perform()
        seen.append(tip.text.splitlines()[0])
    places = chart["curves"][0]["places"][1]
    assert [float(text.removesuffix(" epochs")) for text in seen] == pytest.approx(
        [places[0], places[1], places[-1]], abs=1e-3
    )
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not tip.is_displayed()


def test_axes_and_the_legend(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    open_page(browser, pages["runs"])
    first = "figure.chart[data-chart='0']"
    assert len(browser.find_elements(By.CSS_SELECTOR, f"{first} path.curve")) == 2
    assert "lr=" in texts(browser, "button.legend")[0]
    titles = [
        button.get_attribute("title") for button in browser.find_elements(By.CSS_SELECTOR, "button.legend")
    ]
    assert str(titles[1]).startswith(f"{NASTY.replace('/', '')}: lr=")
    assert NASTY.replace("/", "") in texts(browser, "tbody th")[1]
    browser.find_elements(By.CSS_SELECTOR, "button.legend")[1].click()
    assert len(browser.find_elements(By.CSS_SELECTOR, f"{first} path.curve")) == 1
    before = texts(browser, f"{first} text")
    select = browser.find_element(By.CSS_SELECTOR, "#controls select")
    ask(browser, "arguments[0].value = 0; arguments[0].dispatchEvent(new Event('change'))", select)
    assert "steps" in texts(browser, f"{first} text")
    assert "epochs" in before
    before = texts(browser, f"{first} .tick")
    browser.find_element(By.CSS_SELECTOR, "#controls input").click()
    assert texts(browser, f"{first} .tick") != before
    browser.find_elements(By.CSS_SELECTOR, "button.legend")[0].click()
    assert "no curve is chosen" in texts(browser, f"{first} text")


def test_the_viewer_goes_through_the_training(
    browser: webdriver.Chrome, pages: dict[str, Path], content: Hierarchies
) -> None:
    open_page(browser, pages["runs"])
    names = [moment.name for moment in content.moments]
    assert names[0] == "new weights"
    assert len(names) >= 3
    slider = browser.find_element(By.ID, "moment")
    for place, moment in enumerate(content.moments):
        ask(
            browser,
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
            slider,
            place,
        )
        settle(browser)
        assert browser.find_element(By.ID, "moment-name").text == moment.name
        for panel, model in enumerate(moment.models):
            parts = content.images[0].parts[model]
            ask(browser, "window.castssl.setSegments(4)")
            settle(browser)
            groups = np.append(cut(parts.merges, len(parts.levels[0].ids), 4), -1)
            read = ask(browser, "return window.castssl.partition(arguments[0])", panel)
            assert same(read, fit(groups[parts.finest], content.images[0]).ravel())
    trained = texts(browser, "#panels h2")
    ask(browser, "arguments[0].focus()", slider)
    ActionChains(browser).send_keys(",").perform()
    settle(browser)
    assert browser.find_element(By.ID, "moment-name").text == names[-2]
    assert texts(browser, "#panels h2") != trained


def test_a_phone_shows_words_of_sliders_and_that_tables_scroll(
    browser: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    open_page(browser, pages["runs"])
    for row in ("#training", "#training + .row"):
        label = browser.find_element(By.CSS_SELECTOR, f"{row} .wide")
        assert float(label.value_of_css_property("font-size").removesuffix("px")) >= 12
        slider = label.find_element(By.TAG_NAME, "input")
        assert slider.location["y"] >= label.location["y"] + 12, "the words are a line above"
    table = browser.find_element(By.CSS_SELECTOR, "#results .scroll")
    classes = "return arguments[0].className"
    assert ask(browser, classes, table) == "scroll more"
    ask(browser, "arguments[0].scrollLeft = 60", table)
    first, second = table.find_elements(By.CSS_SELECTOR, "tbody tr:first-child > *")[:2]
    assert first.rect["x"] + first.rect["width"] > second.rect["x"], "the names of rows stay"
    ask(browser, "arguments[0].scrollLeft = 1e4", table)
    browser.execute_async_script("setTimeout(arguments[0], 100)")
    assert ask(browser, classes, table) == "scroll"
    of_environment = "return [...document.querySelectorAll('#environment .scroll')].pop()"
    shared = ask(browser, of_environment)
    assert ask(browser, "return arguments[0].scrollWidth <= arguments[0].clientWidth", shared)


def test_the_page_keeps_its_keys(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    open_page(browser, pages["run"])
    segments = ask(browser, "return window.castssl.state.segments")
    ask(browser, "document.activeElement.blur()")
    ActionChains(browser).send_keys(Keys.HOME, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.PAGE_DOWN, " ").perform()
    assert ask(browser, "return [window.castssl.state.segments, window.castssl.state.image]") == [segments, 0]


def test_pictures_commands_and_print(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    open_page(browser, pages["run"])
    slider = browser.find_element(By.CSS_SELECTOR, ".pictures input")
    shown = [image.is_displayed() for image in browser.find_elements(By.CSS_SELECTOR, ".pictures img")]
    assert shown == [False] * (len(shown) - 1) + [True]
    ask(browser, "arguments[0].value = 0; arguments[0].dispatchEvent(new Event('input'))", slider)
    picture = browser.find_element(By.CSS_SELECTOR, ".pictures img")
    assert picture.is_displayed()
    ask(browser, "arguments[0].scrollIntoView({block: 'center'})", picture)
    picture.click()
    large = browser.find_element(By.CSS_SELECTOR, "dialog[open] img")
    assert large.size["width"] == int(str(large.get_property("naturalWidth")))
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not browser.find_elements(By.CSS_SELECTOR, "dialog")
    button = browser.find_element(By.CSS_SELECTOR, "button.copy")
    ask(browser, "arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    browser.execute_async_script("setTimeout(arguments[0], 200)")
    assert button.text == "copied"
    ask(browser, "dispatchEvent(new Event('beforeprint'))")
    hidden = ask(browser, "return document.querySelectorAll('main details:not(.keys):not([open])').length")
    assert hidden == 0


def test_a_study_has_a_chart_of_its_seeds(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    open_page(browser, pages["study"])
    assert texts(browser, "section h2")[0].startswith("moco_in1k: lr=1e-3,1e-2")
    rings = browser.find_elements(By.CSS_SELECTOR, "figure.chart[data-chart='0'] circle.seed")
    assert len(rings) == 4
    assert {"1e-3", "1e-2"} <= set(texts(browser, "figure.chart[data-chart='0'] text"))


def test_new_weights_are_those_that_the_run_began_with(tmp_path: Path, image_folder: Path) -> None:
    out = tmp_path / "run"
    flags: Sequence[Any] = [
        *SHAPE,
        "--epochs",
        "0",
        "--warmup-epochs",
        "0",
        "--knn-every",
        "0",
        "--seed",
        "3",
    ]
    done = forked.run(["recipes/moco_in1k.py", "--data", f"folder:{image_folder}", *flags, "--out", str(out)])
    assert done.returncode == 0, done.stderr
    (run,) = gather([out]).runs
    new = sources(run)[0][0].build().state_dict()
    assert all(torch.equal(new[name], value) for name, value in load_encoder(out).state_dict().items())
