"""Operations of a step, beside counts by hand."""

from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig
from llamo_jax.training.flops import flow_weights, step_flops, tower_weights

CONFIG = LlamoConfig(
    LLMConfig(vocab_size=100, width=8, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=2, ffn_width=16),
    MotionTowerConfig(width=6, ffn_width=10),
    FlowHeadConfig(width=4, num_blocks=1),
    latent_channels=3,
)


def test_by_hand() -> None:
    # A layer of the text tower: q and o 8 x 8, k and v 4 x 8, gate, up and down 16 x 8.
    assert tower_weights(CONFIG, motion=False) == 2 * (2 * 64 + 2 * 32 + 3 * 128)
    assert tower_weights(CONFIG, motion=True) == 2 * (2 * 48 + 2 * 24 + 3 * 60)
    # Modulation 12 x 4, up and down 4 x 4; output modulation 8 x 4; time 2 x 4 x 4; input and output 3 x 4; condition.
    assert flow_weights(CONFIG) == 48 + 32 + 32 + 32 + 24 + 24
    told = step_flops(CONFIG, {"t2m": 1, "m2t": 1}, text_len=4, motion_len=2, timesteps=3)
    text, motion = tower_weights(CONFIG, motion=False), tower_weights(CONFIG, motion=True)
    assert told["text tower"] == 2 * text * 4 * (1 + 2)  # frozen: forward alone, and forward with one backward product
    assert told["motion tower"] == 2 * motion * 2 * 3 * 2
    assert told["language head"] == 2 * 800 * 4 * 2
    assert told["flow head"] == 2 * flow_weights(CONFIG) * 2 * 3 * 3
    # Pairs that a causal mask leaves: 8 of text, 10 of motion; of both together 18. Two products of 2 x 8 a pair.
    assert told["attention"] == 4 * 2 * 8 * ((8 + 3 * 10) + 3 * 18)
