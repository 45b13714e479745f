"""Trains the motion VAE on a data folder and writes latents with it.

    python -m experiments.train_vae --data DIR --out DIR [--recipe recordings]
    python -m experiments.train_vae --data DIR --out DIR --vae VAE              write latents with a VAE that is trained already
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from data_pipelines.latents import write_latents
from data_pipelines.shards import LatentShards, MotionShards, require_free
from data_pipelines.statistics import Statistics
from data_pipelines.windows import window_batches
from experiments.recipes import VAERecipe, recipe_named
from llamo_jax import sharding
from llamo_jax.config import require
from llamo_jax.convert.bundle import read_codec, require_replaceable, write_codec
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
    return encode_data(codec, data, out, max_tokens=max_tokens)


def encode_data(codec: MotionCodec, data: Path, out: Path, *, max_tokens: int) -> tuple[MotionCodec, LatentShards]:
    """Encodes a data folder with a trained VAE; arguments and results as of `train_vae`, whose last part this is."""
    require_free(out / "latents")
    require_replaceable(out / "vae")
    statistics = Statistics(codec.feature_mean, codec.feature_std)
    latents = write_latents(data, out / "latents", codec.posterior_means, max_tokens=max_tokens, statistics=statistics)
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
    vae: Path | None = None
    """Folder of a trained VAE: none is trained, and the data is encoded with this one (`llamo convert from-motionstreamer`)."""
    recipe: str = "recordings"
    """Name of the recipe."""
    seed: int = 0
    """Of initial weights, windows and noise."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        recipe = recipe_named(self.recipe)
        require(self.seed >= 0, f"--seed {self.seed}; expected 0 or more")
        max_tokens = recipe.loader.motion_len - 1
        if self.vae:
            encode_data(read_codec(self.vae), self.data, self.out, max_tokens=max_tokens)
        else:
            train_vae(self.data, self.out, recipe.vae, max_tokens=max_tokens, seed=self.seed)
        print(f"VAE -> {self.out / 'vae'}, latents -> {self.out / 'latents'}")


if __name__ == "__main__":
    command = tyro.cli(TrainVAE, prog="python -m experiments.train_vae")
    run_reporting_mistakes(command.run, debug=command.debug)
