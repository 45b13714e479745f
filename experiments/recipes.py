"""Recipes: every number of a training run, by name. Sources: LLaMo (arXiv 2602.12370), Training; for small scale, our own measurements."""

import dataclasses

from data_pipelines.loader import LoaderConfig
from llamo_jax.config import Config, MotionVAEConfig, require
from llamo_jax.training.loop import RunConfig
from llamo_jax.training.losses import LlamoLossConfig, VAELossConfig
from llamo_jax.training.optim import OptimConfig

# What trains in each stage (paper, Training): the text tower only in stage 0, which the demo needs and a pretrained LLM does not.
LLM = ("text/",)
ALIGNMENT = ("motion/adapter", "motion/bom", "motion/eom", "flow/")
ALL_MOTION = ("motion/", "flow/", "exit/")
HEADS = ("flow/", "exit/")


@dataclasses.dataclass(frozen=True)
class VAERecipe(Config):
    """Training of the motion VAE."""

    model: MotionVAEConfig
    run: RunConfig
    loss: VAELossConfig = VAELossConfig()
    rows: int = 32
    frames: int = 64
    """Frames of a training window."""


@dataclasses.dataclass(frozen=True)
class StageRecipe(Config):
    """One stage of the model's training."""

    run: RunConfig
    t2m_rows: int = 0
    m2t_rows: int = 0
    min_speed: float = 0.0
    """Motions slower than this (mean joint speed, m/s) are left out: stage 3 trains without static clips."""

    def __post_init__(self) -> None:
        require(self.t2m_rows + self.m2t_rows > 0, f"stage {self.run.name} has no rows of either task")

    @property
    def rows(self) -> dict[str, int]:
        """Task -> rows of a batch, of the tasks that it has."""
        return {task: rows for task, rows in (("t2m", self.t2m_rows), ("m2t", self.m2t_rows)) if rows}


@dataclasses.dataclass(frozen=True)
class Recipe(Config):
    """The whole main job."""

    vae: VAERecipe
    stages: tuple[StageRecipe, ...]
    llm_run: RunConfig
    """Stage 0: pretraining of an embedded LLM on captions, where none is given."""
    loader: LoaderConfig = LoaderConfig()
    loss: LlamoLossConfig = LlamoLossConfig()
    llm_rows: int = 8
    recogniser_seconds: float = 90.0
    """Time limit for the recogniser that judges the result."""


def _three_stages(
    t2m_rows: int, m2t_rows: int, steps: tuple[int, int, int], optim: OptimConfig, limits: tuple[float | None, ...]
) -> tuple[StageRecipe, ...]:
    """The paper's stages: alignment on both tasks alike, joint training with more of text-to-motion, annealing of the heads on it alone."""
    rows = t2m_rows + m2t_rows
    alignment = dataclasses.replace(optim, final_fraction=1.0)
    annealing = dataclasses.replace(optim, learning_rate=optim.learning_rate / 6, warmup_steps=10)
    return (
        StageRecipe(RunConfig("stage1", steps[0], alignment, ALIGNMENT, limits[0]), rows // 2, rows - rows // 2),
        StageRecipe(RunConfig("stage2", steps[1], optim, ALL_MOTION, limits[1]), t2m_rows, m2t_rows),
        StageRecipe(RunConfig("stage3", steps[2], annealing, HEADS, limits[2], checkpoint_every=5000), rows, 0, min_speed=0.05),
    )


STAGE_0 = RunConfig("stage0", 800, OptimConfig(3e-3, warmup_steps=50), LLM, time_limit=30.0)

# Forty minutes on two CPU cores, on real recordings, measuring included. A row holds two or three motions, and nearly all that people
# record fits one whole (12.7 s): of a motion that is cut, no end is learnt.
RECORDINGS = Recipe(
    vae=VAERecipe(
        MotionVAEConfig(width=128),
        RunConfig("vae", 9000, OptimConfig(2e-3, beta2=0.99), time_limit=570.0),
        VAELossConfig(foot_weight=1.5),
    ),
    loader=LoaderConfig(text_len=144, motion_len=96),
    stages=_three_stages(4, 3, (100, 9000, 200), OptimConfig(3e-3), (30.0, 1200.0, 40.0)),
    llm_run=STAGE_0,
)

# Six minutes on two CPU cores, on the embedded procedural corpus, with an LLM of its own.
DEMO = Recipe(
    vae=VAERecipe(
        MotionVAEConfig(width=96),
        RunConfig("vae", 4500, OptimConfig(2e-3, beta2=0.99), time_limit=75.0),
        frames=32,
    ),
    loader=LoaderConfig(text_len=48, motion_len=48),
    stages=_three_stages(8, 3, (60, 2600, 80), OptimConfig(3e-3), (10.0, 225.0, 12.0)),
    loss=LlamoLossConfig(timesteps_per_latent=2, timestep_mean=-0.8, history_noise=0.5),
    recogniser_seconds=30.0,
    llm_run=STAGE_0,
)

# The Bandai-Namco labels say which recordings are rare.
BANDAI_NAMCO = dataclasses.replace(RECORDINGS, loader=dataclasses.replace(RECORDINGS.loader, balance_by="content"))

RECIPES = {"demo": DEMO, "recordings": RECORDINGS, "bandai_namco": BANDAI_NAMCO}


def recipe_named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
      InputError: there is none.
    """
    require(name in RECIPES, f'recipe "{name}" does not exist; expected one of {", ".join(RECIPES)}')
    return RECIPES[name]
