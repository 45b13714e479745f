"""One training step, the same for every stage and for the VAE: a pure function under `jax.jit` with given shardings."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int

from llamo_jax import sharding
from llamo_jax.training import optim
from llamo_jax.training.losses import Metrics
from llamo_jax.training.optim import FlatParams, OptimConfig
from llamo_jax.trees import partition, unflatten

Loss = Callable[[dict[str, Any], Any, Array], tuple[Array, Metrics]]
"""(parameter tree, batch, key) -> (loss, figures to log)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes. `params` holds every parameter that may train in some stage, `opt_state` only those that train in this one."""

    step: Int[Array, ""]
    params: FlatParams
    opt_state: Any

    @classmethod
    def create(
        cls, params: FlatParams, config: OptimConfig, trainable: Callable[[str], bool], mesh: Mesh, shardings: dict[str, NamedSharding]
    ) -> "TrainState":
        """The state before the first step of a stage, laid out as the step returns it, so that the step compiles once.

        The arrays are copies: the step takes its state for good.
        """
        placed = {path: jax.device_put(jnp.copy(leaf), shardings[path]) for path, leaf in params.items()}
        opt_state = optim.transformation(config).init(partition(placed, trainable)[0])
        state = cls(jnp.int32(0), placed, opt_state)
        return jax.device_put(state, state.shardings(mesh, shardings))

    def shardings(self, mesh: Mesh, shardings: dict[str, NamedSharding]) -> "TrainState":
        """The sharding of every array of the state, as a tree of its shape."""
        everywhere = sharding.replicated(mesh)
        opt_state = jax.tree_util.tree_map_with_path(lambda path, _: _moment_sharding(path, shardings, everywhere), self.opt_state)
        return TrainState(everywhere, {path: shardings[path] for path in self.params}, opt_state)


def make_step(
    loss: Loss,
    config: OptimConfig,
    trainable: Callable[[str], bool],
    mesh: Mesh,
    shardings: dict[str, NamedSharding],
    seed: int,
) -> Callable[[TrainState, FlatParams, Any, Array], tuple[TrainState, Metrics]]:
    """The compiled step (state, frozen, batch, progress) -> (state, metrics).

    Args:
      loss: the loss of the whole tree.
      config: of the optimizer.
      trainable: says of a path whether it trains in this stage; gradients are taken over those paths only.
      mesh: the mesh to run on.
      shardings: of every path of `state.params` and `frozen`.
      seed: of all randomness; step i uses the key fold_in(key(seed), i), so that a resumed run draws what an uninterrupted one does.

    Returns:
      The step. `frozen` is a flat tree that never changes (the text tower), `progress` the fraction of the run that is over. The state
      is donated.
    """
    transform = optim.transformation(config)

    def step(state: TrainState, frozen: FlatParams, batch: Any, progress: Array) -> tuple[TrainState, Metrics]:
        trained, fixed = partition(state.params, trainable)
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_of(trained: FlatParams) -> tuple[Array, Metrics]:
            return loss(unflatten(trained | fixed | frozen), batch, key)

        gradients, metrics = jax.grad(loss_of, has_aux=True)(trained)
        gradients = {path: jax.lax.with_sharding_constraint(leaf, shardings[path]) for path, leaf in gradients.items()}
        updates, opt_state = transform.update(gradients, state.opt_state, trained)
        rate = optim.learning_rate(config, state.step, progress)
        metrics = metrics | {"gradient_norm": optax.tree.norm(gradients), "learning_rate": rate}
        params = fixed | optim.apply(config, trained, updates, rate)
        return TrainState(state.step + 1, params, opt_state), metrics

    compiled: dict[str, Any] = {}

    def run(state: TrainState, frozen: FlatParams, batch: Any, progress: Array) -> tuple[TrainState, Metrics]:
        if "step" not in compiled:
            out = (state.shardings(mesh, shardings), sharding.replicated(mesh))
            ins = (out[0], {path: shardings[path] for path in frozen}, sharding.batch_sharding(mesh), sharding.replicated(mesh))
            compiled["step"] = jax.jit(step, in_shardings=ins, out_shardings=out, donate_argnums=0)
        return compiled["step"](state, frozen, batch, progress)

    return run


def _moment_sharding(path: tuple, shardings: dict[str, NamedSharding], default: NamedSharding) -> NamedSharding:
    """Adam's moments are dicts by parameter path: each lies as its parameter does."""
    keys = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    return shardings[keys[-1]] if keys else default
