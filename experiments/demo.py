"""The main job end to end: data, VAE, three stages, motion and captions, measured, in one report.

    python -m experiments.demo                                                      the embedded procedural corpus, an LLM of its own
    python -m experiments.demo --corpus bandai_namco --source DIR --llm FOLDER      real recordings, a real LLM

The demo has no training code of its own: it calls the functions of the full recipes.
"""

import dataclasses
import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

import llamo_jax
from data_pipelines.builders.bandai_namco import build_bandai_namco
from data_pipelines.builders.bandai_namco_captions import labels_of
from data_pipelines.builders.bvh_folder import build_bvh_folder
from data_pipelines.builders.synthetic_builder import build_synthetic
from data_pipelines.loader import evaluation_examples
from data_pipelines.shards import MotionRecord, MotionShards
from data_pipelines.synthetic import caption_facts
from experiments.pretrain import pretrain, pretrain_llm
from experiments.recipes import Recipe, recipe_named
from experiments.report import CaptionRow, Figure, Pair, require_report_or_nothing, write_report
from experiments.train_vae import train_vae
from llamo_jax.convert.bundle import require_replaceable, update_info
from llamo_jax.convert.hub import Source
from llamo_jax.convert.huggingface import load_llm, resolve_llm
from llamo_jax.errors import InputError, run_reporting_mistakes
from llamo_jax.evaluation.captioning import caption_accuracy
from llamo_jax.evaluation.generation import GenerationResult, evaluate_generation
from llamo_jax.evaluation.language import text_fidelity
from llamo_jax.evaluation.recogniser import Recogniser
from llamo_jax.evaluation.reconstruction import evaluate_reconstruction
from llamo_jax.files import write_json
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.model import Llamo
from llamo_jax.models.llamo import output_rows
from llamo_jax.models.motion_vae import FRAMES_PER_LATENT
from llamo_jax.motion import FPS, MotionClip
from llamo_jax.presets import LLMS
from llamo_jax.tokenizer import Tokenizer

Corpus = Literal["synthetic", "bandai_namco", "bvh"]

_RECIPES = {"synthetic": "demo", "bandai_namco": "bandai_namco", "bvh": "recordings"}

_LABELS = {"synthetic": ("action", "side", "speed", "count"), "bandai_namco": ("content", "style"), "bvh": ()}
"""What a recogniser is trained to tell apart; a folder of BVH brings sentences and no labels."""

_CAPTION_LABELS = {**_LABELS, "synthetic": (*_LABELS["synthetic"], "sequence", "sides")}
"""What captions name. A pair of actions is too rare for a recogniser to learn it as a class of its own."""


