"""The main job end to end: data, VAE, three stages, motion and captions, measured, in one report.

    python -m experiments.demo                                     the embedded procedural corpus, an LLM of its own
    python -m experiments.demo --corpus bandai_namco --source DIR --llm FOLDER           real recordings, a real LLM

The demo has no training code of its own: it calls the functions of the full recipes.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import llamo_jax
from data_pipelines.builders import DATASETS, BandaiNamco, Synthetic
from data_pipelines.builders.dataset import Dataset, build
from data_pipelines.folder import MotionFolder
from experiments.evaluate import Clock, evaluate_model, held_out, machine, model_facts
from experiments.pretrain import pretrain, pretrain_llm
from experiments.recipes import Recipe, recipe_named
from experiments.report import require_report_or_nothing
from experiments.running import Traces
from experiments.train_vae import train_vae
from llamo_jax.commands import Reporting, require_seed
from llamo_jax.errors import InputError
from llamo_jax.files import write_json
from llamo_jax.presets import LLMS
from llamo_jax.pretrained import Llamo
from llamo_jax.storage.bundle import require_replaceable, update_info
from llamo_jax.storage.hub import Source
from llamo_jax.storage.huggingface import load_tokenizer, resolve_llm

Corpus = Literal[tuple(kind.name for kind in DATASETS)]  # type: ignore[valid-type]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo(Reporting):
    """Build a corpus, train the whole model on it, generate, caption, measure, and write an HTML report."""

    out: Path = Path("demo")
    """Folder of the run; gets report/, bundle/, data/, checkpoints and metrics. A run that is there is continued."""
    corpus: Corpus = Synthetic.name
    """The data set."""
    source: Path | None = None
    """Folder of the recordings, for all but the procedural corpus."""
    captions: Literal["templates", "english"] = "templates"
    """Of recordings that come with labels: a few plain wordings, which a tiny LLM learns one by one, or ordinary
    English."""
    llm: str | None = None
    """Folder, GGUF file or Hub id of a pretrained LLM; without it a tiny one is pretrained on the captions."""
    recipe: str | None = None
    """Name of the recipe; the default is the corpus's own."""
    clips: int = 2000
    """Size of the procedural corpus."""
    examples: int = 300
    """Held-out clips to measure on, at most."""
    videos: int = 12
    """Pairs of generated and real videos in the report."""
    seed: int = 0
    """Of data, weights, batches and samples."""

    def run(self) -> None:
        clock = Clock()
        # Said before the work, not after half of it.
        require_seed(self.seed)
        if min(self.examples, self.videos, self.clips) < 1:
            found = f"--examples {self.examples}, --videos {self.videos}, --clips {self.clips}"
            raise InputError(f"{found}; expected at least 1 of each")
        dataset = self._dataset()
        recipe = recipe_named(self.recipe or dataset.recipe)
        given = resolve_llm(self.llm) if self.llm else None
        if given:
            load_tokenizer(given.folder)
        require_report_or_nothing(self.out / "report")
        require_replaceable(self.out / "bundle")
        with clock("data"):
            folder = self._data(dataset)
            records = held_out(folder, recipe.vae.max_latents)
        with clock("motion VAE and latents"):
            codec, latents = train_vae(folder.path, Traces(self.out), recipe.vae, seed=self.seed)
        with clock("LLM"):
            llm = given or Source(self._own_llm(folder, recipe))
        with clock("three stages"):
            bundle = pretrain(llm, codec, latents, Traces(self.out), recipe, seed=self.seed)
        model = llamo_jax.load(bundle)
        done = evaluate_model(
            model,
            bundle,
            folder,
            records,
            llm=llm.folder,
            examples=self.examples,
            recogniser_seconds=recipe.recogniser_seconds,
            seed=self.seed,
            clock=clock,
        )
        with clock("report"):
            facts = self._facts(folder, recipe, model, self.llm or llm.folder, clock)
            curves = {"Training": self.out / "metrics.jsonl"}
            page = done.report(self.out / "report", f"llamo_jax on {dataset.name}", facts, curves, self.videos)
        update_info(bundle, figures=done.figures)
        results = {"figures": done.figures, "seconds": clock.seconds}
        write_json(self.out / "figures.json", results)
        phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.seconds.items())
        trial = f'llamo generate {bundle} "a person waves the left hand" -o wave.mp4'
        paths = f"report -> {page}\nbundle -> {bundle}   (try: {trial})"
        text = f"{done.table()}\n{clock.total():.0f} s in all: {phases}\n{paths}"
        self.report(text, results)

    def _dataset(self) -> Dataset:
        kind = next(kind for kind in DATASETS if kind.name == self.corpus)
        options: dict[str, Any] = {"source": self.source, "num_clips": self.clips, "seed": self.seed}
        if kind is BandaiNamco:
            options["captions"] = self.captions
        elif self.captions != "templates":
            raise InputError(f"--captions {self.captions}: {self.corpus} has captions of its own; leave it out")
        taken = {field.name for field in dataclasses.fields(kind)}
        if "source" in taken and self.source is None:
            raise InputError(f"--corpus {self.corpus} needs --source: the folder of the recordings")
        return kind(**{name: value for name, value in options.items() if name in taken})

    def _data(self, dataset: Dataset) -> MotionFolder:
        path = self.out / "data"
        if not (path / "dataset.json").exists():
            return build(dataset, path)
        folder = MotionFolder(path)
        if (found := folder.manifest["dataset"]) != dataset.identity():
            raise InputError(f"{path}: holds other data ({found}); choose another --out")
        return folder

    def _own_llm(self, folder: MotionFolder, recipe: Recipe) -> Path:
        captions = [record.captions for record in folder.split("train")]
        return pretrain_llm(captions, self.out, LLMS["tiny"], recipe, seed=self.seed)

    def _facts(
        self, folder: MotionFolder, recipe: Recipe, model: Llamo, llm: str | Path, clock: Clock
    ) -> dict[str, Any]:
        manifest = folder.manifest
        return {
            "Data": {**manifest["dataset"], "clips": manifest["records"], "hours": manifest["hours"]},
            "Model": {"LLM": llm, **model_facts(model)},
            "Training": {
                "VAE": recipe.vae.run,
                **{stage.run.name: stage.run for stage in recipe.stages},
                "seed": self.seed,
            },
            "Machine": machine(),
            "Seconds": {name: f"{seconds:.0f}" for name, seconds in clock.seconds.items()},
        }


if __name__ == "__main__":
    Demo.main("python -m experiments.demo")
