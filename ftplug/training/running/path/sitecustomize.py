"""Gives the Trainers of a process that a script under ``ftplug run`` started the run's methods.

Python imports this module when it starts, from PYTHONPATH, and whichever Python the script starts:
it has to work in all of them. Nothing is imported until ``transformers.trainer_callback`` is, and
ftplug not before a Trainer is built. A ``sitecustomize`` of somebody else's runs first.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_TRAINERS = "transformers.trainer_callback"
_RUN = "FTPLUG_RUN"


def _run_the_other() -> None:
    """Run the ``sitecustomize`` that this one hides; the folder is of no more use."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != _FOLDER]
    spec = PathFinder.find_spec("sitecustomize")
    if spec is not None and spec.loader is not None:
        sys.modules["sitecustomize"] = other = module_from_spec(spec)
        spec.loader.exec_module(other)


class _Finder:
    """Finds the module of the Trainer's callbacks, once, as the others do."""

    found = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the module's spec, with a loader that reaches its Trainers; None for others."""
        if name != _TRAINERS or self.found:
            return None
        self.found = True
        from importlib.util import find_spec

        spec: Any = find_spec(name)
        load = spec.loader.exec_module

        def load_and_reach(module: Any) -> None:
            load(module)
            _reach(module.CallbackHandler)

        spec.loader.exec_module = load_and_reach
        return spec


def _reach(handler: Any) -> None:
    init = handler.__init__

    def init_with_ours(self: Any, callbacks: Any, *args: Any, **kwargs: Any) -> None:
        init(self, list(_callbacks()) + list(callbacks), *args, **kwargs)

    init_with_ours.ftplug_init = init  # type: ignore[attr-defined]
    handler.__init__ = init_with_ours


def _callbacks() -> Any:
    try:
        from ftplug.training.running.reached import callbacks
    except ImportError as error:
        reason = (
            f"ftplug run: {sys.executable} has no ftplug ({error}), without which its training has "
            "no method: start it with the Python that ftplug run has"
        )
        _refuse(reason)
        raise RuntimeError(reason) from None
    return callbacks()


def _refuse(reason: str) -> None:
    """Tell the run that a training was refused."""
    import json

    folder = json.loads(os.environ[_RUN])["records"]
    if folder and os.path.isdir(folder):
        with open(os.path.join(folder, f"{os.getpid()}-refused.json"), "w") as file:
            record = {"process": os.getpid(), "ended": True, "refused": reason, "summary": {}}
            json.dump(record, file)


if os.environ.get(_RUN):
    sys.meta_path.insert(0, _Finder())
_run_the_other()
