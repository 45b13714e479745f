"""Motion as parameters of the SMPL family: AMASS archives (SMPL, SMPL+H, SMPL-X) in and out, and SMPL-85 arrays in.

No body model is needed or read. Rotations are taken as they are; bones are those of an average adult, and the pelvis
lies where an average body has it, so positions are off by what `betas` would change: some centimetres.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.skeleton import NUM_JOINTS

BODY = 3 * NUM_JOINTS
"""Numbers of an axis-angle pose that are of SMPL-22; hands, jaw and eyes come after."""

# Where the models have their pelvis, in metres from their origin: round figures of the average body. SMPL rotates about
# the pelvis and adds `trans`, so that the pelvis is at `trans` plus this, whatever the pose and the world's axes.
_PELVIS = {"smplx": (0.003, -0.35, 0.012), "smplh": (-0.002, -0.23, 0.028), "smpl": (-0.002, -0.23, 0.028)}

# Names in the archives of AMASS, its SMPL-X release, and of the tools that write files like them.
_POSES = ("poses", "pose", "fullpose", "full_pose", "smpl_poses", "smplx_poses")
_ROOT = ("root_orient", "global_orient", "root_pose")
_BODY = ("pose_body", "body_pose")
_WIDTHS = (66, 69, 72, 75, 153, 156, 159, 162, 165, 168)
"""Numbers of a pose in axis-angle vectors, of the models with and without hands, jaw and eyes."""
_TRANS = ("trans", "transl", "translation", "root_trans", "smpl_trans")
_RATE = ("mocap_framerate", "mocap_frame_rate", "mocap_fps", "framerate", "frame_rate", "fps")
_MODEL = ("surface_model_type", "model_type", "body_model")


class Smpl(NamedTuple):
    """A motion of the SMPL family, in the axes of its file.

    Attributes:
      rotations: [T, 22, 3, 3] parent-relative.
      pelvis: [T, 3] metres.
      fps: frames a second; None where the file does not say.
      model: "smpl", "smplh" or "smplx".
    """

    rotations: Float[np.ndarray, "T 22 3 3"]
    pelvis: Float[np.ndarray, "T 3"]
    fps: float | None
    model: str


def is_amass(names: Any) -> bool:
    """Whether an archive with arrays of these names is of the SMPL family."""
    return any(name in names for name in _POSES) or (
        any(name in names for name in _ROOT) and any(name in names for name in _BODY)
    )


def read_amass(arrays: dict[str, np.ndarray], path: str | Path) -> Smpl:
    """The motion of an archive's arrays.

    Args:
      arrays: of the archive.
      path: named in errors.

    Raises:
      InputError: an array is missing, or is not what its name says.
    """
    trans_name, trans = _first(arrays, _TRANS)
    if trans is None:
        raise InputError(f"{path}: has no {_TRANS[0]} ({', '.join(_TRANS[1:])}); found {', '.join(arrays)}")
    trans = _numbers(trans, trans_name, path)
    if trans.ndim != 2 or trans.shape[1] != 3 or not len(trans):
        raise InputError(f"{path}: {trans_name} has shape {trans.shape}; expected [T, 3]")
    name, poses = _first(arrays, _POSES)
    if poses is not None:
        vectors = _vectors(poses, name, len(trans), BODY, path)
        extra = np.asarray(poses)[0].size
    else:
        (root_name, root), (body_name, body) = _first(arrays, _ROOT), _first(arrays, _BODY)
        if root is None or body is None:
            raise InputError(f"{path}: has no poses; found {', '.join(arrays)}")
        vectors = np.concatenate(
            [_vectors(root, root_name, len(trans), 3, path), _vectors(body, body_name, len(trans), BODY - 3, path)], 1
        )
        extra = 0
    model = _model(arrays, extra)
    rotations = rot.from_rotvec(vectors.reshape(len(trans), NUM_JOINTS, 3))
    return Smpl(rotations, trans + _PELVIS[model], _rate(arrays, path), model)


def read_smpl85(array: Float[np.ndarray, "T 85"], path: str | Path) -> Smpl:
    """The motion of an SMPL-85 array: 66 numbers of pose, 6 of hands, 3 of translation and 10 of shape in each frame.

    Raises:
      InputError: the array has another shape, or numbers that are not finite.
    """
    array = _numbers(array, "the array", path)
    if array.ndim != 2 or array.shape[1] != 85 or not len(array):
        raise InputError(f"{path}: has shape {array.shape}; expected [T, 85]")
    rotations = rot.from_rotvec(array[:, :BODY].reshape(len(array), NUM_JOINTS, 3))
    return Smpl(rotations, array[:, 72:75] + _PELVIS["smplx"], None, "smplx")


def write_amass(
    path: str | Path,
    rotations: Float[np.ndarray, "T 22 3 3"],
    pelvis: Float[np.ndarray, "T 3"],
    fps: float,
) -> None:
    """Writes SMPL-X parameters as AMASS has them, and as GMR reads them: Z up, `trans` the model's own origin.

    Args:
      path: of the archive.
      rotations: parent-relative, Y up.
      pelvis: metres, Y up.
      fps: frames a second.
    """
    to_z_up = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    rotations = rotations.copy()
    rotations[:, 0] = to_z_up @ rotations[:, 0]
    vectors = rot.to_rotvec(rotations).reshape(len(rotations), BODY)
    frames = len(vectors)
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            gender=np.array("neutral"),
            betas=np.zeros(16),
            surface_model_type=np.array("smplx"),
            mocap_frame_rate=np.array(float(fps)),
            trans=pelvis @ to_z_up.T - _PELVIS["smplx"],
            poses=np.concatenate([vectors, np.zeros((frames, 165 - BODY))], 1),
            root_orient=vectors[:, :3],
            pose_body=vectors[:, 3:],
            pose_hand=np.zeros((frames, 90)),
            pose_jaw=np.zeros((frames, 3)),
            pose_eye=np.zeros((frames, 6)),
        )


def _first(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> tuple[str, np.ndarray | None]:
    return next(((name, arrays[name]) for name in names if name in arrays), ("", None))


def _numbers(array: np.ndarray, name: str, path: str | Path) -> Float[np.ndarray, "..."]:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {name} is of type {array.dtype}; expected numbers")
    array = np.asarray(array, np.float64)
    if not np.isfinite(array).all():
        frame = int(np.argwhere(~np.isfinite(array))[0, 0]) if array.ndim else 0
        raise InputError(f"{path}: {name} has NaN or infinity in frame {frame}; expected finite numbers")
    return array


def _vectors(array: np.ndarray, name: str, frames: int, least: int, path: str | Path) -> Float[np.ndarray, "T n"]:
    """Axis-angle vectors, the first `least` numbers of each frame, of [T, n], [T, J, 3] or matrices [T, J, 3, 3]."""
    array = _numbers(array, name, path)
    if array.ndim >= 3 and array.shape[-2:] == (3, 3):
        if (frame := rot.first_wrong(array)) is not None:
            raise InputError(f"{path}: {name} of frame {frame} are no rotation matrices")
        array = rot.to_rotvec(array)
    if array.ndim > 2 and array.shape[-1] != 3:
        kinds = {4: "quaternions", 6: "6D rotations"}.get(array.shape[-1], "something else")
        raise InputError(f"{path}: {name} has shape {array.shape}, {kinds}; expected axis-angle vectors [T, J, 3]")
    flat = array.reshape(len(array), -1) if array.ndim > 1 and len(array) else array
    whole = flat.ndim == 2 and least == BODY and flat.shape[1] not in _WIDTHS
    if flat.ndim != 2 or len(flat) != frames or flat.shape[1] < least or whole:
        raise InputError(
            f"{path}: {name} has shape {array.shape}; expected [{frames}, n] with n at least {least} (66, 72, "
            f"156, 165): axis-angle vectors of the body first, as many frames as the translation has"
        )
    return flat[:, :least]


def _rate(arrays: dict[str, np.ndarray], path: str | Path) -> float | None:
    name, rate = _first(arrays, _RATE)
    if rate is None:
        return None
    try:
        value = float(np.asarray(rate).reshape(-1)[0]) if np.size(rate) == 1 else 0.0
    except ValueError:
        value = 0.0
    if not 0 < value < 1e5:
        raise InputError(f"{path}: {name} is {np.asarray(rate)!r:.60}; expected one number of frames a second")
    return value


def _model(arrays: dict[str, np.ndarray], numbers: int) -> str:
    """What the archive says, else by how many numbers a pose has."""
    _, told = _first(arrays, _MODEL)
    if told is not None and told.size == 1 and told.dtype.kind in "US":
        value = told.reshape(-1)[0]
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        text = text.lower().replace("-", "").replace("+", "").split("_")[0]
        if text in _PELVIS:
            return text
    return {165: "smplx", 156: "smplh", 0: "smplx"}.get(numbers, "smpl")
