"""The run's methods in a child: what ``path/sitecustomize.py`` asks for when a Trainer is built."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from transformers import TrainerCallback

from ftplug import __version__, discovery
from ftplug.errors import FtplugError, MethodError
from ftplug.training.restarting.going_on import Restarts
from ftplug.training.running.telling import RUN, Records
from ftplug.training.script import Launch, LaunchedCallback

_NOT_DROPPED = (
    "--drop-peft-config reaches no process that the script starts: train in its own, or take the "
    "adapters out of the script"
)


def callbacks() -> list[TrainerCallback]:
    """Return what a Trainer of this process is given."""
    ours = _launch().callbacks_of_a_trainer()
    for callback in ours:
        if _launch().drop_peft_config and isinstance(callback, LaunchedCallback):
            callback.run.without_adapters = _NOT_DROPPED
    return ours


@functools.cache
def _launch() -> Launch:
    """Return the run that this process was told of."""
    said = json.loads(os.environ[RUN])
    if said["version"] != __version__:
        raise MethodError(
            f"ftplug run: {sys.executable} has ftplug {__version__}, the run has "
            f"{said['version']}: start the training with the Python that ftplug run has"
        )
    sys.excepthook = functools.partial(_print, sys.excepthook)
    records = Records(Path(said["records"]) if said["records"] else None)
    methods = [discovery.entry(m["name"]).load().configure(m["settings"]) for m in said["methods"]]
    options = said["options"] | {"restarts": Restarts(**said["options"]["restarts"])}
    return Launch(methods, **options, records=records, process=0)


def _print(
    before: Callable[..., None],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    """Print a refusal in one line, as the run itself does; all else as this process would."""
    if isinstance(error, FtplugError):
        print(f"ftplug: {error}", file=sys.stderr)
    else:
        before(kind, error, trace)
