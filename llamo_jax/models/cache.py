"""The key-value cache of generation: fixed size, in the order in which tokens came, from either tower."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llamo_jax.config import LLMConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys (rotated) and values of S slots for each of L layers.

    A slot is empty, or padding, while its segment is 0. `cursor` is the number of slots in use, the same for all rows: rows with
    shorter prompts have padding slots in between, which carry no position anyone sees.
    """

    k: tuple[Float[Array, "B S K H"], ...]
    v: tuple[Float[Array, "B S K H"], ...]
    positions: Int[Array, "B S"]
    segments: Int[Array, "B S"]
    cursor: Int[Array, ""]

    @classmethod
    def empty(cls, config: LLMConfig, batch: int, slots: int, dtype: jnp.dtype = jnp.float32) -> Self:
        """A cache with nothing in it."""
        shape = (batch, slots, config.num_kv_heads, config.head_dim)

        def zeros() -> tuple[Array, ...]:
            return tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers))

        # Each array is its own: a cache is donated to every step, and one buffer cannot be given away twice.
        return cls(zeros(), zeros(), *(jnp.zeros((batch, slots), jnp.int32) for _ in range(2)), jnp.int32(0))

    def advance(self, positions: Int[Array, "B T"], segments: Int[Array, "B T"]) -> Self:
        """Takes the next T slots for tokens at these positions; `write` then fills them, layer by layer."""
        return dataclasses.replace(
            self,
            positions=jax.lax.dynamic_update_slice(self.positions, positions, (0, self.cursor)),
            segments=jax.lax.dynamic_update_slice(self.segments, segments, (0, self.cursor)),
            cursor=self.cursor + positions.shape[1],
        )

    def write(self, layer: int, k: Float[Array, "B T K H"], v: Float[Array, "B T K H"]) -> Self:
        """Puts one layer's keys and values into the slots that the last `advance` took."""
        start = (0, self.cursor - k.shape[1], 0, 0)
        new_k = jax.lax.dynamic_update_slice(self.k[layer], k.astype(self.k[layer].dtype), start)
        new_v = jax.lax.dynamic_update_slice(self.v[layer], v.astype(self.v[layer].dtype), start)
        return dataclasses.replace(self, k=(*self.k[:layer], new_k, *self.k[layer + 1 :]), v=(*self.v[:layer], new_v, *self.v[layer + 1 :]))
