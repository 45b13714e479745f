"""Pictures of motion: videos (.mp4, .gif) and film strips (.png).

A body of rounded limbs is projected and filled limb by limb, far to near, with Pillow at twice the size, then halved:
milliseconds a frame on one core, and no display is needed. The camera stands before the subject as the first frame
faces, 30 degrees to the subject's left, and follows the pelvis smoothly; so the subject's left (blue) is on the
picture's right as long as the subject faces the camera.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import re
import subprocess
import tempfile
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Protocol, Self

import imageio_ffmpeg
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter1d
from tqdm import tqdm

from llamo_jax.errors import InputError, MotionWarning
from llamo_jax.files import atomic_path
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.formats import PICTURES, require_suffix
from llamo_jax.motion.skeleton import JOINT_INDEX, JOINT_NAMES, pose


class Drawable(Protocol):
    """What is drawn: a `MotionClip` is one.

    Attributes:
      joints: [T, 22, 3] world positions in metres, Y up.
      rotations: [T, 22, 3, 3] parent-relative; the root's is in the world.
      fps: frames a second.
      captions: sentences; the first is the title.
    """

    joints: Float[np.ndarray, "T 22 3"]
    rotations: Float[np.ndarray, "T 22 3 3"]
    fps: float
    captions: tuple[str, ...]

    def resampled(self, fps: float) -> Self:
        """The same motion at another rate."""

    def __len__(self) -> int: ...


PANEL = 480
"""Width and height of a clip's picture in a video, in pixels."""
STRIP_PANEL = (180, 270)
"""Width and height of one pose of a film strip, in pixels."""
STRIP_POSES = 8
GIF_PANEL = 320
GIF_FPS = 20.0
"""GIF players keep hundredths of a second, so 30 frames/s cannot be shown at its true speed; 20 can."""
MAX_FPS = 30.0
"""Faster motion is resampled to this."""

LEFT, RIGHT, MIDDLE = (45, 110, 215), (232, 112, 38), (122, 132, 148)
"""Fill colours of the subject's left side, right side, and head and trunk."""
BACKGROUND, GRID, SHADOW, TRAIL, TEXT = (247, 248, 250), (196, 202, 211), (205, 209, 216), (120, 176, 128), (40, 45, 55)

_SUPERSAMPLING = 2
_FIELD_OF_VIEW = np.radians(32)
_AZIMUTH, _PITCH = np.radians(30), np.radians(12)
_GRID_STEP, _GRID_RADIUS = 0.5, 4.5  # metres
_TRAIL_SECONDS = 5.0
_SOLE = 0.03  # metres from the lowest joint, a toe, to the ground below it
_EDGES = 24  # of the polygon that stands for a round outline

# Spheres of the body: (name, radius in metres of a body with legs of 0.8 m). Names beyond the 22 joints are placed by
# `_spheres`.
_RADII = {
    "chest": 0.105, "spine2": 0.105, "spine1": 0.1, "pelvis": 0.105, "left_hip": 0.085, "left_knee": 0.056,
    "left_ankle": 0.042,
    "left_heel": 0.034, "left_foot": 0.034, "left_toe": 0.026, "left_shoulder": 0.055, "left_elbow": 0.04,
    "left_wrist": 0.03,
    "left_rib": 0.085, "left_hand": 0.034, "left_fingers": 0.024, "neck": 0.05, "head": 0.052, "jaw": 0.074,
    "skull": 0.098, "nose": 0.022,
}  # fmt: skip
_TRUNK = (
    ("left_hip", "right_hip", "pelvis"), ("pelvis", "spine1", "spine2"),
    ("left_shoulder", "right_shoulder", "chest", "left_rib", "right_rib"), ("neck", "head"), ("jaw", "skull"),
    ("nose",),
)  # fmt: skip
_LEFT_LIMBS = (
    ("left_hip", "left_knee"), ("left_knee", "left_ankle"), ("left_ankle", "left_heel", "left_foot", "left_toe"),
    ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"), ("left_wrist", "left_hand", "left_fingers"),
)  # fmt: skip


