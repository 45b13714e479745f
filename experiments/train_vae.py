"""Trains the motion VAE on a data folder and writes latents with it.

python -m experiments.train_vae [RECIPE] --data DIR --out DIR [--run.steps 1000 ...]
python -m experiments.train_vae --data DIR --out DIR --vae VAE      write latents with a VAE that is trained already
"""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar

import jax
import numpy as np
import tyro

from data_pipelines.folder import LatentFolder, MotionFolder
from data_pipelines.folder import require_replaceable as require_data_replaceable
from data_pipelines.latents import write_latents
from data_pipelines.order import mixed_seed
from data_pipelines.windows import WindowBatches
from experiments.recipes import VAE_RECIPES, VAERecipe, identity
from experiments.running import Running, Traces, main, say, writable
from llamo_jax import hosts, remote, sharding
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models.declaration import init, shardings
from llamo_jax.models.motion_vae import MotionVAE
from llamo_jax.motion.statistics import Statistics
from llamo_jax.remote import AnyPath
from llamo_jax.storage.bundle import read_codec, require_replaceable, write_codec
from llamo_jax.training.bits import fingerprint
from llamo_jax.training.feed import Feed
from llamo_jax.training.gradients import of_whole
from llamo_jax.training.loop import train
from llamo_jax.training.losses import vae_loss
from llamo_jax.trees import flatten, unflatten


def train_vae(data: Path, traces: Traces, recipe: VAERecipe, *, seed: int = 0) -> tuple[MotionCodec, LatentFolder]:
    """Trains, in one stage or two, encodes the data and measures the latents.

    Args:
      data: folder of motions.
      traces: folder of the run; gets `vae/` (the codec), `latents/`, checkpoints and metrics.
      recipe: all numbers.
      seed: of initial weights, windows and noise.

    Returns:
      The codec with the statistics of features and latents, and the folder of latents.
    """
    motions, out = MotionFolder(data), traces.out
    require_data_replaceable(out / "latents")
    require_replaceable(out / "vae")
    mesh, statistics = sharding.data_mesh(recipe.rows), motions.statistics
    placed = shardings(MotionVAE, recipe.model, mesh)
    settings = {
        "recipe": identity(recipe),
        "seed": seed,
        "data": motions.manifest["records"]
        | {"features": fingerprint({"mean": statistics.mean, "std": statistics.std})},
    }
    params = flatten(init(MotionVAE, recipe.model, jax.random.key(seed), placed))
    # The second stage sees other windows and other noise.
    stages = [(recipe.run, recipe.loss, seed), (recipe.decoder, recipe.decoder_loss, mixed_seed(seed, 1))]
    for run, loss, stage_seed in stages:
        if run is None:
            continue
        batches = WindowBatches(
            motions.split("train"), rows=recipe.rows, frames=recipe.frames, seed=stage_seed, shards=recipe.shards
        )
        with traces.record(run.name, settings | {"stage": identity(run)}) as record:
            params = train(
                dataclasses.replace(run, seed=stage_seed),
                of_whole(
                    lambda tree, batch, key, loss=loss: vae_loss(
                        tree, recipe.model, loss, batch, key, statistics=statistics
                    )
                ),
                params,
                {},
                Feed(batches, mesh, recipe.rows),
                mesh=mesh,
                shardings=placed,
                record=record,
            )
        if batches.skipped:
            say(f"{run.name}: {batches.skipped}")
    unmeasured = Statistics.identity(recipe.model.latent_channels)
    # Every device has all of it: from here on each host works for itself.
    here = {path: jax.device_put(np.asarray(leaf), jax.local_devices()[0]) for path, leaf in params.items()}
    codec = MotionCodec(recipe.model, unflatten(here), features=statistics, latents=unmeasured)
    return encode_data(codec, data, out, max_latents=recipe.max_latents)


def encode_data(codec: MotionCodec, data: Path, out: AnyPath, *, max_latents: int) -> tuple[MotionCodec, LatentFolder]:
    """Encodes a data folder with a trained VAE; arguments and results as of `train_vae`, whose last part this is.

    Takes of more than `max_latents` are cut into windows. Of several processes the first does it, and the others wait.
    """
    require_data_replaceable(out / "latents")
    require_replaceable(out / "vae")
    if hosts.is_first():
        with writable(out / "latents") as folder:
            latents = write_latents(
                data, folder, codec.posterior_means, max_latents=max_latents, statistics=codec.features
            )
        with writable(out / "vae") as folder:
            write_codec(folder, dataclasses.replace(codec, latents=latents.statistics))
    hosts.barrier("latents")
    latents = LatentFolder(remote.local(out / "latents"))
    return dataclasses.replace(codec, latents=latents.statistics), latents


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainVAE(Running):
    """Train the motion VAE on a data folder and write latents with it."""

    data: AnyPath
    """Folder of motions (`python -m data_pipelines.build`)."""
    vae: AnyPath | None = None
    """Folder of a trained VAE: none is trained, and the data is encoded with this one (`llamo convert
    from-motionstreamer`)."""
    recipe_name: ClassVar[str] = "recipe_vae.json"
    recipe: Annotated[VAERecipe, tyro.conf.arg(name="")]

    def run(self) -> None:
        self.start()
        data = remote.local(self.data)
        if self.vae:
            encode_data(read_codec(remote.local(self.vae)), data, self.out, max_latents=self.recipe.max_latents)
        else:
            train_vae(data, self.traces(), self.recipe, seed=self.seed)
        say(f"VAE -> {self.out / 'vae'}, latents -> {self.out / 'latents'}")


if __name__ == "__main__":
    main(TrainVAE, VAE_RECIPES, "python -m experiments.train_vae")
