"""What castssl raises.  Every message says what, what it got, what it expected, and the next step."""


class CastError(Exception):
    """The root of all errors that castssl raises on purpose."""


class ConfigError(CastError):
    """A setting is unknown, misspelt, or contradicts another one."""


class DataError(CastError):
    """An image, a label, a mask or a file list is missing or unusable."""


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
