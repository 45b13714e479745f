"""How parameters lie on meshes, and meshes that cannot be."""

import math
from pathlib import Path

import pytest

from experiments.describe_sharding import DescribeSharding, rows_of, specs_of
from llamo_jax.errors import InputError
from llamo_jax.models import llamo
from llamo_jax.models.declaration import abstract, count
from llamo_jax.presets import LLMS, llamo_config


def test_every_parameter_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of("llama-3.1-8b", (1, 1, 1))
    assert sum(math.prod(row["shape"]) for row in rows) == count(
        abstract(llamo.Model, llamo_config(LLMS["llama-3.1-8b"]))
    )
    alone, split = (sum(row["bytes"] for row in rows_of("llama-3.1-8b", shape)) for shape in ((1, 1, 1), (2, 16, 4)))
    assert 1 <= split / (alone / 64) < 1.02  # data splits no parameters
    DescribeSharding(preset="llama-3.1-8b", mesh="2,16,4").run()
    out = capsys.readouterr().out
    assert "(-, tensor, fsdp)" in out and "128 devices, " in out


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("preset", LLMS)
def test_every_array_is_split_as_it_was(preset: str) -> None:
    """Where a change is meant: python -m experiments.describe_sharding --golden tests/experiments/golden."""
    assert specs_of(preset).splitlines() == (GOLDEN / f"{preset}.txt").read_text().splitlines()


def test_splits_of_all_presets_are_written(tmp_path: Path) -> None:
    DescribeSharding(golden=tmp_path / "new").run()
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(path.name for path in (tmp_path / "new").iterdir())
    assert (tmp_path / "new/llama-3.1-8b.txt").read_text() == (GOLDEN / "llama-3.1-8b.txt").read_text()


@pytest.mark.parametrize(
    ("preset", "shape", "message"),
    [
        ("llama-3.1-8b", (1, 4, 16), r"8 key-value heads cannot be split .* choose a tensor size of 1, 2, 4, 8$"),
        ("llama-3.1-8b", (1, 48, 1), r'of size 4096 cannot be split over mesh axis "fsdp" of size 48'),
        ("llama-9b", (1, 1, 1), r'preset "llama-9b" does not exist'),
    ],
)
def test_meshes_that_cannot_be(preset: str, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rows_of(preset, shape)
