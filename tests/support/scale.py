"""A sound method, which the kit's tests break in one way each: nothing heavy is imported here."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from ftplug import Method, hookimpl
from ftplug.inplace import unwrap_forward, wrap_forward
from ftplug.structure import require_layer_stacks, require_output_projections


def feed_forwards(model):
    for stack in require_layer_stacks(model, "scale"):
        for layer in stack.layers:
            yield layer.get_submodule(require_output_projections(layer, "scale").feed_forward)


def scaled(linear, forward, hidden_states):
    return forward(hidden_states) * linear.scale


@dataclass(frozen=True, eq=False)
class Scale(Method):
    """Multiply what each feed-forward computes by a trained vector."""

    start: Annotated[float, Gt(0), "What the vectors start from."] = 1.0

    name = "scale"

    @hookimpl
    def prepare_model(self, model):
        from torch import nn

        for linear in list(feed_forwards(model)):
            linear.scale = nn.Parameter(linear.weight.new_full((len(linear.weight),), self.start))
            wrap_forward(linear, scaled)

    @hookimpl
    def select_trainable(self, model):
        return [name for name, _ in model.named_parameters() if name.endswith(".scale")]

    @hookimpl
    def merge_model(self, model):
        for linear in feed_forwards(model):
            linear.weight.data *= linear.scale.data[:, None]
            if linear.bias is not None:
                linear.bias.data *= linear.scale.data
            del linear.scale
            unwrap_forward(linear)
