"""`llamo inspect`."""

import dataclasses
from pathlib import Path

import tyro

from llamo_jax.commands import Reporting
from llamo_jax.errors import InputError
from llamo_jax.files import read_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect(Reporting):
    """Say what a bundle or a data folder holds."""

    path: tyro.conf.Positional[Path]
    """A bundle, or a folder that `python -m data_pipelines.build` made."""

    def run(self) -> None:
        manifest = self.path / "dataset.json"
        if manifest.exists():
            facts = read_json(manifest)
        else:
            from llamo_jax.storage.bundle import describe  # JAX, only where a bundle is read

            facts = describe(self.path)
        if not isinstance(facts, dict):
            raise InputError(f"{manifest}: holds a {type(facts).__name__}; expected an object")
        self.report("\n".join(f"{name:<22} {_compact(value)}" for name, value in facts.items()), facts)


def _compact(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_compact(item)}" for name, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
