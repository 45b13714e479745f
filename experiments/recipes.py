"""Recipes: every number of a training run, by name. Sources: LLaMo (arXiv 2602.12370), Training; for small scale, our
own measurements."""

import dataclasses

from data_pipelines.loader import LoaderConfig
from llamo_jax.config import Config, MotionVAEConfig, require
from llamo_jax.training.loop import RunConfig
from llamo_jax.training.losses import LlamoLossConfig, VAELossConfig
from llamo_jax.training.optim import OptimConfig

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
    rows: int = 32
    frames: int = 64
    """Frames of a training window."""


@dataclasses.dataclass(frozen=True)
class StageRecipe(Config):
    """One stage of the model's training."""

    run: RunConfig
    rows: dict[str, int]
    """Task -> rows of a batch."""
    min_speed: float = 0.0
    """Motions slower than this (mean joint speed, m/s) are left out: stage 3 trains without static clips."""

    def __post_init__(self) -> None:
        require(sum(self.rows.values()) > 0, f"stage {self.run.name} has no rows of any task")


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
    *,
    t2m_rows: int,
    m2t_rows: int,
    optim: OptimConfig,
    steps: tuple[int, int, int],
    seconds: tuple[float, float, float],
) -> tuple[StageRecipe, ...]:
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
    return (
        StageRecipe(alignment, rows={"t2m": rows // 2, "m2t": rows - rows // 2}),
        StageRecipe(joint, rows={"t2m": t2m_rows, "m2t": m2t_rows}),
        StageRecipe(annealing, rows={"t2m": rows}, min_speed=0.05),
    )


_VAE_OPTIM = OptimConfig(learning_rate=2e-3, beta2=0.99)

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
        run=RunConfig(name="vae", steps=9000, optim=_VAE_OPTIM, time_limit=570.0),
        loss=VAELossConfig(foot_weight=1.5),
    ),
    loader=LoaderConfig(text_len=144, motion_len=96),
    stages=_three_stages(
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
        run=RunConfig(name="vae", steps=4500, optim=_VAE_OPTIM, time_limit=75.0),
        frames=32,
    ),
    loader=LoaderConfig(text_len=48, motion_len=48),
    stages=_three_stages(
        t2m_rows=8,
        m2t_rows=3,
        optim=OptimConfig(learning_rate=3e-3),
        steps=(60, 2600, 80),
        seconds=(10.0, 225.0, 12.0),
    ),
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
