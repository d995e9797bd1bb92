"""The exceptions of castssl.  A message states what failed, what it got and expected, and the next step."""

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""The text with control characters, line breaks and tabs excepted, as escapes such as ``\x1b``.

    Names of files and classes may hold escape sequences, which a terminal would execute.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class CastError(Exception):
    """The root of all errors that castssl raises on purpose; its text is :func:`printable`."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(CastError):
    """A setting is unknown, misspelt, or contradicts another one."""


class DataError(CastError):
    """An image, a label, a mask or a file list is missing or unusable."""


class NoSplit(DataError):
    """The data set is there, but has no such split."""


class ContractError(CastError):
    """A plugin, or a batch, breaks a promise of :mod:`castssl.contracts`."""


class PluginError(CastError):
    """A plugin could not be found, imported or built."""


class UnknownPlugin(PluginError):
    """No installed distribution registers this name."""


class BrokenPlugin(PluginError):
    """The entry point exists but does not import; the cause is chained."""


class AmbiguousPlugin(PluginError):
    """Two distributions register the same name."""


class Diverged(CastError):
    """The loss is not finite any more."""
