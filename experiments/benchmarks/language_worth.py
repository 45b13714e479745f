"""What a pretrained LLM's knowledge of language is worth: the same training beside several text towers.

    python -m experiments.benchmarks.language_worth --data DIR --vae DIR/vae --latents DIR/latents --out DIR \
        --llms smollm2=SmolLM2.gguf random=random:SmolLM2.gguf stories=stories260K --steps 600

Every text tower gets the same steps of the same recipe on the same motions, and is asked the held-out captions, in the
wordings of training, and sentences in words that no training caption has. One recogniser says what came. "random:LLM"
has that LLM's shape and tokenizer, and random weights.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

import llamo_jax
from data_pipelines.folder import LatentFolder, MotionFolder
from experiments.evaluate import dataset_of, held_out
from experiments.pretrain import pretrain
from experiments.recipes import Recipe, recipe_named
from experiments.running import Traces
from llamo_jax.commands import Reporting
from llamo_jax.errors import InputError
from llamo_jax.evaluation.captioning import Captioning
from llamo_jax.evaluation.generation import Generation
from llamo_jax.evaluation.recogniser import Recogniser
from llamo_jax.evaluation.suite import Held
from llamo_jax.evaluation.wordings import Wordings
from llamo_jax.files import atomic_path
from llamo_jax.models import llamo
from llamo_jax.models.declaration import init
from llamo_jax.storage.bundle import read_codec
from llamo_jax.storage.hub import Source
from llamo_jax.storage.huggingface import files_of, load_tokenizer, read_config, resolve_llm, save_llm

RANDOM = "random:"
AIM = 20.0
"""Points by which the first label's words that nobody taught come out more often beside an LLM than beside a tower of
random weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageWorth(Reporting):
    """Train the same motions beside several text towers, and ask each in words of training and in unseen words."""

    data: Path
    """Folder of motions, of a data set with unseen wordings."""
    vae: Path
    """Folder of a trained VAE."""
    latents: Path
    """Folder of its latents."""
    out: Path
    """Folder of the runs, one for each LLM; runs that are there are continued."""
    llms: tuple[str, ...]
    """NAME=LLM each: a folder, a GGUF file or a Hub id, or random: and one of these."""
    recipe: str = "recordings-smollm2"
    """Its numbers, but for the times: steps are what is equal."""
    steps: int = 600
    """Of joint training."""
    examples: int = 150
    """Held-out captions that are asked, at most."""
    recogniser_seconds: float = 120.0
    """Time limit of the recogniser's training."""
    seed: int = 0
    """Of everything."""

    def run(self) -> None:
        named = dict(_named(each) for each in self.llms)
        sources = {name: self._resolved(name, llm) for name, llm in named.items()}
        for source in sources.values():  # said before the work, not after half of it
            read_config(source.folder)
            load_tokenizer(source.folder)
        recipe = _by_steps(recipe_named(self.recipe), self.steps)
        folder, codec, latents = MotionFolder(self.data), read_codec(self.vae), LatentFolder(self.latents)
        kind, train = dataset_of(folder), folder.split("train")
        if not (unseen := kind.unseen()):
            raise InputError(f"{self.data}: {kind.name} has no unseen wordings")
        records = held_out(folder, recipe.vae.max_latents)
        chosen = np.unique(np.linspace(0, len(records) - 1, min(self.examples, len(records))).round().astype(int))
        held = Held([records[index] for index in chosen])
        recogniser = Recogniser.train(train, kind.labels, seed=self.seed, seconds=self.recogniser_seconds)
        captions = [text for record in train for text in record.captions]
        figures: dict[str, dict[str, Any]] = {}
        for name, source in sources.items():
            bundle = pretrain(source, codec, latents, Traces(self.out / name), recipe, seed=self.seed)
            model = llamo_jax.load(bundle)
            generation = Generation(recogniser, seed=self.seed, long_count=1)
            evaluators = (
                generation,
                Wordings(recogniser, unseen, generation, seed=self.seed),
                Captioning(kind.facts, kind.caption_labels, captions),
            )
            figures[name] = {f.name: f.value for each in evaluators for f in each.run(model, held)}
            figures[name]["text parameters"] = float(sum(x.size for x in jax.tree.leaves(model.bundle.params["text"])))
        drawn = [name for name, llm in named.items() if llm.startswith(RANDOM)]
        self.report("\n".join([_table(figures), *_judged(figures, drawn)]), figures)

    def _resolved(self, name: str, llm: str) -> Source:
        if not llm.startswith(RANDOM):
            return resolve_llm(llm)
        given, folder = resolve_llm(llm.removeprefix(RANDOM)), self.out / f"{name}-llm"
        if not folder.exists():
            config, tokenizer = read_config(given.folder), load_tokenizer(given.folder)
            with atomic_path(folder, directory=True) as temporary:
                for file in files_of(given.folder):
                    if file.suffix != ".safetensors" and not file.name.startswith("model.safetensors"):
                        shutil.copy(file, temporary)
                text = init(llamo.LLM, config, jax.random.key(self.seed))
                save_llm(temporary, config, text, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
        return Source(folder)


def _named(text: str) -> tuple[str, str]:
    name, found, llm = text.partition("=")
    if not (name and found and llm) or "/" in name:
        raise InputError(f'--llms "{text}"; expected NAME=LLM')
    return name, llm


def _by_steps(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with so many steps of joint training, and no times."""
    counts = (min(100, steps), steps, min(50, steps))
    stages = {
        f"stage{number}": dataclasses.replace(stage, run=dataclasses.replace(stage.run, steps=count, time_limit=None))
        for number, (stage, count) in enumerate(zip(recipe.stages, counts, strict=True), 1)
    }
    return dataclasses.replace(recipe, preset=None, **stages)


def _table(figures: dict[str, dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for each in figures.values() for name in each))
    width = max(map(len, names))
    lines = [" " * width + "".join(f"{name:>14}" for name in figures)]
    lines += [f"{name:<{width}}" + "".join(f"{each.get(name, float('nan')):14.4g}" for each in figures.values())
              for name in names]  # fmt: skip
    return "\n".join(lines)


def _judged(figures: dict[str, dict[str, Any]], drawn: list[str]) -> list[str]:
    """How far each LLM is above each tower of random weights, by words that nobody taught."""
    unseen = next(name for each in figures.values() for name in each if name.endswith("of unseen wordings"))
    lines = []
    for name in figures.keys() - set(drawn):
        for other in drawn:
            apart = figures[name][unseen] - figures[other][unseen]
            met = "met" if apart >= AIM else "missed"
            lines.append(f"{unseen}: {name} {apart:+.1f} points against {other}; aim at least {AIM:.0f}: {met}")
    return sorted(lines)


if __name__ == "__main__":
    LanguageWorth.main("python -m experiments.benchmarks.language_worth")
