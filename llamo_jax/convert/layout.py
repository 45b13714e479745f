"""What tensors are called in files: one table of rules, for reading and for writing.

In memory a model is a tree of paths (`motion/layers/attn/q`) with the layers stacked. In files it is what PyTorch and Hugging Face users
expect: one tensor a layer, their names, their axes. Weights of linear layers are [out, in] on both sides and rotary halves are split the
same way, so that nothing is permuted but convolutions: [out, in, kernel] in files, [out, kernel, in] in memory.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Shape = tuple[int, ...]

CONVOLUTION = (0, 2, 1)


class Rule(NamedTuple):
    """One line of the table.

    Attributes:
      path: of the tree; each * stands for one or more digits.
      name: in the file. The *s of the path come back in their order; {} is the layer, along which the leaf is stacked.
      axes: permutation that turns the tensor of the file into that of the tree, and back (it is its own inverse); None where they agree.
    """

    path: str
    name: str
    axes: tuple[int, ...] | None = None


class Leaf(NamedTuple):
    """A leaf of the tree as it lies in files.

    Attributes:
      path: of the tree.
      names: of its tensors: one a layer if `stacked`, else one.
      shape: of each tensor, in the file.
      axes: as in `Rule`.
      stacked: the leaf's first axis counts its tensors.
    """

    path: str
    names: tuple[str, ...]
    shape: Shape
    axes: tuple[int, ...] | None
    stacked: bool


def _tower(path: str, name: str) -> tuple[Rule, ...]:
    """The layers of a tower, under Hugging Face's names for Llama, Mistral, Qwen2 and Qwen3."""
    attention, feed_forward = f"{name}layers.{{}}.self_attn.", f"{name}layers.{{}}.mlp."
    return (
        Rule(f"{path}layers/attn_norm", f"{name}layers.{{}}.input_layernorm.weight"),
        Rule(f"{path}layers/ffn_norm", f"{name}layers.{{}}.post_attention_layernorm.weight"),
        *(Rule(f"{path}layers/attn/{p}", f"{attention}{p}_proj.weight") for p in "qkvo"),
        *(Rule(f"{path}layers/attn/{p}_bias", f"{attention}{p}_proj.bias") for p in "qkvo"),
        *(Rule(f"{path}layers/attn/{p}_norm", f"{attention}{p}_norm.weight") for p in "qk"),
        *(Rule(f"{path}layers/ffn/{p}", f"{feed_forward}{p}_proj.weight") for p in ("gate", "up", "down")),
        *(Rule(f"{path}layers/ffn/{p}_bias", f"{feed_forward}{p}_proj.bias") for p in ("gate", "up", "down")),
    )


LLM = (
    Rule("embed", "model.embed_tokens.weight"),
    Rule("norm", "model.norm.weight"),
    Rule("head", "lm_head.weight"),
    *_tower("", "model."),
)
"""The text tower: a Hugging Face checkpoint."""

MOTION = (
    Rule("motion/adapter/weight", "motion.adapter.weight"),
    Rule("motion/adapter/bias", "motion.adapter.bias"),
    Rule("motion/bom", "motion.bom"),
    Rule("motion/eom", "motion.eom"),
    Rule("motion/norm", "motion.norm.weight"),
    *_tower("motion/", "motion."),
    *(
        Rule(f"flow/{layer}/{p}", f"flow_head.{layer}.{p}")
        for layer in ("input", "condition", "time_in", "time_out", "modulation", "output")
        for p in ("weight", "bias")
    ),
    *(Rule(f"flow/blocks/{layer}/{p}", f"flow_head.blocks.{{}}.{layer}.{p}") for layer in ("up", "down") for p in ("weight", "bias")),
    Rule("exit/weight", "exit_head.weight"),
    Rule("exit/bias", "exit_head.bias"),
)
"""All that training adds to the LLM: motion.safetensors of a bundle."""


def _conv(path: str, name: str) -> tuple[Rule, Rule]:
    return Rule(f"{path}/weight", f"{name}.weight", CONVOLUTION), Rule(f"{path}/bias", f"{name}.bias")


def _blocks(half: str, part: str) -> tuple[Rule, ...]:
    """Both halves of the VAE halve or double the rate in numbered parts: a convolution and a stack of residual blocks."""
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
    matches = [(rule, match) for rule in rules if (match := re.fullmatch(rule.path.replace("*", r"(\d+)"), path))]
    if len(matches) != 1:
        raise KeyError(f"{len(matches)} rules speak of {path}")
    rule, match = matches[0]
    numbers = iter(match.groups())
    name = re.sub(r"\*", lambda _: next(numbers), rule.name)
    stacked = "{}" in name
    each = shape[1:] if stacked else shape
    in_file = each if rule.axes is None else tuple(each[axis] for axis in rule.axes)
    names = tuple(name.format(layer) for layer in range(shape[0])) if stacked else (name,)
    return Leaf(path, names, in_file, rule.axes, stacked)
