"""The promises of every method, one function each: ``check(case)`` raises an AssertionError.

Its message names the tensor, what should have happened to it, and what the cause usually is.
:mod:`.training` looks at a run of the real Trainer, :mod:`.model` at models before and after it,
and at the method's source, :mod:`.effect` at the probe in the artifact, :mod:`.sharing` at models
that hold one base in memory, :mod:`.detaching` at what is left once it was taken off.
"""

from ftplug.testing.checks.detaching import detaches
from ftplug.testing.checks.effect import every_saved_tensor_is_seen
from ftplug.testing.checks.model import (
    a_deepcopy_is_independent,
    a_loaded_artifact_gives_equal_logits,
    disabled_is_the_base,
    heavy_imports_are_lazy,
    initialisation_is_seeded,
    merged_equals_the_forward,
    refused_in_one_line,
    start_equals_the_base,
)
from ftplug.testing.checks.sharing import shares_its_base
from ftplug.testing.checks.training import (
    an_early_resume_is_bit_equal,
    composes,
    every_tensor_gets_a_gradient,
    every_tensor_is_in_the_optimizer,
    every_tensor_moves,
    nothing_else_moves,
    optimizer_state_is_bounded,
    resume_is_bit_equal,
    the_best_model_is_restored,
    the_head_trains_and_is_saved,
    the_schedule_covers_all,
)

__all__ = [
    "a_deepcopy_is_independent",
    "a_loaded_artifact_gives_equal_logits",
    "an_early_resume_is_bit_equal",
    "composes",
    "detaches",
    "disabled_is_the_base",
    "every_saved_tensor_is_seen",
    "every_tensor_gets_a_gradient",
    "every_tensor_is_in_the_optimizer",
    "every_tensor_moves",
    "heavy_imports_are_lazy",
    "initialisation_is_seeded",
    "merged_equals_the_forward",
    "nothing_else_moves",
    "optimizer_state_is_bounded",
    "refused_in_one_line",
    "resume_is_bit_equal",
    "shares_its_base",
    "start_equals_the_base",
    "the_best_model_is_restored",
    "the_head_trains_and_is_saved",
    "the_schedule_covers_all",
]
