"""Every kernel attends as `xla` does, on packed rows of both streams, forward and backward, and on a mesh."""

import functools
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llamo_jax import sharding
from llamo_jax.errors import InputError
from llamo_jax.models.attention import Places, attend, attention, backend_for, cudnn, plan, visible
from llamo_jax.models.parallel import Parallel

HEADS, GROUPS, WIDTH = 4, 2, 8
Sample = tuple[int, int, int]
"""Text tokens before a motion, its slots, and text tokens behind it."""

GENERATED: tuple[Sample, ...] = ((5, 30, 0), (9, 70, 0), (3, 20, 0))
MIXED: tuple[Sample, ...] = ((5, 30, 12), (9, 0, 4), (0, 60, 20), (2, 20, 0))


def packed(samples: Sequence[Sample], text_len: int, motion_len: int) -> tuple[Places, Places]:
    """One row: samples behind each other, then padding."""
    parts: tuple[list, list] = ([], [])
    for number, (before, slots, after) in enumerate(samples, 1):
        positions = np.arange(before + slots + after)
        moving = (positions >= before) & (positions < before + slots)
        for part, mine in zip(parts, (~moving, moving), strict=True):
            part.append((positions[mine], np.full(mine.sum(), number)))

    def row(part: list, length: int) -> Places:
        both = (np.concatenate(each).astype(np.int32) for each in zip(*part, strict=True))
        return Places(*(jnp.asarray(np.pad(each, (0, length - len(each))))[None] for each in both))

    return row(parts[0], text_len), row(parts[1], motion_len)


def rows(*each: tuple[Places, Places]) -> tuple[Places, Places]:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *each)


def projected(streams: Sequence[Places], heads: int = HEADS, groups: int = GROUPS, width: int = WIDTH) -> list:
    keys = iter(jax.random.split(jax.random.key(0), 9))
    return [
        tuple(
            jax.random.normal(next(keys), (len(places.positions), count, places.positions.shape[1], width))
            for count in (heads, groups, groups)
        )
        for places in streams
    ]


def weighted(streams: Sequence[Places], parts: Sequence[jax.Array]) -> jax.Array:
    """A loss of all tokens that are no padding, weighted differently."""
    total = jnp.float32(0)
    for places, part in zip(streams, parts, strict=True):
        weights = 1 + 0.5 * jnp.cos(jnp.arange(np.prod(part.shape[1:])).reshape(part.shape[1:]))
        total += (part * weights * (places.segments > 0)[:, None, :, None]).sum()
    return total


@functools.partial(jax.jit, static_argnames=("backend", "sees", "window"))
def mixed_with_gradients(streams: Any, inputs: Any, *, backend: str, sees: Any = None, window: Any = None) -> Any:
    def loss(inputs: Any) -> Any:
        found = attend(plan(streams, sees, window=window, backend=backend, interpret=True), inputs)
        return weighted(streams, found), found

    return jax.value_and_grad(loss, has_aux=True)(inputs)


@pytest.mark.parametrize(
    ("samples", "sees", "window"), [(MIXED, None, None), (GENERATED, (1, 2), None), (MIXED, None, 16)]
)
def test_splash_is_xla_on_packed_rows(samples: tuple, sees: tuple | None, window: int | None) -> None:
    streams = rows(packed(samples, 60, 130), packed(samples[:2], 60, 130))
    inputs = projected(streams)
    (_, found), gradients = mixed_with_gradients(streams, inputs, backend="splash", sees=sees, window=window)
    (_, expected), of_xla = mixed_with_gradients(streams, inputs, backend="xla", sees=sees, window=window)
    for places, ours, theirs in zip(streams, found, expected, strict=True):
        real = (places.segments > 0)[:, None, :, None]
        np.testing.assert_allclose(jnp.where(real, ours, 0), jnp.where(real, theirs, 0), atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradients, of_xla)
    # What may be left out is not differentiated.
    assert all(bool(np.any(np.asarray(each))) == (sees is None) for each in gradients[0])


