"""Arrays of every kind that people bring, and what is said of those that are something else."""

import warnings

import numpy as np
import pytest

from llamo_jax.errors import InputError, MotionWarning
from llamo_jax.motion import MotionClip, humanml3d, inverse
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.read import ReadOptions, read, settle
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, JOINT_INDEX, forward_kinematics
from tests.motion.rig_files import RigFile, names_of, text_of

TO_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def _amass(clip, extra=90, up=TO_Z_UP):
    """The arrays of an AMASS archive that shows a clip: pelvis at `trans` plus the average body's."""
    rotations = clip.rotations.copy()
    rotations[:, 0] = up @ rotations[:, 0]
    poses = np.concatenate([rot.to_rotvec(rotations).reshape(len(clip), 66), np.zeros((len(clip), extra))], 1)
    pelvis = {90: [-0.002, -0.23, 0.028], 6: [-0.002, -0.23, 0.028], 99: [0.003, -0.35, 0.012]}[extra]
    return {"poses": poses, "trans": clip.joints[:, 0] @ up.T - pelvis, "betas": np.zeros(16), "gender": "female",
            "mocap_framerate": 30.0}  # fmt: skip


def _same(clip, other):
    assert np.abs(clip.joints - other.joints).max() < 1e-6
    assert np.degrees(rot.geodesic(clip.rotations, other.rotations)).max() < 1e-5


def _replaced(arrays, old, **new):
    return {name: array for name, array in arrays.items() if name != old} | new


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays,
        lambda arrays: _replaced(arrays, "mocap_framerate", mocap_frame_rate=np.array(30.0)),
        lambda arrays: _replaced(arrays, "mocap_framerate", fps=np.array([30])),
        lambda arrays: arrays | {"gender": np.array(b"neutral")},
        lambda arrays: arrays | {"gender": np.array("male", object)},
        lambda arrays: _replaced(arrays, "poses", root_orient=arrays["poses"][:, :3], surface_model_type="smplh",
                                 pose_body=arrays["poses"][:, 3:66]),
        lambda arrays: _replaced(arrays, "poses", global_orient=arrays["poses"][:, None, :3], model_type="SMPL+H",
                                 body_pose=arrays["poses"][:, 3:72].reshape(-1, 23, 3)),
        lambda arrays: arrays | {"poses": rot.from_rotvec(arrays["poses"].reshape(-1, 52, 3))},
        lambda arrays: _replaced(arrays, "trans", transl=arrays["trans"].astype(np.float32)),
    ],
)  # fmt: skip
def test_amass_of_every_spelling(walk, tmp_path, change):
    np.savez(tmp_path / "a.NPZ", **change(_amass(walk)))
    clip = MotionClip.load(_named(tmp_path, "a.NPZ"))
    assert clip.fps == 30
    assert np.abs(clip.joints - walk.joints).max() < 1e-5
    assert np.degrees(rot.geodesic(clip.rotations, walk.rotations)).max() < 1e-5


def _named(folder, name):
    """np.savez adds a suffix to names that end in capitals."""
    (found,) = folder.glob("a*")
    return found.rename(folder / name)


@pytest.mark.parametrize("extra", [6, 90, 99])
def test_smpl_smplh_and_smplx_have_their_pelvis_elsewhere(walk, tmp_path, extra):
    np.savez(tmp_path / "a.npz", **_amass(walk, extra))
    _same(MotionClip.load(tmp_path / "a.npz"), walk)


def test_amass_with_y_up_is_told_by_its_poses(walk, tmp_path):
    arrays = _amass(walk, up=np.eye(3))
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.warns(MotionWarning, match="y is taken for up"):
        clip = MotionClip.load(tmp_path / "a.npz")
    _same(clip, walk)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _same(MotionClip.load(tmp_path / "a.npz", ReadOptions(up="y")), walk)