def _right(name: str) -> str:
    return name.replace("left_", "right_")


_SPHERES = tuple(dict.fromkeys(part for name in _RADII for part in (name, _right(name))))
_SPHERE_RADII = np.array([_RADII[name.replace("right_", "left_")] for name in _SPHERES])
_PARTS = (
    [(part, MIDDLE) for part in _TRUNK]
    + [(part, LEFT) for part in _LEFT_LIMBS]
    + [(tuple(map(_right, part)), RIGHT) for part in _LEFT_LIMBS]
)
# [parts, 5] indices of the spheres that each part wraps; shorter ones repeat their first.
_WRAPPED = np.array([[_SPHERES.index(name) for name in (*part, *[part[0]] * (5 - len(part)))] for part, _ in _PARTS])
# Metres added to a part's depth when parts are ordered: the trunk hides where the neck enters it, from all sides.
_SUNK = np.array([0.12 if part[0] == "neck" else 0.0 for part, _ in _PARTS])


def render(clips: Sequence[Drawable], path: str | Path, titles: Sequence[str] | None = None) -> None:
    """Draws clips side by side in a video (.mp4, .gif) or one above the other in a film strip (.png). All or nothing.

    A video lasts as long as the longest clip; a shorter one stays on its last frame. Each clip's ground is below its
    own lowest joint.

    Args:
      clips: at least one; in a video all run at the first one's rate, at most 30 frames/s.
      path: the file to write.
      titles: the text above each clip; by default its first caption.

    Raises:
      InputError: the suffix is none of these, there are no clips, another number of titles, or the file cannot be
        written.

    Warns:
      MotionWarning: of letters of a title that no font of this machine has; they are left out.
    """
    path = Path(path)
    require_suffix(path, PICTURES, "picture")
    if not clips:
        raise InputError(f"{path}: no motion to draw; expected at least one")
    if titles is None:
        titles = [next(iter(clip.captions), "") for clip in clips]
    if len(titles) != len(clips):
        raise InputError(f"{path}: {len(titles)} titles for {len(clips)} motions; expected one for each")
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".png":
            _film_strip(clips, titles).save(temporary)
        elif path.suffix.lower() == ".gif":
            _write_gif(temporary, clips, titles)
        else:
            _write_mp4(temporary, clips, titles)


def _write_mp4(path: Path, clips: Sequence[Drawable], titles: Sequence[str]) -> None:
    fps = min(clips[0].fps, MAX_FPS)
    frames = _video_frames(clips, titles, fps, PANEL)
    first = next(frames)
    # yuv420p and the index in front: what browsers, phones and slides can all play, from the first byte on.
    arguments = [
        "-y", "-v", "error", "-f", "rawvideo", "-s", "{}x{}".format(*first.size), "-pix_fmt", "rgb24",
        "-r", str(Fraction(fps).limit_denominator()), "-i", "-", "-an", "-vcodec", "libx264", "-pix_fmt", "yuv420p",
        "-preset", "veryfast", "-crf", "20", "-movflags", "+faststart", str(path),
    ]  # fmt: skip
    count = 0
    with _ffmpeg(path, arguments) as encoder:
        for frame in itertools.chain([first], frames):
            encoder.write(frame.tobytes())
            count += 1
    try:
        found = imageio_ffmpeg.count_frames_and_secs(str(path))[0]
    except RuntimeError:  # ffmpeg itself cannot read it
        found = 0
    if found != count:
        raise InputError(f"{path}: the video has {found} of {count} frames; is the disk full?")


