"""Sentences for the labels of the Bandai-Namco recordings in words that no training caption has."""

import csv
from pathlib import Path

from data_pipelines.records import Wording

FILE = Path(__file__).with_suffix(".csv")


def unseen_wordings() -> tuple[Wording, ...]:
    """All sentences, in the order of the file: written by hand, once, and for testing alone.

    The kind says what is in unseen words, "content", "style" or "both"; the other is in words of training, or not said
    at all where the style is normal. Some are of contents with too few recordings to be learnt ("punch"): take those
    whose labels the model knows.
    """
    with FILE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        Wording(
            row["text"],
            {"content": row["content"], "style": row["style"]},
            row["kind"],
            unseen=tuple(row["unseen"].split(";")),
        )
        for row in rows
    )
