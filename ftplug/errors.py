"""Every error ftplug raises on purpose: one line that says what, where and the way out."""

LONGEST = 600  # characters of a message


class FtplugError(Exception):
    """Base of all stated failures; the command line prints it as one line and exits with 1.

    Its text is one line of at most 600 characters, whatever was quoted in it.
    """

    def __str__(self) -> str:
        text = one_line(super().__str__())
        if len(text) <= LONGEST:
            return text
        half = (LONGEST - 3) // 2  # the end has the way out
        return f"{text[:half]} … {text[-half:]}"

    def _render_traceback_(self) -> list[str]:
        """Return what IPython and notebooks print: the user's own last line, and what it says.

        Plain Python prints its traceback.
        """
        import traceback

        own = None
        for frame, line in traceback.walk_tb(self.__traceback__):
            if not _is_of_a_library(
                frame.f_globals.get("__name__") or "", frame.f_code.co_filename
            ):
                own = traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name)
        where = [f"{own.filename}, line {own.lineno}", f"    {own.line}"] if own else []
        return [*where, f"{type(self).__name__}: {self}"]


class PluginError(FtplugError):
    """A plugin is missing, broken, doubly installed, or written for another hook API."""


class MethodError(FtplugError):
    """A method or one of its settings does not fit the model, the Trainer or another method."""


class ArtifactError(FtplugError):
    """A checkpoint or artifact is incomplete, altered, of an unknown schema or another base."""


class NotProbed(FtplugError):
    """A model cannot be asked what it answers to a probe's inputs; its text is the reason."""


class NotReplayable(FtplugError):
    """A probe's inputs cannot be made here as they were: that says nothing of the model."""


class NonFiniteError(FtplugError):
    """A loss or gradient is NaN or infinite: training on would ruin what was learned."""


class MissingMethodError(PluginError, ArtifactError):
    """An artifact needs a method whose plugin is not installed here, or not in a usable version."""


class RegistryError(FtplugError):
    """The Hub refused, lacks or returned something that cannot be trusted."""


def _is_of_a_library(module: str, file: str) -> bool:
    """Whether a frame is of ftplug or of something that was installed, IPython's own included."""
    import sysconfig

    installed = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    ours = module.partition(".")[0] in ("ftplug", "ftplug_plugins", "ftplug_registry")
    return ours or "site-packages" in file or file.startswith(tuple(installed))


def one_line(error: object) -> str:
    """Return what an error says without line breaks: others' messages may have many."""
    return " ".join(str(error).split())
