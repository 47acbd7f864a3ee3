"""A fine-tuning method: a frozen dataclass of settings whose hooks are its behaviour."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from ftplug.errors import MethodError
from ftplug.hookspecs import HOOK_API
from ftplug.nearest import setting_meant

if TYPE_CHECKING:
    import pydantic
    from torch import nn

__all__ = ["Kind", "LearningRate", "Method", "Migration", "Setting"]

Kind = Literal["selection", "structure", "schedule", "optimizer", "regularizer", "execution"]
"""What a method mainly does: `ftplug methods` groups by it."""

Migration = Callable[[dict[str, Any]], list[tuple[str, dict[str, Any]]] | None]
"""Of a method's settings as an older version had them (or as a user types them: values may be
texts), the methods and settings that mean the same now; None where nothing moved."""


_FEW = 12  # settings that a message can list


class LearningRate(NamedTuple):
    """The range in which a method usually trains well with AdamW, and where to start."""

    low: float
    suggested: float
    high: float


@dataclass(frozen=True)
class Setting:
    """One field of a method as ``ftplug methods NAME`` shows it."""

    name: str
    type: str
    default: Any
    help: str


@dataclass(frozen=True, eq=False)
class Method:
    """Base of all methods. Subclasses are frozen dataclasses with ``Annotated`` fields.

    Fields are validated strictly on construction: type, range (``annotated_types`` such as
    ``Ge(1)`` in the annotation) and ``Literal`` choices. ``paper`` is a link and ``citation`` its
    BibTeX entry, however indented: model cards print them.
    """

    name: ClassVar[str] = ""
    kind: ClassVar[Kind] = "structure"
    paper: ClassVar[str] = ""
    citation: ClassVar[str | None] = None
    learning_rate: ClassVar[LearningRate | None] = None
    hook_api: ClassVar[int] = HOOK_API
    refused: ClassVar[str] = ""
    """Why no model can carry it here, and what to use instead: `ftplug methods` marks it."""
    transient: ClassVar[bool] = False
    """It trains nothing and changes no answer, only how it is computed: a run's record names it, no
    artifact does, and a resumed run may go without it. It acts in ``finish_model``, which is called
    again for another Trainer on the same model, and undoes that in ``merge_model``."""
    relies_on_internals: ClassVar[bool] = False
    """It reads or changes what passes between the parts of a model (a cache of keys and values, the
    arguments of a layer, what stands before the input), which a release of transformers may rename.
    On one newer than those tested, binding to a Trainer first holds it against the user's model:
    with its tensors moved answers must change, and be the same with a cache as without."""
    starts_at_base: ClassVar[bool] = False
    """What it adds to the structure changes no answer before training: checked on the same
    occasion, where all methods of the run keep it."""
    resolves: ClassVar[frozenset[str]] = frozenset()
    """Settings for whose patterns an artifact may hold names: see :meth:`resolved`."""
    MIGRATIONS: ClassVar[tuple[Migration, ...]] = ()
    """How settings of older versions read now, for artifacts and checkpoints that have them."""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Name what became of a setting that moved: Python would call it an unexpected argument."""
        gone = settings.keys() - {field.name for field in dataclasses.fields(cls)}
        for migration in cls.MIGRATIONS if gone else ():
            if (moved := migration(dict(settings))) is not None:
                old = spelled({name: settings[name] for name in settings if name in gone})
                raise MethodError(f"{cls.name}: {old} moved: it is {spelled_methods(moved)} now")
        if gone:
            raise MethodError(cls._lacks(min(gone)))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for field, annotation in _annotations(type(self)).items():
            value = _validate(self.name, field, annotation, getattr(self, field), strict=True)
            object.__setattr__(self, field, value)

    def suggested_learning_rate(self) -> LearningRate | None:
        """Return the learning rates that fit these settings; the class's own unless overridden."""
        return self.learning_rate

    @classmethod
    def configure(cls, settings: Mapping[str, Any]) -> Self:
        """Build the method from settings by name; a setting it lacks is an error that lists all."""
        known = _annotations(cls)
        if unknown := [name for name in settings if name not in known]:
            raise MethodError(cls._lacks(unknown[0]))
        for field in dataclasses.fields(cls):
            if _required(field) and field.name not in settings:
                help_text = _help_text(known[field.name])
                raise MethodError(f"{cls.name}: setting {field.name!r} is required: {help_text}")
        return cls(**settings)

    @classmethod
    def as_meant(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings as a user means them, values or texts; an artifact's are not asked."""
        return dict(settings)

    @classmethod
    def _lacks(cls, setting: str) -> str:
        known = list(_annotations(cls))
        few = f"its settings are {', '.join(known)}" if known else "it has no settings"
        rest = few if len(known) <= _FEW else f"ftplug methods {cls.name} lists its settings"
        hint = setting_meant(setting, known)
        answered = hint.startswith(": ")  # by our name, or by what does it here
        return f"{cls.name}: no setting named {setting!r}{hint}{'' if answered else f' ({rest})'}"

    @classmethod
    def parse(cls, texts: Mapping[str, Any]) -> Self:
        """Build the method from ``{setting: text}`` as typed on a command line.

        A setting that a migration made of a text may be a value already.
        """
        known = _annotations(cls)
        parsed = {
            name: _validate(cls.name, name, known[name], text, strict=False)
            if name in known
            else text
            for name, text in texts.items()
        }
        return cls.configure(parsed)

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the class's docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]

    @classmethod
    def describe(cls) -> list[Setting]:
        """Return the settings with type, default and help, in the order they are declared."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        return [
            Setting(name, _type_text(hint), _default(fields[name]), _help_text(hint))
            for name, hint in _annotations(cls).items()
        ]

    def tokens_to_act_on(self) -> tuple[int, ...]:
        """Return the token ids without which an input is answered as by the base: usually none.

        The inputs that a method with ``relies_on_internals`` is checked with have them, in a row.
        """
        return ()

    def sharding_refusal(self) -> str:
        """Say why it cannot train on shards (FSDP), or return nothing where it can."""
        return ""

    def partition_refusal(self) -> str:
        """Say why it cannot train where DeepSpeed ZeRO-3 empties parameters beside their layers."""
        return self.sharding_refusal()

    def resolved(self, model: nn.Module) -> Mapping[str, Any]:
        """Return settings of ``resolves`` with the names of modules that their patterns mean."""
        return {}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the default of every setting that has one, as a JSON value."""
        fields = [field for field in dataclasses.fields(cls) if not _required(field)]
        return _as_json({field.name: _default(field) for field in fields})

    def settings(self) -> dict[str, Any]:
        """Return all settings as JSON values: what the manifest and the checkpoint record."""
        given = vars(self).get("as_given", self)  # by an artifact that has names for the patterns
        return _as_json({f.name: getattr(given, f.name) for f in dataclasses.fields(self)})


def settings_to_show(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings worth showing to a person: those that are not empty.

    None, False and empty lists ask for nothing, and peft's types have many of them.
    """
    nothing: tuple[Any, ...] = (None, "", [], {})
    return {n: v for n, v in settings.items() if v not in nothing and v is not False}


def spelled(settings: Mapping[str, Any]) -> str:
    """Return settings on one line, for messages."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def spelled_methods(methods: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Return methods with settings on one line, for messages."""
    return " + ".join(f"{name}({spelled(settings)})" for name, settings in methods)


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


def _annotations(cls: type[Method]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _plain(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def _help_text(annotation: Any) -> str:
    return next((m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, str)), "")


def _type_text(annotation: Any) -> str:
    plain = _plain(annotation)
    if typing.get_origin(plain) is Literal:
        return " | ".join(map(str, typing.get_args(plain)))
    if typing.get_origin(plain) in (typing.Union, types.UnionType):
        return " | ".join(_type_text(part) for part in typing.get_args(plain))
    if typing.get_origin(plain) is tuple:
        return f"list of {_type_text(typing.get_args(plain)[0])}"
    return "None" if plain is type(None) else getattr(plain, "__name__", str(plain))


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if _required(field) else field.default


def _validate(method: str, field: str, annotation: Any, value: Any, *, strict: bool) -> Any:
    """Return the value if the annotation allows it; lists become tuples, 'a,b' a tuple of both."""
    import pydantic

    kinds = _alternatives(_plain(annotation))
    if isinstance(value, str) and (kinds == {tuple} or not strict):
        value = _from_text(value, kinds)
    elif isinstance(value, list) and tuple in kinds:
        value = tuple(value)
    try:
        return _adapter(annotation).validate_python(value, strict=strict)
    except pydantic.ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise MethodError(
            f"{method}: setting {field!r} cannot be {value!r}: {reason[0].lower()}{reason[1:]} "
            f"({_type_text(annotation)}: {_help_text(annotation)})"
        ) from None


@functools.cache
def _adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    """Return what validates values of an annotation; building it takes a millisecond."""
    import pydantic

    return pydantic.TypeAdapter(annotation)


def _alternatives(annotation: Any) -> set[Any]:
    """Return the kinds of value that an annotation allows: ``{tuple, str, NoneType}``."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*(_alternatives(part) for part in typing.get_args(annotation)))
    return {typing.get_origin(annotation) or annotation}


def _from_text(text: str, kinds: set[Any]) -> Any:
    """Read a value as typed on a command line; what stays text is left to the validation.

    Where a list and a text are both allowed, names are a list and patterns such as ``.*query`` a
    text: so peft tells the ends of module names from a regular expression.
    """
    if type(None) in kinds and text in ("none", "None", "null"):
        return None
    if dict in kinds and text.startswith("{"):
        with contextlib.suppress(ValueError):
            return json.loads(text)
    names = re.fullmatch(r"\[.*\]|[\w.-]+(\s*,\s*[\w.-]+)*", text) and text != "all-linear"
    if kinds == {tuple} or (tuple in kinds and names and not (int in kinds and "," not in text)):
        return tuple(part.strip() for part in text.strip("[]()").split(",") if part.strip())
    return text
