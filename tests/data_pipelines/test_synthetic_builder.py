"""The builder of the procedural corpus, on a few clips of a stand-in for it (the corpus has its own tests)."""

import json

import numpy as np
import pytest

from data_pipelines.build import main
from data_pipelines.builders import synthetic
from data_pipelines.builders.dataset import build
from data_pipelines.builders.synthetic import Synthetic
from data_pipelines.folder import MotionFolder
from llamo_jax.errors import InputError
from tests.data_pipelines.conftest import walking_clip

SPLIT_OF = ("train", "test", "train", "validation", "train")


def corpus(num_clips, seed):
    for number in range(num_clips):
        frames = 8 if number == 4 else 20 + number + seed
        labels = {"action": "walk"}
        yield (
            SPLIT_OF[number],
            walking_clip(frames, name=f"clip{number}", captions=(f"a person walks {number} steps.",), labels=labels),
        )


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(synthetic, "generate_corpus", corpus)


def test_build(tmp_path):
    shards = build(Synthetic(num_clips=5, seed=1), tmp_path / "out")
    train = list(shards.split("train"))
    assert [(record.name, len(record.features)) for record in train] == [("clip0", 21), ("clip2", 23)]
    assert [record.name for record in shards.split("validation")] == ["clip3"]
    assert [record.name for record in shards.split("test")] == ["clip1"]
    assert train[1].captions == ("a person walks 2 steps.",) and train[1].labels == {"action": "walk"}
    np.testing.assert_array_equal(train[1].features, walking_clip(23).features())
    assert shards.manifest["rejected_names"] == {"shorter than 16 frames": ["clip4: 8 frames"]}


def test_command(tmp_path):
    main(["synthetic", "--out", str(tmp_path / "out"), "--num-clips", "4", "--json", str(tmp_path / "manifest.json")])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == MotionFolder(tmp_path / "out").manifest
    assert manifest["dataset"] == {"name": "synthetic", "num_clips": 4, "seed": 0}


def test_bad_input():
    with pytest.raises(InputError, match="num_clips is 0; expected at least 1"):
        Synthetic(num_clips=0)