@dataclasses.dataclass(frozen=True)
class Demo:
    """Build a corpus, train the whole model on it, generate, caption, measure, and write an HTML report."""

    out: Path = Path("demo")
    """Folder of the run; gets report/, bundle/, data/, checkpoints and metrics. A run that is there already is continued."""
    corpus: Corpus = "synthetic"
    """The embedded procedural corpus, the Bandai-Namco recordings, or a folder of BVH with captions.json."""
    source: Path | None = None
    """Folder of the recordings, for the last two."""
    llm: str | None = None
    """Hugging Face folder of a pretrained LLM, or its id on the Hub; without it a tiny one is pretrained on the captions."""
    recipe: str | None = None
    """Name of the recipe; the default is the corpus's own."""
    clips: int = 2000
    """Size of the synthetic corpus."""
    examples: int = 300
    """Held-out clips to measure on, at most."""
    videos: int = 12
    """Pairs of generated and real videos in the report."""
    seed: int = 0
    """Of data, weights, batches and samples."""
    json: Path | None = None
    """Write the figures to this file too."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        clock = _Clock()
        if self.corpus != "synthetic" and self.source is None:
            raise InputError(f"--corpus {self.corpus} needs --source: the folder of the recordings")
        recipe = recipe_named(self.recipe or _RECIPES[self.corpus])
        # Said before the work, not after half of it.
        if min(self.examples, self.videos, self.clips, self.seed + 1) < 1:
            settings = f"--examples {self.examples}, --videos {self.videos}, --clips {self.clips}, --seed {self.seed}"
            raise InputError(f"{settings}; expected at least 1 of each, and a seed of 0 or more")
        given = resolve_llm(self.llm) if self.llm else None
        if given:
            _, text = load_llm(given.folder)
            Tokenizer(given.folder, output_rows(text))
        require_report_or_nothing(self.out / "report")
        require_replaceable(self.out / "bundle")
        with clock("data"):
            shards = self._data()
        if "test" not in shards.manifest["records"]:
            raise InputError(f"{shards.path}: no recording fell to the test split; bring more recordings")
        held_out = [record for record in shards.split("test") if len(record.features) // FRAMES_PER_LATENT < recipe.loader.motion_len]
        if not held_out:
            raise InputError(
                f"{shards.path}: no recording to test on that is shorter than {recipe.loader.motion_len} latents, "
                f"{recipe.loader.motion_len * FRAMES_PER_LATENT / FPS:.1f} s; bring more recordings, or shorter ones"
            )
        with clock("motion VAE and latents"):
            codec, latents = train_vae(shards.path, self.out, recipe.vae, max_tokens=recipe.loader.motion_len - 1, seed=self.seed)
        with clock("LLM"):
            llm = given or Source(self._own_llm(shards, recipe))
        with clock("three stages"):
            bundle = pretrain(llm, codec, latents, self.out, recipe, seed=self.seed)
        model = llamo_jax.load(bundle)
        measured = _Measured(self, shards, held_out, recipe, model, llm.folder, clock)
        with clock("report"):
            facts = self._facts(shards, recipe, model, self.llm or llm.folder, clock)
            report = write_report(
                self.out / "report", f"llamo_jax on {shards.manifest['builder']}", facts, measured.figures,
                {"Training": self.out / "metrics.jsonl"}, measured.pairs, measured.captions,
            )  # fmt: skip
        # JSON knows no NaN.
        figures = {figure.name: figure.value if math.isfinite(figure.value) else None for figure in measured.figures}
        update_info(bundle, figures=figures)
        write_json(self.out / "figures.json", {"figures": figures, "seconds": clock.seconds})
        if self.json:
            write_json(self.json, {"figures": figures, "seconds": clock.seconds})
        for figure in measured.figures:
            mark = {None: "    ", True: "pass", False: "MISS"}[figure.passed]
            print(f"{mark}  {figure.name:<58} {figure.value:10.4g} {figure.unit:<8} {figure.aim}")
        print(f"{clock.total():.0f} s in all: " + ", ".join(f"{name} {s:.0f} s" for name, s in clock.seconds.items()))
        print(f"report -> {report}\nbundle -> {bundle}   (try: llamo generate {bundle} \"a person waves the left hand\" -o wave.mp4)")

    def _data(self) -> MotionShards:
        folder = self.out / "data"
        if (folder / "dataset.json").exists():
            shards = MotionShards(folder)
            builder, found = shards.manifest["builder"], shards.manifest["source"]
            expected = f"procedural corpus, {self.clips} clips, seed {self.seed}" if self.source is None else str(self.source.resolve())
            if builder != self.corpus or found != expected:
                raise InputError(f"{folder}: holds other data ({builder}: {found}); choose another --out")
            return shards
        if self.corpus == "synthetic":
            return build_synthetic(folder, num_clips=self.clips, seed=self.seed)
        if self.corpus == "bandai_namco":
            return build_bandai_namco(self.source, folder)
        return build_bvh_folder(self.source, folder)

    def _own_llm(self, shards: MotionShards, recipe: Recipe) -> Path:
        captions = [record.captions for record in shards.split("train")]
        return pretrain_llm(captions, self.out, LLMS["tiny"], recipe, seed=self.seed)

    def _facts(self, shards: MotionShards, recipe: Recipe, model: Llamo, llm: str | Path, clock: "_Clock") -> dict[str, Any]:
        packages = ("llamo_jax", "jax", "flax", "optax", "grain", "numpy")
        return {
            "Data": {"corpus": shards.manifest["source"], "clips": shards.manifest["records"], "hours": shards.manifest["hours"]},
            "Model": {"LLM": llm, "text tower": model.config.text, "motion tower": model.config.motion, "flow head": model.config.flow,
                      "motion VAE": model.codec.config},
            "Training": {"VAE": recipe.vae.run, **{stage.run.name: stage.run for stage in recipe.stages}, "seed": self.seed},
            "Machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "devices": jax.device_count(),
                        "python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}},
            "Seconds": {name: f"{seconds:.0f}" for name, seconds in clock.seconds.items()},
        }  # fmt: skip


class _Clock:
    """Seconds of each phase of the run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    def total(self) -> float:
        """Seconds since the start, what belongs to no phase included."""
        return time.monotonic() - self._started

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - started


