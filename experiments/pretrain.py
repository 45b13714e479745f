"""Trains the motion side of a model on latent shards, stage by stage, and writes a bundle.

    python -m experiments.pretrain --llm FOLDER_OR_ID --vae DIR/vae --latents DIR/latents --out DIR [--recipe recordings]
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from data_pipelines.loader import LatentLoader, TextLoader
from data_pipelines.sampling import mixed_seed
from data_pipelines.shards import LatentRecord, LatentShards
from experiments.recipes import Recipe, StageRecipe, recipe_named
from llamo_jax import sharding
from llamo_jax.config import LlamoConfig, LLMConfig, require
from llamo_jax.convert.bundle import Bundle, read_codec, require_replaceable, write_bundle
from llamo_jax.convert.hub import Source
from llamo_jax.convert.huggingface import load_llm, resolve_llm, save_llm
from llamo_jax.errors import InputError, run_reporting_mistakes
from llamo_jax.files import atomic_path
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models import llamo
from llamo_jax.models.layers import init, logical_axes
from llamo_jax.motion import FPS, MotionClip
from llamo_jax.presets import llamo_config
from llamo_jax.tokenizer import Tokenizer, train_tokenizer
from llamo_jax.training.checkpoint import DataIterator
from llamo_jax.training.loop import RunConfig, train
from llamo_jax.training.losses import llamo_loss
from llamo_jax.training.metrics import MetricsLog
from llamo_jax.trees import fingerprint, flatten, unflatten


def pretrain_llm(captions: Sequence[Sequence[str]], out: Path, llm: LLMConfig, recipe: Recipe, *, seed: int = 0) -> Path:
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
        raise InputError(f"{folder}: exists and is no Hugging Face folder (no config.json); choose another output folder, or remove it")
    with atomic_path(folder, directory=True) as temporary:
        train_tokenizer(sorted({caption for of_motion in captions for caption in of_motion}), llm.vocab_size, temporary)
        tokenizer = Tokenizer(temporary)
        config = llamo_config(llm)
        text = init(lambda rngs: llamo.LLM(rngs, llm), jax.random.key(seed))
        # [EOM] is part of the embedding that a text-only batch reads, and of nothing that it learns.
        params = flatten({"text": text, "motion": {"eom": np.zeros(llm.width, np.float32)}})
        loader = TextLoader(captions, tokenizer, recipe.llm_rows, dataclasses.replace(recipe.loader, seed=seed))
        settings = {"llm": llm.to_json(), "recipe": recipe.to_json(), "seed": seed}
        run = dataclasses.replace(recipe.llm_run, seed=seed)
        params = _run_stage(run, (recipe.llm_rows,), config, recipe, params, {}, iter(loader), out, settings)
        text = unflatten(params)["text"]
        save_llm(temporary, llm, jax.tree.map(np.asarray, text), bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    return folder


def pretrain(llm: Source, codec: MotionCodec, shards: LatentShards, out: Path, recipe: Recipe, *, seed: int = 0) -> Path:
    """The stages of the recipe, each from the parameters of the one before, and the bundle.

    Args:
      llm: Hugging Face folder of the text tower, and where it is from.
      codec: the VAE that made the latents.
      shards: the latents.
      out: folder of the run; gets `bundle/`, checkpoints and metrics. Stages that are finished there are not trained again.
      recipe: all numbers.
      seed: of initial weights, batches and noise.

    Returns:
      The bundle's folder.
    """
    require_replaceable(out / "bundle")
    llm_config, text = load_llm(llm.folder)
    tokenizer = Tokenizer(llm.folder, llamo.output_rows(text))
    config = llamo_config(llm_config, codec.config.latent_channels)
    params = flatten(llamo.init_motion(config, jax.random.key(seed), text))
    frozen = flatten({"text": text})
    if not np.array_equal(codec.latent_mean, shards.statistics.mean) or not np.array_equal(codec.latent_std, shards.statistics.std):
        raise InputError(f"{shards.path}: the latents are not of this VAE (their statistics differ); encode the data with it again")
    records = shards.split("train").cached()
    settings = {
        "llm": llm_config.to_json() | {"weights": fingerprint(frozen)},
        "recipe": recipe.to_json(),
        "seed": seed,
        "data": shards.manifest["records"] | {"latents": fingerprint({"mean": codec.latent_mean, "std": codec.latent_std})},
    }
    for number, stage in enumerate(recipe.stages):
        chosen = _moving(records, stage, codec)
        # Stages see other batches and other noise, even those that train the same parameters.
        stage_seed = mixed_seed(seed, number)
        loader_config = dataclasses.replace(recipe.loader, seed=stage_seed)
        loader = LatentLoader(chosen, shards.statistics, tokenizer, llm_config.eom_id, stage.rows, loader_config)
        print(f"{stage.run.name}: {loader.fit}")
        rows = tuple(stage.rows.values())
        run = dataclasses.replace(stage.run, seed=stage_seed)
        params = _run_stage(run, rows, config, recipe, params, frozen, iter(loader), out, settings)
    info = {"trained": True, "data": _data_facts(shards), "recipe": recipe.to_json() | {"seed": seed}}
    motion = unflatten(jax.tree.map(np.asarray, params))
    write_bundle(out / "bundle", Bundle(config, text, motion, codec, llm, info))
    return out / "bundle"


def _data_facts(shards: LatentShards) -> dict[str, Any]:
    """What a bundle says of its data: without folders of this machine."""
    names = ("builder", "licence", "records", "hours")
    return {name: shards.manifest[name] for name in names if name in shards.manifest}


def _run_stage(
    run: RunConfig,
    rows: tuple[int, ...],
    config: LlamoConfig,
    recipe: Recipe,
    params: dict,
    frozen: dict,
    data: DataIterator,
    out: Path,
    settings: dict[str, Any],
) -> dict[str, Any]:
    mesh = sharding.data_mesh(*rows)
    axes = {f"text/{path}": value for path, value in logical_axes(lambda rngs: llamo.LLM(rngs, config.text)).items()}
    axes |= logical_axes(lambda rngs: llamo.Motion(rngs, config))
    shapes = {path: np.shape(leaf) for path, leaf in (params | frozen).items()}
    with MetricsLog(out) as log:
        return train(
            run,
            lambda tree, batch, key: llamo_loss(tree, config, recipe.loss, batch, key),
            params,
            frozen,
            data,
            mesh=mesh,
            shardings=sharding.param_shardings(axes, shapes, mesh),
            log=log,
            folder=out / "checkpoints" / run.name,
            settings=settings | {"stage": run.to_json()},
        )


def _moving(records: list[LatentRecord], stage: StageRecipe, codec: MotionCodec) -> list[LatentRecord]:
    """The records whose joints move at the stage's least mean speed (m/s), measured on what their latents decode to."""
    if stage.min_speed == 0:
        return records
    kept = []
    for start in range(0, len(records), 64):
        batch = [records[index] for index in range(start, min(start + 64, len(records)))]
        features = codec.decode([(record.latents - codec.latent_mean) / codec.latent_std for record in batch])
        for record, decoded in zip(batch, features, strict=True):
            joints = MotionClip.from_features(decoded).joints
            if np.linalg.norm(np.diff(joints, axis=0), axis=-1).mean() * FPS >= stage.min_speed:
                kept.append(record)
    if not kept:
        raise InputError(f"{stage.run.name}: none of {len(records)} records moves at {stage.min_speed} m/s; lower its min_speed")
    return kept


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Train the motion side of a model on latent shards, stage by stage, and write a bundle."""

    llm: str
    """Hugging Face folder of the LLM, or its id on the Hub."""
    vae: Path
    """Folder of the VAE (`vae` in the folder of experiments.train_vae)."""
    latents: Path
    """Folder of latent shards (`latents` there)."""
    out: Path
    """Folder of the run. A run that is there already is continued."""
    recipe: str = "recordings"
    """Name of the recipe."""
    seed: int = 0
    """Of initial weights, batches and noise."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        recipe = recipe_named(self.recipe)
        require(self.seed >= 0, f"--seed {self.seed}; expected 0 or more")
        bundle = pretrain(resolve_llm(self.llm), read_codec(self.vae), LatentShards(self.latents), self.out, recipe, seed=self.seed)
        print(f"bundle -> {bundle}, metrics -> {self.out / 'metrics.jsonl'}")


if __name__ == "__main__":
    command = tyro.cli(Pretrain, prog="python -m experiments.pretrain")
    run_reporting_mistakes(command.run, debug=command.debug)
