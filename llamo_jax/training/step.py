"""One training step, the same for every stage and every network: a pure function, compiled with given shardings."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int

from llamo_jax import sharding
from llamo_jax.config import Config, require
from llamo_jax.training import optim
from llamo_jax.training.gradients import Gradients
from llamo_jax.training.losses import Metrics
from llamo_jax.training.optim import FlatParams, OptimConfig
from llamo_jax.trees import partition

Trains = Callable[[str], bool]
"""Whether the parameter at a path trains in this stage."""


@dataclasses.dataclass(frozen=True)
class GuardConfig(Config):
    """Which steps are skipped: those whose loss or gradient is not finite, and, with a `spike`, outlying ones."""

    spike: float = 0.0
    """A step whose gradient norm is more than so many times its running mean is skipped; 0 for none."""
    memory: int = 100
    """Steps that the running mean remembers; as many are taken before any is called a spike."""
    patience: int = 25
    """Steps that may be skipped in a row; then the run goes back to its last checkpoint, and on with other data."""

    def __post_init__(self) -> None:
        require(
            self.spike == 0 or self.spike > 1, f"GuardConfig.spike is {self.spike}; expected 0 for none, or more than 1"
        )
        for name in ("memory", "patience"):
            require(getattr(self, name) > 0, f"GuardConfig.{name} is {getattr(self, name)}; expected more than 0")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guard:
    """What the guard remembers.

    Attributes:
      norm: running mean of the gradient norm of steps that were taken.
      taken: number of those.
      skipped: steps that were skipped, in all.
      in_a_row: of them, the last ones.
    """

    norm: Float[Array, ""]
    taken: Int[Array, ""]
    skipped: Int[Array, ""]
    in_a_row: Int[Array, ""]

    @classmethod
    def start(cls) -> "Guard":
        """Before the first step."""
        return cls(jnp.float32(0), jnp.int32(0), jnp.int32(0), jnp.int32(0))

    def accepts(self, config: GuardConfig, loss: Float[Array, ""], norm: Float[Array, ""]) -> Bool[Array, ""]:
        """Whether a step of this loss and gradient norm is to be taken."""
        sound = jnp.isfinite(loss) & jnp.isfinite(norm)
        if not config.spike:
            return sound
        return sound & ((self.taken < config.memory) | (norm <= config.spike * self.norm))

    def after(self, config: GuardConfig, accepted: Bool[Array, ""], norm: Float[Array, ""]) -> "Guard":
        """What it remembers after a step."""
        taken = self.taken + accepted
        share = 1 / jnp.clip(taken, 1, config.memory)
        return Guard(
            jnp.where(accepted, self.norm + share * (norm - self.norm), self.norm),
            taken,
            self.skipped + ~accepted,
            jnp.where(accepted, 0, self.in_a_row + 1),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes.

    Attributes:
      step: steps that were done, skipped ones included.
      params: every parameter that may train in some stage.
      opt_state: of the optimizer, for those that train now.
      ema: averages of those, where the run keeps them.
      guard: what it remembers.
    """

    step: Int[Array, ""]
    params: FlatParams
    opt_state: Any
    ema: FlatParams
    guard: Guard

    @classmethod
    def start(cls, params: FlatParams, config: OptimConfig, trains: Trains) -> "TrainState":
        """The state before the first step of a stage. Pure: `init` runs it, and `abstract` only looks at its shapes."""
        # Copies: the step takes its state for good.
        copies = {path: jnp.copy(leaf) for path, leaf in params.items()}
        trained = partition(copies, trains)[0]
        ema = {path: jnp.copy(leaf) for path, leaf in trained.items()} if config.ema_decay else {}
        return cls(jnp.int32(0), copies, optim.transformation(config).init(trained), ema, Guard.start())

    @property
    def result(self) -> FlatParams:
        """The parameters that the run gives: averages, where it keeps them."""
        return self.params | self.ema

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
        placed = cls(
            everywhere,
            {path: shardings[path] for path in shapes.params},
            opt_state,
            {path: shardings[path] for path in shapes.ema},
            jax.tree.map(lambda _: everywhere, shapes.guard),
        )
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
    gradients: Gradients,
    config: OptimConfig,
    trains: Trains,
    shardings: dict[str, NamedSharding],
    *,
    seed: int,
    guard: GuardConfig = GuardConfig(),
) -> Step:
    """The step as a pure function.

    Args:
      gradients: of the loss, over what trains.
      config: of the optimizer.
      trains: which paths do; gradients are taken over those only.
      shardings: of every path of `state.params`; gradients are laid out so.
      seed: of all randomness; step i uses the key fold_in(key(seed), i), so that a resumed run draws what an
        uninterrupted one does.
      guard: which steps are skipped: they change neither parameters nor optimizer.
    """
    transform = optim.transformation(config)

    def step(state: TrainState, frozen: FlatParams, batch: Any, progress: Array) -> tuple[TrainState, Metrics]:
        trained, fixed = partition(state.params, trains)
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        found, metrics = gradients(trained, fixed | frozen, batch, key)
        found = {path: jax.lax.with_sharding_constraint(leaf, shardings[path]) for path, leaf in found.items()}
        norm = optax.tree.norm(found)
        accepted = state.guard.accepts(guard, metrics["loss"], norm)
        updates, opt_state = transform.update(found, state.opt_state, trained)
        rates = optim.rates(config, state.step, progress)
        moved = optim.apply(config, trained, updates, rates)
        ema = optim.average(config, state.ema, moved)
        moved, opt_state, ema = jax.tree.map(
            lambda new, old: jnp.where(accepted, new, old),
            (moved, opt_state, ema),
            (trained, state.opt_state, state.ema),
        )
        after = state.guard.after(guard, accepted, norm)
        metrics = metrics | {"gradient_norm": norm} | _norms(found)
        metrics |= {f"learning_rate{module and '_'}{module.strip('/')}": rate for module, rate in rates.items()}
        metrics |= {"skipped": after.skipped, "skipped_in_a_row": after.in_a_row}
        return TrainState(state.step + 1, fixed | moved, opt_state, ema, after), metrics

    return step


def _norms(gradients: FlatParams) -> Metrics:
    """Gradient norm of each part of the model, where there are several."""
    parts = sorted({path.partition("/")[0] for path in gradients})
    of = {part: {path: leaf for path, leaf in gradients.items() if path.partition("/")[0] == part} for part in parts}
    return {f"gradient_norm_{part}": optax.tree.norm(tree) for part, tree in of.items()} if len(parts) > 1 else {}


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
    progress = jax.ShapeDtypeStruct((), jnp.float32, sharding=everywhere)
    state, frozen = jax.tree.map(abstract, (state, frozen))
    out = (jax.tree.map(lambda leaf: leaf.sharding, state), everywhere)
    compiled = jax.jit(step, out_shardings=out, donate_argnums=0)
    return compiled.lower(state, frozen, batch, progress).compile()


def _moment_sharding(path: tuple, shardings: dict[str, NamedSharding], default: NamedSharding) -> NamedSharding:
    """Moments are dicts by parameter path: each lies as its parameter does."""
    keys = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    return shardings.get(keys[-1], default) if keys else default
