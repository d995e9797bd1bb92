from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import castssl


def test_public_names_are_few_and_all_there() -> None:
    assert len(castssl.__all__) <= 24
    assert castssl.__all__ == sorted(castssl.__all__)
    for name in castssl.__all__:
        assert getattr(castssl, name) is not None
    assert set(castssl.__all__) <= set(dir(castssl))


def test_version_is_that_of_the_distribution() -> None:
    assert castssl.__version__ == version("castssl")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Veiw'; it has Batch"):
        castssl.Veiw  # noqa: B018


def test_importing_it_imports_no_library() -> None:
    code = "import castssl, sys; sys.exit(bool({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
