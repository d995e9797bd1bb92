from __future__ import annotations

import io
import logging

import pytest
from PIL import Image, UnidentifiedImageError

from castssl.datasets.unreadable import SHOWN, Clipped, Ledger, why
from castssl.errors import DataError
from castssl.feed import Unreadable


def _missing() -> Exception:
    try:
        open("/nowhere/at all.jpg", "rb").close()
    except OSError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_missing(), "No such file or directory"),
        (OSError("image file is truncated (3 bytes not processed)"), "image file is truncated (3 bytes not"),
        (UnidentifiedImageError("cannot identify <object at 0x7f>"), "not an image, or of an unknown format"),
        (DataError("the file is empty"), "the file is empty"),
        (SyntaxError("broken\n  PNG\tfile"), "SyntaxError: broken PNG file"),
        (AssertionError(), "AssertionError"),
        (OSError(), "OSError"),
    ],
)
def test_a_reason_is_one_line(error: Exception, expected: str) -> None:
    assert why(error).startswith(expected)
    assert len(why(error).splitlines()) == 1


def test_what_pil_says_of_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.new("1", (30, 30)).save(stream, "png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError) as caught:
        Image.open(stream)
    assert "900 pixels" in why(caught.value)


def test_a_ledger_keeps_all_and_tells_a_few(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger()
    result = [Unreadable(f"{index}.jpg", "torn") for index in range(SHOWN + 5)]
    with caplog.at_level(logging.WARNING):
        ledger.note(result[:2])
        ledger.note(result)
        ledger.note([Unreadable("0.jpg", "another reason")])
    assert list(ledger.items()) == [tuple(one) for one in result]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == SHOWN + 1
    assert all(f"{index}.jpg (torn)" in messages[index] for index in range(SHOWN))
    assert "more images" in messages[-1]


@pytest.mark.parametrize("kind", [Unreadable, Clipped])
def test_a_warning_does_not_control_the_terminal(
    kind: type[Unreadable | Clipped], caplog: pytest.LogCaptureFixture
) -> None:
    Ledger().note([kind("a\x1b]0;x\x07.png", "bad \x1b[31m")])
    assert "\x1b" not in caplog.text
    assert "a\\x1b]0;x\\x07.png" in caplog.text
