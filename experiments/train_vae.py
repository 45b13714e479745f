"""Trains the motion VAE on a data folder and writes latents with it.

python -m experiments.train_vae --data DIR --out DIR [--recipe recordings]
python -m experiments.train_vae --data DIR --out DIR --vae VAE      write latents with a VAE that is trained already
"""

import dataclasses
from pathlib import Path

import jax

from data_pipelines.folder import LatentFolder, MotionFolder
from data_pipelines.folder import require_replaceable as require_data_replaceable
from data_pipelines.latents import write_latents
from data_pipelines.windows import WindowBatches
from experiments.recipes import VAERecipe, recipe_named
from llamo_jax import sharding
from llamo_jax.commands import Command, require_seed
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models.declaration import init, shardings
from llamo_jax.models.motion_vae import MotionVAE
from llamo_jax.motion.statistics import Statistics
from llamo_jax.storage.bundle import read_codec, require_replaceable, write_codec
from llamo_jax.training.bits import fingerprint
from llamo_jax.training.gradients import of_whole
from llamo_jax.training.loop import Record, train
from llamo_jax.training.losses import vae_loss
from llamo_jax.training.metrics import MetricsLog
from llamo_jax.trees import flatten, unflatten


def train_vae(data: Path, out: Path, recipe: VAERecipe, *, seed: int = 0) -> tuple[MotionCodec, LatentFolder]:
    """Trains, encodes the data and measures the latents.

    Args:
      data: folder of motions.
      out: folder of the run; gets `vae/` (the codec), `latents/`, checkpoints and metrics.
      recipe: all numbers.
      seed: of initial weights, windows and noise.

    Returns:
      The codec with the statistics of features and latents, and the folder of latents.
    """
    motions = MotionFolder(data)
    require_data_replaceable(out / "latents")
    require_replaceable(out / "vae")
    mesh, statistics = sharding.data_mesh(recipe.rows), motions.statistics
    placed = shardings(MotionVAE, recipe.model, mesh)
    batches = WindowBatches(motions.split("train"), rows=recipe.rows, frames=recipe.frames, seed=seed)
    settings = {
        "recipe": recipe.to_json(),
        "seed": seed,
        "data": motions.manifest["records"]
        | {"features": fingerprint({"mean": statistics.mean, "std": statistics.std})},
    }
    with MetricsLog(out) as log:
        params = train(
            dataclasses.replace(recipe.run, seed=seed),
            of_whole(
                lambda tree, batch, key: vae_loss(tree, recipe.model, recipe.loss, batch, key, statistics=statistics)
            ),
            flatten(init(MotionVAE, recipe.model, jax.random.key(seed), placed)),
            {},
            iter(batches),
            mesh=mesh,
            shardings=placed,
            record=Record(log, out / "checkpoints" / "vae", settings),
        )
    unmeasured = Statistics.identity(recipe.model.latent_channels)
    codec = MotionCodec(recipe.model, unflatten(params), features=statistics, latents=unmeasured)
    return encode_data(codec, data, out, max_latents=recipe.max_latents)


def encode_data(codec: MotionCodec, data: Path, out: Path, *, max_latents: int) -> tuple[MotionCodec, LatentFolder]:
    """Encodes a data folder with a trained VAE; arguments and results as of `train_vae`, whose last part this is.

    Takes of more than `max_latents` are cut into windows.
    """
    require_data_replaceable(out / "latents")
    require_replaceable(out / "vae")
    latents = write_latents(
        data, out / "latents", codec.posterior_means, max_latents=max_latents, statistics=codec.features
    )
    codec = dataclasses.replace(codec, latents=latents.statistics)
    write_codec(out / "vae", codec)
    return codec, latents


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainVAE(Command):
    """Train the motion VAE on a data folder and write latents with it."""

    data: Path
    """Folder of motions (`python -m data_pipelines.build`)."""
    out: Path
    """Folder of the run. A run that is there already is continued."""
    vae: Path | None = None
    """Folder of a trained VAE: none is trained, and the data is encoded with this one (`llamo convert
    from-motionstreamer`)."""
    recipe: str = "recordings"
    """Name of the recipe."""
    seed: int = 0
    """Of initial weights, windows and noise."""

    def run(self) -> None:
        recipe = recipe_named(self.recipe)
        require_seed(self.seed)
        max_latents = recipe.loader.max_latents
        if self.vae:
            encode_data(read_codec(self.vae), self.data, self.out, max_latents=max_latents)
        else:
            train_vae(self.data, self.out, recipe.vae, max_latents=max_latents, seed=self.seed)
        print(f"VAE -> {self.out / 'vae'}, latents -> {self.out / 'latents'}")


if __name__ == "__main__":
    TrainVAE.main("python -m experiments.train_vae")
