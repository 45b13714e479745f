"""Trains the motion VAE on a data folder and writes latents with it.

    python -m experiments.train_vae --data DIR --out DIR [--recipe recordings]
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from data_pipelines.latents import write_latents
from data_pipelines.shards import LatentShards, MotionShards, require_free
from data_pipelines.windows import window_batches
from experiments.recipes import VAERecipe, recipe_named
from llamo_jax import sharding
from llamo_jax.config import require
from llamo_jax.convert.bundle import require_replaceable, write_codec
from llamo_jax.errors import run_reporting_mistakes
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models.layers import init, logical_axes
from llamo_jax.models.motion_vae import MotionVAE
from llamo_jax.training.loop import train
from llamo_jax.training.losses import vae_loss
from llamo_jax.training.metrics import MetricsLog
from llamo_jax.trees import fingerprint, flatten, unflatten


def train_vae(data: Path, out: Path, recipe: VAERecipe, *, max_tokens: int, seed: int = 0) -> tuple[MotionCodec, LatentShards]:
    """Trains, encodes the data and measures the latents.

    Args:
      data: folder of motion shards.
      out: folder of the run; gets `vae/` (the codec), `latents/` (latent shards), checkpoints and metrics.
      recipe: all numbers.
      max_tokens: longest motion of a latent record; longer takes are cut.
      seed: of initial weights, windows and noise.

    Returns:
      The codec with the statistics of features and latents, and the latent shards.
    """
    shards = MotionShards(data)
    require_free(out / "latents")
    require_replaceable(out / "vae")
    mesh = sharding.data_mesh(recipe.rows)

    def declare(rngs):
        return MotionVAE(rngs, recipe.model)

    params = flatten(init(declare, jax.random.key(seed)))
    mean, std = jnp.asarray(shards.statistics.mean), jnp.asarray(shards.statistics.std)
    batches = window_batches(shards.split("train").cached(), shards.statistics, rows=recipe.rows, frames=recipe.frames, seed=seed)
    with MetricsLog(out) as log:
        params = train(
            dataclasses.replace(recipe.run, seed=seed),
            lambda tree, batch, key: vae_loss(tree, recipe.model, recipe.loss, batch, key, mean=mean, std=std),
            params,
            {},
            iter(batches),
            mesh=mesh,
            shardings=sharding.param_shardings(logical_axes(declare), {path: leaf.shape for path, leaf in params.items()}, mesh),
            log=log,
            folder=out / "checkpoints" / "vae",
            settings={
                "recipe": recipe.to_json(),
                "seed": seed,
                "data": shards.manifest["records"] | {"features": fingerprint({"mean": mean, "std": std})},
            },
        )
    channels = recipe.model.latent_channels
    no_mean, no_std = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    codec = MotionCodec(recipe.model, unflatten(params), shards.statistics.mean, shards.statistics.std, no_mean, no_std)
    latents = write_latents(data, out / "latents", codec.posterior_means, max_tokens=max_tokens)
    codec = dataclasses.replace(codec, latent_mean=latents.statistics.mean, latent_std=latents.statistics.std)
    write_codec(out / "vae", codec)
    return codec, latents


@dataclasses.dataclass(frozen=True)
class TrainVAE:
    """Train the motion VAE on a data folder and write latents with it."""

    data: Path
    """Folder of motion shards (`python -m data_pipelines.build`)."""
    out: Path
    """Folder of the run. A run that is there already is continued."""
    recipe: str = "recordings"
    """Name of the recipe."""
    seed: int = 0
    """Of initial weights, windows and noise."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        recipe = recipe_named(self.recipe)
        require(self.seed >= 0, f"--seed {self.seed}; expected 0 or more")
        train_vae(self.data, self.out, recipe.vae, max_tokens=recipe.loader.motion_len - 1, seed=self.seed)
        print(f"VAE -> {self.out / 'vae'}, latents -> {self.out / 'latents'}, metrics -> {self.out / 'metrics.jsonl'}")


if __name__ == "__main__":
    command = tyro.cli(TrainVAE, prog="python -m experiments.train_vae")
    run_reporting_mistakes(command.run, debug=command.debug)
