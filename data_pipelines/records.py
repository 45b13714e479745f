"""The records of a data folder: what is known of one motion, or of one window of it."""

import dataclasses
from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import Float

from llamo_jax.motion.representation import FPS, LATENTS_PER_SECOND

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class MotionRecord:
    """A captioned motion.

    Attributes:
      name: unique in its data set.
      features: [T, 272] float32, un-normalised, 30 frames/s, canonical.
      captions: sentences that describe it.
      labels: facts on it, as {"content": "walk"}.
      speed: mean speed of its joints in m/s; NaN for not measured.
      requests: sentences that ask for it ("Could you show me ...?"), besides the captions: nobody describes with them.
    """

    KIND: ClassVar[str] = "motion"
    RATE: ClassVar[float] = float(FPS)
    name: str
    features: Float[np.ndarray, "T 272"]
    captions: tuple[str, ...]
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    speed: float = float("nan")
    requests: tuple[str, ...] = ()

    @property
    def array(self) -> np.ndarray:
        """What is normalised, counted and learnt: the features."""
        return self.features


@dataclasses.dataclass(frozen=True, eq=False)
class LatentRecord:
    """A captioned motion, or a window of one, as latents of the VAE.

    Attributes:
      name: unique in its data set.
      latents: [n, Z] float32 posterior means, un-normalised, 7.5 a second.
      captions: sentences that describe the motion.
      labels: facts on it.
      complete: the motion's true end is inside.
      speed: mean speed of its joints in m/s; NaN for not measured.
      requests: sentences that ask for it ("Could you show me ...?"), besides the captions: nobody describes with them.
    """

    KIND: ClassVar[str] = "latent"
    RATE: ClassVar[float] = LATENTS_PER_SECOND
    name: str
    latents: Float[np.ndarray, "n Z"]
    captions: tuple[str, ...]
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    complete: bool = True
    speed: float = float("nan")
    requests: tuple[str, ...] = ()

    @property
    def array(self) -> np.ndarray:
        """What is normalised, counted and learnt: the latents."""
        return self.latents


Record = TypeVar("Record", MotionRecord, LatentRecord)


@dataclasses.dataclass(frozen=True)
class Wording:
    """A sentence in words that no training caption has.

    Attributes:
      text: the sentence.
      labels: what it asks for, label name -> class.
      kind: the label whose words are new, or "both" where all are.
      unseen: the phrases of the text that say it, which no caption or request of training has a word of.
    """

    text: str
    labels: dict[str, str]
    kind: str
    unseen: tuple[str, ...] = ()
