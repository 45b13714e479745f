"""`MotionClip`: one human motion, as a person holds it."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Literal, Self

import numpy as np
from jaxtyping import Float

from llamo_jax.errors import InputError, MotionWarning
from llamo_jax.files import atomic_path
from llamo_jax.motion import representation
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.amass import write_amass
from llamo_jax.motion.bvh import write_bvh
from llamo_jax.motion.formats import PICTURES, WRITABLE, require_suffix
from llamo_jax.motion.plausibility import Fault, faults
from llamo_jax.motion.read import ReadOptions, read
from llamo_jax.motion.representation import FPS
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, NUM_JOINTS, forward_kinematics, recover_offsets

Format = Literal["llamo", "amass"]


@dataclasses.dataclass(frozen=True, eq=False)
class MotionClip:
    """A motion of the 22 SMPL joints.

    Attributes:
      joints: [T, 22, 3] world positions in metres, Y up, right-handed.
      rotations: [T, 22, 3, 3] parent-relative; the root's is in the world. At rest (identity) the body stands in a
        T-pose facing +Z.
      fps: frames a second.
      captions: sentences that describe it.
      name: what it is called in its data set.
      labels: facts on it, as {"content": "walk"}.

    Raises:
      InputError: shapes do not agree, there is no frame, or a number is not finite.
    """

    joints: Float[np.ndarray, "T 22 3"]
    rotations: Float[np.ndarray, "T 22 3 3"]
    fps: float = float(FPS)
    captions: tuple[str, ...] = ()
    name: str = ""
    labels: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        frames = len(self.joints)
        what = f'motion "{self.name}"' if self.name else "motion"
        for array, field, shape in (
            (self.joints, "joints", (frames, NUM_JOINTS, 3)),
            (self.rotations, "rotations", (frames, NUM_JOINTS, 3, 3)),
        ):
            if array.shape != shape or frames == 0:
                raise InputError(
                    f"{what}: {field} have shape {array.shape}; expected [T, {', '.join(map(str, shape[1:]))}] with "
                    f"T at least 1"
                )
            _require_numbers(array, f"{what}: {field}")
            if not np.isfinite(array).all():
                frame = int(np.flatnonzero(~np.isfinite(array.reshape(frames, -1)).all(1))[0])
                raise InputError(f"{what}: {field} have NaN or infinity in frame {frame}; expected finite numbers")
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise InputError(f"{what}: fps is {self.fps}; expected more than 0")

    @classmethod
    def from_rotations(
        cls,
        rotations: Float[np.ndarray, "T 22 3 3"],
        root_positions: Float[np.ndarray, "T 3"],
        offsets: Float[np.ndarray, "22 3"] = DEFAULT_OFFSETS,
        **metadata,
    ) -> Self:
        """The motion of a body with these bone offsets (metres); `metadata` are the other fields."""
        return cls(forward_kinematics(rotations, root_positions, offsets), rotations, **metadata)

    @classmethod
    def from_features(
        cls, features: Float[np.ndarray, "T 272"], source: Literal["positions", "rotations"] = "positions", **metadata
    ) -> Self:
        """The motion that 272 features describe, at 30 frames/s.

        Args:
          features: un-normalised.
          source: "positions" takes the joints from the position features; "rotations" poses the body (its offsets
            recovered from both) by the rotation features.
          metadata: the other fields.

        Raises:
          InputError: the features have another shape or hold no rotations, or `source` is neither.
        """
        if source not in ("positions", "rotations"):
            raise InputError(f'source is "{source}"; expected "positions" or "rotations"')
        representation.require_features(features)
        joints = representation.decode_positions(features)
        rotations, root = representation.decode_rotations(features)
        if source == "rotations":
            joints = forward_kinematics(rotations, root, recover_offsets(joints, rotations))
        return cls(joints, rotations, **metadata)

    @classmethod
    def load(cls, path: str | Path, options: ReadOptions | None = None) -> Self:
        """Reads a file by its suffix.

        Args:
          path: .bvh of any skeleton whose joints can be found; .npz of `save` or of the SMPL family (AMASS); .npy of
            272 features, or of what the options say.
          options: what the file does not say itself.

        Raises:
          InputError: the file is missing, damaged or of another kind, or more than one reading of it is possible.

        Warns:
          MotionWarning: what a person should know of how the file was read, and what no person's motion has.
        """
        reading = read(path, options)
        clip = cls(
            reading.joints,
            reading.rotations,
            fps=reading.fps,
            captions=reading.captions,
            name=reading.name,
            labels=dict(reading.labels),
        )
        for note in (*reading.notes, *(fault.what + reading.counted for fault in clip.faults())):
            warnings.warn(f"{path}: {note}", MotionWarning, stacklevel=2)
        return clip

    def save(self, path: str | Path, *, format: Format = "llamo") -> None:
        """Writes a file by its suffix: .bvh, .npz, .npy (features), .mp4, .gif, .png (film strip). All or nothing.

        Args:
          path: of the file.
          format: of an .npz: our own arrays, or SMPL-X parameters as AMASS has them (Z up), which GMR and other tools
            read. The latter keeps rotations and root, and no bones.

        Raises:
          InputError: the suffix is none of these, or the format is no .npz's.
        """
        path = Path(path)
        require_suffix(path, WRITABLE, "motion")
        suffix = path.suffix.lower()
        if format != "llamo" and suffix != ".npz":
            raise InputError(f'{path}: the format "{format}" is that of an .npz file')
        if suffix in PICTURES:
            self.render(path)
        elif suffix == ".bvh":
            write_bvh(path, self.rotations, self.joints[:, 0], self.offsets, self.fps)
        elif format == "amass":
            write_amass(path, self.rotations, self.joints[:, 0], self.fps)
        elif suffix == ".npz":
            with atomic_path(path) as temporary:
                np.savez_compressed(
                    temporary, joints=self.joints, rotations=self.rotations, fps=self.fps,
                    captions=np.array(self.captions, str),
                    name=self.name, labels=json.dumps(self.labels),
                )  # fmt: skip
        else:
            with atomic_path(path) as temporary:
                np.save(temporary, self.features())

    def faults(self) -> list[Fault]:
        """What no person's motion has, the gravest first: jumps, an impossible size, bones that stretch."""
        return faults(self.joints, self.rotations, self.fps)

    def render(self, path: str | Path, title: str | None = None) -> None:
        """Draws the motion as a video (.mp4, .gif) or a film strip (.png); the title is the first caption unless
        given."""
        from llamo_jax.motion.render import render  # Pillow and ffmpeg, only where something is drawn

        render([self], path, [title if title is not None else next(iter(self.captions), "")])

    def features(self) -> Float[np.ndarray, "T 272"]:
        """The 272 features at 30 frames/s, canonical, float32."""
        clip = self.resampled(FPS)
        return representation.encode(clip.joints, clip.rotations).astype(np.float32)

    def resampled(self, fps: float) -> Self:
        """The same motion at another rate: positions interpolated linearly and rotations spherically at the exact new
        times.

        Rates within 0.01 % are the same: BVH files write 30 frames/s as a frame time of 0.0333333.
        """
        if abs(fps / self.fps - 1) < 1e-4 or len(self) == 1:
            return dataclasses.replace(self, fps=float(fps))
        # The last new frame is the last that lies within the old ones; 1e-6 keeps one that rounding would lose.
        count = int(np.floor((len(self) - 1) * fps / self.fps + 1e-6)) + 1
        times = np.arange(count) * self.fps / fps
        low = np.minimum(times.astype(int), len(self) - 2)
        fraction = (times - low)[:, None, None]
        joints = self.joints[low] * (1 - fraction) + self.joints[low + 1] * fraction
        return dataclasses.replace(self, joints=joints, rotations=rot.resample(self.rotations, times), fps=float(fps))

    @property
    def offsets(self) -> Float[np.ndarray, "22 3"]:
        """Bone offsets in the rest pose (metres), recovered from joints and rotations."""
        return recover_offsets(self.joints, self.rotations)

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self) / self.fps

    def __len__(self) -> int:
        return len(self.joints)

    def __getitem__(self, frames: slice) -> Self:
        """A window of the motion, in the same world."""
        return dataclasses.replace(self, joints=self.joints[frames], rotations=self.rotations[frames])


def _require_numbers(array: np.ndarray, what: str) -> None:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{what} are of type {array.dtype}; expected numbers")
