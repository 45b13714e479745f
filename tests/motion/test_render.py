"""Pictures: they can be read back, and show the right body the right way round."""

import imageio_ffmpeg
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from llamo_jax.errors import InputError, MotionWarning
from llamo_jax.motion import MotionClip, render
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.render import LEFT, MIDDLE, RIGHT, STRIP_PANEL, STRIP_POSES
from llamo_jax.motion.skeleton import JOINT_INDEX
from tests import bodies


def _standing(heading: float = 0.0, frames: int = 1) -> MotionClip:
    """A body that stands with its left arm raised and its right arm down."""
    rotations = np.broadcast_to(np.eye(3), (frames, 22, 3, 3)).copy()
    rotations[:, JOINT_INDEX["left_shoulder"]] = rot.from_rotvec(np.array([0, 0, 1.3]))
    rotations[:, JOINT_INDEX["right_shoulder"]] = rot.from_rotvec(np.array([0, 0, 1.3]))
    rotations[:, 0] = rot.yaw(np.array(heading))
    return MotionClip.from_rotations(rotations, np.full((frames, 3), [0.0, 0.95, 0.0]))


def _pixels(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """[n, 2] columns and rows of the pixels of just this colour, the legend at the bottom apart."""
    rows, columns = np.nonzero((np.abs(picture[:-24].astype(int) - colour) < 6).all(-1))
    return np.stack([columns, rows], -1)


def _strip(clip: MotionClip, tmp_path, title: str = "") -> np.ndarray:
    clip.render(tmp_path / "strip.png", title)
    return np.asarray(Image.open(tmp_path / "strip.png").convert("RGB"))


def _video(path) -> tuple[dict, np.ndarray]:
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


@pytest.mark.parametrize("heading", [0.0, 2.0, -2.5])
def test_a_subject_that_faces_the_camera_has_its_left_on_the_right(tmp_path, heading):
    """The camera stands before the subject, wherever that faces; the left arm is the raised one."""
    picture = _strip(_standing(heading), tmp_path)[:, : STRIP_PANEL[0]]
    left, right = _pixels(picture, LEFT), _pixels(picture, RIGHT)
    assert len(left) > 100 and len(right) > 100
    assert left[:, 0].mean() > right[:, 0].mean() + 5
    assert left[:, 1].min() < right[:, 1].min() - 20  # rows count from the top
    assert left[:, 1].min() < _pixels(picture, MIDDLE)[:, 1].min() + 5  # the hand is as high as the head


def test_a_subject_that_turned_away_has_its_left_on_the_left(tmp_path):
    clip = _standing(frames=2)
    clip.rotations[1, 0] = rot.yaw(np.array(np.pi))
    clip = MotionClip.from_rotations(clip.rotations, clip.joints[:, 0])
    width = STRIP_PANEL[0]
    picture = _strip(clip, tmp_path)
    before, after = picture[:, :width], picture[:, width : 2 * width]
    assert _pixels(before, LEFT)[:, 0].mean() > _pixels(before, RIGHT)[:, 0].mean()
    assert _pixels(after, LEFT)[:, 0].mean() < _pixels(after, RIGHT)[:, 0].mean()


def test_the_head_is_up_and_the_feet_are_near_the_ground(tmp_path):
    picture = _strip(_standing(), tmp_path)[:, : STRIP_PANEL[0]]
    assert _pixels(picture, MIDDLE)[:, 1].mean() < _pixels(picture, RIGHT)[:, 1].max() - 60


@pytest.mark.parametrize("leap", [0.0, 1.5, 6.0])
def test_the_whole_body_stays_in_the_picture(tmp_path, walker, leap):
    walk = walker(frames=40)
    clip = MotionClip.from_rotations(
        walk.rotations, walk.joints[:, 0] + leap * np.linspace(0, 1, 40)[:, None] ** 2 * [1.0, 1.0, 0.0]
    )
    picture = _strip(clip, tmp_path)
    for column in range(STRIP_POSES):
        panel = picture[:, column * STRIP_PANEL[0] : (column + 1) * STRIP_PANEL[0]]
        body = np.concatenate([_pixels(panel, colour) for colour in (LEFT, RIGHT, MIDDLE)])
        assert len(body) > 150
        assert (body.min(0) > 0).all() and body[:, 0].max() < STRIP_PANEL[0] - 1


def test_film_strip_layout(tmp_path, walk):
    render.render([walk, bodies.mirrored(walk)], tmp_path / "two.png", ["", ""])
    assert Image.open(tmp_path / "two.png").size == (STRIP_POSES * STRIP_PANEL[0], 2 * STRIP_PANEL[1])
    walk[:3].render(tmp_path / "short.png")
    short = np.asarray(Image.open(tmp_path / "short.png").convert("RGB"))
    assert short.shape[1] == STRIP_POSES * STRIP_PANEL[0]
    assert len(_pixels(short[:, 3 * STRIP_PANEL[0] :], LEFT)) == 0  # three frames, three poses


def test_titles_take_room_and_wrap(tmp_path, walk):
    heights = [
        _strip(walk[:1], tmp_path, title).shape[0]
        for title in ("", "a person walks", "a person walks on " * 20, "walk" * 900)
    ]
    assert heights[0] == STRIP_PANEL[1] and heights[0] < heights[1] < heights[2] and heights[3] == heights[1]
    most = _strip(walk[:1], tmp_path, "a person walks on " * 200).shape[0]
    assert (
        most == _strip(walk[:1], tmp_path, "a person walks on " * 400).shape[0]
    )  # three lines and an ellipsis, never more


def test_the_title_is_the_caption_unless_given(tmp_path, walk):
    caption = _strip(walk[:1], tmp_path, None)
    assert np.array_equal(caption, _strip(walk[:1], tmp_path, "a person walks forward."))
    assert not np.array_equal(caption, _strip(walk[:1], tmp_path, "something else"))


def _font_of(letters: str, path) -> str:
    """A font in which each of these letters is a filled square."""
    pen = TTGlyphPen(None)
    for move, point in ((pen.moveTo, (0, 0)), (pen.lineTo, (0, 800)), (pen.lineTo, (800, 800)), (pen.lineTo, (800, 0))):
        move(point)
    pen.closePath()
    square, font = pen.glyph(), FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "square"])
    font.setupCharacterMap({ord(letter): "square" for letter in letters})
    font.setupGlyf({".notdef": square, "square": square})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupPost()
    font.save(path)
    return str(path)


