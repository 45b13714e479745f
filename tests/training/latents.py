"""A small folder of latents, for workers that load."""

from pathlib import Path

import numpy as np

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
