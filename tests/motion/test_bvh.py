"""BVH: what a file means, and what is said of one that is broken."""

import numpy as np
import pytest

from llamo_jax.errors import InputError
from llamo_jax.motion.bvh import read_bvh, write_bvh
from llamo_jax.motion.skeleton import JOINT_NAMES, PARENTS, forward_kinematics

ARM = """HIERARCHY
ROOT Base
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Upper
  {
    OFFSET 0 2 0
    CHANNELS 3 Yrotation Xrotation Zrotation
    JOINT Fore
    {
      OFFSET 1 0 0
      CHANNELS 4 Xposition Yposition Zposition Zrotation
      End Site
      {
        OFFSET 1 0 0
      }
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.04
0 0 0  0 0 0   0 0 0    1 0 0 0
1 2 3  0 0 0   0 0 90   1 0 0 0
0 0 0  90 0 0  90 0 0   3 0 0 -90
"""


@pytest.fixture
def arm(tmp_path):
    def write(text: str = ARM):
        path = tmp_path / "arm.bvh"
        path.write_text(text)
        return path

    return write


def test_a_byte_order_mark_is_no_part_of_the_file(arm, tmp_path):
    marked = tmp_path / "marked.bvh"
    marked.write_bytes(b"\xef\xbb\xbf" + ARM.encode())
    np.testing.assert_array_equal(read_bvh(marked).values, read_bvh(arm()).values)


def test_hierarchy(arm):
    bvh = read_bvh(arm())
    assert bvh.names == ("Base", "Upper", "Fore", "Fore end")
    assert bvh.parents == (-1, 0, 1, 2)
    assert bvh.channels[2] == ("Xposition", "Yposition", "Zposition", "Zrotation")
    assert bvh.values.shape == (3, 13) and bvh.frame_time == 0.04
    assert np.allclose(bvh.zero_pose(), [[0, 0, 0], [0, 2, 0], [1, 2, 0], [2, 2, 0]])


def test_forward_kinematics_by_hand(arm):
    positions, rotations = read_bvh(arm()).world()
    assert np.allclose(positions[0], [[0, 0, 0], [0, 2, 0], [1, 2, 0], [2, 2, 0]])
    # The upper arm turned by 90 degrees about Z: what lay along X points up.
    assert np.allclose(positions[1], [[1, 2, 3], [1, 4, 3], [1, 5, 3], [1, 6, 3]])
    # The base rolled by 90 about Z, the upper arm by 90 about Y; the forearm's position channels (3, 0, 0) replace its
    # offset (1, 0, 0).
    assert np.allclose(positions[2], [[0, 0, 0], [-2, 0, 0], [-2, 0, -3], [-1, 0, -3]])
    assert np.allclose(np.linalg.det(rotations), 1)


def test_line_ends_of_windows(arm):
    assert np.allclose(read_bvh(arm(ARM.replace("\n", "\r\n"))).values, read_bvh(arm()).values)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "Frames: 3",
            "Frames: 4",
            r"found 39 numbers, expected 4 frames x 13 channels = 52 numbers; the file may be truncated",
        ),
        ("3 0 0 -90", "3 0 0", r"found 38 numbers, expected 3 frames x 13 channels = 39"),
        ("Frames: 3", "Frames: 0", r"0 frames of 0.04 s; expected at least one frame"),
        ("0.04", "-0.04", r"3 frames of -0.04 s; expected .* positive frame time"),
        ("3 0 0 -90", "3 0 0 ninety", r"not a number .*ninety"),
        ("3 0 0 -90", "3 0 0 nan", r"NaN or infinity in frame 2"),
        (
            "CHANNELS 3 Y",
            "CHANNELS 2 Y",
            r"line 9: found \"CHANNELS 2 Yrotation Xrotation Zrotation\"; expected CHANNELS, their number",
        ),
        ("Yrotation Xrotation Zrotation", "Yrotation Xrotation Wrotation", r"line 9: .*Wrotation"),
        ("OFFSET 0 2 0", "OFFSET 0 two 0", r"line 8: found \"OFFSET 0 two 0\"; expected OFFSET and three numbers"),
        ("MOTION", "", r"not a BVH file, or cut off in its header"),
        ("HIERARCHY", "hello", r"not a BVH file"),
        ("      }\n    }\n  }\n}", "      }\n    }\n  }\n", r"without its closing brace"),
        ("Frames: 3", "Frame: 3", r"after MOTION expected \"Frames: N\""),
    ],
)
def test_broken_files(arm, old, new, message):
    assert old in ARM
    path = arm(ARM.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        read_bvh(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_cut_anywhere_is_refused(arm):
    # Up to the last number; a cut inside of that one cannot be told from a shorter number.
    for length in range(0, ARM.rindex(" -90"), 7):
        path = arm(ARM[:length])
        with pytest.raises(InputError):
            read_bvh(path)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(InputError, match=r"none\.bvh: cannot be read \(No such file or directory\)"):
        read_bvh(tmp_path / "none.bvh")
    (tmp_path / "binary.bvh").write_bytes(b"\xff\xfe\x00\x80" * 9)
    with pytest.raises(InputError, match="not a text file; expected BVH"):
        read_bvh(tmp_path / "binary.bvh")


def test_written_motion_reads_back(walk, tmp_path):
    path = tmp_path / "walk.bvh"
    write_bvh(path, walk.rotations, walk.joints[:, 0], walk.offsets, walk.fps)
    bvh = read_bvh(path)
    named = [bvh.names.index(name) for name in JOINT_NAMES]
    assert [bvh.parents[index] for index in named] == [named[parent] if parent >= 0 else -1 for parent in PARENTS]
    assert 1 / bvh.frame_time == pytest.approx(30, abs=1e-4)
    positions, _ = bvh.world()
    assert np.allclose(positions[:, named] / 100, walk.joints, atol=1e-6)  # centimetres
    assert np.allclose(
        forward_kinematics(bvh.local()[1][:, named], walk.joints[:, 0], walk.offsets), walk.joints, atol=1e-6
    )
