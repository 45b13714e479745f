"""Recipes: every number of a training run, by name. Sources: LLaMo (arXiv 2602.12370), Training; for small scale, our
own measurements."""

import dataclasses
import difflib
import sys
import textwrap
from collections.abc import Mapping
from typing import Any, Literal

import tyro

from data_pipelines.loader import LoaderConfig
from llamo_jax.commands import Command
from llamo_jax.config import Config, MotionVAEConfig, require
from llamo_jax.models.parallel import Attention, Remat
from llamo_jax.training.loop import RunConfig
from llamo_jax.training.losses import LlamoLossConfig, VAELossConfig
from llamo_jax.training.optim import OptimConfig, Schedule
from llamo_jax.training.step import GuardConfig

# What trains in each stage (paper, Training): the text tower only in stage 0, which the demo needs and a pretrained LLM
# does not.
LLM = ("text/",)
ALIGNMENT = ("motion/adapter", "motion/bom", "motion/eom", "flow_head/")
ALL_MOTION = ("motion/", "flow_head/", "exit_head/")
HEADS = ("flow_head/", "exit_head/")


@dataclasses.dataclass(frozen=True)
class VAERecipe(Config):
    """Training of the motion VAE."""

    model: MotionVAEConfig
    run: RunConfig
    loss: VAELossConfig = VAELossConfig()
    decoder: tyro.conf.AvoidSubcommands[RunConfig | None] = None
    """A second stage, of the decoder alone: latents stay as the first made them. None is no such stage."""
    decoder_loss: VAELossConfig = VAELossConfig(foot_weight=1.5)
    """Its loss. What makes feet stand well makes latents that are hard to generate, if the encoder learns it too."""
    rows: int = 32
    frames: int = 64
    """Frames of a training window."""
    shards: int = 1
    """Equal parts of a batch, which hosts load apart."""
    max_latents: int = 95
    """Of the longest record of latents: as many as a row of the model's training holds whole."""


@dataclasses.dataclass(frozen=True)
class StageRecipe(Config):
    """One stage of the model's training."""

    run: RunConfig
    rows: dict[str, int]
    """Task -> rows of a batch."""
    accumulate: int = 1
    """Parts that each device takes its rows in, one after the other."""
    min_speed: float = 0.0
    """Motions slower than this (mean joint speed, m/s) are left out: stage 3 trains without static clips."""

    def __post_init__(self) -> None:
        require(sum(self.rows.values()) > 0, f"stage {self.run.name} has no rows of any task")


@dataclasses.dataclass(frozen=True)
class Recipe(Config):
    """The whole main job."""

    vae: tyro.conf.Suppress[VAERecipe]
    stage1: StageRecipe
    stage2: StageRecipe
    stage3: StageRecipe
    llm_run: tyro.conf.Suppress[RunConfig]
    """Stage 0: pretraining of an embedded LLM on captions, where none is given."""
    loader: LoaderConfig = LoaderConfig()
    loss: LlamoLossConfig = LlamoLossConfig()
    llm_rows: tyro.conf.Suppress[int] = 8
    recogniser_seconds: tyro.conf.Suppress[float] = 90.0
    """Time limit for the recogniser that judges the result."""
    motion_width: int | None = None
    """Of the motion tower, which has the LLM's depth and heads and any width; None is the LLM's own, from 512 on."""
    flow_width: int | None = None
    """Of the flow head; None is 1024, and 256 beside narrow LLMs."""
    chat: bool = True
    """Ask through the LLM's chat template, where it has one."""
    prompt_cache: float = 0.0
    """GB, at most, of kept keys and values of the texts before motions, which the frozen tower then computes once; of
    each record as many texts are drawn as fit. 0 keeps none."""
    preset: str | None = None
    """The LLM that the numbers are for, in `presets.LLMS`."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of the frozen tower and of what is computed; what trains is float32. None is the LLM's own."""
    mesh: str | None = None
    """Sizes of the axes data, fsdp and tensor, as 1,8,1; None splits rows alone, over as many devices as divide
    them."""
    remat: Remat = "none"
    """What of a layer is kept for the backward pass: all; what is dear to compute; its input; as the second, on the
    host."""
    attention: Attention = "auto"
    """Kernel of attention; auto is the platform's own."""

    @property
    def stages(self) -> tuple[StageRecipe, ...]:
        """In order."""
        return self.stage1, self.stage2, self.stage3