@pytest.mark.parametrize("sees", [None, (1, 2)])
def test_xla_is_what_it_was_to_the_bit(sees: tuple[int, int] | None) -> None:
    """Against the formula of one tower, written out."""
    streams = packed(GENERATED, 20, 130)
    inputs = projected(streams)

    def written_out(inputs: Any) -> list:
        found = []
        for number, (q, _, _) in enumerate(inputs):
            count = (sees or (2, 2))[number]
            k, v = (jnp.concatenate([each[part] for each in inputs[:count]], 2) for part in (1, 2))
            keys = Places(*(jnp.concatenate(parts, 1) for parts in zip(*streams[:count], strict=True)))
            distance = streams[number].positions[:, :, None] - keys.positions[:, None, :]
            same = streams[number].segments[:, :, None] == keys.segments[:, None, :]
            stacked = q.reshape(1, GROUPS, -1, WIDTH)
            logits = jnp.einsum("bkth,bksh->bkts", stacked, k, preferred_element_type=jnp.float32) * WIDTH**-0.5
            mask = jnp.where((distance >= 0) & same, 0.0, -1e30)
            logits = logits + jnp.tile(mask, (1, HEADS // GROUPS, 1))[:, None]
            weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
            mixed = jnp.einsum("bkts,bksh->bkth", weights, v) / weights.sum(-1, keepdims=True)
            found.append(mixed.reshape(q.shape))
        return found

    expected = jax.jit(written_out)(inputs)
    found = jax.jit(lambda inputs: attend(plan(streams, sees), inputs))(inputs)
    jax.tree.map(np.testing.assert_array_equal, list(found), expected)


@pytest.mark.parametrize("width", [64, 128])
def test_splash_on_a_mesh(width: int) -> None:
    """Rows over data and fsdp, heads over tensor, with gradients that are taken inside of the map."""
    mesh = sharding.make_mesh(2, 2, 2)
    streams = rows(*(packed(MIXED[: 1 + number], 60, 130) for number in range(4)))
    inputs = projected(streams, width=width)
    place, heads = PartitionSpec(("data", "fsdp")), PartitionSpec(("data", "fsdp"), "tensor")

    def on_each(streams: Any, inputs: Any) -> Any:
        def loss(inputs: Any) -> jax.Array:
            found = attend(plan(streams, backend="splash", interpret=True), inputs)
            # The same weights for each head: a device does not know which it has.
            parts = [jnp.square(part).sum(1, keepdims=True) for part in found]
            return jax.lax.psum(weighted(streams, parts), ("data", "fsdp", "tensor"))

        return jax.value_and_grad(loss)(inputs)

    mapped = jax.shard_map(on_each, mesh=mesh, in_specs=(place, heads), out_specs=(PartitionSpec(), heads))
    loss, gradients = jax.jit(mapped)(streams, inputs)

    def alone(inputs: Any) -> jax.Array:
        return weighted(streams, [jnp.square(part).sum(1, keepdims=True) for part in attend(plan(streams), inputs)])

    expected, of_xla = jax.jit(jax.value_and_grad(alone))(inputs)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradients, of_xla)


@pytest.mark.parametrize("window", [None, 16])
def test_cudnn_attends_to_the_same(window: int | None) -> None:
    """Its arguments, for the reference of the same function: masks, groups, layout, and padding of odd lengths."""
    streams = packed(MIXED, 55, 115)
    (q, k, v), _ = projected(streams)
    _, *motion = projected(streams)[1]
    k, v = (jnp.concatenate(parts, 2) for parts in zip((k, v), motion, strict=True))
    keys = Places(*(jnp.concatenate(parts, 1) for parts in zip(*streams, strict=True)))
    mask = visible(streams[0], keys, window=window)
    assert q.shape[2] % 2 and k.shape[2] % 2 == 0
    for k_, v_, mask_ in ((k, v, mask), (k[:, :, :-1], v[:, :, :-1], mask[..., :-1])):
        found, expected = cudnn(q, k_, v_, mask_, implementation="xla"), attention(q, k_, v_, mask_)
        np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.gpu
@pytest.mark.skipif("jax.default_backend() != 'gpu'", reason="needs a GPU")
@pytest.mark.parametrize("width", [64, 128])
def test_cudnn_is_xla_on_a_gpu(width: int) -> None:
    streams = rows(packed(MIXED, 61, 131), packed(GENERATED, 61, 131))
    inputs = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), projected(streams, width=width))
    (_, found), gradients = mixed_with_gradients(streams, inputs, backend="cudnn")
    (_, expected), of_xla = mixed_with_gradients(streams, inputs, backend="xla")
    for places, ours, theirs in zip(streams, found, expected, strict=True):
        real = np.asarray(places.segments > 0)[:, None, :, None]
        np.testing.assert_allclose(*(np.where(real, np.asarray(x, np.float32), 0) for x in (ours, theirs)), atol=2e-2)
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(of_xla), strict=True):
        ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
        assert np.abs(ours - theirs).max() < 2e-2 * np.abs(theirs).max()


@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler")
@pytest.mark.parametrize(
    ("width", "lengths", "window"), [(64, (256, 256), None), (128, (100, 700), None), (32, (60, 40), 16)]
)
def test_splash_compiles_for_tpus(width: int, lengths: tuple[int, int], window: int | None) -> None:
    """With gradients, in a map over rows and heads: a kernel forward and one backward."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5p:2x2x1").devices
    mesh = Mesh(np.array(devices).reshape(2, 1, 2), sharding.MESH_AXES)
    place, heads = PartitionSpec(("data", "fsdp")), PartitionSpec(("data", "fsdp"), "tensor")

    def abstract(spec: PartitionSpec, *shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    streams = [Places(*[abstract(place, 4, length, dtype=jnp.int32)] * 2) for length in lengths]
    inputs = [tuple(abstract(heads, 4, count, length, width) for count in (8, 4, 4)) for length in lengths]

    def on_each(streams: Any, inputs: Any) -> Any:
        def loss(inputs: Any) -> jax.Array:
            found = attend(plan(streams, window=window, backend="splash"), inputs)
            return jax.lax.psum(weighted(streams, [part.astype(jnp.float32) for part in found]), sharding.MESH_AXES)

        return jax.grad(loss)(inputs)

    mapped = jax.shard_map(on_each, mesh=mesh, in_specs=(place, heads), out_specs=heads)
    text = jax.jit(mapped).lower(streams, inputs).compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 2


def test_the_backend_is_the_platforms() -> None:
    bf16, f32 = jnp.bfloat16, jnp.float32
    found = [backend_for("auto", platform, bf16, 64) for platform in ("cpu", "gpu", "tpu")]
    assert found == ["xla", "cudnn", "splash"]
    assert [backend_for("auto", "gpu", *what) for what in ((f32, 64), (bf16, 12), (bf16, 256))] == ["xla"] * 3
    assert backend_for("xla", "tpu", bf16, 64) == "xla" and Parallel().attention_options(f32, 64)["backend"] == "xla"
    with pytest.raises(InputError, match='attention "cudnn": found float32 and heads of width 64; expected bfloat16'):
        backend_for("cudnn", "gpu", f32, 64)
