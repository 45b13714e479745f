"""The key-value cache of generation: fixed size, each row in the order in which its tokens came, from either tower."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llamo_jax.config import LLMConfig
from llamo_jax.models.attention import Places


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys (rotated) and values of S slots for each of L layers.

    A slot is empty while its segment is 0. Each row fills its own slots, one behind the other: `cursor` says how many.
    """

    k: tuple[Float[Array, "R K S H"], ...]
    v: tuple[Float[Array, "R K S H"], ...]
    places: Places  # [R, S]
    cursor: Int[Array, " R"]

    @classmethod
    def empty(cls, config: LLMConfig, rows: int, slots: int, dtype: jnp.dtype = jnp.float32) -> Self:
        """A cache with nothing in it."""
        shape = (rows, config.num_kv_heads, slots, config.head_dim)

        def zeros() -> tuple[Array, ...]:
            return tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers))

        # Each array is its own: a cache is donated to every step, and one buffer cannot be given away twice.
        places = Places(*(jnp.zeros((rows, slots), jnp.int32) for _ in range(2)))
        return cls(zeros(), zeros(), places, jnp.zeros(rows, jnp.int32))

    def advance(self, places: Places) -> tuple[Self, Int[Array, "R T"]]:
        """Takes slots for tokens at these places [R, T], and returns their indices, for `write`.

        Padding must be on the right. It takes slots that the next tokens take again.
        """
        slots = self.cursor[:, None] + jnp.arange(places.positions.shape[1], dtype=jnp.int32)
        rows = jnp.arange(len(slots))[:, None]
        # Padding may reach behind the last slot, where nothing is written.
        taken = Places(
            *(old.at[rows, slots].set(new, mode="drop") for old, new in zip(self.places, places, strict=True))
        )
        count = (places.segments > 0).sum(1, dtype=jnp.int32)
        return dataclasses.replace(self, places=taken, cursor=self.cursor + count), slots

    def write(
        self, layer: int, slots: Int[Array, "R T"], k: Float[Array, "R K T H"], v: Float[Array, "R K T H"]
    ) -> Self:
        """Puts one layer's keys and values into slots."""
        new_k, new_v = (_written(old[layer], slots, new) for old, new in ((self.k, k), (self.v, v)))
        return dataclasses.replace(
            self,
            k=(*self.k[:layer], new_k, *self.k[layer + 1 :]),
            v=(*self.v[:layer], new_v, *self.v[layer + 1 :]),
        )


def _written(
    old: Float[Array, "R K S H"], slots: Int[Array, "R T"], new: Float[Array, "R K T H"]
) -> Float[Array, "R K S H"]:
    rows = jnp.arange(len(slots))[:, None]
    return old.at[rows, :, slots].set(jnp.moveaxis(new, 1, 2).astype(old.dtype), mode="drop")