def identity(config: Config) -> dict[str, Any]:
    """What makes a run what it is, as JSON: without what changes where and how it runs, but not what it learns."""
    return _without(config.to_json(), _EXECUTION)


_EXECUTION = {
    "mesh", "remat", "attention", "accumulate", "prefetch", "log_every", "checkpoint_every", "keep_last", "keep_best",
}  # fmt: skip


def _without(values: Any, names: set[str]) -> Any:
    if not isinstance(values, dict):
        return values
    return {name: _without(value, names) for name, value in values.items() if name not in names}


def _three_stages(
    *,
    t2m_rows: int,
    m2t_rows: int,
    optim: OptimConfig,
    steps: tuple[int, int, int],
    seconds: tuple[float, float, float],
) -> dict[str, StageRecipe]:
    """The paper's stages: alignment, joint training, annealing of the heads.

    Alignment has as much of both tasks, joint training more of text-to-motion, and annealing that alone.

    Args:
      t2m_rows: of a batch of joint training.
      m2t_rows: of a batch of joint training.
      optim: of joint training; alignment does not anneal, and annealing starts at a sixth of its rate.
      steps: of each stage, at most.
      seconds: of each stage, at most.
    """
    rows = t2m_rows + m2t_rows
    alignment = RunConfig(
        name="stage1",
        steps=steps[0],
        optim=dataclasses.replace(optim, final_fraction=1.0),
        trainable=ALIGNMENT,
        time_limit=seconds[0],
    )
    joint = RunConfig(name="stage2", steps=steps[1], optim=optim, trainable=ALL_MOTION, time_limit=seconds[1])
    annealing = RunConfig(
        name="stage3",
        steps=steps[2],
        optim=dataclasses.replace(optim, learning_rate=optim.learning_rate / 6, warmup_steps=10),
        trainable=HEADS,
        time_limit=seconds[2],
        checkpoint_every=5000,
    )
    return {
        "stage1": StageRecipe(alignment, rows={"t2m": rows // 2, "m2t": rows - rows // 2}),
        "stage2": StageRecipe(joint, rows={"t2m": t2m_rows, "m2t": m2t_rows}),
        "stage3": StageRecipe(annealing, rows={"t2m": rows}, min_speed=0.05),
    }


_VAE_OPTIM = OptimConfig(learning_rate=2e-3, beta2=0.99)


def _decoder(*, steps: int, seconds: float) -> RunConfig:
    """The stage of the VAE's decoder alone."""
    optim = dataclasses.replace(_VAE_OPTIM, learning_rate=1e-3, warmup_steps=50)
    return RunConfig("decoder", steps, optim, trainable=("decoder/",), time_limit=seconds)


STAGE_0 = RunConfig(
    name="stage0",
    steps=800,
    optim=OptimConfig(learning_rate=3e-3, warmup_steps=50),
    trainable=LLM,
    time_limit=30.0,
)

# Real recordings, on two CPU cores. A row holds two or three motions, and nearly all that people record fits one whole
# (12.7 s): of a motion that is cut, no end is learnt.
RECORDINGS = Recipe(
    vae=VAERecipe(
        model=MotionVAEConfig(width=128),
        run=RunConfig(name="vae", steps=9000, optim=_VAE_OPTIM, time_limit=400.0),
        decoder=_decoder(steps=5000, seconds=170.0),
    ),
    loader=LoaderConfig(text_len=144, motion_len=96),
    **_three_stages(
        t2m_rows=4,
        m2t_rows=3,
        optim=OptimConfig(learning_rate=3e-3),
        steps=(100, 9000, 200),
        seconds=(30.0, 1200.0, 40.0),
    ),
    llm_run=STAGE_0,
)

# The embedded procedural corpus, on two CPU cores, with an LLM of its own.
DEMO = Recipe(
    vae=VAERecipe(
        model=MotionVAEConfig(width=96),
        # Few long windows teach more than many short ones, whose starts are a third of what the decoder sees. From
        # 4e-3 on the latents of such batches collapse.
        run=RunConfig(
            name="vae", steps=9000, optim=dataclasses.replace(_VAE_OPTIM, learning_rate=2.5e-3), time_limit=100.0
        ),
        decoder=_decoder(steps=3000, seconds=32.0),
        decoder_loss=VAELossConfig(foot_weight=2.0),
        rows=16,
        max_latents=47,
    ),
    loader=LoaderConfig(text_len=48, motion_len=48),
    **_three_stages(
        t2m_rows=8,
        m2t_rows=3,
        optim=OptimConfig(learning_rate=3e-3),
        steps=(60, 2600, 80),
        seconds=(10.0, 225.0, 12.0),
    ),
    loss=LlamoLossConfig(
        timesteps_per_latent=2, timestep_mean=-0.8, history_noise=0.5, history_hidden=0.2, gist_weight=1.0
    ),
    recogniser_seconds=30.0,
    llm_run=STAGE_0,
)

# The Bandai-Namco labels say which recordings are rare.
BANDAI_NAMCO = dataclasses.replace(RECORDINGS, loader=dataclasses.replace(RECORDINGS.loader, balance_by="content"))

# The same recordings with SmolLM2-135M-Instruct, two hours of training on two CPU cores: a narrow tower of 30 layers.
# What the frozen tower says of prompts is computed once; captions cost its backward pass, so that they have few rows.
RECORDINGS_SMOLLM2 = dataclasses.replace(
    BANDAI_NAMCO,
    vae=dataclasses.replace(
        RECORDINGS.vae,
        run=dataclasses.replace(RECORDINGS.vae.run, time_limit=1500.0),
        decoder=_decoder(steps=5000, seconds=420.0),
        decoder_loss=VAELossConfig(foot_weight=2.5),
    ),
    loader=LoaderConfig(text_len=64, prefix_len=96, motion_len=96, balance_by="content"),
    **_three_stages(
        t2m_rows=4,
        m2t_rows=1,
        optim=OptimConfig(learning_rate=2e-3),
        steps=(100, 9000, 200),
        seconds=(60.0, 5100.0, 60.0),
    ),
    loss=LlamoLossConfig(timesteps_per_latent=2, history_hidden=0.2, gist_weight=1.0),
    preset="smollm2-135m",
    motion_width=192,
    flow_width=256,
    prompt_cache=2.4,
    recogniser_seconds=150.0,
)

# The paper's figures: k = 4 looks at times that are uniform, history noise of 0.01, stages of 100k, 200k and 50k steps,
# rate 1e-4, in the last stage along a cosine to 1e-5, 0.8 to 0.2 of the tasks in joint training, bfloat16. Its batch is
# 128 samples; a row of 128 tokens and 128 slots (17 s) packs about four, and rows are multiples of 64, so that a slice
# of 64 chips has some of each task: a step sees 4 to 10 times the samples. Ours, where the paper is silent: decay, the
# flow head at half the rate and stable for most of the stage (it is what spikes), averages, the weight of ends.
_PAPER_OPTIM = OptimConfig(
    learning_rate=1e-4,
    warmup_steps=1000,
    final_fraction=0.1,
    beta2=0.95,
    weight_decay=0.01,
    ema_decay=0.999,
)


def _paper(preset: str, *, mesh: str, optim: OptimConfig = _PAPER_OPTIM) -> Recipe:
    common = {
        "guard": GuardConfig(spike=10.0, memory=500, patience=50),
        "log_every": 50,
        "checkpoint_every": 1000,
        "keep_best": 1,
    }
    head = Schedule(learning_rate=optim.learning_rate / 2, warmup_steps=1000, shape="wsd", final_fraction=0.1)
    alignment = dataclasses.replace(optim, final_fraction=1.0)
    joint = dataclasses.replace(optim, modules={"flow_head": head})
    return Recipe(
        vae=PAPER_VAE,
        loader=LoaderConfig(text_len=128, motion_len=128, shards=64),
        loss=LlamoLossConfig(timestep_distribution="uniform", history_noise=0.01, exit_end_weight=10.0),
        stage1=StageRecipe(RunConfig("stage1", 100_000, alignment, ALIGNMENT, **common), rows={"t2m": 64, "m2t": 64}),
        stage2=StageRecipe(RunConfig("stage2", 200_000, joint, ALL_MOTION, **common), rows={"t2m": 256, "m2t": 64}),
        stage3=StageRecipe(RunConfig("stage3", 50_000, optim, HEADS, **common), rows={"t2m": 128}, min_speed=0.05),
        llm_run=STAGE_0,
        preset=preset,
        precision="bfloat16",
        mesh=mesh,
        remat="full",
    )


# Steps and batch are the paper's; the rate is ours.
PAPER_VAE = VAERecipe(
    model=MotionVAEConfig(width=512),
    run=RunConfig(
        "vae",
        3_000_000,
        OptimConfig(learning_rate=2e-4, warmup_steps=1000, beta2=0.99, ema_decay=0.999),
        guard=GuardConfig(spike=10.0, memory=500, patience=50),
        log_every=100,
        checkpoint_every=10_000,
        keep_best=1,
    ),
    rows=256,
    shards=64,
    max_latents=127,
)

RECIPES = {
    "demo": DEMO,
    "recordings": RECORDINGS,
    "bandai_namco": BANDAI_NAMCO,
    "recordings-smollm2": RECORDINGS_SMOLLM2,
    "paper-1b": _paper("llama-3.2-1b", mesh="1,8,1"),
    "paper-1b-muon": _paper(
        "llama-3.2-1b", mesh="1,8,1", optim=dataclasses.replace(_PAPER_OPTIM, optimizer="muon", weight_decay=0.1)
    ),
    "paper-3b": _paper("llama-3.2-3b", mesh="1,8,1"),
    "paper-8b": _paper("llama-3.1-8b", mesh="1,16,1"),
}

_WITH_VAE = ("demo", "recordings", "bandai_namco", "recordings-smollm2")
VAE_RECIPES = {name: RECIPES[name].vae for name in _WITH_VAE} | {"paper-vae": PAPER_VAE}


def recipe_named(name: str, recipes: Mapping[str, Any] = RECIPES) -> Any:
    """The recipe of that name.

    Raises:
      InputError: there is none.
    """
    close = difflib.get_close_matches(name, recipes, 1)
    meant = f'; did you mean "{close[0]}"?' if close else ""
    require(name in recipes, f'recipe "{name}" does not exist; expected one of {", ".join(recipes)}{meant}')
    return recipes[name]


def with_recipe(
    command: type[Command], recipes: Mapping[str, Any], prog: str, arguments: list[str] | None = None
) -> Command:
    """A command from the command line, whose first word names the recipe, and whose options change any number of it.

    Args:
      command: with a field `recipe`, whose own fields become options.
      recipes: by name; "recordings" where none is named.
      prog: name of the command.
      arguments: of it; None is those of the process.

    Raises:
      InputError: there is no such recipe, or its numbers do not fit together.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    named = bool(arguments) and not arguments[0].startswith("-")
    name, rest = (arguments[0], arguments[1:]) if named else ("recordings", arguments)
    recipe = recipe_named(name, recipes)
    fields = {
        field.name: tyro.MISSING if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(command)
    }
    about = f"{command.__doc__} The recipe is {name}; the first word chooses another: {', '.join(recipes)}."
    return tyro.cli(
        command, prog=f"{prog} {name}", args=rest, default=command(**fields | {"recipe": recipe}), description=about
    )


def told(recipe: Config) -> str:
    """A recipe as lines of text, one or more for each part that a command trains with."""
    values = {name: value for name, value in recipe.to_json().items() if name not in _OF_OTHER_COMMANDS}
    lines = [f"{name}: {_words(value)}" for name, value in values.items()]
    return "\n".join(textwrap.fill(line, 118, subsequent_indent="  ") for line in lines)


_OF_OTHER_COMMANDS = {"vae", "llm_run", "llm_rows", "recogniser_seconds"}


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} ({_words(each)})" if isinstance(each, dict) else f"{name} {each}"
                         for name, each in value.items())  # fmt: skip
    return str(value)