@contextlib.contextmanager
def _ffmpeg(path: Path, arguments: list[str]) -> Iterator[IO[bytes]]:
    """Runs ffmpeg, and gives what it reads from. What it says of an error becomes an InputError."""
    with tempfile.TemporaryFile() as said:
        try:
            # In a group of its own: Ctrl-C is met here, and not by both at once.
            process = subprocess.Popen(
                [imageio_ffmpeg.get_ffmpeg_exe(), *arguments], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=said, process_group=0, creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )  # fmt: skip
        except (OSError, RuntimeError) as error:  # RuntimeError: imageio_ffmpeg finds none
            raise InputError(
                f"{path}: ffmpeg, which writes videos, cannot be run ({error}); expected its program in the variable "
                "IMAGEIO_FFMPEG_EXE, or that of the package imageio-ffmpeg; .gif needs none"
            ) from error
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended early, and says below why
                yield process.stdin
                process.stdin.close()
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(OSError):
                process.stdin.close()
        if code:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or [f"exit code {code}"]
            raise InputError(f"{path}: ffmpeg cannot write it ({lines[-1].rpartition('] ')[2]})")


def _write_gif(path: Path, clips: Sequence[Drawable], titles: Sequence[str]) -> None:
    frames = _video_frames(clips, titles, GIF_FPS, GIF_PANEL)
    opening = list(itertools.islice(frames, 2 * round(GIF_FPS)))
    # One palette for all, from a frame that shows the trail: colours do not flicker, and unchanged pixels cost nothing.
    palette = opening[-1].quantize(96)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in itertools.chain(opening, frames)]
    indexed[0].save(path, save_all=True, append_images=indexed[1:], duration=round(1000 / GIF_FPS), loop=0)


def _video_frames(clips: Sequence[Drawable], titles: Sequence[str], fps: float, panel: int) -> Iterator[Image.Image]:
    scenes = [_Scene(clip.resampled(fps), (panel, panel)) for clip in clips]
    heading = _headings(titles, panel)
    for frame in tqdm(range(max(map(len, scenes))), desc="drawing", unit="frame", delay=2, leave=False, disable=None):
        # The height is even, as yuv420p needs; so is the width, since panels are.
        picture = Image.new("RGB", (panel * len(clips), heading.height + panel), BACKGROUND)
        picture.paste(heading)
        for column, scene in enumerate(scenes):
            shown = min(frame, len(scene) - 1)
            view = scene.draw(shown)
            _footer(view, f"{shown / fps:.2f} s")
            picture.paste(view, (column * panel, heading.height))
        yield picture


def _film_strip(clips: Sequence[Drawable], titles: Sequence[str]) -> Image.Image:
    width, height = STRIP_PANEL
    rows = []
    for clip, title in zip(clips, titles, strict=True):
        scene = _Scene(clip, STRIP_PANEL)
        shown = np.unique(np.linspace(0, len(clip) - 1, STRIP_POSES).round().astype(int))
        heading = _headings([title], width * STRIP_POSES)
        row = Image.new("RGB", (width * STRIP_POSES, heading.height + height), BACKGROUND)
        row.paste(heading)
        for column, frame in enumerate(shown):
            view = scene.draw(frame)
            _footer(view, f"{frame / clip.fps:.2f} s", legend=column == 0)
            row.paste(view, (column * width, heading.height))
        rows.append(row)
    strip = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), BACKGROUND)
    top = 0
    for row in rows:
        strip.paste(row, (0, top))
        top += row.height
    return strip