def test_amass_out_is_what_gmr_reads(walk, tmp_path):
    """Z up, `trans` the origin of SMPL-X, the rate as an array of no dimensions; frame 0 is like every other."""
    walk.save(tmp_path / "a.npz", format="amass")
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["mocap_frame_rate"].item() == 30 and str(arrays["gender"]) == "neutral"
        shapes = {name: arrays[name].shape for name in ("betas", "root_orient", "pose_body", "trans", "poses")}
        assert shapes == {"betas": (16,), "root_orient": (60, 3), "pose_body": (60, 63), "trans": (60, 3),
                          "poses": (60, 165)}  # fmt: skip
        assert np.allclose(arrays["trans"][:, 2] + 0.012, walk.joints[:, 0, 1])  # height is along Z
        steps = np.linalg.norm(np.diff(arrays["trans"], axis=0), axis=-1)
        assert steps.max() < 1.2 * np.median(steps)
    _same(MotionClip.load(tmp_path / "a.npz"), walk)
    with pytest.raises(InputError, match=r'the format "amass" is that of an \.npz file'):
        walk.save(tmp_path / "a.npy", format="amass")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: _replaced(a, "trans"), r"has no trans \(transl, .*\); found poses, betas"),
        (
            lambda a: a | {"trans": a["trans"][:-1]},
            r"poses has shape \(60, 156\); expected \[59, n\] with n at least 66",
        ),
        (lambda a: a | {"poses": a["poses"][:, :60]}, r"poses has shape \(60, 60\)"),
        (lambda a: a | {"poses": a["poses"].astype(str)}, r"poses is of type <U\d+; expected numbers"),
        (lambda a: a | {"mocap_framerate": np.array([30.0, 60.0])}, r"mocap_framerate is .*; expected one number"),
        (lambda a: _replaced(a, "mocap_framerate"), r"says no frame rate; give it with --fps"),
        (lambda a: a | {"trans": a["trans"] * np.nan}, r"trans has NaN or infinity in frame 0"),
        (lambda a: a | {"poses": np.zeros((60, 22, 4))}, r"poses has shape \(60, 22, 4\), quaternions; expected axis"),
        (lambda a: a | {"poses": np.zeros((60, 22, 6))}, r"poses has shape \(60, 22, 6\), 6D rotations; expected axis"),
        (lambda a: a | {"poses": np.zeros((60, 198))}, r"poses has shape \(60, 198\)"),
        (lambda a: a | {"poses": -np.tile(np.eye(3), (60, 22, 1, 1))}, r"poses of frame 0 are no rotation matrices"),
    ],
)
def test_each_array_of_amass_that_does_not_fit_is_named(walk, tmp_path, change, message):
    np.savez(tmp_path / "a.npz", **change(_amass(walk)))
    with pytest.raises(InputError, match=rf"^{tmp_path / 'a.npz'}: {message}"):
        MotionClip.load(tmp_path / "a.npz")


def test_smpl_85(walk, tmp_path):
    poses = rot.to_rotvec(walk.rotations).reshape(60, 66)
    array = np.concatenate([poses, np.zeros((60, 6)), walk.joints[:, 0] - [0.003, -0.35, 0.012], np.zeros((60, 10))], 1)
    np.save(tmp_path / "a.npy", array)
    _same(MotionClip.load(tmp_path / "a.npy", ReadOptions(arrays="smpl85")), walk)
    with pytest.raises(InputError, match=r"shape \(60, 85\); expected \[T, 272\]; if these are smpl85, say so with"):
        MotionClip.load(tmp_path / "a.npy")


def _features263(joints):
    """HumanML3D's features of a body, as its publication defines them; what is not read stays zero."""
    across = joints[:, JOINT_INDEX["left_hip"]] - joints[:, JOINT_INDEX["right_hip"]]
    heading = np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))
    features = np.zeros((len(joints), 263))
    features[:-1, 0] = -np.diff(heading) / 2
    step = np.diff(joints[:, 0] * [1, 0, 1], axis=0)
    features[:-1, 1:3] = np.einsum("tij,tj->ti", rot.yaw(-heading[1:]), step)[:, [0, 2]]
    features[:, 3] = joints[:, 0, 1]
    local = np.einsum("tij,tkj->tki", rot.yaw(-heading), joints - joints[:, :1] * [1, 0, 1])
    features[:, 4:67] = local[:, 1:].reshape(len(joints), 63)
    return features, heading[0]


