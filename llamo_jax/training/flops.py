"""Floating-point operations of a training step, counted on paper.

A product of [T, I] with [I, O] takes 2 T I O. Per token a weight that trains counts three times (forward, and both
gradients), a frozen one behind which something trains twice, and a frozen one before everything that trains once. The
products of attention count by the pairs of query and key that a causal mask leaves, half of all.
"""

from collections.abc import Mapping

from llamo_jax.config import LlamoConfig


def tower_weights(config: LlamoConfig, *, motion: bool) -> int:
    """Weights in the products of one tower's layers."""
    text = config.text
    width, ffn = (config.motion.width, config.motion.ffn_width) if motion else (text.width, text.ffn_width)
    q, kv = text.num_heads * text.head_dim, text.num_kv_heads * text.head_dim
    return text.num_layers * (width * (2 * q + 2 * kv) + 3 * width * ffn)


def flow_weights(config: LlamoConfig) -> int:
    """Weights in the products of one look of the flow head, the embedding of the time included."""
    head, width = config.flow_head, config.flow_head.width
    blocks = head.num_blocks * 5 * width * width + 2 * width * width
    return blocks + 2 * width * width + 2 * width * config.latent_channels + config.motion.width * width


def step_flops(
    config: LlamoConfig, rows: Mapping[str, int], *, text_len: int, motion_len: int, timesteps: int
) -> dict[str, float]:
    """Part of the model -> operations of a step in which the whole motion side trains.

    Args:
      config: the model's.
      rows: task -> rows of the batch.
      text_len: tokens of a row.
      motion_len: slots of a row.
      timesteps: looks of the flow head for each slot.
    """
    text, motion = tower_weights(config, motion=False), tower_weights(config, motion=True)
    qk = 4 * config.text.num_layers * config.text.num_heads * config.text.head_dim  # of both products, a pair
    generated, described = rows.get("t2m", 0), rows.get("m2t", 0) + rows.get("text", 0)
    both = text_len + motion_len
    pairs_text, pairs_motion = text_len**2 / 2, motion_len * text_len + motion_len**2 / 2
    vocabulary = config.text.vocab_size * config.text.width
    return {
        "text tower": 2 * text * text_len * (generated + 2 * described),
        "motion tower": 2 * motion * motion_len * 3 * (generated + described),
        "attention": qk * (generated * (pairs_text + 3 * pairs_motion) + described * 3 * both**2 / 2),
        "language head": 2 * vocabulary * text_len * 2 * described,
        "flow head": 2 * flow_weights(config) * motion_len * timesteps * 3 * generated,
    }