class _Measured:
    """Everything that the report says of a trained model, on the test split."""

    def __init__(
        self, demo: Demo, shards: MotionShards, held_out: list[MotionRecord], recipe: Recipe, model: Llamo, llm: Path, clock: _Clock
    ):
        chosen = [record for _, record in evaluation_examples(held_out, demo.examples)]
        self.figures = _reconstruction_figures(chosen, model.codec) + _language_figures(model, llm)
        self.pairs: list[Pair] = []
        self.captions: list[CaptionRow] = []
        caption_labels = _CAPTION_LABELS[demo.corpus]
        train = shards.split("train").cached()
        # A small set may have one class of a label, of which there is nothing to tell apart.
        label_names = tuple(name for name in _LABELS[demo.corpus] if len({r.labels[name] for r in train if name in r.labels}) > 1)
        with clock("recogniser"):
            recogniser = None
            if label_names:
                recogniser = Recogniser.train(train, label_names, seed=demo.seed, seconds=recipe.recogniser_seconds)
        clips = [MotionClip.from_features(r.features, captions=r.captions, name=r.name, labels=r.labels) for r in chosen]
        with clock("captions"):
            captions = [text for start in range(0, len(clips), 32) for text in model.caption(clips[start : start + 32])]
        with clock("generation"):
            result = evaluate_generation(model, chosen, recogniser, seed=demo.seed)
        self.figures += _generation_figures(result, label_names)
        if caption_labels:
            self.figures += _caption_figures(captions, chosen, _facts_of(demo.corpus), caption_labels)
        self.pairs += [_pair(result, index) for index in _spread(len(chosen), demo.videos)]
        for index in _spread(len(chosen), 24):
            named = _facts_of(demo.corpus)(captions[index]) if caption_labels else {}
            scored = {name: value for name, value in chosen[index].labels.items() if name in caption_labels}
            right = all(named.get(name) == value for name, value in scored.items()) if scored else None
            self.captions.append(CaptionRow(chosen[index].name, captions[index], chosen[index].captions, right, clips[index]))


FactsOf = Callable[[str], Mapping[str, str | None]]


def _facts_of(corpus: Corpus) -> FactsOf:
    """The function that reads the labels off a caption of this corpus."""
    if corpus == "bandai_namco":
        return lambda caption: dict(zip(("content", "style"), labels_of(caption), strict=True))
    return caption_facts


def _reconstruction_figures(records: list[MotionRecord], codec: MotionCodec) -> list[Figure]:
    real = [np.asarray(record.features) for record in records]
    decoded = [f for start in range(0, len(real), 32) for f in codec.decode(codec.encode(real[start : start + 32]))]
    f = evaluate_reconstruction(real, decoded)
    group = "Motion VAE, held-out clips"
    return [
        Figure("VAE MPJPE", f["mpjpe_mm"], "mm", group, high=18.0, note="pelvis-aligned, from positions"),
        Figure("VAE MPJPE from rotations", f["mpjpe_rotations_mm"], "mm", group),
        Figure("VAE MPJRE", f["mpjre_degrees"], "degrees", group),
        Figure("VAE jerk over real", f["jerk_ratio"], "x", group, low=0.8, high=1.3),
        Figure("VAE foot skating over real", f["skating_ratio"], "x", group, high=1.3,
               note="mean horizontal speed of feet while the recording's stand still"),
        Figure("VAE speed of standing feet", 100 * f["foot_skating"], "cm/s", group, control=100 * f["foot_skating_real"]),
        Figure("VAE speed of low feet over real", f["low_foot_ratio"], "x", group, note="lower than 5 cm; hardly sees skating"),
        Figure("Streamed decoding against decoding at once", _streaming_error(codec, real[0]), "", group, high=1e-4,
               note="largest difference of features"),
    ]  # fmt: skip