def test_humanml3d_features(walk, tmp_path):
    features, heading = _features263(walk.joints)
    np.save(tmp_path / "a.npy", features)
    with pytest.warns(MotionWarning, match="rotations are found from positions"):
        clip = MotionClip.load(tmp_path / "a.npy", ReadOptions(arrays="humanml3d"))
    assert clip.fps == 20
    expected = (walk.joints - walk.joints[:1, :1] * [1, 0, 1]) @ rot.yaw(-heading).T
    assert np.abs(clip.joints - expected).max() < 1e-6
    assert np.abs(humanml3d.joints_of(features)[0, 0, [0, 2]]).max() == 0


def test_joints_with_z_up_are_told_by_their_poses(walk, tmp_path):
    np.save(tmp_path / "a.npy", walk.joints @ TO_Z_UP.T)
    with pytest.warns(MotionWarning, match="z is taken for up"):
        clip = MotionClip.load(tmp_path / "a.npy", ReadOptions(arrays="joints", fps=30))
    assert np.abs(clip.joints - walk.joints).max() < 1e-9


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("a.npz", ReadOptions(unit="cm"), "--unit"),
        ("a.npz", ReadOptions(person=2), "--person"),
        ("a.npy", ReadOptions(unit="cm"), "--unit"),
        ("a.bvh", ReadOptions(arrays="joints"), "--arrays"),
    ],
)
def test_options_that_say_nothing_are_refused(walk, tmp_path, name, options, told):
    walk.save(tmp_path / name)
    with pytest.raises(InputError, match=f"{told} says nothing of a file of this kind"):
        MotionClip.load(tmp_path / name, options)


def test_joints_alone(walk, tmp_path):
    """Positions stay; rotations pose the body so, and lose only twist."""
    np.save(tmp_path / "a.npy", walk.joints @ TO_Z_UP.T * 100)
    options = ReadOptions(arrays="joints", fps=25, up="z", unit="cm")
    with pytest.warns(MotionWarning, match="how bones twist"):
        clip = MotionClip.load(tmp_path / "a.npy", options)
    assert clip.fps == 25 and np.abs(clip.joints - walk.joints).max() < 1e-9
    posed = forward_kinematics(inverse.rotations_of(walk.joints), walk.joints[:, 0], DEFAULT_OFFSETS)
    assert np.abs(posed - walk.joints).max() < 1e-6
    assert np.degrees(rot.geodesic(clip.rotations, walk.rotations)).max() < 10
    with pytest.raises(InputError, match="joints alone have no rate; give it with --fps"):
        MotionClip.load(tmp_path / "a.npy", ReadOptions(arrays="joints"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"fps": np.array([30.0])}, r"fps has shape \(1,\) and type float64; expected one number"),
        ({"captions": np.array("a person walks")}, r"captions have shape \(\) .*; expected a list of sentences"),
        ({"labels": np.array('["walk"]')}, r"labels are '\[\"walk\"\]'; expected JSON as"),
        ({"joints": np.zeros((60, 24, 3))}, r"joints have shape \(60, 24, 3\); expected \[T, 22, 3\]"),
        ({"rotations": np.zeros((60, 22, 3))}, r"rotations have shape \(60, 22, 3\)"),
        ({"joints": np.full((60, 22, 3), "a")}, r"joints are of type <U1; expected numbers"),
    ],
)
def test_each_array_of_ours_that_does_not_fit_is_named(walk, tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **{"joints": walk.joints, "rotations": walk.rotations, "fps": 30.0} | arrays)
    with pytest.raises(InputError, match=rf"^{tmp_path / 'a.npz'}: {message}"):
        MotionClip.load(tmp_path / "a.npz")


