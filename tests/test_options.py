from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castssl.errors import ConfigError
from castssl.options import accepted, fits, misfits, parse, values


def factory(
    dim: int,
    *,
    count: int = 3,
    share: float = 0.5,
    mode: Literal["fast", "slow"] = "fast",
    flag: bool = False,
    label: str = "",
    sizes: tuple[int, ...] = (),
    limit: int | None = None,
) -> None:
    """Takes one option of each sort."""


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
literals = leaves | st.lists(leaves, max_size=3) | st.dictionaries(st.integers(), leaves, max_size=2)
keys = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)


@given(st.dictionaries(keys, literals, max_size=4))
def test_python_literals_survive_the_text(options: dict[str, object]) -> None:
    text = "name:" + ",".join(f"{key}={value!r}" for key, value in options.items())
    spec = parse(text)
    assert spec.name == "name"
    assert values(lambda **options: None, spec) == options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("received", "received"),
        ("true", True),
        ("False", False),
        ("a=b", "a=b"),
        ("/some/where", "/some/where"),
        ("(1, 2)", (1, 2)),
        ("", ""),
    ],
)
def test_values_are_literals_or_text(text: str, expected: object) -> None:
    found = values(lambda **options: None, parse(f"name: key = {text}"))
    assert found == {"key": expected}
    assert type(found["key"]) is type(expected)


def test_an_option_declared_as_text_stays_text() -> None:
    assert values(factory, parse("name:label=12,count=12")) == {"label": "12", "count": 12}


@pytest.mark.parametrize("spec", ["", ":a=1", "name:a", "name:a=1,b", "name:2=1", "name:a=1,a=2"])
def test_malformed_specs_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError):
        parse(spec)


@pytest.mark.parametrize(
    ("option", "good"),
    [
        ("count=4", True),
        ("count=4.5", False),
        ("count=true", False),
        ("share=1", True),
        ("share=half", False),
        ("mode=slow", True),
        ("mode=slowly", False),
        ("flag=true", True),
        ("flag=1", False),
        ("limit=None", True),
        ("limit=4", True),
        ("limit=four", False),
        ("sizes=(1, 2)", True),
    ],
)
def test_values_are_held_against_plain_types(option: str, good: bool) -> None:
    found = misfits(factory, (8,), parse(f"name:{option}"), {})
    assert (found == []) is good, found


def test_a_literal_does_not_take_an_equal_of_another_type() -> None:
    assert fits(1, Literal[1])
    assert not fits(True, Literal[1])


def test_every_misfit_is_named() -> None:
    found = misfits(factory, (), parse("name:cuont=3,mode=x"), {"share": "y"})
    assert len(found) == 4
    for text in ("did you mean 'count'", "Literal['fast', 'slow']", "share = 'y'", "argument: 'dim'"):
        assert any(text in misfit for misfit in found), (text, found)


def test_arguments_are_no_options() -> None:
    assert any("unknown option 'dim'" in text for text in misfits(factory, (8,), parse("name:dim=8"), {}))


def test_accepted_options_show_resolved_types_and_defaults() -> None:
    shown = accepted(factory, 1)
    assert shown[:3] == [
        "count: int = 3",
        "share: float = 0.5",
        "mode: Literal['fast', 'slow'] = 'fast'",
    ]
    assert accepted(lambda dim, **more: None, 1) == ["**more"]