class _Lettering:
    """Text of any script on one line, each word in the first font that has its letters."""

    def __init__(self, size: int):
        self.size = size

    def known(self, text: str) -> str:
        """The text without the letters that no font has."""
        text = unicodedata.normalize("NFC", text)
        missing = "".join(dict.fromkeys(letter for letter in text if not (letter.isspace() or _file_with(letter))))
        if letters := [letter for letter in missing if not _is_invisible(letter)]:
            warnings.warn(
                f"no font on this machine has the letters {' '.join(letters)} of a title: they are left out; install a "
                "font that has them",
                MotionWarning,
                stacklevel=2,
            )
        return "".join(letter for letter in text if letter not in missing)

    def length(self, text: str) -> float:
        """Width in pixels."""
        return sum(font.getlength(part) for font, part in self._parts(text))

    def draw(self, draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, colour: tuple[int, int, int]) -> None:
        """Draws from the top left, on one line for all fonts."""
        left, base = corner[0], corner[1] + _font(_OWN, self.size).getmetrics()[0]
        for font, part in self._parts(text):
            draw.text((left, base), part, colour, font, anchor="ls")
            left += font.getlength(part)

    def _parts(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        parts: list[tuple[str, str]] = []
        for word in text.split(" "):
            whole = _file_with(word)
            parts += [(whole, word)] if whole else [(_file_with(letter) or _OWN, letter) for letter in word]
            parts.append((parts[-1][0], " "))
        grouped = itertools.groupby(parts[:-1], key=lambda part: part[0])
        return [(_font(file, self.size), "".join(piece for _, piece in group)) for file, group in grouped]


_OWN = "Pillow's own"


def _is_invisible(letter: str) -> bool:
    """Joiners, marks of direction and choices of a variant, which fonts need not have."""
    return unicodedata.category(letter) in ("Cc", "Cf") or "VARIATION SELECTOR" in unicodedata.name(letter, "")


@functools.cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size) if file == _OWN else ImageFont.truetype(file, size)


@functools.cache
def _file_with(letters: str) -> str | None:
    """The first font that has all of some letters."""
    if letters.isascii():
        return _OWN
    needed = set(map(ord, letters))
    return next((file for file in _font_files() if needed <= _letters_of(file)), None)


@functools.cache
def _font_files() -> tuple[str, ...]:
    """Pillow's own font, the one that comes with matplotlib, and all of this machine: plain ones first."""
    from matplotlib import font_manager, get_data_path  # only where it is needed: a third of a second

    def fancy(file: str) -> tuple[bool, str]:
        styles = ("bold", "italic", "oblique", "light", "thin", "black", "heavy", "mono", "condensed", "serif-")
        return any(style in Path(file).stem.lower() for style in styles), file

    plain = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return (_OWN, str(plain), *sorted(font_manager.findSystemFonts(), key=fancy))


@functools.cache
def _letters_of(file: str) -> frozenset[int]:
    """Code points that a font can draw; none where it cannot be read or has no outlines."""
    from fontTools.ttLib import TTFont  # comes with matplotlib

    # Fonts that have a box for every letter there is.
    if Path(file).stem.lower().startswith(("lastresort", "adobeblank")):
        return frozenset()
    try:
        source = io.BytesIO(_font(file, 16).font_bytes) if file == _OWN else file
        with TTFont(source, fontNumber=0, lazy=True) as font:
            letters = frozenset(font.getBestCmap() or ())
        _font(file, 16)
    except Exception:  # fontTools and FreeType raise types of their own, and there are fonts of all kinds
        return frozenset()
    return letters