def test_half_floats_are_numbers(walk, tmp_path):
    np.savez(tmp_path / "a.npz", joints=walk.joints.astype(np.float16), rotations=walk.rotations.astype(np.float16),
             fps=np.float16(30))  # fmt: skip
    assert np.abs(MotionClip.load(tmp_path / "a.npz").joints - walk.joints).max() < 2e-3


def test_features_that_are_normalised_or_in_centimetres_are_refused(walk, tmp_path):
    features = walk.features()
    for change in (lambda f: (f - f.mean(0)) / 0.14, lambda f: f * 100):
        np.save(tmp_path / "a.npy", change(features))
        with pytest.raises(InputError, match=r"a\.npy: rotation features .* expected un-normalised features in metres"):
            MotionClip.load(tmp_path / "a.npy")
    features[:, 8:140] *= 100
    np.save(tmp_path / "a.npy", features)
    with pytest.raises(InputError, match=r"a\.npy: the body is 142 m from ankles to head; expected metres of a person"):
        MotionClip.load(tmp_path / "a.npy")


def test_pointers_and_web_pages_are_named(tmp_path):
    (tmp_path / "a.npy").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="a Git LFS pointer"):
        read(tmp_path / "a.npy")
    (tmp_path / "a.npz").write_text("\n<html><body>not found</body></html>")
    with pytest.raises(InputError, match="a web page"):
        read(tmp_path / "a.npz")


def test_suffixes_in_any_case_and_a_first_frame_that_is_a_crop(walk, tmp_path):
    """Features of a crop start with a step; ours are canonical again (GMR#153: others must skip that frame)."""
    np.save(tmp_path / "a.npy", walk.features()[20:])
    again = MotionClip.load((tmp_path / "a.npy").rename(tmp_path / "a.NPY")).features()
    assert np.abs(again - walk[20:].features()).max() < 1e-5
    assert np.abs(again[0, :2]).max() == 0 and np.array_equal(again[0, 2:8], [1, 0, 0, 0, 1, 0])


def test_two_takes_of_a_folder_never_get_two_units(walk, tmp_path):
    """Bodies in inches, of which the tallest alone might be a child in centimetres."""
    for number, size in enumerate((0.95, 1.0, 1.05, 1.13)):
        bones = DEFAULT_OFFSETS * size
        clip = MotionClip.from_rotations(walk.rotations[:4], walk.joints[:4, 0] * size, bones)
        bvh = RigFile(names=names_of("Mixamo"), bones=bones, scale=1 / 0.0254).bvh(clip)
        (tmp_path / f"{number}.bvh").write_text(text_of(bvh))
    paths = sorted(tmp_path.glob("*.bvh"))
    assert (
        read(paths[3]).facts["metres in a unit"] == 0.01 and "in inches it would be 1.60 m" in read(paths[3]).notes[0]
    )
    options = settle(paths, ReadOptions())
    assert [read(path, options).facts["metres in a unit"] for path in paths] == [0.0254] * 4
    assert read(paths[3], options).notes == ()
    # The same skeleton of another actor.
    renamed = (tmp_path / "3.bvh").read_text().replace("mixamorig", "Bob")
    (tmp_path / "bob.bvh").write_text(renamed)
    assert read(tmp_path / "bob.bvh", options).facts["metres in a unit"] == 0.0254
    # A file that is nobody in the unit of its folder is refused.
    bvh = RigFile(names=names_of("Mixamo"), bones=DEFAULT_OFFSETS, scale=1.0).bvh(walk)
    (tmp_path / "metres.bvh").write_text(text_of(bvh))
    with pytest.raises(InputError, match=r"0\.0361? m from ankles to head in inches, the unit of its folder"):
        read(tmp_path / "metres.bvh", options)
    assert settle(paths, ReadOptions(unit="cm")) == ReadOptions(unit="cm")
