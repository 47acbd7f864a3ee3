"""The contract as a pytest class: subclass it, name a method, and its tests are there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from ftplug.errors import FtplugError
from ftplug.method import Method
from ftplug.testing import checks
from ftplug.testing.case import Case
from ftplug.testing.ddp import ranks_agree

try:
    import pytest
except ImportError as error:
    raise FtplugError("MethodContract needs pytest: pip install 'ftplug[testing]'") from error


ONCE = (  # on the first family it fits
    "test_an_early_resume_is_bit_equal",
    "test_composes",
    "test_two_processes_agree",
)
DDP = "ddp: trains in two processes (DistributedDataParallel on the CPU)"


class MethodContract:
    """What a method promises, as tests on tiny models of four families.

        class TestMyMethod(MethodContract):
            method = "my-method"

    A failing test is called ``TestMyMethod::test_resume_is_bit_equal[llama]``. The two-process
    test, which ``pytest -m 'not ddp'`` leaves out, the composition and the resume after the first
    step run on the first family.
    """

    method: ClassVar[str | type[Method] | Method]
    """The method: its name, its class, or an instance."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """Settings that fit models of two layers and 32 features."""
    beside: ClassVar[Sequence[str | Method]] = ()
    """Methods it needs beside it: an optimizer for LoRA is tested with ``("lora",)``."""
    families: ClassVar[Sequence[str]] = ("bert", "llama", "t5", "vit")
    """On which of ``ftplug.testing.tiny.FAMILIES`` it is tested."""
    unfit: ClassVar[Mapping[str, str]] = {}
    """Families it does not fit, with a regular expression for what its MethodError says."""
    starts_at_base: ClassVar[bool] = True
    """Whether the untrained model answers as the base does."""
    mergeable: ClassVar[bool | Collection[str] | None] = None
    """Whether, or where, it merges; None: if it implements merge_model or adds no structure."""
    quantizes: ClassVar[bool] = False
    """Whether it quantizes the base, which `disabled` then gives back as it is quantized."""
    learning_rate: ClassVar[float] = 1e-2
    """The learning rate of the tiny runs."""
    optimizer_state: ClassVar[float] = 2.0
    """How many numbers the optimizer may keep for each that trains: Adam keeps two."""
    still: ClassVar[Sequence[str]] = ()
    """Glob patterns of tensors whose gradient the mathematics makes zero."""
    device: ClassVar[str] = "cpu"
    """Where the models train: "cuda" on a machine that has a GPU."""

    def __init_subclass__(cls) -> None:
        """Leave out the tests that have no family to run on."""
        super().__init_subclass__()
        for name, test in vars(MethodContract).items():
            if name.startswith("test_") and name not in vars(cls):
                setattr(cls, name, test if cls._families(name) else None)

    @classmethod
    def _families(cls, test: str) -> list[str]:
        if test == "test_what_does_not_fit_is_refused":
            return list(cls.unfit)
        if test == "test_heavy_imports_are_lazy":  # whether it fits any or none
            return list(cls.families[:1])
        fitting = [family for family in cls.families if family not in cls.unfit]
        return fitting[:1] if test in ONCE else fitting

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test once per family."""
        test = metafunc.function.__name__
        families: list[Any] = list(self._families(test))
        if test == "test_two_processes_agree":
            # Known where it is used: an author's pytest need not have it in its settings.
            metafunc.config.addinivalue_line("markers", DDP)
            families = [pytest.param(family, marks=pytest.mark.ddp) for family in families]
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", families, indirect=True, scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, request: pytest.FixtureRequest) -> Case:
        """The method on one family; its training run is shared by the tests."""
        return Case(
            cls.method,
            request.param,
            settings=cls.settings,
            beside=cls.beside,
            starts_at_base=cls.starts_at_base,
            mergeable=cls.mergeable,
            quantizes=cls.quantizes,
            learning_rate=cls.learning_rate,
            optimizer_state=cls.optimizer_state,
            still=cls.still,
            device=cls.device,
        )

    def test_heavy_imports_are_lazy(self, case: Case) -> None:
        """So that ``ftplug methods`` stays fast."""
        checks.heavy_imports_are_lazy(case)

    def test_what_does_not_fit_is_refused(self, case: Case) -> None:
        """In one line, with the model untouched."""
        checks.refused_in_one_line(case, self.unfit[case.family])

    def test_start_equals_the_base(self, case: Case) -> None:
        """Unless ``starts_at_base`` is False."""
        checks.start_equals_the_base(case)

    def test_initialisation_is_seeded(self, case: Case) -> None:
        """Equal in every process; the user's generator is left alone."""
        checks.initialisation_is_seeded(case)

    def test_every_tensor_gets_a_gradient(self, case: Case) -> None:
        """Each that may train, over the run."""
        checks.every_tensor_gets_a_gradient(case)

    def test_every_tensor_is_in_the_optimizer(self, case: Case) -> None:
        """Each that may train, once; and no other."""
        checks.every_tensor_is_in_the_optimizer(case)

    def test_every_tensor_moves(self, case: Case) -> None:
        """Each that may train, over the run."""
        checks.every_tensor_moves(case)

    def test_nothing_else_moves(self, case: Case) -> None:
        """Not a bit of the base."""
        checks.nothing_else_moves(case)

    def test_the_schedule_covers_all(self, case: Case) -> None:
        """And is a pure function of the step."""
        checks.the_schedule_covers_all(case)

    def test_the_head_trains_and_is_saved(self, case: Case) -> None:
        """Whatever the method does around it."""
        checks.the_head_trains_and_is_saved(case)

    def test_optimizer_state_is_bounded(self, case: Case) -> None:
        """By what trains in each step."""
        checks.optimizer_state_is_bounded(case)

    def test_resume_is_bit_equal(self, case: Case) -> None:
        """To the run that was not interrupted."""
        checks.resume_is_bit_equal(case)

    def test_an_early_resume_is_bit_equal(self, case: Case) -> None:
        """The same, resumed after the first step."""
        checks.an_early_resume_is_bit_equal(case)

    def test_the_best_model_is_restored(self, case: Case) -> None:
        """Tensors and answers."""
        checks.the_best_model_is_restored(case)

    def test_a_loaded_artifact_gives_equal_logits(self, case: Case) -> None:
        """On a fresh base."""
        checks.a_loaded_artifact_gives_equal_logits(case)

    def test_every_saved_tensor_is_seen(self, case: Case) -> None:
        """By the probe in the artifact, so that a load which loses one is noticed."""
        checks.every_saved_tensor_is_seen(case)

    def test_disabled_is_the_base(self, case: Case) -> None:
        """Exactly, and only within the block."""
        checks.disabled_is_the_base(case)

    def test_merged_equals_the_forward(self, case: Case) -> None:
        """Or is refused with a reason."""
        checks.merged_equals_the_forward(case)

    def test_detaches(self, case: Case) -> None:
        """Taken off, it leaves the base as it was, to the last bit."""
        checks.detaches(case)

    def test_a_deepcopy_is_independent(self, case: Case) -> None:
        """In both directions."""
        checks.a_deepcopy_is_independent(case)

    def test_shares_its_base(self, case: Case) -> None:
        """With another model of the artifact, over the same memory."""
        checks.shares_its_base(case)

    def test_composes(self, case: Case) -> None:
        """With an adapter and a regulariser behind it."""
        checks.composes(case)

    def test_two_processes_agree(self, case: Case) -> None:
        """To the last bit, and everything trains there too."""
        ranks_agree(case)
