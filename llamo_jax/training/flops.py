"""Floating-point operations of a training step, counted on paper.

A product of [T, I] with [I, O] takes 2 T I O. How often a weight's product with a token counts:

    3   it trains: forward, gradient of the input, gradient of the weight
    2   it is frozen and something that trains lies before it: forward, gradient of the input
    1   it is frozen and nothing that trains lies before it: forward

The products of attention count by the pairs of query and key that a causal mask leaves, half of all: 4 N H a pair and
layer forward, and as much for each two of the four products backward. Queries of motion that see text need no gradient
of its keys and values where text comes first: 2 in place of 3.

    part            t2m rows (text comes first)          m2t rows                          text rows
    text tower      1                                    3 trains, 2 adapter, [EOM] or     3 trains, 2 [EOM] trains,
                                                         motion tower train, else 1        else 1
    motion tower    3 trains, 2 adapter or [BOM]         as t2m                            no motion
                    train, else 1
    language head   not used                             as the text tower, 3 where it     as m2t
                                                         or the table that it shares trains
    flow head       3 trains, 2 what lies before it      not used                          not used
                    trains, else 1

What recomputation adds does not count, nor what an optimizer does. The adapter, the exit head, norms and softmax, a
hundredth together, are left out, and gradients of first inputs, which nothing needs, are counted. Rows count whole,
padding included. The pairs of attention of a packed row are those of one sample as long as the row, an upper bound,
unless they are given.
"""

from collections.abc import Mapping
from typing import NamedTuple

from llamo_jax.config import LlamoConfig

MOTION_SIDE = ("motion/", "flow_head/", "exit_head/")
"""Prefixes of all that trains in joint training."""


class Pairs(NamedTuple):
    """Pairs of query and key that a mask leaves, in all rows of a batch: text on text, one on the other, motion on
    motion."""

    text: float
    across: float
    motion: float


def tower_weights(config: LlamoConfig, *, motion: bool) -> int:
    """Weights in the products of one tower's layers."""
    text = config.text
    width, ffn = (config.motion.width, config.motion.ffn_width) if motion else (text.width, text.ffn_width)
    q, kv = text.num_heads * text.head_dim, text.num_kv_heads * text.head_dim
    return text.num_layers * (width * (2 * q + 2 * kv) + 3 * width * ffn)


def flow_weights(config: LlamoConfig) -> tuple[int, int]:
    """Weights in the products of the flow head: for each look, the embedding of the time included, and for each slot,
    its condition."""
    head, width = config.flow_head, config.flow_head.width
    blocks = head.num_blocks * 5 * width * width + 2 * width * width
    return blocks + 2 * width * width + 2 * width * config.latent_channels, config.motion.width * width


def step_flops(
    config: LlamoConfig,
    rows: Mapping[str, int],
    *,
    text_len: int,
    motion_len: int,
    timesteps: int,
    trains: tuple[str, ...] = MOTION_SIDE,
    pairs: Mapping[str, Pairs] | None = None,
    prefix_len: int = 0,
) -> dict[str, float]:
    """Part of the model -> operations of a step.

    Args:
      config: the model's.
      rows: task -> rows of the batch.
      text_len: tokens of a row.
      motion_len: slots of a row; rows of the task "text" have none.
      timesteps: looks of the flow head for each slot.
      trains: prefixes of the paths that train.
      pairs: task -> pairs of attention in its batch; of tasks that are missing, the most that rows can have.
      prefix_len: tokens of text before motions in a row, whose keys and values are kept: no tower runs over them. 0 is
        for text that towers run over.
    """

    def train(*paths: str) -> bool:
        return any(path.startswith(trains) for path in paths)

    inputs = train("motion/adapter/", "motion/bom")
    motion_tower = train("motion/layers/")
    motion_times = _times(motion_tower, inputs)
    text_times = {
        "t2m": _times(train("text/layers/"), False),
        "m2t": _times(train("text/layers/"), motion_tower or inputs or train("motion/eom", "text/embed")),
        "text": _times(train("text/layers/"), train("motion/eom", "text/embed")),
    }
    head = "text/embed" if config.text.tie_embeddings else "text/head"
    text, motion = tower_weights(config, motion=False), tower_weights(config, motion=True)
    look, condition = flow_weights(config)
    per_pair = 4 * config.text.num_layers * config.text.num_heads * config.text.head_dim
    flops = dict.fromkeys(("text tower", "motion tower", "attention", "language head", "flow head"), 0.0)
    for task, count in rows.items():
        slots = count * (0 if task == "text" else motion_len)
        # In text-to-motion all text stands before the motion.
        length = 0 if prefix_len and task == "t2m" else text_len
        tokens, times = count * length, text_times[task]
        flops["text tower"] += 2.0 * text * tokens * times
        flops["motion tower"] += 2.0 * motion * slots * motion_times
        most = Pairs(tokens * length / 2, slots * length, slots * motion_len / 2)
        seen = (pairs or {}).get(task, most)
        if task == "t2m":
            flow_times = _times(train("flow_head/"), motion_times > 1)
            flops["flow head"] += 2.0 * slots * (look * timesteps + condition) * flow_times
            across = 3 if times > 1 else 2 if motion_times > 1 else 1
            motion_pairs = 3 if motion_times > 1 else 1
            text_pairs = 3 if times > 1 else 1
        else:
            head_times = _times(train(head), times > 1)
            flops["language head"] += 2.0 * config.text.vocab_size * config.text.width * tokens * head_times
            across = motion_pairs = text_pairs = 3 if max(times, motion_times) > 1 else 1
        flops["attention"] += per_pair * (text_pairs * seen.text + across * seen.across + motion_pairs * seen.motion)
        if prefix_len and task != "text":
            # Gradients of the queries alone.
            of_queries = 2 if max(times, motion_times) > 1 else 1
            flops["attention"] += per_pair * of_queries * (tokens + slots) * prefix_len
    return flops


def _times(trains: bool, behind: bool) -> int:
    """How often the products of a part count: forward, for what lies before it, for itself."""
    return 3 if trains else 2 if behind else 1
