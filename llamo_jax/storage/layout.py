"""What tensors are called in files: one table of rules, for reading and for writing.

In memory a model is a tree of paths (`motion/layers/attn/q/weight`) with the layers stacked. In files it is what
PyTorch and Hugging Face users expect: one tensor a layer, their names, their axes. Weights of linear layers are [out,
in] on both sides and rotary halves are split the same way, so that nothing is permuted but convolutions: [out, in,
kernel] in files, [out, kernel, in] in memory.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Shape = tuple[int, ...]

CONVOLUTION = (0, 2, 1)


class Rule(NamedTuple):
    """One line of the table.

    Attributes:
      path: of the tree. Each * stands for a number. So does {}, the number of a layer: where layers are stacked, the
        path is without it.
      name: in the file, with the same numbers in their order.
      axes: permutation that turns the tensor of the file into that of the tree, and back (it is its own inverse); None
        where they agree.
    """

    path: str
    name: str
    axes: tuple[int, ...] | None = None


class Leaf(NamedTuple):
    """A leaf of the tree as it lies in files.

    Attributes:
      path: of the tree.
      names: of its tensors: one a layer if the leaf is stacked, else one.
      shape: of each tensor, in the file.
      axes: as in `Rule`.
      layer: for a leaf whose first axis counts its tensors, the path that one layer would have alone, {} its number;
        else None.
    """

    path: str
    names: tuple[str, ...]
    shape: Shape
    axes: tuple[int, ...] | None = None
    layer: str | None = None

    @property
    def stacked(self) -> bool:
        """Whether the leaf's first axis counts its tensors."""
        return self.layer is not None

    def unstacked(self) -> list["Leaf"]:
        """The leaf, or one for each of its layers."""
        if self.layer is None:
            return [self]
        numbered = enumerate(self.names)
        return [Leaf(self.layer.format(number), (name,), self.shape, self.axes) for number, name in numbered]


_PARAMETERS = ("weight", "bias")


def _tower(path: str, name: str) -> tuple[Rule, ...]:
    """The layers of a tower, under Hugging Face's names for Llama, Mistral, Qwen2 and Qwen3."""
    path, name = f"{path}layers/{{}}", f"{name}layers.{{}}"
    linear = {f"attn/{p}": f"self_attn.{p}_proj" for p in "qkvo"}
    linear |= {f"ffn/{p}": f"mlp.{p}_proj" for p in ("gate", "up", "down")}
    return (
        Rule(f"{path}/attn_norm", f"{name}.input_layernorm.weight"),
        Rule(f"{path}/ffn_norm", f"{name}.post_attention_layernorm.weight"),
        *(Rule(f"{path}/attn/{p}_norm", f"{name}.self_attn.{p}_norm.weight") for p in "qk"),
        *(Rule(f"{path}/{ours}/{p}", f"{name}.{theirs}.{p}") for ours, theirs in linear.items() for p in _PARAMETERS),
    )


LLM = (
    Rule("embed", "model.embed_tokens.weight"),
    Rule("norm", "model.norm.weight"),
    Rule("head", "lm_head.weight"),
    *_tower("", "model."),
)
"""The text tower: a Hugging Face checkpoint."""


def _flow_head(path: str) -> tuple[Rule, Rule]:
    return tuple(Rule(f"flow_head/{path}/{p}", f"flow_head.{path.replace('/', '.')}.{p}") for p in _PARAMETERS)


MOTION = (
    Rule("motion/adapter/weight", "motion.adapter.weight"),
    Rule("motion/adapter/bias", "motion.adapter.bias"),
    Rule("motion/bom", "motion.bom"),
    Rule("motion/eom", "motion.eom"),
    Rule("motion/norm", "motion.norm.weight"),
    *_tower("motion/", "motion."),
    *(
        rule
        for layer in ("input", "condition", "time_in", "time_out", "output_modulation", "output")
        for rule in _flow_head(layer)
    ),
    *(rule for layer in ("modulation", "up", "down") for rule in _flow_head(f"blocks/*/{layer}")),
    Rule("exit_head/weight", "exit_head.weight"),
    Rule("exit_head/bias", "exit_head.bias"),
)
"""All that training adds to the LLM: motion.safetensors of a bundle."""


def _conv(path: str, name: str) -> tuple[Rule, Rule]:
    return Rule(f"{path}/weight", f"{name}.weight", CONVOLUTION), Rule(f"{path}/bias", f"{name}.bias")


def _blocks(half: str, part: str) -> tuple[Rule, ...]:
    """Both halves of the VAE halve or double the rate in numbered parts: a convolution and a stack of residual
    blocks."""
    path, name = f"{half}/{part}*", f"{half}.{part}.*"
    return (
        *_conv(f"{path}/conv", f"{name}.conv"),
        *_conv(f"{path}/residual/block*/dilated", f"{name}.residual.*.dilated"),
        *_conv(f"{path}/residual/block*/pointwise", f"{name}.residual.*.pointwise"),
    )


VAE = (
    *_conv("encoder/input", "encoder.input"),
    *_blocks("encoder", "down"),
    *_conv("encoder/output", "encoder.output"),
    *(Rule(f"encoder/mean/{p}", f"encoder.mean.{p}") for p in ("weight", "bias")),
    *(Rule(f"decoder/latent/{p}", f"decoder.latent.{p}") for p in ("weight", "bias")),
    *_conv("decoder/input", "decoder.input"),
    *_blocks("decoder", "up"),
    *_conv("decoder/hidden", "decoder.hidden"),
    *_conv("decoder/output", "decoder.output"),
    *(Rule(name, name) for name in ("feature_mean", "feature_std", "latent_mean", "latent_std")),
)
"""The motion VAE with the statistics of its features and latents: motion_vae.safetensors of a bundle."""


def leaves(rules: Sequence[Rule], shapes: Mapping[str, Shape]) -> list[Leaf]:
    """How every leaf of a tree of these shapes lies in files.

    Raises:
      KeyError: no rule, or more than one, speaks of a path: a gap in the table.
    """
    return [_leaf(rules, path, shape) for path, shape in shapes.items()]


def _leaf(rules: Sequence[Rule], path: str, shape: Shape) -> Leaf:
    found = [leaf for rule in rules if (leaf := _by_rule(rule, path, shape))]
    if len(found) != 1:
        raise KeyError(f"{len(found)} rules speak of {path}")
    return found[0]


def _by_rule(rule: Rule, path: str, shape: Shape) -> Leaf | None:
    if match := _pattern(rule.path).fullmatch(path):
        numbers = iter(match.groups())
        name = re.sub(_NUMBER, lambda _: next(numbers), rule.name)
        return Leaf(path, (name,), _in_file(rule, shape), rule.axes)
    if path == rule.path.replace("{}/", ""):
        names = tuple(rule.name.format(number) for number in range(shape[0]))
        return Leaf(path, names, _in_file(rule, shape[1:]), rule.axes, rule.path)
    return None


@functools.cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(_NUMBER, r"(\\d+)", path))


def _in_file(rule: Rule, shape: Shape) -> Shape:
    return shape if rule.axes is None else tuple(shape[axis] for axis in rule.axes)


_NUMBER = r"\*|\{\}"