def test_titles_are_drawn_in_fonts_that_have_their_letters(tmp_path, walk, monkeypatch):
    """Never as boxes: what no font has is left out, and said."""
    assert render._file_with("naïve").endswith("DejaVuSans.ttf")  # comes with matplotlib; Pillow's own has no ï
    fonts = (render._OWN, _font_of("一个", tmp_path / "squares.ttf"), str(tmp_path / "absent.ttf"))
    monkeypatch.setattr(render, "_font_files", lambda: fonts)
    render._file_with.cache_clear()
    plain, drawn = (_strip(walk[:1], tmp_path, title) for title in ("walks", "walks 一个"))
    dark = (np.abs(drawn.astype(int) - render.TEXT) < 6).all(-1) & (drawn != plain).any(-1)
    assert dark.sum() > 2 * 8**2  # two squares of 16 * 0.8 pixels
    with pytest.warns(MotionWarning, match="has the letters 人 of a title: they are left out"):
        assert np.array_equal(_strip(walk[:1], tmp_path, "walks 一人个\u200d"), drawn)
    # Where words have no spaces, lines break between letters.
    assert _strip(walk[:1], tmp_path, "一" * 150).shape[0] > _strip(walk[:1], tmp_path, "一" * 20).shape[0]
    render._file_with.cache_clear()


def test_a_video_that_is_not_whole_is_told(tmp_path, walk, monkeypatch):
    monkeypatch.setattr(imageio_ffmpeg, "count_frames_and_secs", lambda path: (3, 0.1))
    with pytest.raises(InputError, match=r"walk\.mp4: the video has 3 of 6 frames"):
        walk[:6].render(tmp_path / "walk.mp4")
    assert list(tmp_path.iterdir()) == []


def test_mp4_plays_everywhere_at_its_true_speed(tmp_path, walker):
    walker(frames=121, fps=120.0).save(tmp_path / "walk.mp4")
    meta, frames = _video(tmp_path / "walk.mp4")
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p") and meta["fps"] == 30
    assert frames.shape[0] == 31 and frames.shape[1] % 2 == 0 and frames.shape[2] == render.PANEL
    assert (frames[0] != frames[10]).mean() > 0.01
    assert [file.name for file in tmp_path.iterdir()] == ["walk.mp4"]


def test_videos_side_by_side_hold_the_last_frame_of_the_shorter(tmp_path, walk):
    render.render([walk[:6], walk[:12]], tmp_path / "two.mp4", ["generated", "real"])
    meta, frames = _video(tmp_path / "two.mp4")
    assert frames.shape[0] == 12 and meta["size"][0] == 2 * render.PANEL
    shorter, longer = (
        frames[:, :-24, half].astype(int) for half in (slice(0, render.PANEL), slice(render.PANEL, None))
    )
    # Compression leaves a little noise.
    assert np.abs(shorter[11] - shorter[6]).mean() < 0.5 < np.abs(longer[11] - longer[6]).mean()


def test_gif_is_small_loops_and_keeps_time(tmp_path, walk):
    walk.save(tmp_path / "walk.gif")
    picture = Image.open(tmp_path / "walk.gif")
    assert picture.info["loop"] == 0 and picture.width == render.GIF_PANEL
    seconds = 0.0
    for frame in range(picture.n_frames):
        picture.seek(frame)
        seconds += picture.info["duration"] / 1000
    assert seconds == pytest.approx(walk.seconds, abs=0.06)
    assert (tmp_path / "walk.gif").stat().st_size < 1_000_000


def test_mistakes_leave_no_file(tmp_path, walk):
    with pytest.raises(InputError, match=r'suffix ".avi" is no picture format; expected one of .mp4 .gif .png'):
        walk.render(tmp_path / "walk.avi")
    with pytest.raises(InputError, match="no motion to draw"):
        render.render([], tmp_path / "none.png")
    with pytest.raises(InputError, match="1 titles for 2 motions"):
        render.render([walk, walk], tmp_path / "two.png", ["one"])
    assert list(tmp_path.iterdir()) == []
