"""Every error ftplug raises on purpose: one line that says what, where and the way out."""


class FtplugError(Exception):
    """Base of all stated failures; the command line prints it as one line and exits with 1."""


class PluginError(FtplugError):
    """A plugin is missing, broken, doubly installed, or written for another hook API."""


class MethodError(FtplugError):
    """A method or one of its settings does not fit the model, the Trainer or another method."""


class ArtifactError(FtplugError):
    """A checkpoint or artifact is incomplete, altered, of an unknown schema or another base."""


class NonFiniteError(FtplugError):
    """A loss or gradient is NaN or infinite: training on would ruin what was learned."""


class MissingMethodError(PluginError, ArtifactError):
    """An artifact needs a method whose plugin is not installed here, or not in a usable version."""


class RegistryError(FtplugError):
    """The Hub refused, lacks or returned something that cannot be trusted."""


def one_line(error: object) -> str:
    """Return what an error says without line breaks: others' messages may have many."""
    return " ".join(str(error).split())
