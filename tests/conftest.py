"""Set-up common to all tests: no hub, one thread a process, quiet libraries."""

import gc
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import kills
import pytest
import torch
import transformers

from ftplug.testing import ddp

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
ddp.WARM.extend(kills.WARM)  # a process has one fork server: it serves both


_imported = 0


def pytest_runtest_setup() -> None:
    """Set aside what was imported since the last test, for good.

    A Trainer collects garbage twice a run, and else walks through all of torch each time.
    """
    global _imported
    if len(sys.modules) != _imported:
        _imported = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none is here"))
