"""What is kept of a layer for its backward pass changes memory and nothing else, on one device and on a mesh."""

import functools
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from llamo_jax import sharding
from llamo_jax.config import LLMConfig
from llamo_jax.models import mot
from llamo_jax.models.attention import Places
from llamo_jax.models.declaration import init, shardings
from llamo_jax.models.parallel import ROWS, Parallel
from llamo_jax.trees import flatten, unflatten

CONFIG = LLMConfig(8, 16, 2, 4, 2, 8, 52)
WIDTHS = {"text": (16, 52), "motion": (24, 44)}
POLICIES = ("none", "minimal", "full", "offload")


class Towers(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, config: LLMConfig):
        for name, sizes in WIDTHS.items():
            setattr(self, name, nnx.Dict(layers=mot.Tower(rngs, config, *sizes)))


@functools.cache
def weights() -> dict[str, Any]:
    return init(Towers, CONFIG, jax.random.key(0))


@functools.cache
def streams() -> list[mot.Stream]:
    """8 rows of 40 text tokens and then 88 slots, of both the last 8 padding."""
    made = []
    for (width, _), start, length in zip(WIDTHS.values(), (0, 40), (40, 88), strict=True):
        index = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (8, length))
        x = jax.random.normal(jax.random.key(start), (*index.shape, width))
        made.append(mot.Stream(x, Places(start + index, jnp.where(index < length - 8, 1, 0))))
    return made


def mean_square(weights: dict, streams: list[mot.Stream], parallel: Parallel, sees: tuple[int, int] | None) -> Any:
    towers = [(weights[name]["layers"], stream) for name, stream in zip(WIDTHS, streams, strict=True)]
    total = jnp.float32(0)
    for x, stream in zip(mot.forward(towers, CONFIG, sees=sees, parallel=parallel), streams, strict=True):
        total += (jnp.square(x).mean(-1) * (stream.places.segments > 0)).sum()
    return total


def step(remat: str, attention: str = "auto", mesh: Mesh | None = None, sees: tuple[int, int] | None = None) -> Any:
    """Loss and gradients of weights and streams."""
    if mesh is None:
        parallel = Parallel(remat=remat, attention=attention)
        return lambda weights, streams: jax.value_and_grad(mean_square)(weights, streams, parallel, sees)
    specs = {path: where.spec for path, where in shardings(Towers, CONFIG, mesh).items()}
    parallel = Parallel(mesh, specs, remat=remat, attention=attention)

    def on_each(weights: dict, streams: list[mot.Stream]) -> Any:
        def loss(weights: dict) -> Any:
            return jax.lax.psum(mean_square(weights, streams, parallel, sees), ROWS)

        return jax.value_and_grad(loss)(weights)

    placed = unflatten({path: specs[path] for path in flatten(weights())})
    return jax.shard_map(
        on_each, mesh=mesh, in_specs=(placed, PartitionSpec(ROWS)), out_specs=(PartitionSpec(), placed)
    )


@functools.cache
def result(*arguments: Any) -> tuple[Any, int]:
    """Loss and gradients, and bytes of temporary memory."""
    compiled = jax.jit(step(*arguments)).lower(weights(), streams()).compile()
    return compiled(weights(), streams()), compiled.memory_analysis().temp_size_in_bytes


@functools.cache
def mesh() -> Mesh:
    return sharding.make_mesh(2, 2, 2)


def close(found: Any, expected: Any) -> None:
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-6)
    for (path, ours), theirs in zip(flatten(found[1]).items(), flatten(expected[1]).values(), strict=True):
        assert np.abs(ours - theirs).max() < 5e-6 * np.abs(theirs).max(), path


@pytest.mark.parametrize("remat", POLICIES[1:])
def test_gradients_are_the_same(remat: str) -> None:
    close(result(remat)[0], result("none")[0])


def test_gradients_are_the_same_on_a_mesh() -> None:
    """With the kernel whose backward pass needs what its forward pass kept."""
    close(result("minimal", "splash", mesh())[0], result("none")[0])


def test_less_kept_is_less_memory() -> None:
    none, minimal, full = (result(remat)[1] for remat in POLICIES[:3])
    assert none > 1.3 * minimal and minimal > 1.3 * full


def counted(function: Any, *arguments: Any) -> Counter:
    """How often a program, as it is traced, gathers a matrix, and has products of each size of their axes."""
    counts: Counter = Counter()

    def visit(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            counts["gathers"] += equation.primitive.name == "all_gather" and equation.outvars[0].aval.ndim > 1
            if equation.primitive.name == "dot_general":
                counts.update({size for operand in equation.invars for size in operand.aval.shape})
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple) else (value,):
                    if hasattr(inner, "eqns"):
                        visit(getattr(inner, "jaxpr", inner))

    visit(jax.make_jaxpr(function)(*arguments).jaxpr)
    return counts


@pytest.mark.parametrize("remat", POLICIES)
def test_gathered_weights_are_never_kept(remat: str) -> None:
    """Each is gathered forward and again backward: of both towers q, k, v, o, gate, up and down."""
    assert counted(step(remat, "xla", mesh()), weights(), streams())["gathers"] == 2 * 2 * 7


@pytest.mark.parametrize("attention", ["xla", "splash"])
def test_text_that_comes_first_has_no_backward_pass(attention: str) -> None:
    parallel = Parallel(attention=attention)
    text, motion = weights()["text"], weights()["motion"]

    def loss(motion: dict) -> Any:
        return mean_square({"text": text, "motion": motion}, streams(), parallel, (1, 2))

    forward, both = counted(loss, motion), counted(jax.grad(loss), motion)
    (_, text_ffn), (_, motion_ffn) = WIDTHS.values()
    assert both[text_ffn] == forward[text_ffn] == 3 and both[motion_ffn] > 2 * forward[motion_ffn] == 6
