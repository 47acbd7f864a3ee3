"""Set-up common to all tests: no hub, one thread a process, quiet libraries, the lanes."""

import gc
import os
import signal
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["FTPLUG_CONFIG"] = os.path.join(tempfile.mkdtemp(prefix="ftplug-"), "settings")

import known_failures
import missing_methods
import pytest
from lanes import Lane, fast, usual


def pytest_addoption(parser: pytest.Parser) -> None:
    for lane in ("fast", "usual"):
        text = f"the part in tests/support/lanes/{lane}.py"
        parser.addoption(f"--{lane}", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast"):
        config.pluginmanager.register(fast.FastLane())
    elif config.getoption("--usual"):
        config.pluginmanager.register(Lane(usual.select))
    if _only_distributes(config):
        return
    import kills
    import torch
    import transformers

    from ftplug.testing import ddp

    for number in (signal.SIGINT, signal.SIGQUIT):  # ignored by what a shell runs in the background
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _DEFAULT[number])
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    ddp.WARM.extend(kills.WARM)  # a process has one fork server: it serves both


def _only_distributes(config: pytest.Config) -> bool:
    """Whether this process runs no test itself: the others start once it is ready."""
    return config.getoption("dist", "no") != "no" and bool(config.getoption("tx"))


_DEFAULT = {signal.SIGINT: signal.default_int_handler, signal.SIGQUIT: signal.SIG_DFL}
_imported = 0
_ENDING = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def pytest_runtest_setup() -> None:
    """Set aside what was imported since the last test, for good.

    A Trainer collects garbage twice a run, and else walks through all of torch each time.
    """
    global _imported
    if len(sys.modules) != _imported:
        _imported = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def signal_handlers():
    """Put back what a test, or a launcher that it tried, would leave."""
    before = {number: signal.getsignal(number) for number in _ENDING}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none is here"))
        if item.get_closest_marker("deepspeed") and (reason := _why_no_deepspeed()):
            item.add_marker(pytest.mark.skip(reason=reason))
        if reason := missing_methods.why_skipped(item):
            item.add_marker(pytest.mark.skip(reason=reason))
        elif reason := known_failures.why_expected(item):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _why_no_deepspeed() -> str | None:
    import zero_ranks

    return zero_ranks.why_skipped()
