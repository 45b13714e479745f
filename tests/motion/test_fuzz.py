"""Files with bytes that someone changed: read, or refused in one line; never a crash, a hang, much memory or code."""

import io
import json
import pickle
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.builders.bvh import Bvh
from data_pipelines.filters import Rejections
from llamo_jax.errors import InputError
from llamo_jax.motion import MotionClip
from llamo_jax.motion.joints import read_map
from llamo_jax.motion.read import ReadOptions
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, JOINT_NAMES
from tests.motion.conftest import make_walk
from tests.motion.rig_files import RigFile, names_of, text_of

SECONDS, MEGABYTES = 5, 1000


class _Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable, tuple]:
        return open, (self.path, "w")


def _originals(folder: Path) -> Iterator[tuple[str, bytes, Callable[[Path], object]]]:
    """Suffix, contents and reader of each kind."""
    walk = make_walk(8)
    rig = RigFile(names=names_of("Mixamo"), bones=DEFAULT_OFFSETS, ends=("left_foot", "right_foot"))
    yield ".bvh", text_of(rig.bvh(walk)).encode(), MotionClip.load
    for format in ("llamo", "amass"):
        walk.save(folder / "a.npz", format=format)
        yield ".npz", (folder / "a.npz").read_bytes(), MotionClip.load
    plain, planted = io.BytesIO(), io.BytesIO()
    np.savez(plain, joints=walk.joints, rotations=walk.rotations, fps=30.0, name="walk")
    np.savez(planted, joints=np.array(_Planted(folder / "ran"), object), rotations=walk.rotations, fps=30.0)
    yield ".npz", plain.getvalue(), MotionClip.load
    yield ".npz", planted.getvalue(), MotionClip.load
    yield ".npy", pickle.dumps(_Planted(folder / "ran")), MotionClip.load
    for array, options in ((walk.features(), None), (walk.joints, ReadOptions(arrays="joints", fps=30)),
                           (np.zeros((8, 85)), ReadOptions(arrays="smpl85")),
                           (np.zeros((8, 263)), ReadOptions(arrays="humanml3d"))):  # fmt: skip
        np.save(folder / "a.npy", array)
        yield ".npy", (folder / "a.npy").read_bytes(), lambda path, options=options: MotionClip.load(path, options)
    yield ".json", json.dumps({name: name for name in JOINT_NAMES}).encode(), read_map
    (folder / "source").mkdir()
    (folder / "source" / "a.bvh").write_text(text_of(rig.bvh(walk)))
    captions = json.dumps({"a": ["a person walks."], "b": {"file": "a.bvh", "captions": ["someone walks."]}})

    def takes(path: Path) -> object:
        return Bvh(source=folder / "source", captions=path).takes(Rejections())

    yield ".json", captions.encode(), takes
    yield ".csv", b"file,caption\na.bvh,a person walks.\n", takes


_WORDS = (
    b"\x00", b"\xff\xff\xff\xff", b"nan", b"1e999", b"-1", b"99999999999", b"}", b"{", b"CHANNELS 99 ", b"JOINT x {",
    b"\n", b",", b"#", b"\xef\xbb\xbf", b"null", b"[", b'"', b"(100000000, 22, 3)", b"|O", b"MOTION",
)  # fmt: skip


def _mutated(data: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 2, 5, 20]))):
        place = int(rng.integers(len(data) + 1))
        kind = rng.integers(6)
        if kind == 0:
            data[place : place + 1] = bytes([rng.integers(256)])
        elif kind == 1:
            data[place:place] = _WORDS[rng.integers(len(_WORDS))]
        elif kind == 2:
            del data[place : place + int(rng.integers(1, 60))]
        elif kind == 3:
            other = int(rng.integers(len(data) + 1))
            data[place:place] = data[other : other + int(rng.integers(1, 200))]
        elif kind == 4 and rng.random() < 0.3:
            del data[place:]
        elif kind == 5:
            data[place : place + 1] = bytes([data[place] ^ (1 << rng.integers(8))]) if place < len(data) else b""
        if not data:
            return b""
    return bytes(data)


def _too_long(number: int, frame: object) -> None:
    raise AssertionError(f"more than {SECONDS} seconds")


@pytest.fixture
def timed() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _too_long)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this system")
def test_mutated_files_are_read_or_refused(tmp_path, draws, timed):
    kinds = list(_originals(tmp_path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {"read": 0, "refused": 0}
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        suffix, data, read = kinds[seed % len(kinds)]
        path = tmp_path / f"mutant{suffix}"
        path.write_bytes(_mutated(data, rng) if seed >= len(kinds) else data)
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
            outcomes["read"] += 1
        except InputError as error:
            assert "\n" not in str(error).strip() and len(str(error)) < 4000, (seed, str(error))
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, {suffix}: {type(error).__name__}: {error}") from error
        signal.alarm(0)
    assert not (tmp_path / "ran").exists()
    assert outcomes["read"] > draws // 20 and outcomes["refused"] > draws // 4, outcomes
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES
