"""Meshes: the same loss and gradients on every one of them, and nothing but weights, gradients and sums between
devices."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from llamo_jax import sharding
from llamo_jax.batch import Batch, MotionRows, PrefixRows, TextRows
from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig
from llamo_jax.errors import InputError
from llamo_jax.models import llamo
from llamo_jax.models.declaration import init, shardings
from llamo_jax.models.parallel import ALONE, Parallel
from llamo_jax.training.collectives import Collective, collectives_of
from llamo_jax.training.gradients import of_sum
from llamo_jax.training.losses import LlamoLoss, LlamoLossConfig
from llamo_jax.training.traffic import Layout, network_bytes
from llamo_jax.trees import flatten

ROWS, TEXT, MOTION, LAYERS = 16, 12, 8, 3
OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {"tie_embeddings": True},
    "qwen3": {"family": "qwen3", "qk_norm": True},
    "qwen2": {"family": "qwen2", "qkv_bias": True, "tie_embeddings": True},
}


@functools.cache
def config(family: str) -> LlamoConfig:
    heads = {"num_heads": 8, "num_kv_heads": 8, "head_dim": 8}
    text = LLMConfig(vocab_size=1024, width=64, num_layers=LAYERS, ffn_width=128, **heads, **OPTIONS[family])
    return LlamoConfig(text, MotionTowerConfig(48, 96), FlowHeadConfig(32, 2), latent_channels=16)


@functools.cache
def batches(prefix: int = 0) -> dict[str, Batch]:
    """A batch of each task, with kept keys and values of so many tokens before each row."""
    rng = np.random.default_rng(0)

    def task() -> Batch:
        places = np.tile(np.arange(TEXT + MOTION, dtype=np.int32), (ROWS, 1))
        segments = np.ones((ROWS, TEXT), np.int32)
        segments[:, -2:] = 0
        # Rows have different numbers of tokens that count: a mean of means would show.
        mask = (rng.random((ROWS, TEXT)) < np.linspace(0.1, 0.9, ROWS)[:, None]).astype(np.float32)
        tokens = rng.integers(0, 1025, (ROWS, TEXT)).astype(np.int32)
        tokens[:, 5] = 1024  # [EOM]
        text = TextRows(tokens, places[:, :TEXT], segments, rng.integers(0, 1024, (ROWS, TEXT)).astype(np.int32), mask)
        ones = np.ones((ROWS, MOTION), np.float32)
        motion = MotionRows(
            rng.normal(size=(ROWS, MOTION, 16)).astype(np.float32),
            np.tile(np.arange(MOTION) == 0, (ROWS, 1)),
            places[:, TEXT:],
            np.ones((ROWS, MOTION), np.int32),
            (rng.random((ROWS, MOTION)) < np.linspace(0.2, 1, ROWS)[:, None]).astype(np.float32),
            (rng.random((ROWS, MOTION)) < 0.1).astype(np.float32),
            ones,
        )
        return Batch(text, motion, kept() if prefix else None)

    def kept() -> PrefixRows:
        keys, values = (rng.normal(size=(ROWS, LAYERS, 8, prefix, 8)).astype(np.float16) for _ in range(2))
        places = np.zeros((ROWS, prefix), np.int32)
        return PrefixRows(keys, values, places, places + 1)

    return {"t2m": task(), "m2t": task()}


@functools.cache
def params(family: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    flat = flatten(init(llamo.Model, config(family), jax.random.key(0)))
    rng = np.random.default_rng(1)  # layers that start at zero would hide what lies behind them
    drawn = {
        path: np.asarray(leaf) + 0.05 * rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in flat.items()
    }
    frozen = {path: leaf for path, leaf in drawn.items() if path.startswith("text/")}
    return {path: leaf for path, leaf in drawn.items() if path not in frozen}, frozen


Result = tuple[dict[str, float], dict[str, np.ndarray], list[Collective]]
"""Figures, gradients of what trains, and collectives."""


@functools.cache
def result(family: str, shape: tuple[int, int, int], parts: int = 1, prefix: int = 0) -> Result:
    """What a mesh gives, with the rows of each device in so many parts, and a prefix of so many tokens."""
    trained, frozen = params(family)
    if shape == (1, 1, 1):
        parallel, mesh, placed = ALONE, None, None
    else:
        mesh = sharding.make_mesh(*shape)
        placed = shardings(llamo.Model, config(family), mesh)
        parallel = Parallel.of(placed, mesh, config(family).text)

    loss = LlamoLoss(config(family), LlamoLossConfig(history_hidden=0.4, gist_weight=0.5))
    gradients_of = of_sum(loss, parallel, parts=parts)

    def gradients(trained: dict, frozen: dict, batch: dict[str, Batch]) -> tuple:
        return gradients_of(trained, frozen, batch, jax.random.key(1))

    rows = batches(prefix)
    out = None
    if mesh is not None:
        trained, frozen = ({path: jax.device_put(leaf, placed[path]) for path, leaf in tree.items()}
                           for tree in (trained, frozen))  # fmt: skip
        rows = jax.device_put(rows, sharding.batch_sharding(mesh))
        out = (sharding.replicated(mesh), {path: placed[path] for path in trained})
    step = jax.jit(gradients, out_shardings=out and out[::-1])
    compiled = step.lower(trained, frozen, rows).compile()
    found_gradients, told = compiled(trained, frozen, rows)
    found = collectives_of(compiled.as_text(), mesh) if mesh is not None else []
    return (
        {name: float(value) for name, value in told.items()},
        {path: np.asarray(leaf) for path, leaf in found_gradients.items()},
        found,
    )


MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 2, 4)]


@pytest.mark.parametrize(
    ("family", "shape"), [("llama", shape) for shape in MESHES] + [("qwen3", (2, 2, 2)), ("qwen2", (1, 2, 4))]
)
def test_loss_and_gradients_do_not_depend_on_the_mesh(family: str, shape: tuple[int, int, int]) -> None:
    figures, gradients, _ = result(family, shape)
    expected, expected_gradients, _ = result(family, (1, 1, 1))
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-6), name
    off = sum(np.square(gradients[path] - leaf, dtype=float).sum() for path, leaf in expected_gradients.items())
    assert (off / sum(np.square(leaf, dtype=float).sum() for leaf in expected_gradients.values())) ** 0.5 < 1e-6
    # Of single arrays the one whose parts cancel most, [EOM], is off by 2.6e-6, all others by 1e-6 at most.
    for path, leaf in expected_gradients.items():
        off = np.abs(gradients[path] - leaf).max() / np.abs(leaf).max()
        assert off < 5e-6, (path, off)


@pytest.mark.parametrize(("shape", "parts"), [((2, 4, 1), 1), ((2, 4, 1), 2)])
def test_kept_keys_of_prompts_are_split_as_their_rows(shape: tuple[int, int, int], parts: int) -> None:
    figures, gradients, _ = result("llama", shape, parts, 4)
    expected, expected_gradients, _ = result("llama", (1, 1, 1), 1, 4)
    assert figures == pytest.approx(expected, rel=1e-6)
    assert expected["t2m_flow"] != pytest.approx(result("llama", (1, 1, 1))[0]["t2m_flow"], rel=1e-4)
    for path, leaf in expected_gradients.items():
        off = np.abs(gradients[path] - leaf).max() / np.abs(leaf).max()
        assert off < 5e-6, (path, off)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 4)])
def test_rows_in_parts_add_up_to_the_whole(shape: tuple[int, int, int]) -> None:
    """Noise and counts are the whole batch's: parts of rows with few tokens weigh little."""
    figures, gradients, found = result("llama", shape, 4)
    expected, expected_gradients, _ = result("llama", (1, 1, 1))
    assert figures == pytest.approx(expected, rel=1e-6)
    for path, leaf in expected_gradients.items():
        off = np.abs(gradients[path] - leaf).max() / np.abs(leaf).max()
        assert off < 5e-6, (path, off)
    if found:
        # What nothing splits is added up once, whatever the parts.
        assert {each.count for each in found if each.shape == (16,) and each.op == "all-reduce"} <= {1}


def _of(found: list[Collective], op: str, least: int = 64) -> dict[tuple[int, ...], int]:
    """Shape -> count of an operation, without those of a few numbers (norms, biases, sums of losses)."""
    counts: dict[tuple[int, ...], int] = {}
    for each in found:
        if each.op == op and np.prod(each.shape) > least:
            counts[each.shape] = counts.get(each.shape, 0) + each.count
    return counts


def test_fsdp_gathers_weights_scatters_gradients_and_moves_no_activations() -> None:
    """Per layer: weights forward and again backward, of the text tower forward alone where text comes first; gradients
    of what trains are scattered. Counted on paper: passes of t2m and m2t are 2 + 2, of the text tower 1 + 2."""
    found = result("llama", (1, 8, 1))[2]
    assert {each.mesh_axes for each in found} == {("fsdp",)}
    gathers = _of(found, "all-gather", 128)
    text, motion = 64, 48
    paper = {
        (64, text): 4 * 3, (128, text): 2 * 3, (text, 128): 1 * 3,  # q k v o, gate up, down
        (64, motion): 3 * 4, (motion, 64): 1 * 4, (96, motion): 2 * 4, (motion, 96): 1 * 4,
    }  # fmt: skip
    for shape, passes in paper.items():
        assert gathers.pop(shape) == passes * LAYERS, shape
    # The language head is one chunk, which the compiler keeps for the backward pass; of tokens each device looks up its
    # columns.
    assert gathers.pop((1024, text)) == 1 and gathers.pop((ROWS, TEXT)) == 2
    heads = {(64, 32), (96, 32), (32, 32), (32, motion), (motion, 16), (32, 16), (16, 32)}
    assert set(gathers) <= heads, gathers
    scattered = _of(found, "reduce-scatter", 48)
    for shape, count in {(64, 6): 3, (6, 64): 1, (96, 6): 2, (6, 96): 1}.items():
        assert scattered[shape] == 2 * count * LAYERS, shape
    # Columns of embeddings for rows of other devices: as much as one device's own rows.
    moved = sum(each.bytes for each in found if each.op == "all-to-all")
    assert moved <= 2 * 4 * ROWS // 8 * TEXT * text
    # Biases that nothing splits, and sums of losses.
    assert _of(found, "all-reduce") == {} and _of(found, "collective-permute", 0) == {}


