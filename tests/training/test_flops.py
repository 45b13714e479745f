"""Operations of a step, beside counts by hand, and those of a compiled program; peaks of devices."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from experiments.recipes import ALIGNMENT, ALL_MOTION, HEADS, LLM
from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig
from llamo_jax.training.compiled import product_flops
from llamo_jax.training.devices import DEVICES, WRAPS, peak_flops
from llamo_jax.training.flops import Pairs, flow_weights, step_flops, tower_weights
from llamo_jax.training.traffic import Layout, network_bytes, trained_part

CONFIG = LlamoConfig(
    LLMConfig(vocab_size=100, width=8, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=2, ffn_width=16),
    MotionTowerConfig(width=6, ffn_width=10),
    FlowHeadConfig(width=4, num_blocks=1),
    latent_channels=3,
)
TEXT, MOTION = 2 * (2 * 64 + 2 * 32 + 3 * 128), 2 * (2 * 48 + 2 * 24 + 3 * 60)
PAIR = 4 * 2 * 8
"""Two products of 2 x 8, and two layers."""


def test_weights_by_hand() -> None:
    # A layer of the text tower: q and o 8 x 8, k and v 4 x 8, gate, up and down 16 x 8.
    assert tower_weights(CONFIG, motion=False) == TEXT
    assert tower_weights(CONFIG, motion=True) == MOTION
    # Modulation 12 x 4, up and down 4 x 4; output modulation 8 x 4; time 2 x 4 x 4; input and output 3 x 4. Condition.
    assert flow_weights(CONFIG) == (48 + 32 + 32 + 32 + 24, 24)


@pytest.mark.parametrize(
    ("trains", "times"),
    [
        # Text tower in t2m and in m2t, motion tower, language head, flow head; of attention in t2m: text on text (8
        # pairs), motion on text (8), motion on motion (2); in m2t all 18.
        (ALIGNMENT, (1, 2, 2, 2, 3, (1, 2, 3, 3))),
        (ALL_MOTION, (1, 2, 3, 2, 3, (1, 2, 3, 3))),
        (HEADS, (1, 1, 1, 1, 3, (1, 1, 1, 1))),
    ],
)
def test_a_step_of_each_stage_by_hand(trains: tuple[str, ...], times: tuple) -> None:
    told = step_flops(CONFIG, {"t2m": 1, "m2t": 1}, text_len=4, motion_len=2, timesteps=3, trains=trains)
    first, last, motion, head, flow, (text_text, motion_text, motion_motion, captions) = times
    assert told["text tower"] == 2 * TEXT * 4 * (first + last)
    assert told["motion tower"] == 2 * MOTION * 2 * motion * 2
    assert told["language head"] == 2 * 800 * 4 * head
    assert told["flow head"] == 2 * (168 * 3 + 24) * 2 * flow
    assert told["attention"] == PAIR * (8 * text_text + 8 * motion_text + 2 * motion_motion + 18 * captions)


def test_plain_text_and_pretraining_of_the_llm() -> None:
    told = step_flops(CONFIG, {"text": 2}, text_len=4, motion_len=2, timesteps=3, trains=LLM)
    assert told["text tower"] == 2 * TEXT * 8 * 3 and told["language head"] == 2 * 800 * 8 * 3
    assert told["motion tower"] == told["flow head"] == 0 and told["attention"] == PAIR * 3 * 16
    # Beside motion that trains, only [EOM] lies before plain text.
    told = step_flops(CONFIG, {"text": 2}, text_len=4, motion_len=2, timesteps=3, trains=("flow_head/",))
    assert told["text tower"] == 2 * TEXT * 8 and told["language head"] == 2 * 800 * 8


def test_kept_prompts_cost_attention_alone() -> None:
    """Rows of 2 slots after 5 tokens, in m2t with 4 tokens behind: queries of all see the 5, forward and backward."""
    options = {"text_len": 4, "motion_len": 2, "timesteps": 3, "trains": ALL_MOTION, "prefix_len": 5}
    told = step_flops(CONFIG, {"t2m": 1}, **options)
    assert told["text tower"] == 0 and told["attention"] == PAIR * (2 * 5 * 2 + 2 * 3)
    told = step_flops(CONFIG, {"m2t": 1}, **options)
    assert told["text tower"] == 2 * TEXT * 4 * 2 and told["attention"] == PAIR * (18 * 3 + (4 + 2) * 5 * 2)


def test_packed_rows_have_the_pairs_of_their_samples() -> None:
    options = {"text_len": 4, "motion_len": 2, "timesteps": 3}
    most = step_flops(CONFIG, {"t2m": 1}, **options)
    told = step_flops(CONFIG, {"t2m": 1}, **options, pairs={"t2m": Pairs(5, 2, 1)})
    assert told["attention"] == PAIR * (5 + 2 * 2 + 3)
    assert {**told, "attention": 0} == {**most, "attention": 0} and told["attention"] < most["attention"]


def test_products_of_a_program_are_counted_as_often_as_they_run() -> None:
    def program(x: jax.Array, stack: jax.Array) -> jax.Array:
        y, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)
        return jnp.einsum("bth,bsh->bts", y.reshape(2, 4, 8), y.reshape(2, 4, 8))

    compiled = jax.jit(program).lower(jnp.ones((8, 8)), jnp.ones((5, 8, 8))).compile()
    assert product_flops(compiled.as_text()) == 2 * (5 * 8 * 8 * 8 + 2 * 4 * 4 * 8)


TPU = """\
ENTRY %main (a: bf16[2,8,1024,64], b: bf16[2,8,512,64]) -> bf16[2,8,1024,512] {
  %a = bf16[2,8,1024,64]{3,2,1,0} parameter(0)
  %b = bf16[2,8,512,64]{3,2,1,0} parameter(1)
  ROOT %product = bf16[2,8,1024,512]{2,3,1,0} convolution(%a, %b), window={WINDOW}, dim_labels=01bf_01oi->01bf
}
"""


@pytest.mark.parametrize(
    "window", ["size=2x8 stride=1x7 lhs_dilate=2x8", "size=2x8 stride=2x8 pad=1_1x7_7 lhs_dilate=1x7 rhs_reversal=1x1"]
)
def test_products_of_batches_on_a_tpu(window: str) -> None:
    """They come as convolutions, whose windows meet their batch alone."""
    assert product_flops(TPU.replace("WINDOW", window)) == 2 * 2 * 8 * 1024 * 512 * 64


def test_a_product_without_a_batch_on_a_tpu() -> None:
    text = TPU.replace("window={WINDOW}, dim_labels=01bf_01oi->01bf", "dim_labels=bf_oi->bf")
    for old, new in {"[2,8,1024,64]{3,2,1,0}": "[1024,64]{1,0}", "[2,8,512,64]{3,2,1,0}": "[512,64]{1,0}",
                     "[2,8,1024,512]{2,3,1,0}": "[1024,512]{1,0}"}.items():  # fmt: skip
        text = text.replace(old, new)
    assert product_flops(text) == 2 * 1024 * 512 * 64


def test_slices_exchange_what_each_has_summed() -> None:
    """Data 8 on 2 slices: 3/4 of twice a chip's part within a slice; between them a quarter of the part, once each."""
    one = Layout((8, 2, 1), {"t2m": 16}, 4, 2)
    alone, sliced = (network_bytes(CONFIG, layout) for layout in (one, dataclasses.replace(one, slices=2)))
    part = 4 * trained_part(CONFIG, one)
    assert alone["all-reduce", "data"] == 2 * part * 7 / 8
    assert sliced["all-reduce", "data"] == 2 * part * 3 / 4 and sliced["all-reduce", "slice"] == 2 * part / 4 / 2
    assert {**sliced, ("all-reduce", "data"): 0} == {
        **alone,
        ("all-reduce", "data"): 0,
        ("all-reduce", "slice"): part / 4,
    }


def test_peaks_are_known_by_the_names_of_jax() -> None:
    assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops(jax.devices()[0].device_kind) is None  # a CPU
    assert set(WRAPS) < set(DEVICES)
    for device in DEVICES.values():
        # Bytes of memory a second are fewer than operations, and more than the network's.
        assert device.links * device.link < device.bandwidth < device.flops / 50
