"""The losses measure what their names say."""

import jax
import jax.numpy as jnp
import numpy as np

from llamo_jax.batch import Batch, MotionRows
from llamo_jax.config import MotionVAEConfig
from llamo_jax.models.declaration import init
from llamo_jax.models.motion_vae import MotionVAE
from llamo_jax.motion import MotionClip, rotations
from llamo_jax.motion.skeleton import FEET
from llamo_jax.motion.statistics import Statistics
from llamo_jax.training import losses
from llamo_jax.training.losses import (
    ABSOLUTE_MEAN,
    GIST_PARTS,
    LlamoLossConfig,
    VAELossConfig,
    foot_velocities,
    gists,
    vae_loss,
)


def turning_walk(frames: int = 40) -> MotionClip:
    phase = np.arange(frames) / 5
    joint_rotations = np.broadcast_to(np.eye(3), (frames, 22, 3, 3)).copy()
    for joint, sign in ((1, 1), (2, -1)):
        joint_rotations[:, joint] = rotations.from_rotvec(np.outer(0.4 * sign * np.sin(phase), [1.0, 0.0, 0.0]))
    yaw = np.linspace(0, 2, frames)
    joint_rotations[:, 0] = rotations.yaw(yaw)
    root = np.cumsum(np.stack([np.sin(yaw), 0 * yaw, np.cos(yaw)], -1) / 25, axis=0) + np.array([0, 0.95, 0])
    return MotionClip.from_rotations(joint_rotations, root)


def test_foot_velocities_are_those_of_the_joints_in_the_world() -> None:
    clip = turning_walk()
    expected = np.linalg.norm(np.diff(clip.joints[:, FEET], axis=0), axis=-1) * 30
    found = np.linalg.norm(foot_velocities(jnp.asarray(clip.features())[None])[0], axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_vae_loss_reads_no_padding_and_weighs_its_terms() -> None:
    config = MotionVAEConfig(width=8, latent_channels=4)
    params = init(MotionVAE, config, jax.random.key(0))
    features = jnp.asarray(turning_walk().features())[None]
    mask = jnp.ones((1, 40)).at[:, 32:].set(0)

    @jax.jit
    def run(features: jax.Array) -> dict:
        batch, statistics = {"features": features, "mask": mask}, Statistics.identity(272)
        return vae_loss(params, config, VAELossConfig(), batch, jax.random.key(1), statistics=statistics)[1]

    figures, changed = run(features), run(features.at[:, 32:].add(5.0))
    for name, value in figures.items():
        np.testing.assert_allclose(changed[name], value, rtol=1e-5, err_msg=name)
    moved = run(features.at[:, :32].add(1.0))
    assert float(moved["recon"]) != float(figures["recon"])


def test_gists_are_of_each_motion_of_a_row() -> None:
    rng = np.random.default_rng(0)
    lengths, room = (7, 9, 2), 20  # slots, of which the last is the end
    latents = rng.normal(size=(1, room, 4)).astype(np.float32)
    segments, positions, expected, first = np.zeros((1, room), np.int32), np.zeros((1, room), np.int32), [], 0
    flow_mask = np.zeros((1, room), np.float32)
    for number, length in enumerate(lengths, 1):
        here = slice(first, first + length)
        segments[0, here], positions[0, here] = number, 30 + np.arange(length)
        flow_mask[0, first : first + length - 1] = 1
        z, n = latents[0, first : first + length - 1], length - 1
        parts = [z[[GIST_PARTS * index // n == part for index in range(n)]] for part in range(GIST_PARTS)]
        means = [
            np.concatenate([part.mean(0), np.abs(part).mean(0) - ABSOLUTE_MEAN]) if len(part) else np.zeros(8)
            for part in parts
        ]
        expected += [np.concatenate(means)] * length
        first += length
    start = np.diff(segments, prepend=0) > 0
    found = np.asarray(gists(MotionRows(latents, start, positions, segments, flow_mask)))
    np.testing.assert_allclose(found[0, :first], expected, atol=1e-6)
    assert not found[0, first:].any()


def test_a_share_of_motions_is_hidden_whole() -> None:
    """Of 200 rows of three motions; the others have the noise of the history."""
    segments = np.repeat([[1, 1, 2, 2, 2, 3, 0, 0]], 200, 0)
    motion = MotionRows(5 + np.zeros((200, 8, 4)), segments == 0, np.zeros_like(segments), segments)
    batch = Batch(None, motion)
    loss = LlamoLossConfig(history_noise=0.1, history_hidden=0.25)
    noise = losses._generation_noise(loss, batch, jax.random.key(0))
    inputs = np.asarray(losses._history(loss, motion, noise))
    hidden = np.abs(inputs - noise.history).max(-1) == 0
    np.testing.assert_allclose(inputs[~hidden], (5 + 0.1 * noise.history)[~hidden], rtol=1e-6)
    for first, last in ((0, 2), (2, 5), (5, 6)):
        each = hidden[:, first:last]
        assert (each.all(1) == each.any(1)).all() and 0.15 < each.mean() < 0.35
    assert (hidden[:, 0] != hidden[:, 2]).any()  # motions of a row apart
    whole = np.asarray(losses._history(LlamoLossConfig(history_noise=0.1), motion, noise))
    np.testing.assert_allclose(whole, 5 + 0.1 * noise.history, rtol=1e-6)
