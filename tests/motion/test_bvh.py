"""BVH: what a file means, and what is said of one that is broken."""

import numpy as np
import pytest

from llamo_jax.errors import InputError
from llamo_jax.motion import rotations as rot
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
        ("MOTION", "", r'line 22: found "Frames: 3"; which is not a part of a BVH hierarchy'),
        ("0.04", "30", r"the frame time is 30 s; expected at most 0.5 s between two frames; .*--fps"),
        ("1 0 0 0\n", "1 0 0 0 7\n", r"found 41 numbers, expected 3 frames x 13 channels = 39 numbers"),
        ("0.04", "0", r"the frame time is 0, so the rate is missing; give it with --fps"),
        ("Frames: 3", "Frames: 3.5", r'the number of frames is "3.5"'),
        ("HIERARCHY", "hello", r"not a BVH file"),
        ("      }\n    }\n  }\n}", "      }\n    }\n  }\n", r'line 21: found "MOTION"; which is not a part'),
        ("Frames: 3", "Frame: 3", r"after MOTION expected \"Frames: N\""),
    ],
)
def test_broken_files(arm, old, new, message):
    assert old in ARM
    path = arm(ARM.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        read_bvh(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_cut_anywhere_is_refused_or_says_so(arm):
    # Up to the last number; a cut inside of that one cannot be told from a shorter number.
    noted = 0
    for length in range(0, ARM.rindex(" -90"), 3):
        path = arm(ARM[:length])
        try:
            notes = read_bvh(path).notes
        except InputError:
            continue
        assert len(notes) == 1 and "the file may be cut off" in notes[0]
        noted += 1
    assert noted < 6  # at the ends of rows alone


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Frame Time:", "frame time:"), ("Frame Time:", "FrameTime:"), ("Frames:", "Frames :"),
        ("Frames:", "Frames"), ("Frame Time:", "Frame Time"), ("OFFSET 0 2 0", "OFFSET 0, 2, 0"),
        ("Frames: 3", "Frames: 3.0"), ("HIERARCHY", "# exported\nHIERARCHY"),
        ("MOTION", "Motion"), ("HIERARCHY", "hierarchy"), ("ROOT", "root"), ("CHANNELS", "channels"),
        ("End Site", "END SITE"), ("End Site", "endsite"), ("End Site", "End_Site tip"),
        ("OFFSET 0 2 0", "OFFSET 0 2 0 // metres"), ("HIERARCHY", "; by hand\n\nHIERARCHY"), ("-90\n", "-90\n\x1a"),
        ("-90\n", "-90\n\x00\x00"), ("Xposition", "XPOSITION"), ("Base\n{", "Base {"),
    ],
)  # fmt: skip
def test_dialects(arm, old, new):
    """Case, spacing, comments and what programs append change nothing."""
    assert old in ARM
    plain, other = read_bvh(arm()), read_bvh(arm(ARM.replace(old, new)))
    assert other.names == plain.names and other.channels == plain.channels and other.notes == ()
    np.testing.assert_array_equal(other.values, plain.values)
    np.testing.assert_array_equal(other.offsets, plain.offsets)


def test_a_hierarchy_in_one_line_and_a_joint_called_motion(arm):
    head, _, body = ARM.replace("Upper", "MOTION").partition("MOTION\nFrames")
    bvh = read_bvh(arm(" ".join(head.split()) + "\nMOTION\nFrames" + body))
    assert bvh.names == ("Base", "MOTION", "Fore", "Fore end")
    np.testing.assert_array_equal(bvh.values, read_bvh(arm()).values)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("Hüfte", "latin-1"), ("左腕", "cp932"), ("左腕", "utf-16"), ("Hüfte", "utf-16-be"), ("左腕", "utf-8")],
)
def test_encodings(tmp_path, name, encoding):
    path = tmp_path / "arm.bvh"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes((mark + ARM.replace("Upper", name)).encode(encoding))
    assert read_bvh(path).names[1] == name


@pytest.mark.parametrize("everywhere", [True, False])
def test_decimal_commas(arm, everywhere):
    head, motion, body = ARM.replace("1 2 3", "1.5 2 3").partition("MOTION")
    commas = (head.replace("OFFSET 1 0 0", "OFFSET 1,0 0 0") if everywhere else head) + motion + body.replace(".", ",")
    bvh = read_bvh(arm(commas))
    assert bvh.values[1, 0] == 1.5 and bvh.frame_time == 0.04 and bvh.offsets[2, 0] == 1


@pytest.mark.parametrize(("announced", "cut"), [(2, False), (4, True)])
def test_rows_are_counted_where_the_header_is_wrong(arm, announced, cut):
    bvh = read_bvh(arm(ARM.replace("Frames: 3", f"Frames: {announced}")))
    assert len(bvh.values) == 3
    assert bvh.notes[0].startswith(f"Frames says {announced}, the file has 3 rows")
    assert ("cut off" in bvh.notes[0]) == cut


