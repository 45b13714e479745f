"""One training step, the same for every stage and every network: a pure function, compiled with given shardings."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
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

Trains = Callable[[str], bool]
"""Whether the parameter at a path trains in this stage."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes: every parameter that may train in some stage, and the optimizer of those that train now."""

    step: Int[Array, ""]
    params: FlatParams
    opt_state: Any

    @classmethod
    def start(cls, params: FlatParams, config: OptimConfig, trains: Trains) -> "TrainState":
        """The state before the first step of a stage. Pure: `init` runs it, and `abstract` only looks at its shapes."""
        # Copies: the step takes its state for good.
        copies = {path: jax.numpy.copy(leaf) for path, leaf in params.items()}
        opt_state = optim.transformation(config).init(partition(copies, trains)[0])
        return cls(jax.numpy.int32(0), copies, opt_state)

    @classmethod
    def abstract(
        cls, params: FlatParams, config: OptimConfig, trains: Trains, mesh: Mesh, shardings: dict[str, NamedSharding]
    ) -> "TrainState":
        """Shapes, types and shardings of the state, with nothing allocated: what is compiled for and restored into.

        Args:
          params: arrays or their shapes, by path.
          config: of the optimizer.
          trains: which paths do.
          mesh: to train on.
          shardings: by path.
        """
        shapes = jax.eval_shape(lambda tree: cls.start(tree, config, trains), params)
        everywhere = sharding.replicated(mesh)
        opt_state = jax.tree_util.tree_map_with_path(
            lambda path, _: _moment_sharding(path, shardings, everywhere), shapes.opt_state
        )
        placed = cls(everywhere, {path: shardings[path] for path in shapes.params}, opt_state)
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes, placed
        )

    @classmethod
    def init(
        cls, params: FlatParams, config: OptimConfig, trains: Trains, mesh: Mesh, shardings: dict[str, NamedSharding]
    ) -> "TrainState":
        """The state before the first step, each array made where it is to lie."""
        target = cls.abstract(params, config, trains, mesh, shardings)
        params = {path: jax.device_put(leaf, shardings[path]) for path, leaf in params.items()}
        out = jax.tree.map(lambda leaf: leaf.sharding, target)
        return jax.jit(lambda tree: cls.start(tree, config, trains), out_shardings=out)(params)


Step = Callable[[TrainState, FlatParams, Any, Array], tuple[TrainState, Metrics]]
"""(state, frozen, batch, progress) -> (state, figures). `frozen` is a flat tree that never changes (the text tower),
and `progress` the fraction of the run that is over."""


def make_step(
    loss: Loss, config: OptimConfig, trains: Trains, shardings: dict[str, NamedSharding], *, seed: int
) -> Step:
    """The step as a pure function.

    Args:
      loss: the loss of the whole tree.
      config: of the optimizer.
      trains: which paths do; gradients are taken over those only.
      shardings: of every path of `state.params`; gradients are laid out so.
      seed: of all randomness; step i uses the key fold_in(key(seed), i), so that a resumed run draws what an
        uninterrupted one does.
    """
    transform = optim.transformation(config)

    def step(state: TrainState, frozen: FlatParams, batch: Any, progress: Array) -> tuple[TrainState, Metrics]:
        trained, fixed = partition(state.params, trains)
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_of(trained: FlatParams) -> tuple[Array, Metrics]:
            return loss(unflatten(trained | fixed | frozen), batch, key)

        gradients, metrics = jax.grad(loss_of, has_aux=True)(trained)
        gradients = {path: jax.lax.with_sharding_constraint(leaf, shardings[path]) for path, leaf in gradients.items()}
        updates, opt_state = transform.update(gradients, state.opt_state, trained)
        rate = optim.learning_rate(config, state.step, progress)
        metrics = metrics | {"gradient_norm": optax.tree.norm(gradients), "learning_rate": rate}
        params = fixed | optim.apply(trained, updates, rate)
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def compile_step(step: Step, state: TrainState, frozen: FlatParams, batch: Any, mesh: Mesh) -> Step:
    """Compiles a step for arguments of these shapes, types and shardings, which may be abstract: nothing is run.

    The state is donated. So compiling ahead of time, for devices that are not here, is the same call.

    Args:
      step: of `make_step`.
      state: arrays that are laid out, or `TrainState.abstract`.
      frozen: likewise.
      batch: arrays of any kind, or their shapes; rows are split over data and fsdp.
      mesh: of the devices to compile for.
    """
    everywhere = sharding.replicated(mesh)

    def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    rows = sharding.batch_sharding(mesh)
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows), batch)
    progress = jax.ShapeDtypeStruct((), jax.numpy.float32, sharding=everywhere)
    state, frozen = jax.tree.map(abstract, (state, frozen))
    out = (jax.tree.map(lambda leaf: leaf.sharding, state), everywhere)
    compiled = jax.jit(step, out_shardings=out, donate_argnums=0)
    return compiled.lower(state, frozen, batch, progress).compile()


def _moment_sharding(path: tuple, shardings: dict[str, NamedSharding], default: NamedSharding) -> NamedSharding:
    """Adam's moments are dicts by parameter path: each lies as its parameter does."""
    keys = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    return shardings[keys[-1]] if keys else default
