"""Motion files of every kind that is read, and how each was understood."""

import dataclasses
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from llamo_jax.errors import InputError
from llamo_jax.files import read_arrays
from llamo_jax.motion import amass, humanml3d, inverse, representation
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.axes import Axis, to_y_up, world_up
from llamo_jax.motion.bvh import Bvh, read_bvh
from llamo_jax.motion.formats import READABLE, require_suffix
from llamo_jax.motion.joints import find_joints, read_map, words_of
from llamo_jax.motion.plausibility import size_fault
from llamo_jax.motion.representation import FEATURES, FPS
from llamo_jax.motion.retarget import possible_units, skeleton_height, to_smpl22, unit_of
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, JOINT_INDEX, NUM_JOINTS, forward_kinematics

Arrays = Literal["features", "humanml3d", "joints", "smpl85"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a person knows of a motion file that it does not say itself."""

    skeleton: Path | None = None
    """JSON that names the joints of a BVH: {"left_knee": "LeftLeg", ...}, of as many as are not found."""
    up: Axis | None = None
    """The axis of the file's world that points up; found by default."""
    unit: str | None = None
    """The file's unit of length (metre, centimetre, inch, ...), or how many metres it has; found by default."""
    person: int = 1
    """Which of several bodies in a BVH, counted from 1."""
    fps: float | None = None
    """Frames a second, in place of what the file says."""
    arrays: Arrays | None = None
    """What an .npy file holds: 272 features, 263 of HumanML3D, joints [T, 22, 3], or SMPL-85 [T, 85]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderOptions(ReadOptions):
    """What was found of the files of a folder."""

    units: Mapping[str, str]
    """Key of a skeleton -> the unit that its files have."""


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """A motion as it was read.

    Attributes:
      joints: [T, 22, 3] world positions in metres, Y up.
      rotations: [T, 22, 3, 3] parent-relative.
      fps: frames a second.
      facts: how the file was understood, by name.
      notes: what a person should know of that, in sentences.
      captions, name, labels: as of `MotionClip`.
    """

    joints: Float[np.ndarray, "T 22 3"]
    rotations: Float[np.ndarray, "T 22 3 3"]
    fps: float
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    name: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def counted(self) -> str:
        """What to add to a frame's number: frames are the clip's, which may begin later than the file."""
        opening = self.facts.get("opening frames left out", 0)
        return f", counted from row {opening} of the file" if opening else ""


def read(path: str | Path, options: ReadOptions | None = None) -> Reading:
    """Reads a motion file by its suffix.

    Args:
      path: .bvh of any skeleton whose joints can be found; .npz of `MotionClip.save` or of the SMPL family (AMASS);
        .npy of 272 features, or of what the options say.
      options: what the file does not say itself.

    Raises:
      InputError: the file is missing, damaged or of another kind, or more than one reading of it is possible.
    """
    path, options = Path(path), options or ReadOptions()
    require_suffix(path, READABLE, "motion")
    if options.fps is not None and not (math.isfinite(options.fps) and options.fps > 0):
        raise InputError(f"{path}: the rate is given as {options.fps} frames a second; expected more than 0")
    _require_used(path, options)
    reading = _READERS[path.suffix.lower()](path, options)
    if path.suffix.lower() != ".bvh" and (fault := size_fault(reading.joints)):
        raise InputError(f"{path}: {fault.what}")  # arrays are in metres; a BVH has a unit, which was found
    return reading


def _require_used(path: Path, options: ReadOptions) -> None:
    """Raises InputError where an option says nothing of files of this kind."""
    of_bvh = {"skeleton": options.skeleton, "person": options.person if options.person != 1 else None}
    of_axes = {"unit": options.unit}
    of_npy = {"arrays": options.arrays}
    suffix = path.suffix.lower()
    unused = {".bvh": of_npy, ".npz": of_bvh | of_axes | of_npy, ".npy": of_bvh}[suffix]
    if suffix == ".npy" and options.arrays != "joints":
        unused |= of_axes
    if told := [f"--{name}" for name, value in unused.items() if value is not None]:
        raise InputError(f"{path}: {', '.join(told)} says nothing of a file of this kind; leave it out")


def settle(paths: Sequence[Path], options: ReadOptions) -> ReadOptions:
    """The options to read the files of one folder with: two takes of one skeleton never get two units.

    Where nobody says the unit, of each skeleton (by its joints' names) up to `_SURVEYED` files are looked into, and the
    unit in which most of them are people is that of all.
    """
    if options.unit is not None:
        return options
    paths = [path for path in paths if path.suffix.lower() == ".bvh"]
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for path in paths[:: -(-len(paths) // _SURVEYED) or 1]:
        try:
            bvh = read_bvh(path, person=options.person, fps=options.fps, first_row=True)
            joints = find_joints(bvh, path, read_map(options.skeleton) if options.skeleton else None).joints
            votes[skeleton_key(bvh)].update(possible_units(skeleton_height(bvh, joints)))
        except InputError:
            continue  # it is told when it is read
    clear = {key: units.most_common() for key, units in votes.items() if units}
    # A tie between two units is for each file to tell.
    units = {key: order[0][0] for key, order in clear.items() if len(order) == 1 or order[0][1] > order[1][1]}
    return FolderOptions(**vars(options), units=units)


_SURVEYED = 100


def skeleton_key(bvh: Bvh) -> str:
    """Of a skeleton, by the words of its joints' names, whatever an actor is called."""
    return hashlib.blake2b(repr(words_of(bvh)).encode(), digest_size=8).hexdigest()


def _bvh(path: Path, options: ReadOptions) -> Reading:
    bvh = read_bvh(path, person=options.person, fps=options.fps)
    motion = to_smpl22(
        bvh,
        path,
        skeleton=read_map(options.skeleton) if options.skeleton else None,
        up=options.up,
        unit=unit_of(options.unit) if options.unit else None,
        folder_unit=options.units.get(skeleton_key(bvh)) if isinstance(options, FolderOptions) else None,
    )
    facts = {
        "format": "BVH",
        "hierarchy": {name: bvh.names[parent] if parent >= 0 else None
                      for name, parent in zip(bvh.names, bvh.parents, strict=True)},
        "joints": dict(motion.joints),
        "metres in a unit": motion.unit,
        "metres from ankles to head": round(motion.height, 3),
        "up": motion.up,
        "rest pose": motion.rest,
        "opening frames left out": motion.dropped,
        "rows": len(bvh.values),
    }  # fmt: skip
    joints = forward_kinematics(motion.rotations, motion.root_positions, motion.offsets)
    return Reading(joints, motion.rotations, motion.fps, facts, motion.notes, name=path.stem)


def _npz(path: Path, options: ReadOptions) -> Reading:
    arrays = read_arrays(path, without_objects=True)  # AMASS's genders, for one
    if amass.is_amass(arrays):
        return _smpl(amass.read_amass(arrays, path), path, options, documented="z", kind="SMPL parameters (AMASS)")
    if missing := sorted({"joints", "rotations", "fps"} - set(arrays)):
        raise InputError(
            f"{path}: has no {', '.join(missing)}; found {', '.join(arrays)} (pickled Python objects are never "
            f"loaded: they can run code); expected an .npz that MotionClip.save wrote, or poses and trans of the SMPL "
            f"family"
        )
    joints = _frames(arrays["joints"], "joints", (NUM_JOINTS, 3), path)
    rotations = _frames(arrays["rotations"], "rotations", (NUM_JOINTS, 3, 3), path)
    if len(joints) != len(rotations):
        raise InputError(f"{path}: joints have {len(joints)} frames, rotations {len(rotations)}; expected as many")
    if (frame := rot.first_wrong(rotations)) is not None:
        raise InputError(f"{path}: rotations of frame {frame} are no rotation matrices")
    fps = arrays["fps"]
    if fps.shape != () or fps.dtype.kind not in "fiu":
        raise InputError(f"{path}: fps has shape {fps.shape} and type {fps.dtype}; expected one number")
    facts = {"format": "arrays of MotionClip.save", "up": "y", "metres in a unit": 1.0}
    return Reading(
        joints,
        rotations,
        options.fps or float(fps),
        facts,
        captions=_captions(arrays, path),
        name=str(arrays["name"]) if "name" in arrays and arrays["name"].shape == () else path.stem,
        labels=_labels(arrays, path),
    )


def _npy(path: Path, options: ReadOptions) -> Reading:
    array = read_arrays(path)["array"]
    kind = options.arrays or ("features" if array.shape[-1:] == (FEATURES,) else None)
    if kind is None:
        known = {(263,): "humanml3d", (NUM_JOINTS, 3): "joints", (85,): "smpl85"}.get(array.shape[1:])
        hint = f"; if these are {known}, say so with --arrays {known}" if known else ""
        raise InputError(f"{path}: features have shape {array.shape}; expected [T, {FEATURES}]{hint}")
    return _ARRAYS[kind](array, path, options)


def _features(array: np.ndarray, path: Path, options: ReadOptions) -> Reading:
    try:
        representation.require_features(array)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    array = np.asarray(array, np.float64)
    joints = representation.decode_positions(array)
    rotations, _ = representation.decode_rotations(array)
    facts = {"format": "272 features", "up": "y", "metres in a unit": 1.0}
    return Reading(joints, rotations, options.fps or float(FPS), facts, name=path.stem)


def _humanml3d(array: np.ndarray, path: Path, options: ReadOptions) -> Reading:
    array = _frames(array, "HumanML3D features", (humanml3d.FEATURES,), path)
    return _of_joints(humanml3d.joints_of(array), path, options.fps or humanml3d.FPS, "263 features of HumanML3D")


def _joints(array: np.ndarray, path: Path, options: ReadOptions) -> Reading:
    joints = _frames(array, "joints", (NUM_JOINTS, 3), path)
    if options.fps is None:
        raise InputError(f"{path}: joints alone have no rate; give it with --fps (HumanML3D has 20)")
    notes: list[str] = []
    up = options.up or world_up("y", joints, JOINT_INDEX, notes, path)
    unit = unit_of(options.unit) if options.unit else 1.0
    reading = _of_joints(joints @ to_y_up(up).T * unit, path, options.fps, "joints", up=up, unit=unit)
    return dataclasses.replace(reading, notes=(*notes, *reading.notes))


def _smpl85(array: np.ndarray, path: Path, options: ReadOptions) -> Reading:
    return _smpl(amass.read_smpl85(array, path), path, options, documented="y", kind="SMPL-85")


def _of_joints(joints: np.ndarray, path: Path, fps: float, what: str, up: Axis = "y", unit: float = 1.0) -> Reading:
    notes = ("rotations are found from positions: how bones twist about themselves is not known",)
    facts = {"format": what, "up": up, "metres in a unit": unit}
    return Reading(joints, inverse.rotations_of(joints), fps, facts, notes, name=path.stem)


def _smpl(motion: amass.Smpl, path: Path, options: ReadOptions, *, documented: Axis, kind: str) -> Reading:
    fps = options.fps or motion.fps or (float(FPS) if kind == "SMPL-85" else None)
    if fps is None:
        raise InputError(f"{path}: says no frame rate; give it with --fps")
    joints = forward_kinematics(motion.rotations, motion.pelvis, DEFAULT_OFFSETS)
    notes: list[str] = []
    up = options.up or world_up(documented, joints, JOINT_INDEX, notes, path)
    turn = to_y_up(up)
    rotations = motion.rotations.copy()
    rotations[:, 0] = turn @ rotations[:, 0]
    facts = {"format": kind, "model": motion.model, "up": up, "metres in a unit": 1.0,
             "bones": "of an average adult: there is no body model"}  # fmt: skip
    return Reading(joints @ turn.T, rotations, fps, facts, tuple(notes), name=path.stem)


def _frames(array: np.ndarray, what: str, shape: tuple[int, ...], path: Path) -> Float[np.ndarray, "T ..."]:
    """An array of frames as float64, of half floats and integers too."""
    if array.shape[1:] != shape or not len(array):
        expected = ", ".join(map(str, shape))
        raise InputError(f"{path}: {what} have shape {array.shape}; expected [T, {expected}] with T at least 1")
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {what} are of type {array.dtype}; expected numbers")
    array = np.asarray(array, np.float64)
    if not np.isfinite(array).all():
        frame = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise InputError(f"{path}: {what} have NaN or infinity in frame {frame}; expected finite numbers")
    return array


def _captions(arrays: Mapping[str, np.ndarray], path: Path) -> tuple[str, ...]:
    captions = arrays.get("captions", np.array([], str))
    if captions.ndim != 1 or (captions.size and captions.dtype.kind != "U"):
        raise InputError(
            f"{path}: captions have shape {captions.shape} and type {captions.dtype}; expected a list of sentences"
        )
    return tuple(map(str, captions))


def _labels(arrays: Mapping[str, np.ndarray], path: Path) -> Mapping[str, str]:
    if "labels" not in arrays:
        return {}
    try:
        labels = json.loads(str(arrays["labels"]))
    except ValueError:
        labels = None
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise InputError(f'{path}: labels are {str(arrays["labels"])!r:.60}; expected JSON as {{"content": "walk"}}')
    return labels


_READERS: Mapping[str, Callable[[Path, ReadOptions], Reading]] = {".bvh": _bvh, ".npz": _npz, ".npy": _npy}
_ARRAYS: Mapping[str, Callable[[np.ndarray, Path, ReadOptions], Reading]] = {
    "features": _features, "humanml3d": _humanml3d, "joints": _joints, "smpl85": _smpl85,
}  # fmt: skip