def test_wider_rows_than_channels_are_no_more_rows(arm):
    rows = ARM.splitlines()
    wide = "\n".join([*rows[:-3], *(f"{row} 0 0 0" for row in rows[-3:])])
    with pytest.raises(InputError, match="rows have 16 numbers and the hierarchy 13 channels"):
        read_bvh(arm(wide))


def test_lines_that_end_in_returns_alone(arm, tmp_path):
    path = tmp_path / "mac.bvh"
    path.write_bytes(ARM.replace("HIERARCHY", "# exported\nHIERARCHY").replace("\n", "\r").encode())
    np.testing.assert_array_equal(read_bvh(path).values, read_bvh(arm()).values)


def test_a_camera_is_no_body(arm):
    hierarchy, _, body = ARM.partition("MOTION")
    camera = "ROOT Camera\n{\nOFFSET 0 0 0\nCHANNELS 1 Xposition\n}\n"
    many = "".join(f"JOINT j{n}\n{{\nOFFSET 0 1 0\nCHANNELS 0\n}}\n" for n in range(6))
    body_root = hierarchy.partition("HIERARCHY")[2].rstrip()[:-1] + many + "}\n"
    rows = body.strip().splitlines()
    text = "\n".join(["HIERARCHY", camera + body_root + "MOTION", *rows[:2], *(f"5 {row}" for row in rows[2:])])
    bvh = read_bvh(arm(text))
    assert bvh.names[0] == "Base" and bvh.notes == () and bvh.values.shape == (3, 13)


def test_two_bodies_in_one_file(arm):
    hierarchy, _, body = ARM.partition("MOTION")
    second = hierarchy.partition("HIERARCHY")[2].replace("Base", "Other")
    rows = body.strip().splitlines()
    doubled = [f"{row}  {' '.join(str(float(n) + 1) for n in row.split())}" for row in rows[2:]]
    text = "\n".join([hierarchy + second, "MOTION", *rows[:2], *doubled])
    first = read_bvh(arm(text))
    assert first.names[0] == "Base" and "holds 2 bodies (Base, Other), of which number 1" in first.notes[0]
    np.testing.assert_array_equal(first.values, read_bvh(arm()).values)
    other = read_bvh(arm(text), person=2)
    assert other.names[0] == "Other" and np.array_equal(other.values, first.values + 1)
    with pytest.raises(InputError, match=r"has 2 bodies .* person 3 does not exist"):
        read_bvh(arm(text), person=3)


def test_zeros_in_position_channels_do_not_replace_offsets(arm):
    zeros = ARM.replace("1 0 0 0\n", "0 0 0 0\n").replace("3 0 0 -90", "0 0 0 -90")
    positions, _ = read_bvh(arm(zeros)).world()
    assert np.allclose(positions[0], [[0, 0, 0], [0, 2, 0], [1, 2, 0], [2, 2, 0]])


def test_pointers_and_web_pages_are_named(tmp_path):
    path = tmp_path / "clip.bvh"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match="a Git LFS pointer"):
        read_bvh(path)
    path.write_text("<!DOCTYPE html>\n<html><body>404</body></html>")
    with pytest.raises(InputError, match="a web page"):
        read_bvh(path)


def test_written_angles_go_on_turning(walker, tmp_path):
    """Six degrees a frame, twice around, and through the pole of the Euler angles."""
    turned = walker(120)
    rotations = turned.rotations.copy()
    rotations[:, 0] = rot.yaw(np.radians(6 * np.arange(120)))
    rotations[:, 5] = rot.from_rotvec(np.radians(5 * np.arange(120))[:, None] * np.array([1.0, 0.02, 0]))
    path = tmp_path / "turning.bvh"
    write_bvh(path, rotations, turned.joints[:, 0], turned.offsets, 30)
    bvh = read_bvh(path)
    pelvis = np.diff(bvh.values[:, 3:6], axis=0)
    assert np.allclose(np.abs(pelvis).max(1), 6, atol=1e-3)
    knee = sum(len(channels) for channels in bvh.channels[: bvh.names.index("right_knee")])
    assert np.abs(np.diff(bvh.values[:, knee : knee + 3], axis=0)).max() < 180
    named = [bvh.names.index(name) for name in JOINT_NAMES]
    assert np.degrees(rot.geodesic(bvh.local()[1][:, named], rotations)).max() < 1e-3


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(InputError, match=r"none\.bvh: cannot be read \(No such file or directory\)"):
        read_bvh(tmp_path / "none.bvh")
    (tmp_path / "binary.bvh").write_bytes(b"\xff\xfe\x00\x80" * 9)
    with pytest.raises(InputError, match=r"not a (text|BVH) file"):
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
