"""Which figures should be where, by data set: aims of evaluation, with their sources."""

from collections.abc import Mapping

from llamo_jax.evaluation.figure import Aim

# An autoencoder that stays within 18 mm and moves as its recordings do; text that is the LLM's; bodies that do not
# break.
COMMON: dict[str, Aim] = {
    "VAE MPJPE": Aim(high=18.0),
    "VAE jerk over real": Aim(low=0.8, high=1.3),
    "VAE foot skating over real": Aim(high=1.3),
    "Streamed decoding against decoding at once": Aim(high=1e-4),
    "Text logits changed by motion training": Aim(high=0),
    # What float32 alone does to transformers' own logits, and half as much again.
    "Text logits' distance from float64 over transformers'": Aim(high=1.5),
    "Chat replies changed": Aim(high=0),
    "Wrong hand": Aim(high=0),
    "Walking speed": Aim(low=0.7, high=1.3, of_control=True),
    # Closer than this, recordings of a label are hardly told from one another: the control says how far they are.
    "Length distance": Aim(high=2.0),
    # A length that varies honestly cannot be foretold: guessing the label's median is as good as it gets without more.
    "Length error": Aim(high=1.1, of_control=True),
    # 5 % of recordings end so by definition; among a few held-out takes twice as many is chance.
    "Ends in mid-motion": Aim(high=10),
    "Perplexity of captions": Aim(high=1.5),
    "Invented words": Aim(high=0),
    "Frozen": Aim(high=0),
    "Exploded": Aim(high=0),
    "PyTorch parts that differ": Aim(high=0),
}

SUITES: dict[str, Mapping[str, Aim]] = {
    "synthetic": COMMON
    | {
        "Recognised action of generated": Aim(low=80),
        "Recognised count of generated": Aim(below_control=5),
        "Captions: action": Aim(low=90),
        "Captions: sequence": Aim(low=75),  # pairs of actions, both and in their order
    },
    "bandai_namco": COMMON
    | {
        "Recognised content of generated": Aim(low=90),
        "Recognised style of generated": Aim(low=93),
        "Captions: content": Aim(low=92),
        "Recognised content of unseen wordings": Aim(low=70),
    },
}
"""Data set -> figure name -> aim. Data sets that are not here have the common aims."""


def aims_of(dataset: str) -> Mapping[str, Aim]:
    """The aims for models of a data set."""
    return SUITES.get(dataset, COMMON)
