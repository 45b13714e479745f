"""Splash attention, JAX's Pallas kernel for TPUs, over two streams that are gathered into the order of time.

In that order a causal mask and segment numbers say all of what a token sees, so that blocks of the mask that lie in the
future are neither loaded nor computed, and the mask itself is never there.
"""

import dataclasses
import functools
import importlib.util
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

BLOCKS = (512, 256, 128)
"""Tokens of a block of the kernel, the fastest first. A row is padded to a multiple of one of them."""

KEPT = "mixed"
"""Name of what the kernel's backward pass needs of its forward pass, for policies of rematerialisation."""


@dataclasses.dataclass(frozen=True)
class TimeOrder:
    """The tokens of a row sorted by sample and position, padding last. P is S padded to whole blocks.

    Attributes:
      order: which token stands at each place.
      inverse: at which place each token stands.
      segments: of the sorted tokens.
      window: a token sees this many positions, its own included; None is all before it.
      interpret: run the kernel by XLA, on devices that are no TPUs.
    """

    order: Int[Array, "B P"]
    inverse: Int[Array, "B P"]
    segments: Int[Array, "B P"]
    window: int | None
    interpret: bool


def time_order(
    positions: Int[Array, "B S"], segments: Int[Array, "B S"], *, window: int | None, interpret: bool
) -> TimeOrder:
    """Sorts the tokens of all streams, each row on its own.

    Positions of a sample are counted without gaps, so that a window of places is one of positions.
    """
    length = positions.shape[1]
    padding = ((0, 0), (0, -length % _block(length)))
    positions, segments = jnp.pad(positions, padding), jnp.pad(segments, padding)
    last = jnp.where(segments > 0, segments, jnp.iinfo(jnp.int32).max)
    order = jnp.lexsort((positions, last))
    return TimeOrder(
        order, jnp.argsort(order), jnp.take_along_axis(segments, order, 1), window=window, interpret=interpret
    )


def attention(
    q: Float[Array, "B N S H"], k: Float[Array, "B K S H"], v: Float[Array, "B K S H"], order: TimeOrder
) -> Float[Array, "B N S H"]:
    """Causal attention within samples, of tokens in the order of the streams."""
    heads, length, width = q.shape[1:]
    padding = ((0, 0), (0, 0), (0, order.order.shape[1] - length), (0, 0))
    # The kernel does not scale its logits.
    q, k, v = (_permuted(jnp.pad(part, padding), order.order, order.inverse) for part in (q * width**-0.5, k, v))
    kernel, segments = _kernels(), order.segments
    attend = _made(kernel, heads, segments.shape[1], order.window, order.interpret)
    mixed = jax.vmap(lambda q, k, v, ids: attend(q, k, v, kernel.SegmentIds(ids, ids)))(q, k, v, segments)
    return _permuted(mixed, order.inverse, order.order)[:, :, :length]


def _block(length: int) -> int:
    """The block that needs the least padding, the largest of them."""
    return min(BLOCKS, key=lambda block: -(-length // block) * block)


@jax.custom_vjp
def _permuted(
    x: Float[Array, "B N P H"], order: Int[Array, "B P"], inverse: Int[Array, "B P"]
) -> Float[Array, "B N P H"]:
    """Tokens in another order. The gradient is gathered too: a scatter is what it would be otherwise."""
    del inverse
    return jax.vmap(lambda row, order: row.at[:, order].get(mode="promise_in_bounds", unique_indices=True))(x, order)


def _permuted_forward(x: Array, order: Array, inverse: Array) -> tuple[Array, tuple[Array, Array]]:
    return _permuted(x, order, inverse), (order, inverse)


def _permuted_backward(orders: tuple[Array, Array], gradient: Array) -> tuple[Array, None, None]:
    order, inverse = orders
    return _permuted(gradient, inverse, order), None, None


_permuted.defvjp(_permuted_forward, _permuted_backward)


def _made(kernel: types.ModuleType, heads: int, length: int, window: int | None, interpret: bool) -> Callable:
    """The kernel for one row. Key-value heads may be fewer than heads."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    shape, block = (length, length), _block(length)
    mask = masks.CausalMask(shape) if window is None else masks.LocalMask(shape, (window - 1, 0), 0)
    sizes = {f"block_{name}": block for name in ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute")}
    return kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=kernel.BlockSizes(**sizes, use_fused_bwd_kernel=True),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=KEPT,
        interpret=interpret,
    )


@functools.cache
def _kernels() -> types.ModuleType:
    """A copy of JAX's module whose kernels may be called in `jax.shard_map`.

    JAX's own does not say over which mesh axes its results vary, and is refused there.
    """
    from jax.experimental import pallas

    spec = importlib.util.find_spec("jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel")
    kernel = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernel)
    kernel.pl = types.SimpleNamespace(**vars(pallas) | {"pallas_call": _mapped(pallas.pallas_call)})
    return kernel


def _mapped(pallas_call: Callable) -> Callable:
    """`pallas_call` whose results vary over the mesh axes that its arguments vary over."""

    def made(*arguments: Any, **options: Any) -> Callable:
        run = pallas_call(*arguments, **options)

        def call(*inputs: Any) -> Any:
            axes = tuple(set().union(*(jax.typeof(leaf).mat.varying for leaf in jax.tree.leaves(inputs))))
            if not axes:
                return run(*inputs)

            def unchecked(*inputs: Any) -> Any:
                # Operations in here forget over what their arguments vary: the kernel may mix them with constants.
                return run(*jax.tree.map(lambda leaf: jnp.squeeze(leaf[None], 0), inputs))

            everything = PartitionSpec()
            results = jax.shard_map(unchecked, in_specs=everything, out_specs=everything, check_vma=False)(*inputs)
            return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axes, to="varying"), results)

        return call

    return made
