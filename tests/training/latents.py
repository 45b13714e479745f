"""A small folder of latents, for workers that load."""

from pathlib import Path

import numpy as np

from data_pipelines.folder import LatentFolder
from data_pipelines.loader import LatentLoader, LoaderConfig
from data_pipelines.records import LatentRecord
from data_pipelines.write import write_folder


def write_latents(folder: Path) -> None:
    """Writes `folder`/latents: 60 records."""
    rng = np.random.default_rng(0)
    records = [
        LatentRecord(f"{n}", rng.normal(size=(3 + n % 9, 4)).astype(np.float32), (f"a person walks {n} times.",))
        for n in range(60)
    ]
    write_folder(folder / "latents", LatentRecord, {"train": records}, dataset={"name": "test"})


ROWS = {"t2m": 16, "m2t": 8}


class Letters:
    """A tokenizer of bytes, which starts at once."""

    bos_id, eos_id = 1, 2
    turns = dict.fromkeys(("t2m", "m2t"), ((1,), ()))

    def encode(self, text: str) -> list[int]:
        return [3 + byte for byte in text.encode()]


def loader(folder: Path, shards: int = 8) -> LatentLoader:
    """The loader of every process."""
    latents = LatentFolder(folder / "latents")
    records = latents.split("train")
    config = LoaderConfig(text_len=120, motion_len=16, prefetch=2, shards=shards, seed=3)
    return LatentLoader(records, records.index, latents.statistics, Letters(), 300, ROWS, config)
