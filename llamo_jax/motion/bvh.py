"""BVH files: a fast reader that knows the dialects of the programs that write them, and a writer."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, foreign_kind
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.skeleton import JOINT_NAMES, PARENTS

_CHANNEL = re.compile(r"([XYZ])(position|rotation)", re.IGNORECASE)
_COMMENT = re.compile(r"(?:(?<=\s)|^)(?:#|//|;).*$", re.MULTILINE)
_TOKEN = re.compile(r"[{}]|[^\s{}]+")
_FRAMES = re.compile(r"\s*Frames\s*:?\s*([-+.,\d]+)\s*Frame\s*Time\s*:?\s*([-+.,\dE]+)", re.IGNORECASE)
_DEEPEST = 256
_FEWEST = 8  # joints of a body, where there are several ROOTs
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


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
      notes: what was read otherwise than it is written, and what was left out, in sentences.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Float[np.ndarray, "J 3"]
    channels: tuple[tuple[str, ...], ...]
    values: Float[np.ndarray, "T C"]
    frame_time: float
    notes: tuple[str, ...] = ()

    def local(self) -> tuple[Float[np.ndarray, "T J 3"], Float[np.ndarray, "T J 3 3"]]:
        """Translations and rotations relative to the parents."""
        rotations = np.broadcast_to(np.eye(3), (len(self.values), len(self.names), 3, 3)).copy()
        for joint, (channels, values) in enumerate(self._columns()):
            turns = [number for number, channel in enumerate(channels) if channel.endswith("rotation")]
            order, angles = "".join(channels[number][0] for number in turns), values[:, turns]
            if len(order) == 3:
                rotations[:, joint] = rot.from_euler(order, angles)
            else:
                for axis, angle in zip(order, angles.T, strict=True):
                    rotations[:, joint] = rotations[:, joint] @ rot.from_rotvec(
                        np.radians(angle)[:, None] * np.eye(3)["XYZ".index(axis)]
                    )
        return self.translations(), rotations

    def translations(self) -> Float[np.ndarray, "T J 3"]:
        """Of each joint from its parent, in the parent's axes.

        Position channels replace the offset; those of a joint that has an offset and only zeros in them do not: some
        programs write all six channels for every joint and fill the root's alone.
        """
        translations = np.broadcast_to(self.offsets, (len(self.values), len(self.names), 3)).copy()
        for joint, (channels, values) in enumerate(self._columns()):
            moves = [number for number, channel in enumerate(channels) if channel.endswith("position")]
            if self.parents[joint] < 0 or values[:, moves].any():
                for number in moves:
                    translations[:, joint, "XYZ".index(channels[number][0])] = values[:, number]
        return translations

    def bones(self) -> Float[np.ndarray, "J 3"]:
        """The translations of the first frame that has any; zero for the root, whose is a place in the world."""
        translations = self.translations()
        # Some programs begin with a row of zeros.
        first = np.argmax(np.abs(translations).max(-1) > 0, axis=0)
        bones = translations[first, np.arange(len(first))]
        bones[[joint for joint, parent in enumerate(self.parents) if parent < 0]] = 0
        return bones

    def _columns(self) -> Iterator[tuple[tuple[str, ...], Float[np.ndarray, "T C"]]]:
        column = 0
        for channels in self.channels:
            yield channels, self.values[:, column : column + len(channels)]
            column += len(channels)

    def world(self) -> tuple[Float[np.ndarray, "T J 3"], Float[np.ndarray, "T J 3 3"]]:
        """Positions and rotations in the file's world."""
        return self._compose(*self.local())

    def zero_pose(self) -> Float[np.ndarray, "J 3"]:
        """Joint positions with every rotation zero and the file's offsets."""
        joints = len(self.names)
        return self._compose(self.offsets[None], np.broadcast_to(np.eye(3), (1, joints, 3, 3)))[0][0]

    def is_end(self, joint: int) -> bool:
        """Whether this is the end site of its parent, and no joint."""
        parent = self.parents[joint]
        return parent >= 0 and not self.channels[joint] and self.names[joint] == _end_of(self.names[parent])

    def _compose(self, translations: np.ndarray, rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positions, world = np.array(translations), np.array(rotations)
        for joint, parent in enumerate(self.parents):
            if parent >= 0:
                positions[:, joint] = positions[:, parent] + np.einsum(
                    "tij,tj->ti", world[:, parent], translations[:, joint]
                )
                world[:, joint] = world[:, parent] @ rotations[:, joint]
        return positions, world


def read_bvh(path: str | Path, *, person: int = 1, fps: float | None = None, first_row: bool = False) -> Bvh:
    """Reads a BVH file.

    Keywords may be written in any case and spacing, comments may stand between them, and text may be UTF-8, UTF-16 with
    its mark, Shift-JIS or Latin-1.

    Args:
      path: of the file.
      person: which of several bodies (ROOTs) to read, counted from 1.
      fps: frames a second, in place of the file's frame time.
      first_row: read the first frame alone, fast, to see what the file is.

    Raises:
      InputError: the file is missing, not BVH, truncated, or its numbers do not fit its header.
    """
    text = _text(Path(path))
    start = re.match(r"(?:\s|(?:#|//|;).*(?:\n|$))*HIERARCHY\b", text, re.IGNORECASE)
    if not start:
        raise InputError(
            f"{path}: not a BVH file, or cut off in its header; expected the sections HIERARCHY and MOTION"
        )
    hierarchy = _Hierarchy(text, start.end(), path)
    notes = []
    body = text[hierarchy.end :]
    if _has_comments(body):
        body = _COMMENT.sub("", body)
    match = _FRAMES.match(body)
    if not match:
        raise InputError(
            f'{path}: after MOTION expected "Frames: N" and "Frame Time: S", found "{" ".join(body[:60].split())}"'
        )
    frames, frame_time = _header_numbers(match, fps, path)
    numbers, channels = body[match.end() :], sum(map(len, hierarchy.channels))
    if first_row:
        numbers, frames = " ".join(numbers.split(maxsplit=channels)[:channels]), 1
    values = _read_numbers(numbers, frames, channels, path, notes)
    return _of_person(hierarchy, values, frame_time, person, notes, path)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a BVH file") from error
    if kind := foreign_kind(data):
        raise InputError(f"{path}: {kind}; expected a BVH file")
    marked = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    for encoding in (marked,) if marked else ("utf-8", "cp932", "latin-1"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "cp932" and not re.search("[\u3040-\u30ff\u4e00-\u9fff]", text):
            continue  # Latin-1 may happen to be valid Shift-JIS, but not the kana and kanji of names
        # Ctrl-Z ends a text of MS-DOS; some writers pad with NULs.
        text = text.rstrip("\x00\x1a \t\r\n").replace("\r\n", "\n").replace("\r", "\n")
        if "\x00" not in text:
            return text
    raise InputError(f"{path}: not a text file; expected BVH")


class _Hierarchy:
    """The joints of a BVH text.

    Attributes:
      names, parents, offsets, channels: as of `Bvh`, of all bodies in the file.
      end: where the text goes on behind the word MOTION.
    """

    def __init__(self, text: str, start: int, path: str | Path):
        self.names: list[str] = []
        self.parents: list[int] = []
        self.offsets: list[list[float]] = []
        self.channels: list[tuple[str, ...]] = []
        self._text, self._path, self._comma = text, path, False
        self._tokens = self._read(start)
        self._open: list[int] = []
        self.end = self._parse()

    def _read(self, start: int) -> Iterator[re.Match]:
        position = start
        while match := _TOKEN.search(self._text, position):
            position = match.end()
            if match[0].startswith(("#", "//", ";")):
                line = self._text.find("\n", match.start())
                if line < 0:
                    return
                position = line
                continue
            yield match

    def _parse(self) -> int:
        for token in self._tokens:
            word = token[0].lower()
            if not self._open and word == "motion" and self.names:
                return token.end()
            if (not self._open and word == "root") or (self._open and word == "joint"):
                name = self._name()
                if not name:
                    raise self._error(token, "expected a joint with a name, below a ROOT")
                self._add(name)
            elif self._open and re.fullmatch(r"end[_-]?(site)?:?", word):
                self._name()  # "Site", and what some programs call it
                self._add(_end_of(self.names[self._open[-1]]))
            elif word == "}" and self._open:
                self._open.pop()
            elif word == "offset" and self._open:
                self._offset(token)
            elif word == "channels" and self._open:
                self._channels(token)
            elif _CHANNEL.fullmatch(word):
                raise self._error(token, "expected CHANNELS, their number, and as many channel names")
            else:
                raise self._error(token, "which is not a part of a BVH hierarchy")
        if self._open or not self.names:
            raise InputError(f"{self._path}: the hierarchy has no joints, or a joint without its closing brace")
        raise InputError(
            f"{self._path}: not a BVH file, or cut off in its header; expected the sections HIERARCHY and MOTION"
        )

    def _name(self) -> str:
        words = []
        for token in self._tokens:
            if token[0] == "{":
                return " ".join(words)
            if token[0] == "}" or token[0].lower() in ("offset", "channels"):
                raise self._error(token, "expected { before it")
            words.append(token[0])
        return ""

    def _add(self, name: str) -> None:
        if len(self._open) >= _DEEPEST:
            raise InputError(f"{self._path}: joints are nested more than {_DEEPEST} deep; expected a body")
        self.parents.append(self._open[-1] if self._open else -1)
        self._open.append(len(self.names))
        self.names.append(name)
        self.offsets.append([0.0, 0.0, 0.0])
        self.channels.append(())

    def _offset(self, keyword: re.Match) -> None:
        words = [token[0] for token in (next(self._tokens, None) for _ in range(3)) if token]
        numbers = [_decimal(word) for word in words]
        if len(numbers) != 3 or any(number is None or not np.isfinite(number) for number in numbers):
            raise self._error(keyword, "expected OFFSET and three numbers")
        self.offsets[self._open[-1]] = [float(number) for number in numbers if number is not None]

    def _channels(self, keyword: re.Match) -> None:
        count = next(self._tokens, None)
        number = int(count[0]) if count and count[0].isdecimal() and len(count[0]) < 3 else 0
        words = [token[0] for token in (next(self._tokens, None) for _ in range(number)) if token]
        matches = [match for word in words if (match := _CHANNEL.fullmatch(word))]
        # A name too few takes the next keyword for a channel.
        if count is None or not count[0].isdecimal() or len(matches) != number:
            raise self._error(keyword, "expected CHANNELS, their number, and as many channel names")
        channels = tuple(match[1].upper() + match[2].lower() for match in matches)
        if len(set(channels)) < len(channels):
            raise self._error(keyword, "expected each channel once")
        self.channels[self._open[-1]] = channels

    def _error(self, token: re.Match, what: str) -> InputError:
        number = self._text.count("\n", 0, token.start()) + 1
        line = " ".join(self._text.splitlines()[number - 1].split())
        return InputError(f'{self._path}, line {number}: found "{line:.100}"; {what}')


def _end_of(name: str) -> str:
    return f"{name} end"


def _decimal(word: str) -> float | None:
    """A number with a decimal point or, as some languages have it, a decimal comma."""
    word = word.rstrip(",")
    try:
        return float(word.replace(",", ".") if "." not in word else word)
    except ValueError:
        return None


def _has_comments(body: str) -> bool:
    return "#" in body or "/" in body or ";" in body


_SLOWEST = 0.5


def _header_numbers(match: re.Match, fps: float | None, path: str | Path) -> tuple[int, float]:
    frames, frame_time = _decimal(match[1]), _decimal(match[2])
    if frames is None or not frames.is_integer():
        raise InputError(f'{path}: the number of frames is "{match[1]}"; expected a whole number')
    if frame_time is None:
        raise InputError(f'{path}: the frame time is "{match[2]}"; expected seconds')
    if fps is not None:
        frame_time = 1 / fps
    if frame_time == 0:
        raise InputError(f"{path}: the frame time is 0, so the rate is missing; give it with --fps")
    if frame_time > _SLOWEST:
        raise InputError(
            f"{path}: the frame time is {frame_time:g} s; expected at most {_SLOWEST} s between two frames; give a "
            f"rate with --fps"
        )
    if frames < 1 or frame_time < 0:
        raise InputError(
            f"{path}: {frames:.0f} frames of {frame_time} s; expected at least one frame and a positive frame time"
        )
    return int(frames), frame_time


def _read_numbers(
    text: str, frames: int, channels: int, path: str | Path, notes: list[str]
) -> Float[np.ndarray, "T C"]:
    if "," in text:
        text = text.replace(",", " " if "." in text else ".")
    words = text.split()
    expected = f"expected {frames} frames x {channels} channels = {frames * channels} numbers"
    rows, rest = divmod(len(words), channels) if channels else (0, 0)
    if len(words) != frames * channels and len(lines := text.strip().splitlines()) == frames:
        widths = {len(line.split()) for line in lines}
        if len(widths) == 1 and channels not in widths:
            raise InputError(
                f"{path}: rows have {widths.pop()} numbers and the hierarchy {channels} channels; {expected}"
            )
    if rest or not rows:
        raise InputError(f"{path}: found {len(words)} numbers, {expected}; the file may be truncated")
    if rows != frames:
        # Whole rows: the header of many an export is off by some. A file that was cut says so as well.
        cut = "; the file may be cut off" if rows < frames else ""
        notes.append(f"Frames says {frames}, the file has {rows} rows: all of them are read{cut}")
    try:
        values = np.array(words, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path}: the motion has something that is not a number ({error}); {expected}") from error
    values = values.reshape(rows, channels)
    if not np.isfinite(values).all():
        frame = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise InputError(f"{path}: NaN or infinity in frame {frame}; {expected}")
    return values


def _of_person(
    hierarchy: _Hierarchy, values: np.ndarray, frame_time: float, person: int, notes: list[str], path: str | Path
) -> Bvh:
    """One of the bodies of a file: its joints, and their columns of the values."""
    starts = [joint for joint, parent in enumerate(hierarchy.parents) if parent < 0]
    ends = dict(zip(starts, [*starts[1:], len(hierarchy.names)], strict=True))
    # Cameras and props are no bodies.
    roots = [root for root in starts if ends[root] - root >= _FEWEST] or starts
    if not 1 <= person <= len(roots):
        raise InputError(f"{path}: has {len(roots)} bodies (ROOT); person {person} does not exist")
    if len(roots) > 1:
        names = ", ".join(hierarchy.names[root] for root in roots)
        notes.append(f"holds {len(roots)} bodies ({names}), of which number {person} is read; choose with --person")
    first = roots[person - 1]
    last = ends[first]
    columns = np.cumsum([0, *map(len, hierarchy.channels)])
    return Bvh(
        tuple(hierarchy.names[first:last]),
        tuple(parent - first if parent >= 0 else -1 for parent in hierarchy.parents[first:last]),
        np.array(hierarchy.offsets[first:last]),
        tuple(hierarchy.channels[first:last]),
        values[:, columns[first] : columns[last]],
        frame_time,
        tuple(notes),
    )


def write_bvh(
    path: str | Path,
    rotations: Float[np.ndarray, "T 22 3 3"],
    root_positions: Float[np.ndarray, "T 3"],
    offsets: Float[np.ndarray, "22 3"],
    fps: float,
) -> None:
    """Writes SMPL-22 motion in centimetres (the unit that Blender, Maya and MotionBuilder assume), Y up, rotations Z X
    Y.

    Angles go on where they were: no step by 360 degrees, which programs that interpolate between frames would turn
    through.
    """
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
    angles = rot.continuous_euler("ZXY", rotations)[:, order].reshape(len(rotations), -1)
    values = np.concatenate([root_positions * 100, angles], 1)
    lines += ["MOTION", f"Frames: {len(values)}", f"Frame Time: {1 / fps:.8f}"]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
        np.savetxt(file, values, fmt="%.6f")