def _streaming_error(codec: MotionCodec, features: np.ndarray) -> float:
    latents = codec.encode([features])[0]
    return float(np.abs(np.concatenate(list(codec.stream(latents))) - codec.decode([latents])[0]).max())


def _language_figures(model: Llamo, llm: Path) -> list[Figure]:
    f = text_fidelity(model, llm)
    group = "Language"
    figures = [Figure("Text logits changed by motion training", f["changed_logits"], "", group, high=0, note="bitwise")]
    if "logit_error" in f:
        note = (
            f"largest difference, float32, of logits up to {f['largest_logit']:.0f}. Against transformers in float64: "
            f"ours {f['rounding_error']:.2g}, transformers in float32 {f['rounding_error_transformers']:.2g}"
        )
        figures.append(Figure("Text logits against transformers", f["logit_error"], "", group, high=1e-5, note=note))
    return figures


def _generation_figures(result: GenerationResult, label_names: tuple[str, ...]) -> list[Figure]:
    f, group = result.figures, f"Text-to-motion, {result.figures['clips']:.0f} held-out captions"
    aims = {"content": 80.0, "style": 90.0, "action": 80.0}
    figures = [
        Figure(f"Recognised {name} of generated", 100 * f[f"accuracy_{name}"], "%", group, low=aims.get(name),
               control=100 * f[f"accuracy_{name}_real"])
        for name in label_names
    ]  # fmt: skip
    unseen = [i for i, clip in enumerate(result.real) if clip.labels.get("combination") == "unseen" and "action" in clip.labels]
    if unseen:
        right = sum(result.recognised[i]["action"] == result.real[i].labels["action"] for i in unseen)
        note = f"{len(unseen)} clips of an action, side, speed and count that training never saw together"
        figures.append(Figure("Recognised action, unseen combinations", 100 * right / len(unseen), "%", group, note=note))
    if f["hand_clips"]:
        figures.append(Figure("Wrong hand", f["wrong_hand"], f"of {f['hand_clips']:.0f}", group, high=0, control=f["wrong_hand_real"]))
    if f["walk_clips"]:
        speed, real = f["walk_speed"], f["walk_speed_real"]
        figures.append(Figure("Walking speed", speed, "m/s", group, low=0.7 * real, high=1.3 * real, control=real))
    if f["exit_clips"]:
        note = f"bias {f['exit_bias_tokens']:+.1f}; always guessing the median length gives {f['exit_error_tokens_constant']:.1f}"
        figures.append(Figure("Exit error", f["exit_error_tokens"], "tokens", group, high=5.0, note=note))
    long = f"of {f['long_clips']:.0f} of 20 s"
    if "frechet" in f:
        note = "control: two halves of the real clips"
        figures.append(Figure("Frechet distance", f["frechet"], "", group, control=f["frechet_halves"], note=note))
    return [
        *figures,
        Figure("Frozen", f["long_frozen"], long, group, high=0),
        Figure("Exploded", f["long_exploded"], long, group, high=0),
        Figure("Jerk", f["jerk"], "m/s^3", group, control=f["jerk_real"]),
        Figure("Speed of standing feet", 100 * f["foot_skating"], "cm/s", group, control=100 * f["foot_skating_real"], note="own contacts"),
        Figure("Positions against rotations", f["disagreement_mm"], "mm", group),
    ]


def _caption_figures(captions: list[str], records: list[MotionRecord], facts_of: FactsOf, label_names: tuple[str, ...]) -> list[Figure]:
    labels, references = [record.labels for record in records], [record.captions for record in records]
    f = caption_accuracy(captions, labels, facts_of, references, label_names)
    aims = {"content": 90.0, "action": 90.0}
    group = f"Motion-to-text, {len(records)} held-out clips"
    return [
        Figure(f"Captions: {name.replace('_', ' ')}", 100 * value, "%", group, low=aims.get(name)) for name, value in f.items()
    ]


def _pair(result: GenerationResult, index: int) -> Pair:
    real = result.real[index]
    return Pair(result.prompts[index], result.generated[index], real, real.labels, result.recognised[index])


def _spread(length: int, count: int) -> list[int]:
    return sorted(set(np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()))


if __name__ == "__main__":
    command = tyro.cli(Demo, prog="python -m experiments.demo")
    run_reporting_mistakes(command.run, debug=command.debug)
