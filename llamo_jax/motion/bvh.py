"""BVH files: a strict, fast reader and a writer."""

import dataclasses
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.skeleton import JOINT_NAMES, PARENTS

_CHANNEL = re.compile(r"([XYZ])(position|rotation)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, eq=False)
class Bvh:
    """What a BVH file holds, in its own units and axes.

    Attributes:
      names: of the joints, parents before children; the end site of a joint is named after it, as "Toes end".
      parents: index of each joint's parent, -1 for the root.
      offsets: [J, 3] from the parent.
      channels: of each joint, as in ("Xposition", ..., "Zrotation", ...).
      values: [T, C] in the order of the channels; rotations in degrees.
      frame_time: seconds.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Float[np.ndarray, "J 3"]
    channels: tuple[tuple[str, ...], ...]
    values: Float[np.ndarray, "T C"]
    frame_time: float

    def local(self) -> tuple[Float[np.ndarray, "T J 3"], Float[np.ndarray, "T J 3 3"]]:
        """Translations and rotations relative to the parents. Position channels replace the offset."""
        frames, joints = len(self.values), len(self.names)
        translations = np.broadcast_to(self.offsets, (frames, joints, 3)).copy()
        rotations = np.broadcast_to(np.eye(3), (frames, joints, 3, 3)).copy()
        column = 0
        for joint, channels in enumerate(self.channels):
            order, angles = "", []
            for channel in channels:
                axis, kind = channel[0], channel[1:]
                if kind == "position":
                    translations[:, joint, "XYZ".index(axis)] = self.values[:, column]
                else:
                    order += axis
                    angles.append(self.values[:, column])
                column += 1
            if len(order) == 3:
                rotations[:, joint] = rot.from_euler(order, np.stack(angles, -1))
            else:
                for axis, angle in zip(order, angles, strict=True):
                    rotations[:, joint] = rotations[:, joint] @ rot.from_rotvec(
                        np.radians(angle)[:, None] * np.eye(3)["XYZ".index(axis)]
                    )
        return translations, rotations

    def world(self) -> tuple[Float[np.ndarray, "T J 3"], Float[np.ndarray, "T J 3 3"]]:
        """Positions and rotations in the file's world."""
        return self._compose(*self.local())

    def zero_pose(self) -> Float[np.ndarray, "J 3"]:
        """Joint positions with every rotation zero and the file's offsets."""
        joints = len(self.names)
        return self._compose(self.offsets[None], np.broadcast_to(np.eye(3), (1, joints, 3, 3)))[0][0]

    def _compose(self, translations: np.ndarray, rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positions, world = np.array(translations), np.array(rotations)
        for joint, parent in enumerate(self.parents):
            if parent >= 0:
                positions[:, joint] = positions[:, parent] + np.einsum(
                    "tij,tj->ti", world[:, parent], translations[:, joint]
                )
                world[:, joint] = world[:, parent] @ rotations[:, joint]
        return positions, world


def read_bvh(path: str | Path) -> Bvh:
    """Reads a BVH file.

    Raises:
      InputError: the file is missing, not BVH, truncated, or its numbers do not fit its header.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="strict")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a BVH file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file; expected BVH") from error
    header, marker, body = text.partition("MOTION")
    if not marker or not header.lstrip().startswith("HIERARCHY"):
        raise InputError(
            f"{path}: not a BVH file, or cut off in its header; expected the sections HIERARCHY and MOTION"
        )
    names, parents, offsets, channels = _read_hierarchy(header, path)
    match = re.match(r"\s*Frames:\s*(\d+)\s*Frame Time:\s*([-+.\deE]+)", body)
    if not match:
        raise InputError(
            f'{path}: after MOTION expected "Frames: N" and "Frame Time: S", found "{" ".join(body[:40].split())}"'
        )
    frames = int(match[1])
    try:
        frame_time = float(match[2])
    except ValueError as error:
        raise InputError(f'{path}: the frame time is "{match[2]}"; expected seconds') from error
    if frames < 1 or not 0 < frame_time < 10:
        raise InputError(
            f"{path}: {frames} frames of {frame_time} s; expected at least one frame and a positive frame time"
        )
    values = _read_numbers(body[match.end() :], frames, sum(map(len, channels)), path)
    return Bvh(tuple(names), tuple(parents), np.array(offsets), tuple(channels), values, frame_time)


def _read_hierarchy(
    header: str, path: str | Path
) -> tuple[list[str], list[int], list[list[float]], list[tuple[str, ...]]]:
    names, parents, offsets, channels = [], [], [], []
    stack: list[int] = []  # open joints and end sites
    for number, line in enumerate(header.splitlines(), start=1):
        words = line.split()
        if not words or words[0] in ("HIERARCHY", "{"):
            continue
        where = f"{path}, line {number}"
        if words[0] in ("ROOT", "JOINT"):
            if len(words) < 2 or (words[0] == "JOINT" and not stack):
                raise InputError(f'{where}: found "{line.strip()}"; expected a joint with a name, below a ROOT')
            parents.append(stack[-1] if stack else -1)
            stack.append(len(names))
            names.append(" ".join(words[1:]))
            offsets.append([0.0, 0.0, 0.0])
            channels.append(())
        elif words[0] == "End":
            if not stack:
                raise InputError(f'{where}: found "{line.strip()}" outside of a joint')
            parents.append(stack[-1])
            stack.append(len(names))
            names.append(f"{names[parents[-1]]} end")
            offsets.append([0.0, 0.0, 0.0])
            channels.append(())
        elif words[0] == "}" and stack:
            stack.pop()
        elif words[0] == "OFFSET" and stack:
            try:
                offset = [float(word) for word in words[1:]]
            except ValueError:
                offset = []
            if len(offset) != 3 or not np.isfinite(offset).all():
                raise InputError(f'{where}: found "{line.strip()}"; expected OFFSET and three numbers')
            offsets[stack[-1]] = offset
        elif words[0] == "CHANNELS" and stack:
            matches = [_CHANNEL.fullmatch(word) for word in words[2:]]
            if len(words) < 2 or not words[1].isdigit() or int(words[1]) != len(matches) or None in matches:
                raise InputError(
                    f'{where}: found "{line.strip()}"; expected CHANNELS, their number, and as many channel names'
                )
            if len({(match[1].upper(), match[2].lower()) for match in matches if match}) < len(matches):
                raise InputError(f'{where}: found "{line.strip()}"; expected each channel once')
            channels[stack[-1]] = tuple(match[1].upper() + match[2].lower() for match in matches if match)
        else:
            raise InputError(f'{where}: found "{line.strip()}", which is not a part of a BVH hierarchy')
    if stack or not names:
        raise InputError(f"{path}: the hierarchy has no joints, or a joint without its closing brace")
    return names, parents, offsets, channels


def _read_numbers(text: str, frames: int, channels: int, path: str | Path) -> Float[np.ndarray, "T C"]:
    words = text.split()
    expected = f"expected {frames} frames x {channels} channels = {frames * channels} numbers"
    if len(words) != frames * channels:
        raise InputError(f"{path}: found {len(words)} numbers, {expected}; the file may be truncated")
    try:
        values = np.array(words, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path}: the motion has something that is not a number ({error}); {expected}") from error
    values = values.reshape(frames, channels)
    if not np.isfinite(values).all():
        frame = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise InputError(f"{path}: NaN or infinity in frame {frame}; {expected}")
    return values


def write_bvh(
    path: str | Path,
    rotations: Float[np.ndarray, "T 22 3 3"],
    root_positions: Float[np.ndarray, "T 3"],
    offsets: Float[np.ndarray, "22 3"],
    fps: float,
) -> None:
    """Writes SMPL-22 motion in centimetres (the unit that Blender, Maya and MotionBuilder assume), Y up, rotations Z X
    Y."""
    children = [[child for child, parent in enumerate(PARENTS) if parent == joint] for joint in range(len(PARENTS))]
    lines = ["HIERARCHY"]
    order: list[int] = []

    def write_joint(joint: int, indent: str) -> None:
        order.append(joint)
        offset = np.zeros(3) if joint == 0 else offsets[joint] * 100
        positions = "6 Xposition Yposition Zposition" if joint == 0 else "3"
        lines.append(f"{indent}{'ROOT' if joint == 0 else 'JOINT'} {JOINT_NAMES[joint]}")
        lines.append(f"{indent}{{")
        lines.append(f"{indent}  OFFSET {offset[0]:.6f} {offset[1]:.6f} {offset[2]:.6f}")
        lines.append(f"{indent}  CHANNELS {positions} Zrotation Xrotation Yrotation")
        for child in children[joint]:
            write_joint(child, indent + "  ")
        if not children[joint]:
            # Programs draw no bone without an end: half the bone before it goes on.
            end = offsets[joint] * 50
            lines.append(f"{indent}  End Site")
            lines.append(f"{indent}  {{")
            lines.append(f"{indent}    OFFSET {end[0]:.6f} {end[1]:.6f} {end[2]:.6f}")
            lines.append(f"{indent}  }}")
        lines.append(f"{indent}}}")

    write_joint(0, "")
    angles = rot.to_euler("ZXY", rotations)[:, order].reshape(len(rotations), -1)
    values = np.concatenate([root_positions * 100, angles], 1)
    lines += ["MOTION", f"Frames: {len(values)}", f"Frame Time: {1 / fps:.8f}"]
    with atomic_path(path) as temporary, temporary.open("w") as file:
        file.write("\n".join(lines) + "\n")
        np.savetxt(file, values, fmt="%.6f")
