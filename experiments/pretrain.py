"""Trains the motion side of a model on latents, stage by stage, and writes a bundle.

python -m experiments.pretrain --llm FOLDER_OR_ID --vae DIR/vae --latents DIR/latents --out DIR [--recipe recordings]
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.folder import LatentFolder
from data_pipelines.loader import LatentLoader, TextLoader
from data_pipelines.order import mixed_seed
from experiments.recipes import Recipe, recipe_named
from llamo_jax import sharding
from llamo_jax.commands import Command, require_seed
from llamo_jax.config import LlamoConfig, LLMConfig
from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models import llamo
from llamo_jax.models.declaration import init, shardings
from llamo_jax.models.parallel import Parallel
from llamo_jax.presets import llamo_config
from llamo_jax.storage.bundle import Bundle, read_codec, require_replaceable, write_bundle
from llamo_jax.storage.hub import Source
from llamo_jax.storage.huggingface import load_llm, load_tokenizer, resolve_llm, save_llm
from llamo_jax.tokenizer import Tokenizer, train_tokenizer
from llamo_jax.training.bits import fingerprint
from llamo_jax.training.gradients import of_sum
from llamo_jax.training.loop import DataIterator, Record, RunConfig, train
from llamo_jax.training.losses import LlamoLoss
from llamo_jax.training.metrics import MetricsLog
from llamo_jax.training.optim import FlatParams
from llamo_jax.trees import flatten, unflatten


def pretrain_llm(
    captions: Sequence[Sequence[str]], out: Path, llm: LLMConfig, recipe: Recipe, *, seed: int = 0
) -> Path:
    """Stage 0: an LLM of its own, tokenizer included, trained on captions as plain text by the step of every stage.

    Args:
      captions: of each motion.
      out: folder of the run.
      llm: shape of the LLM.
      recipe: all numbers.
      seed: of initial weights and batches.

    Returns:
      A Hugging Face folder, `out`/llm.
    """
    folder = out / "llm"
    if (folder / "config.json").exists():
        return folder
    if folder.exists():
        found = "exists and is no Hugging Face folder (no config.json)"
        raise InputError(f"{folder}: {found}; choose another output folder, or remove it")
    with atomic_path(folder, directory=True) as temporary:
        texts = sorted({caption for of_motion in captions for caption in of_motion})
        train_tokenizer(texts, llm.vocab_size, temporary)
        tokenizer = Tokenizer(temporary)
        params = {f"text/{path}": leaf for path, leaf in flatten(init(llamo.LLM, llm, jax.random.key(seed))).items()}
        loader = TextLoader(captions, tokenizer, recipe.llm_rows, dataclasses.replace(recipe.loader, seed=seed))
        settings = {"llm": llm.to_json(), "recipe": recipe.to_json(), "seed": seed}
        run = dataclasses.replace(recipe.llm_run, seed=seed)
        mesh = sharding.data_mesh(recipe.llm_rows)
        params = _run_stage(run, mesh, llamo_config(llm), recipe, params, {}, iter(loader), out, settings)
        text = jax.tree.map(np.asarray, unflatten(params)["text"])
        save_llm(temporary, llm, text, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    return folder


def pretrain(
    llm: Source,
    codec: MotionCodec,
    latents: LatentFolder,
    out: Path,
    recipe: Recipe,
    *,
    seed: int = 0,
    mesh_shape: tuple[int, int, int] | None = None,
) -> Path:
    """The stages of the recipe, each from the parameters of the one before, and the bundle.

    Args:
      llm: Hugging Face folder of the text tower, and where it is from.
      codec: the VAE that made the latents.
      latents: folder of them.
      out: folder of the run; gets `bundle/`, checkpoints and metrics. Stages that are finished there are not trained
        again.
      recipe: all numbers.
      seed: of initial weights, batches and noise.
      mesh_shape: sizes of data, fsdp and tensor. None splits rows alone, over as many devices as divide them.

    Returns:
      The bundle's folder.
    """
    require_replaceable(out / "bundle")
    tokenizer, statistics = load_tokenizer(llm.folder), latents.statistics
    if not codec.latents.equals(statistics):
        found = "the latents are not of this VAE (their statistics differ)"
        raise InputError(f"{latents.path}: {found}; encode the data with it again")
    meshes = [sharding.mesh_for(mesh_shape, *stage.rows.values()) for stage in recipe.stages]
    mesh = meshes[0]
    llm_config, text = load_llm(llm.folder, mesh=mesh)
    config = llamo_config(llm_config, codec.config.latent_channels)
    placed = shardings(llamo.Model, config, mesh)
    params = flatten(llamo.init_motion(config, jax.random.key(seed), text, placed))
    frozen = {f"text/{path}": leaf for path, leaf in flatten(text).items()}
    records = latents.split("train")
    measured = {"mean": statistics.mean, "std": statistics.std}
    settings = {
        "llm": llm_config.to_json() | {"weights": fingerprint(frozen)},
        "recipe": recipe.to_json(),
        "seed": seed,
        "data": latents.manifest["records"] | {"latents": fingerprint(measured)},
    }
    # Stages see other batches and other noise, even those that train the same parameters.
    seeds = [mixed_seed(seed, number) for number in range(len(recipe.stages))]
    # All loaders before the work: what a late stage cannot use is told at once.
    loaders = [
        LatentLoader(
            records,
            records.index,
            statistics,
            tokenizer,
            llm_config.eom_id,
            stage.rows,
            dataclasses.replace(recipe.loader, seed=stage_seed, min_speed=stage.min_speed),
        )
        for stage, stage_seed in zip(recipe.stages, seeds, strict=True)
    ]
    for stage, stage_seed, loader, mesh in zip(recipe.stages, seeds, loaders, meshes, strict=True):
        print(f"{stage.run.name}: {len(loader.numbers)} of {len(records)} records, {loader.cut} longer than a row")
        run = dataclasses.replace(stage.run, seed=stage_seed)
        params = _run_stage(run, mesh, config, recipe, params, frozen, iter(loader), out, settings)
        if loader.skipped.captions or loader.skipped.records:
            print(f"{stage.run.name}: {loader.skipped}")
    bundle = Bundle(
        config=config,
        params=unflatten(jax.tree.map(np.asarray, params)) | {"text": text},
        codec=codec,
        llm=llm,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        info={"trained": True, "data": _data_facts(latents), "recipe": recipe.to_json() | {"seed": seed}},
    )
    write_bundle(out / "bundle", bundle)
    return out / "bundle"


def _data_facts(latents: LatentFolder) -> dict[str, Any]:
    """What a bundle says of its data: without folders of this machine."""
    manifest = latents.manifest
    return {"dataset": manifest["dataset"]["name"]} | {name: manifest[name] for name in ("licence", "records", "hours")}


def _run_stage(
    run: RunConfig,
    mesh: Mesh,
    config: LlamoConfig,
    recipe: Recipe,
    params: FlatParams,
    frozen: FlatParams,
    data: DataIterator,
    out: Path,
    settings: dict[str, Any],
) -> FlatParams:
    placed = shardings(llamo.Model, config, mesh)
    parallel = Parallel.of(placed, mesh, config.text)
    with MetricsLog(out) as log:
        return train(
            run,
            of_sum(LlamoLoss(config, recipe.loss), parallel),
            params,
            frozen,
            data,
            mesh=mesh,
            shardings=placed,
            record=Record(log, out / "checkpoints" / run.name, settings | {"stage": run.to_json()}),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain(Command):
    """Train the motion side of a model on latents, stage by stage, and write a bundle."""

    llm: str
    """Folder of the LLM, or its id on the Hugging Face Hub."""
    vae: Path
    """Folder of the VAE (`vae` in the folder of experiments.train_vae)."""
    latents: Path
    """Folder of latents (`latents` there)."""
    out: Path
    """Folder of the run. A run that is there already is continued."""
    recipe: str = "recordings"
    """Name of the recipe."""
    mesh: str | None = None
    """Sizes of the axes data, fsdp and tensor, as 1,8,1; by default rows alone are split."""
    seed: int = 0
    """Of initial weights, batches and noise."""

    def run(self) -> None:
        recipe = recipe_named(self.recipe)
        require_seed(self.seed)
        llm, codec, latents = resolve_llm(self.llm), read_codec(self.vae), LatentFolder(self.latents)
        shape = sharding.mesh_shape(self.mesh) if self.mesh else None
        bundle = pretrain(llm, codec, latents, self.out, recipe, seed=self.seed, mesh_shape=shape)
        print(f"bundle -> {bundle}, metrics -> {self.out / 'metrics.jsonl'}")


if __name__ == "__main__":
    Pretrain.main("python -m experiments.pretrain")
