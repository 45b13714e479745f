"""Trains the motion side of a model on latents, stage by stage, and writes a bundle.

python -m experiments.pretrain [RECIPE] --llm FOLDER_OR_ID --vae DIR/vae --latents DIR/latents --out DIR
python -m experiments.pretrain paper-3b --llm ... --mesh 1,64,1 --stage2.run.steps 1000
"""

import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh

from data_pipelines.folder import LatentFolder
from data_pipelines.loader import LatentLoader, TextLoader
from data_pipelines.order import mixed_seed
from data_pipelines.prompt_cache import PromptCache, prompt_cache, readable
from data_pipelines.records import LatentRecord
from data_pipelines.tasks import TASKS
from experiments.recipes import RECIPES, Recipe, StageRecipe, identity
from experiments.running import Running, Traces, main, say, writable
from llamo_jax import hosts, remote, sharding
from llamo_jax.config import LlamoConfig, LLMConfig
from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, read_json
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models import llamo
from llamo_jax.models.attention import backend_for
from llamo_jax.models.declaration import abstract, count, init, shardings
from llamo_jax.models.parallel import Parallel
from llamo_jax.presets import LLMS, llamo_config
from llamo_jax.prompts import chat_turns
from llamo_jax.remote import AnyPath
from llamo_jax.storage.bundle import Bundle, read_codec, require_replaceable, turns_of, write_bundle
from llamo_jax.storage.hub import Source
from llamo_jax.storage.huggingface import load_llm, load_tokenizer, resolve_llm, save_llm
from llamo_jax.tokenizer import Tokenizer, Turns, train_tokenizer
from llamo_jax.training.bits import fingerprint
from llamo_jax.training.devices import peak_flops
from llamo_jax.training.feed import Feed
from llamo_jax.training.flops import step_flops
from llamo_jax.training.gradients import of_sum
from llamo_jax.training.loop import train
from llamo_jax.training.losses import LlamoLoss
from llamo_jax.training.metrics import Work
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
        settings = {"llm": llm.to_json(), "recipe": identity(recipe), "seed": seed}
        stage = StageRecipe(dataclasses.replace(recipe.llm_run, seed=seed), {"text": recipe.llm_rows})
        mesh = sharding.data_mesh(recipe.llm_rows)
        params = _run_stage(stage, mesh, llamo_config(llm), recipe, params, {}, loader, Traces(out), settings)
        text = jax.tree.map(np.asarray, unflatten(params)["text"])
        save_llm(temporary, llm, text, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    return folder


def pretrain(
    llm: Source, codec: MotionCodec, latents: LatentFolder, traces: Traces, recipe: Recipe, *, seed: int = 0
) -> AnyPath:
    """The stages of the recipe, each from the parameters of the one before, and the bundle.

    Args:
      llm: Hugging Face folder of the text tower, and where it is from.
      codec: the VAE that made the latents.
      latents: folder of them.
      traces: folder of the run; gets `bundle/`, checkpoints and metrics. Stages that are finished there are not trained
        again.
      recipe: all numbers.
      seed: of initial weights, batches and noise.

    Returns:
      The bundle's folder.
    """
    out = traces.out
    require_replaceable(out / "bundle")
    tokenizer, statistics = load_tokenizer(llm.folder), latents.statistics
    if not codec.latents.equals(statistics):
        found = "the latents are not of this VAE (their statistics differ)"
        raise InputError(f"{latents.path}: {found}; encode the data with it again")
    shape = sharding.mesh_shape(recipe.mesh) if recipe.mesh else None
    meshes = [sharding.mesh_for(shape, *stage.rows.values()) for stage in recipe.stages]
    llm_config, text = load_llm(llm.folder, mesh=meshes[0], dtype=recipe.precision and jnp.dtype(recipe.precision))
    channels = codec.config.latent_channels
    config = llamo_config(llm_config, channels, motion_width=recipe.motion_width, flow_width=recipe.flow_width)
    _say_what_fits(recipe, llm_config, config)
    placed = shardings(llamo.Model, config, meshes[0])
    params = flatten(llamo.init_motion(config, jax.random.key(seed), text, placed))
    frozen = {f"text/{path}": leaf for path, leaf in flatten(text).items()}
    weights = fingerprint(frozen)
    if recipe.chat and tokenizer.chats:
        tokenizer.turns = _turns(out, tokenizer, weights, llm_config.vocab_size)
    records = latents.split("train")
    measured = {"mean": statistics.mean, "std": statistics.std}
    settings = {
        "llm": llm_config.to_json() | {"weights": weights},
        "recipe": identity(recipe),
        "seed": seed,
        "data": latents.manifest["records"] | {"latents": fingerprint(measured), "captions": _captions_of(latents)},
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
    for stage, mesh, loader in zip(recipe.stages, meshes, loaders, strict=True):
        _require_parts(stage, mesh)
        hosts.shards_of(sharding.batch_sharding(mesh), loader.shards, *stage.rows.values())
    if recipe.prompt_cache:
        cache = _prompt_cache(recipe, out, records, loaders, tokenizer, llm_config, text, meshes)
        for loader in loaders:
            loader.cache = cache
    for stage, stage_seed, loader, mesh in zip(recipe.stages, seeds, loaders, meshes, strict=True):
        name, rows = stage.run.name, ", ".join(f"{count} {task}" for task, count in stage.rows.items())
        each = f"{recipe.loader.text_len} text tokens and {recipe.loader.motion_len} motion slots each"
        say(f"{name}: {len(loader.numbers)} of {len(records)} records, {loader.cut} longer than a row; rows of a step: "
            f"{rows}, of {each}")  # fmt: skip
        stage = dataclasses.replace(stage, run=dataclasses.replace(stage.run, seed=stage_seed))
        params = _run_stage(stage, mesh, config, recipe, params, frozen, loader, traces, settings)
        if loader.skipped:
            say(f"{name}: {loader.skipped}")
    info = {"trained": True, "data": _data_facts(latents), "recipe": recipe.to_json() | {"seed": seed}}
    _write(out / "bundle", config, params, text, codec, llm, tokenizer, info)
    return out / "bundle"


def _write(
    path: AnyPath,
    config: LlamoConfig,
    params: FlatParams,
    text: dict[str, Any],
    codec: MotionCodec,
    llm: Source,
    tokenizer: Tokenizer,
    info: dict[str, Any],
) -> None:
    """Writes the bundle, from process 0; each array whole on the host, one after the other."""
    whole = {path: hosts.whole(leaf) for path, leaf in params.items()}
    text = jax.tree.map(hosts.whole, text) if jax.process_count() > 1 else text
    if hosts.is_first():
        bundle = Bundle(
            config=config,
            params=unflatten(whole) | {"text": text},
            codec=codec,
            llm=llm,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            info=info,
            turns=tokenizer.turns,
        )
        with writable(path) as folder:
            write_bundle(folder, bundle)
    hosts.barrier("bundle")


def _say_what_fits(recipe: Recipe, llm: LLMConfig, config: LlamoConfig) -> None:
    """Says where a recipe is for another LLM, and what the model's parts have in parameters and take in a step."""
    if recipe.preset and dataclasses.replace(LLMS[recipe.preset], max_positions=llm.max_positions) != llm:
        wanted = LLMS[recipe.preset]
        given = f"the LLM has {llm.num_layers} layers of width {llm.width}"
        say(f"note: the recipe is for {recipe.preset} ({wanted.num_layers} layers of width {wanted.width}); {given}")
    parts = {name: count(tree) for name, tree in abstract(llamo.Model, config).items() if isinstance(tree, dict)}
    say("parameters: " + ", ".join(f"{name} {size / 1e6:,.1f} M" for name, size in parts.items()))
    for stage in recipe.stages:
        flops = _flops(stage, config, recipe)
        say(f"{stage.run.name}: {sum(flops.values()) / 1e9:,.1f} GFLOP a step: "
            + ", ".join(f"{name} {each / 1e9:,.1f}" for name, each in flops.items() if each))  # fmt: skip


def _flops(stage: StageRecipe, config: LlamoConfig, recipe: Recipe) -> dict[str, float]:
    """Part of the model -> floating-point operations of a step."""
    lengths = {"text_len": recipe.loader.text_len, "motion_len": recipe.loader.motion_len}
    looks = recipe.loss.timesteps_per_latent
    prefix_len = recipe.loader.room_for_prefixes if recipe.prompt_cache else 0
    return step_flops(config, stage.rows, **lengths, timesteps=looks, trains=stage.run.trainable, prefix_len=prefix_len)


def _turns(out: AnyPath, tokenizer: Tokenizer, weights: int, vocab_size: int) -> Turns:
    """What the LLM's chat template puts around what a person says, kept in the run's folder: some templates say the
    day."""
    file, llm = out / "turns.json", str(weights)
    kept = read_json(file) if file.exists() else {}
    if not isinstance(kept, dict):
        raise InputError(f"{file}: no turns of LLMs; remove it")
    # Every process takes the first's, who may live in another day.
    found = hosts.gather_json(kept[llm] if llm in kept else chat_turns(tokenizer))[0]
    if llm not in kept and hosts.is_first():
        with remote.published(file) as temporary:
            temporary.write_text(json.dumps(kept | {llm: found}) + "\n", encoding="utf-8")
    return turns_of(file, found, vocab_size)


def _captions_of(latents: LatentFolder) -> dict[str, Any]:
    """What of a data set's identity its latents do not show, without paths of this machine."""
    identity = latents.manifest["dataset"].items()
    return {name: value for name, value in identity if not (isinstance(value, str) and os.path.isabs(value))}


def _prompt_cache(
    recipe: Recipe,
    out: AnyPath,
    records: Sequence[LatentRecord],
    loaders: Sequence[LatentLoader],
    tokenizer: Tokenizer,
    llm: LLMConfig,
    text: dict[str, Any],
    meshes: Sequence[Mesh],
) -> PromptCache:
    """The kept keys and values of prompts.

    Raises:
      InputError: several processes, a tensor axis or splash attention want them, or there is no room.
    """
    tensor = max(mesh.shape["tensor"] for mesh in meshes)
    platform, dtype = meshes[0].devices.flat[0].platform, text["embed"].dtype
    splash = backend_for(recipe.attention, platform, dtype, llm.head_dim) == "splash"
    if jax.process_count() > 1 or tensor > 1 or splash or remote.is_remote(out):
        raise InputError(
            "prompt_cache is for one process on this machine, without a tensor axis and without splash attention; set "
            "it to 0"
        )

    cache = prompt_cache(
        out / "prompts",
        readable(records, np.unique(np.concatenate([loader.numbers for loader in loaders])).tolist()),
        [task for name, task in TASKS.items() if any(name in loader.rows for loader in loaders)],
        tokenizer,
        encode=functools.partial(llamo.prefix_keys, text, llm),
        llm=llm,
        tower=fingerprint(flatten(text)),
        gigabytes=recipe.prompt_cache,
        prefix_len=recipe.loader.room_for_prefixes,
    )
    say(f"prompts: {cache.texts} texts of each record are drawn; {len(cache):,} tokens, {cache.bytes / 1e9:.2f} GB")
    return cache


def _require_parts(stage: StageRecipe, mesh: Mesh) -> None:
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    for task, rows in stage.rows.items():
        if rows % (parts * stage.accumulate):
            raise InputError(
                f"{stage.run.name}: {rows} rows of {task} on {parts} devices cannot be taken in {stage.accumulate} "
                f"parts (accumulate); choose rows that {parts * stage.accumulate} divides"
            )


def _data_facts(latents: LatentFolder) -> dict[str, Any]:
    """What a bundle says of its data: without folders of this machine."""
    manifest = latents.manifest
    return {"dataset": manifest["dataset"]["name"]} | {name: manifest[name] for name in ("licence", "records", "hours")}


def _run_stage(
    stage: StageRecipe,
    mesh: Mesh,
    config: LlamoConfig,
    recipe: Recipe,
    params: FlatParams,
    frozen: FlatParams,
    loader: LatentLoader | TextLoader,
    traces: Traces,
    settings: dict[str, Any],
) -> FlatParams:
    placed, run = shardings(llamo.Model, config, mesh), stage.run
    parallel = Parallel.of(placed, mesh, config.text, remat=recipe.remat, attention=recipe.attention)
    flops = _flops(stage, config, recipe)
    peak = peak_flops(jax.devices()[0].device_kind)
    feed = Feed(loader, mesh, *stage.rows.values())
    with traces.record(run.name, settings | {"stage": identity(run)}) as record:
        return train(
            run,
            of_sum(LlamoLoss(config, recipe.loss), parallel, parts=stage.accumulate),
            params,
            frozen,
            feed,
            mesh=mesh,
            shardings=placed,
            record=record,
            work=Work(sum(flops.values()), peak, mesh.size),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain(Running):
    """Train the motion side of a model on latents, stage by stage, and write a bundle."""

    llm: str
    """Folder of the LLM, a GGUF file, or an id on the Hugging Face Hub."""
    vae: AnyPath
    """Folder of the VAE (`vae` in the folder of experiments.train_vae)."""
    latents: AnyPath
    """Folder of latents (`latents` there)."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]

    def run(self) -> None:
        self.start()
        traces = self.traces()
        llm = resolve_llm(str(remote.local(self.llm)) if remote.is_remote(self.llm) else self.llm)
        codec, latents = read_codec(remote.local(self.vae)), LatentFolder(remote.local(self.latents))
        bundle = pretrain(llm, codec, latents, traces, self.recipe, seed=self.seed)
        say(f"bundle -> {bundle}, metrics -> {self.out / 'metrics.jsonl'}")


if __name__ == "__main__":
    main(Pretrain, RECIPES, "python -m experiments.pretrain")