def test_a_head_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered a chunk at a time, forward and again backward."""
    monkeypatch.setattr(llamo, "HEAD_ROWS", 100)  # the fewest equal chunks of at most so many: of 64 rows
    shape = (1, 2, 4)
    figures, gradients, found = result.__wrapped__("llama", shape)
    expected, expected_gradients, _ = result("llama", (1, 1, 1))
    assert figures == pytest.approx(expected, rel=1e-6)
    off = {path: np.abs(gradients[path] - leaf).max() / np.abs(leaf).max() for path, leaf in expected_gradients.items()}
    assert max(off.values()) < 5e-6
    chunks = 1024 // 64 // shape[2]
    assert _of(found, "all-gather", 128)[64, 64] == 2 * chunks


def test_tensor_adds_up_twice_a_layer_each_way() -> None:
    found = result("llama", (1, 1, 8))[2]
    assert {each.mesh_axes for each in found} == {("tensor",)}
    sums = _of(found, "all-reduce")
    # Two a layer, forward and backward: text 1 + 2 passes, motion 2 + 2; embeddings of both batches, and the head's.
    assert sums[ROWS, TEXT, 64] == 2 * LAYERS * 3 + 2 + 1
    assert sums[ROWS, MOTION, 48] == 2 * LAYERS * 4
    assert set(sums) <= {(ROWS, TEXT, 64), (ROWS, MOTION, 48), (ROWS, TEXT)}
    assert _of(found, "all-gather", 4) == {} and _of(found, "reduce-scatter", 4) == {}


def test_data_adds_up_gradients_once_a_step() -> None:
    found = result("llama", (8, 1, 1))[2]
    assert {(each.op, each.mesh_axes) for each in found} == {("all-reduce", ("data",))}
    trained = {leaf.shape for leaf in params("llama")[0].values()}
    sums = _of(found, "all-reduce", 0)
    assert {shape for shape in sums if np.prod(shape) > 64} <= trained
    assert sum(count for shape, count in sums.items() if np.prod(shape) > 64) == sum(
        leaf.size > 64 for leaf in params("llama")[0].values()
    )


@pytest.mark.parametrize("shape", MESHES)
def test_bytes_are_those_on_paper(shape: tuple[int, int, int]) -> None:
    """Each kind of collective that a mesh is for, within 10 %; all else together is less than 1 %."""
    layout = Layout(shape, {"t2m": ROWS, "m2t": ROWS}, TEXT, MOTION, remat="none", width=4)
    paper = network_bytes(config("llama"), layout)
    found: dict[tuple[str, str], int] = {}
    for each in result("llama", shape)[2]:
        kind = each.op, "+".join(each.mesh_axes)
        found[kind] = found.get(kind, 0) + each.bytes
    for kind, size in paper.items():
        assert found.pop(kind) == pytest.approx(size, rel=0.1), kind
    assert sum(found.values()) < 0.01 * sum(paper.values()), found


def test_a_mesh_never_cuts_a_head_in_two() -> None:
    text = dataclasses.replace(config("llama").text, num_kv_heads=4, head_dim=64)
    mesh = sharding.make_mesh(1, 1, 8)
    with pytest.raises(InputError, match=r'8 heads and 4 key-value heads .* "tensor" of size 8; choose .* 1, 2, 4$'):
        Parallel.of({}, mesh, text)


def test_rows_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(InputError, match="batches of 6 rows cannot be split over data x fsdp = 8 devices"):
        sharding.mesh_for((2, 4, 1), 16, 6)
    with pytest.raises(InputError, match="expected three sizes, data,fsdp,tensor"):
        sharding.mesh_shape("8,1")
    assert sharding.mesh_for((2, 4, 1), 16).shape == {"data": 2, "fsdp": 4, "tensor": 1}
