"""What no person's motion has, told with its frame; nothing of a motion that a person made."""

import re

import numpy as np
import pytest

from llamo_jax.errors import MotionWarning
from llamo_jax.motion import MotionClip
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, JOINT_INDEX
from tests.motion.rig_files import RigFile, names_of, text_of


def _glitch(clip):
    clip.joints[10] += [0, 0, 1460.0]


def _teleporting_hand(clip):
    clip.joints[30, JOINT_INDEX["left_wrist"]] += [1.5, 0, 0]


def _sunk(clip):
    clip.joints[40:] -= [0, 5.0, 0]


def _stretched(clip):
    clip.joints[20:, JOINT_INDEX["right_foot"]] += np.linspace(0, 0.2, 40)[:, None]


def _lopsided(clip):
    wrist, elbow = JOINT_INDEX["left_wrist"], JOINT_INDEX["left_elbow"]
    clip.joints[:, wrist] += 1.5 * (clip.joints[:, wrist] - clip.joints[:, elbow])


def _centimetres(clip):
    clip.joints[:] *= 100


def _on_its_head(clip):
    clip.joints[..., 1:] *= -1
    clip.rotations[:, 0] = np.diag([1.0, -1, -1]) @ clip.rotations[:, 0]


def _of_another_motion(clip):
    clip.rotations[:] = clip.rotations[:1] @ rot.from_rotvec(np.array([0, 0, 2.0]))


@pytest.mark.parametrize(
    ("break_it", "kind", "words"),
    [
        (_glitch, "jump", r"the pelvis moves 1\.46e\+03 m in frame 10 "),
        (_teleporting_hand, "jump", r"a joint moves 1\.\d+ m in frame 30 "),
        (_sunk, "jump", r"the pelvis moves 4\.99 m in frame 40 "),
        (_stretched, "bones", r"the bone to right_foot is 0\.\d+ m long in frame 5\d"),
        (_lopsided, "bones", r"the bones to left_wrist and to its like on the right are 0\.6\d+ and 0\.25 m long"),
        (_centimetres, "size", r"the body is 142 m from ankles to head"),
        (_on_its_head, "upright", r"the head is under the feet"),
        (_of_another_motion, "rotations", r"joints and rotations are 0\.\d+ m apart"),
    ],
)
def test_faults(walk, break_it, kind, words):
    assert walk.faults() == []
    clip = MotionClip(walk.joints.copy(), walk.rotations.copy(), fps=30.0)
    break_it(clip)
    first = clip.faults()[0]
    assert first.kind == kind
    assert re.match(words, first.what), first.what


@pytest.mark.parametrize("fps", [20.0, 120.0])
def test_handstands_falls_and_fast_hands_are_a_persons(walker, fps):
    clip = walker(frames=round(fps), fps=fps)
    rotations = clip.rotations.copy()
    rotations[:, 0] = rot.from_rotvec(np.array([np.pi, 0, 0]))
    for side, sign in (("left", 1), ("right", -1)):
        rotations[:, JOINT_INDEX[f"{side}_shoulder"]] = rot.from_rotvec(np.array([0, 0, sign * np.pi / 2]))
    assert MotionClip.from_rotations(rotations, clip.joints[:, 0], fps=fps).faults() == []
    root = (
        clip.joints[:, 0] * [1, 0, 1]
        + [0, 0.9, 0]
        - 4.9 * np.square(np.arange(len(clip)) / fps / 3)[:, None] * [0, 1, 0]
    )
    assert MotionClip.from_rotations(clip.rotations, root, fps=fps).faults() == []
    # An arm that throws at 25 m/s.
    rotations = clip.rotations.copy()
    angle = np.clip((np.arange(len(clip)) - len(clip) / 2) / fps * 25 / 0.55, -2, 2)
    rotations[:, JOINT_INDEX["right_shoulder"]] = rot.from_rotvec(angle[:, None] * np.array([0, 1.0, 0]))
    assert MotionClip.from_rotations(rotations, clip.joints[:, 0], DEFAULT_OFFSETS, fps=fps).faults() == []


def test_loading_says_which_frame(walk, tmp_path):
    joints = walk.joints.copy()
    joints[10] += [0, 0, 1460.0]
    MotionClip(joints, walk.rotations, fps=30.0).save(tmp_path / "a.npz")
    with pytest.warns(MotionWarning, match=rf"^{tmp_path / 'a.npz'}: the pelvis moves 1.46e\+03 m in frame 10"):
        MotionClip.load(tmp_path / "a.npz")


def test_frames_are_counted_from_where_the_clip_begins(walk, tmp_path):
    glitched = walk.joints[:, 0].copy()
    glitched[10] += [0, 0, 1460.0]
    clip = MotionClip.from_rotations(walk.rotations, glitched)
    rig = RigFile(names=names_of("Mixamo"), bones=DEFAULT_OFFSETS, held=6)
    (tmp_path / "a.bvh").write_text(text_of(rig.bvh(clip)))
    with pytest.warns(MotionWarning, match=r"moves 1\.46e\+03 m in frame 10 .*, counted from row 6 of the file"):
        MotionClip.load(tmp_path / "a.bvh")
