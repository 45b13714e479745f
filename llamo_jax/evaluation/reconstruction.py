"""How well motions survive an autoencoder: the figures of a motion VAE on held-out clips."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from llamo_jax.errors import InputError
from llamo_jax.evaluation.figure import Figure
from llamo_jax.evaluation.suite import Held
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.physics import contact_speeds, contacts, low_foot_speeds, ratio
from llamo_jax.motion.representation import FPS, decode_positions, decode_rotations
from llamo_jax.motion.skeleton import forward_kinematics, recover_offsets
from llamo_jax.pretrained import Llamo


class Reconstruction:
    """Encodes and decodes every held-out clip with the model's motion VAE."""

    name: ClassVar[str] = "reconstruction"
    batch_size: ClassVar[int] = 32

    def run(self, model: Llamo, held: Held) -> Iterator[Figure]:
        """Reconstructs, and yields the figures."""
        codec, real = model.codec, held.features
        starts = range(0, len(real), self.batch_size)
        decoded = [f for i in starts for f in codec.decode(codec.encode(real[i : i + self.batch_size]))]
        f = evaluate_reconstruction(real, decoded)
        group = "Motion VAE, held-out clips"
        standing = "mean horizontal speed of feet while the recording's stand still"
        yield Figure("VAE MPJPE", f["mpjpe_mm"], "mm", group, note="pelvis-aligned, from positions")
        yield Figure("VAE MPJPE from rotations", f["mpjpe_rotations_mm"], "mm", group)
        yield Figure("VAE MPJRE", f["mpjre_degrees"], "degrees", group)
        yield Figure("VAE jerk over real", f["jerk_ratio"], "x", group)
        yield Figure("VAE foot skating over real", f["skating_ratio"], "x", group, note=standing)
        yield Figure(
            "VAE speed of standing feet", 100 * f["foot_skating"], "cm/s", group, control=100 * f["foot_skating_real"]
        )
        low = "lower than 5 cm; hardly sees skating"
        yield Figure("VAE speed of low feet over real", f["low_foot_ratio"], "x", group, note=low)
        error = streaming_error(codec, real[0])
        name = "Streamed decoding against decoding at once"
        yield Figure(name, error, "", group, note="largest difference of features")


def streaming_error(codec: MotionCodec, features: Float[np.ndarray, "T 272"]) -> float:
    """Largest difference between features decoded latent by latent and decoded at once."""
    latents = codec.encode([features])[0]
    return float(np.abs(np.concatenate(list(codec.stream(latents))) - codec.decode([latents])[0]).max())


def evaluate_reconstruction(
    originals: Sequence[Float[np.ndarray, "T 272"]], reconstructions: Sequence[Float[np.ndarray, "S 272"]]
) -> dict[str, float]:
    """Compares un-normalised features of motions with their reconstructions; all figures weigh every frame the same.

    A VAE that makes 4 frames of one latent returns 4 * (T // 4) frames: the frames that both have are compared.

    Returns:
      mpjpe_mm: mean distance of joints in mm, each frame moved so that its pelvis is the original's and neither rotated
        nor scaled; from the position features, whose heading accumulates, so that drift of the heading counts.
      mpjpe_rotations_mm: the same with the reconstruction's joints from its rotation features, on the original's bones.
      mpjre_degrees: mean geodesic angle between parent-relative rotations, the root's taken in the world.
      root_error_mm: mean horizontal distance of the pelvis; it grows with the length of the clips.
      acceleration_error_mm: mean length of the difference of second differences, pelvis-aligned, in mm a frame squared.
      jerk, jerk_real: mean jerk of the joints in the world in m/s^3 (`physics.jerk`), and jerk_ratio, the quotient.
      foot_skating, foot_skating_real: mean horizontal speed in m/s of foot joints while the ORIGINAL's are in contact,
        and skating_ratio.
      low_foot_speed, low_foot_speed_real, low_foot_ratio: mean horizontal speed in m/s of feet that are low, each by
        its own heights, and the quotient, which hardly sees skating (`physics.low_foot_speeds`).
      frames, clips: how many were compared.

    Raises:
      InputError: the sequences have different lengths or are empty.
    """
    if len(originals) != len(reconstructions) or not originals:
        raise InputError(
            f"{len(originals)} originals and {len(reconstructions)} reconstructions; expected as many, and at least one"
        )
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for original, reconstruction in zip(originals, reconstructions, strict=True):
        frames = min(len(original), len(reconstruction))
        for name, values in _errors(original[:frames], reconstruction[:frames]).items():
            sums[name] = sums.get(name, 0.0) + float(values.sum())
            counts[name] = counts.get(name, 0) + values.size
    mean = {name: sums[name] / counts[name] if counts[name] else float("nan") for name in sums}
    return {
        "mpjpe_mm": 1000 * mean["position"],
        "mpjpe_rotations_mm": 1000 * mean["rotation_position"],
        "mpjre_degrees": np.degrees(mean["angle"]),
        "root_error_mm": 1000 * mean["root"],
        "acceleration_error_mm": 1000 * mean["acceleration"],
        "jerk": mean["jerk"],
        "jerk_real": mean["jerk_real"],
        "jerk_ratio": ratio(mean["jerk"], mean["jerk_real"]),
        "foot_skating": mean["skating"],
        "foot_skating_real": mean["skating_real"],
        "skating_ratio": ratio(mean["skating"], mean["skating_real"]),
        "low_foot_speed": mean["low_feet"],
        "low_foot_speed_real": mean["low_feet_real"],
        "low_foot_ratio": ratio(mean["low_feet"], mean["low_feet_real"]),
        "frames": counts["root"],
        "clips": len(originals),
    }


def _errors(original: np.ndarray, reconstruction: np.ndarray) -> dict[str, np.ndarray]:
    """Every single error of one clip, by name: metres, radians, frames and seconds."""
    real, made = decode_positions(original), decode_positions(reconstruction)
    real_rotations, _ = decode_rotations(original)
    made_rotations, made_root = decode_rotations(reconstruction)
    posed = forward_kinematics(made_rotations, made_root, recover_offsets(real, real_rotations))
    aligned_real, aligned = real - real[:, :1], made - made[:, :1]
    contact = contacts(real)
    return {
        "position": _length(aligned - aligned_real),
        "rotation_position": _length(posed - posed[:, :1] - aligned_real),
        "angle": rot.geodesic(made_rotations, real_rotations),
        "root": _length((made - real)[:, 0, [0, 2]]),
        "acceleration": _length(np.diff(aligned - aligned_real, n=2, axis=0)),
        "jerk": _length(np.diff(made, n=3, axis=0)) * FPS**3,
        "jerk_real": _length(np.diff(real, n=3, axis=0)) * FPS**3,
        "skating": contact_speeds(made, FPS, contact),
        "skating_real": contact_speeds(real, FPS, contact),
        "low_feet": low_foot_speeds(made),
        "low_feet_real": low_foot_speeds(real),
    }


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)