def _headings(titles: Sequence[str], width: int) -> Image.Image:
    """The titles over their columns, each wrapped to its width; no height when all are empty."""
    write = _Lettering(max(12, min(16, width // 26)))
    wrapped = [_wrap(write.known(title), write, width - 20) for title in titles]
    line = round(write.size * 1.3)
    lines = max(map(len, wrapped))
    heading = Image.new("RGB", (width * len(titles), 2 * ((lines * line + 12) // 2) if lines else 0), BACKGROUND)
    draw = ImageDraw.Draw(heading)
    for column, rows in enumerate(wrapped):
        for row, words in enumerate(rows):
            write.draw(draw, (column * width + 10, 8 + row * line), words, TEXT)
    return heading


def _wrap(text: str, write: _Lettering, width: float, most: int = 3) -> list[str]:
    """Lines of whole words that fit `width` pixels; what does not fit `most` lines ends in an ellipsis."""
    lines: list[str] = []
    for before, piece in _unbroken(text):
        if lines and write.length(f"{lines[-1]}{before}{piece}") <= width:
            lines[-1] += before + piece
        elif len(lines) == most:
            lines[-1] += " ..."
            break
        else:
            lines.append(piece[: int(width)])  # no letter is narrower than a pixel
    for index, line in enumerate(lines):
        # A word longer than the line, or the ellipsis.
        while write.length(line) > width and len(line) > 4:
            line = f"{line.removesuffix(' ...')[:-1]} ..."
        lines[index] = line
    return lines


def _unbroken(text: str) -> Iterator[tuple[str, str]]:
    """What is never broken, each with what is before it: words after spaces, and single Chinese and Japanese
    letters, which have none."""
    for word in text.split():
        before = " "
        for piece in re.findall(f"[{_BREAKABLE}]|[^{_BREAKABLE}]+", word):
            yield before, piece
            before = ""


_BREAKABLE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"


def _footer(view: Image.Image, time: str, legend: bool = True) -> None:
    """The time, and which colour is which side."""
    draw = ImageDraw.Draw(view)
    font = ImageFont.load_default(size=12)
    base = view.height - 20
    draw.text((view.width - 10 - font.getlength(time), base), time, TEXT, font)
    left = 10
    for name, colour in (("left", LEFT), ("right", RIGHT)) if legend else ():
        draw.ellipse((left, base + 2, left + 9, base + 11), colour)
        draw.text((left + 13, base), name, TEXT, font)
        left += 25 + font.getlength(name)


def _spheres(clip: Drawable) -> tuple[Float[np.ndarray, "T S 3"], Float[np.ndarray, " S"]]:
    """World centres and radii, in metres, of the spheres that the body's parts wrap."""
    joints = clip.joints
    # The mean of both legs tells a child from an adult.
    legs = sum(np.linalg.norm(joints[:, JOINT_INDEX[f"{side}_{a}"]] - joints[:, JOINT_INDEX[f"{side}_{b}"]],
    axis=-1).mean()
               for side in ("left", "right") for a, b in (("hip", "knee"), ("knee", "ankle"))) / 2  # fmt: skip
    size = float(np.clip(legs / 0.8, 0.5, 1.5))
    turned = pose(clip.rotations, joints[:, 0], np.zeros((len(JOINT_NAMES), 3)))[1][:, JOINT_INDEX["head"]]
    at = {name: joints[:, index] for name, index in JOINT_INDEX.items()}
    at["jaw"] = at["head"] + size * turned @ [0, 0.035, 0.02]
    at["skull"] = at["head"] + size * turned @ [0, 0.1, 0.0]
    at["nose"] = at["head"] + size * turned @ [0, 0.07, 0.105]
    at["chest"] = (
        at["spine3"] * 0.5 + at["neck"] * 0.5 - (at["left_shoulder"] + at["right_shoulder"]) * 0.05 + at["spine2"] * 0.1
    )
    broad = _unit(at["left_shoulder"] - at["right_shoulder"]) * size
    for side, out in (("left", 0.045), ("right", -0.045)):
        at[f"{side}_rib"] = at["spine2"] * 0.75 + at["chest"] * 0.25 + out * broad
        palm = _unit(at[f"{side}_wrist"] - at[f"{side}_elbow"]) * size
        at[f"{side}_hand"], at[f"{side}_fingers"] = at[f"{side}_wrist"] + 0.07 * palm, at[f"{side}_wrist"] + 0.14 * palm
        foot, shin = _unit(at[f"{side}_foot"] - at[f"{side}_ankle"]), at[f"{side}_ankle"] - at[f"{side}_knee"]
        below = _unit(shin - (shin * foot).sum(-1, keepdims=True) * foot)
        at[f"{side}_heel"] = at[f"{side}_ankle"] + size * (0.05 * below - 0.02 * foot)
        # The sole is flat: toes go on as heel and ball lie.
        at[f"{side}_toe"] = at[f"{side}_foot"] + 0.06 * size * _unit(at[f"{side}_foot"] - at[f"{side}_heel"])
    return np.stack([at[name] for name in _SPHERES], 1), _SPHERE_RADII * size


@dataclasses.dataclass
class _Camera:
    """A perspective camera of fixed direction that follows a target.

    Attributes:
      axes: [3, 3] rows: the camera's right, up and forward directions in the world.
      targets: [T, 3] metres, what is in the centre of each frame.
      distance: metres from the target.
      size: of the picture in pixels.
    """

    axes: Float[np.ndarray, "3 3"]
    targets: Float[np.ndarray, "T 3"]
    distance: float
    size: tuple[int, int]

    @property
    def focal(self) -> float:
        return self.size[1] / 2 / np.tan(_FIELD_OF_VIEW / 2)

    def project(
        self, points: Float[np.ndarray, "*n 3"], frame: int
    ) -> tuple[Float[np.ndarray, "*n 2"], Float[np.ndarray, "*n"]]:
        """Pixels from the top left and depths in metres."""
        seen = (points - self.targets[frame]) @ self.axes.T
        depth = seen[..., 2] + self.distance
        pixels = seen[..., :2] * [1, -1] * (self.focal / np.maximum(depth, 0.05))[..., None]
        return pixels + np.array(self.size) / 2, depth


class _Scene:
    """One clip before its camera."""

    def __init__(self, clip: Drawable, size: tuple[int, int]) -> None:
        self.size = size
        self.centres, self.radii = _spheres(clip)
        self.floor = clip.joints[..., 1].min() - _SOLE
        self.trail_frames = round(_TRAIL_SECONDS * clip.fps)
        self.trail = clip.joints[:, 0] * [1, 0, 1] + [0, self.floor, 0]
        self.camera = self._camera(clip)

    def __len__(self) -> int:
        return len(self.centres)

    def _camera(self, clip: Drawable) -> _Camera:
        # One first frame decides the side, so that a turn is seen as a turn.
        direction = rot.yaw(rot.heading(clip.rotations[0, 0]) + _AZIMUTH)
        backward = direction @ [0, np.sin(_PITCH), np.cos(_PITCH)]
        right = direction @ [1.0, 0, 0]
        axes = np.stack([right, np.cross(backward, right), -backward])
        width, height = (side * _SUPERSAMPLING for side in self.size)
        # Steps and bounces do not shake the picture; slow climbs and falls are followed.
        targets = np.stack(
            [_smooth(clip.joints[:, 0, axis], sigma * clip.fps) for axis, sigma in enumerate((0.4, 1.0, 0.4))], -1
        )
        targets[:, 1] -= 0.02
        camera = _Camera(axes, targets, 0.0, (width, height))
        seen = (self.centres - targets[:, None]) @ axes.T
        seen[..., :2] = np.abs(seen[..., :2]) + self.radii[:, None]
        seen[..., 1] += 0.08  # room for the time and the legend
        # |x| focal / (distance + z) <= half the picture, for every sphere of every frame.
        fits = (seen[..., :2] * camera.focal / (0.97 * np.array([width, height]) / 2)) - seen[..., 2:]
        camera.distance = max(3.6 if self.size[0] >= self.size[1] else 3.4, float(fits.max()))
        return camera

    def draw(self, frame: int) -> Image.Image:
        picture = Image.new("RGB", self.camera.size, BACKGROUND)
        draw = ImageDraw.Draw(picture)
        self._draw_shadow(draw, frame)
        self._draw_grid(draw, frame)
        self._draw_trail(draw, frame)
        self._draw_body(draw, frame)
        return picture.reduce(_SUPERSAMPLING)

    def _draw_body(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        pixels, depth = self.camera.project(self.centres[frame], frame)
        radii = self.camera.focal * self.radii / np.maximum(depth, 0.05)
        outline = _wrap_circles(pixels, radii + 0.9 * _SUPERSAMPLING)
        fill = _wrap_circles(pixels, radii)
        # Light from the upper left: a narrower, brighter core beside the axis.
        light = _wrap_circles(pixels - 0.28 * radii[:, None], 0.5 * radii)
        for part in np.argsort(-depth[_WRAPPED].mean(1) - _SUNK):
            colour = _PARTS[part][1]
            draw.polygon(outline[part].ravel().tolist(), _mix(colour, (0, 0, 0), 0.42))
            draw.polygon(fill[part].ravel().tolist(), colour)
            draw.polygon(light[part].ravel().tolist(), _mix(colour, (255, 255, 255), 0.2))

    def _draw_shadow(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        centres = self.centres[frame]
        height = np.maximum(centres[:, 1] - self.floor, 0)
        # Penumbra, then core; the higher a part, the wider the one and the smaller the other.
        for radii, strength in ((self.radii + 0.02 + 0.06 * height, 0.35), (self.radii * np.exp(-0.5 * height), 0.8)):
            outlines = np.insert(_wrap_circles(centres[:, [0, 2]], radii), 1, self.floor, axis=-1)
            for polygon in self.camera.project(outlines, frame)[0]:
                draw.polygon(polygon.ravel().tolist(), _mix(BACKGROUND, SHADOW, strength))

    def _draw_grid(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        target = self.camera.targets[frame]
        steps = int(_GRID_RADIUS / _GRID_STEP)
        lines = np.arange(-steps, steps + 1) * _GRID_STEP
        centre = np.round(target[[0, 2]] / _GRID_STEP) * _GRID_STEP
        across, along = np.meshgrid(lines, lines[:-1], indexing="ij")
        start = np.stack([across.ravel(), along.ravel()], -1)
        end = start + np.array([0, _GRID_STEP])
        segments = np.concatenate([np.stack([start, end], 1), np.stack([start, end], 1)[..., ::-1]]) + centre
        points = np.insert(segments, 1, self.floor, axis=-1)
        pixels, depth = self.camera.project(points, frame)
        # Lines fade out with the distance from the subject, so that the ground has no edge.
        strength = 1 - np.linalg.norm(segments.mean(1) - target[[0, 2]], axis=-1) / _GRID_RADIUS
        visible = (strength > 0.03) & (depth.min(1) > 0.3)
        metre = np.abs(np.concatenate([start[:, 0] + centre[0], start[:, 0] + centre[1]]) % 1) < 1e-6
        for line, fade, thick in zip(
            pixels[visible].reshape(-1, 4).tolist(), strength[visible].tolist(), metre[visible].tolist(), strict=True
        ):
            draw.line(line, _mix(BACKGROUND, GRID, min(1.0, 1.4 * fade)), 3 if thick else 1)

    def _draw_trail(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        """The pelvis's way on the ground, of the last seconds."""
        trail = self.trail[max(0, frame - self.trail_frames) : frame + 1]
        if len(trail) > 1:
            pixels, depth = self.camera.project(trail, frame)
            ahead = pixels[depth > 0.3]
            if len(ahead) > 1:
                draw.line(ahead.ravel().tolist(), TRAIL, 2 * _SUPERSAMPLING, joint="curve")


def _wrap_circles(centres: Float[np.ndarray, "S 2"], radii: Float[np.ndarray, " S"]) -> Float[np.ndarray, "P E 2"]:
    """The convex outline of the circles of each part: in every direction, a point of the circle that reaches
    farthest."""
    angles = np.linspace(0, 2 * np.pi, _EDGES, endpoint=False)
    around = np.stack([np.cos(angles), np.sin(angles)], -1)
    reach = np.einsum("psi,ei->pse", centres[_WRAPPED], around) + radii[_WRAPPED][..., None]
    farthest = np.take_along_axis(_WRAPPED, reach.argmax(1), 1)
    return centres[farthest] + radii[farthest][..., None] * around


def _smooth(values: Float[np.ndarray, " T"], sigma: float) -> Float[np.ndarray, " T"]:
    """Gaussian smoothing over `sigma` frames that keeps a steady pace steady up to both ends (the ends go on by point
    reflection)."""
    margin = int(4 * sigma) + 1
    return gaussian_filter1d(np.pad(values, margin, mode="reflect", reflect_type="odd"), sigma)[margin:-margin]


def _unit(vectors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _mix(first: tuple[int, int, int], second: tuple[int, int, int], amount: float) -> tuple[int, int, int]:
    return tuple(round(a + (b - a) * amount) for a, b in zip(first, second, strict=True))
