"""Small data for the pipelines: made here, so that no test needs a download."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.records import LatentRecord
from llamo_jax.motion import MotionClip, rotations
from llamo_jax.motion.statistics import Statistics
from llamo_jax.tokenizer import Tokenizer, train_tokenizer

CHANNELS = 4


def walking_clip(frames: int = 40, speed: float = 1.2, turn: float = 0.0, **metadata) -> MotionClip:
    """A body that glides forward at `speed` m/s, turns by `turn` radians in all, to the left, and swings a thigh and an
    arm."""
    phase = np.arange(frames) / 30 * 6
    joint_rotations = np.broadcast_to(np.eye(3), (frames, 22, 3, 3)).copy()
    for joint, scale in ((1, 0.4), (2, -0.4), (16, 0.5)):
        joint_rotations[:, joint] = rotations.from_rotvec(np.stack([scale * np.sin(phase), 0 * phase, 0 * phase], -1))
    yaw = np.linspace(0, turn, frames)
    joint_rotations[:, 0] = rotations.yaw(yaw)
    step = np.stack([np.sin(yaw), 0 * yaw, np.cos(yaw)], -1) * speed / 30
    root = np.cumsum(step, axis=0) + np.array([0, 0.95, 0])
    return MotionClip.from_rotations(joint_rotations, root, **metadata)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["a person walks.", "a man waves the left hand.", "someone runs fast."], 300, folder)
    return Tokenizer(folder)


@pytest.fixture
def statistics() -> Statistics:
    return Statistics(np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32))


@pytest.fixture
def latent_records() -> list[LatentRecord]:
    """40 records; the first channel of a record's latents is its number, so that a batch tells what is in it."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(40):
        latents = rng.normal(size=(int(rng.integers(3, 12)), CHANNELS)).astype(np.float32)
        latents[:, 0] = number + 1
        captions = (f"a person walks {number} times.", "someone runs fast.")
        labels = {"content": "walk" if number < 32 else "run"}
        records.append(LatentRecord(f"clip{number}", latents, captions, labels))
    return records
