"""`llamo inspect`, `convert motion` and `caption` on what people bring: files, folders, patterns, broken files."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamo_jax.cli import main
from llamo_jax.motion import MotionClip
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS
from tests.motion.conftest import make_walk
from tests.motion.rig_files import RigFile, names_of, text_of

Result = tuple[int, str, str]


@pytest.fixture
def llamo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs a command; returns its exit code and what it prints on both streams."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["llamo", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def takes(tmp_path: Path) -> Path:
    """A stranger's folder: a good file of each kind, one that needs a word, and broken ones; in two levels."""
    folder = tmp_path / "takes"
    (folder / "day 2").mkdir(parents=True)
    walk = make_walk(30)
    walk.save(folder / "ours.npz")
    walk.save(folder / "features.npy")
    walk.save(folder / "amass.npz", format="amass")
    for name, rig in (("mixamo.bvh", "Mixamo"), ("day 2/UNREAL.BVH", "Unreal")):
        (folder / name).write_text(text_of(RigFile(names=names_of(rig), bones=DEFAULT_OFFSETS).bvh(walk)))
    z_up = RigFile(names=names_of("SMPL"), bones=DEFAULT_OFFSETS, world_up="z")
    (folder / "day 2" / "z_up.bvh").write_text(text_of(z_up.bvh(walk)))
    (folder / "cut.bvh").write_text((folder / "mixamo.bvh").read_text()[:-300] + "oops")
    (folder / "page.npy").write_text("<html>404</html>")
    np.save(folder / "joints.npy", walk.joints)
    walk[:3].save(folder / "short.npz")  # less than a latent, which a model cannot describe
    (folder / "readme.txt").write_text("not a motion")
    return folder


BROKEN = ("cut.bvh", "joints.npy", "page.npy")


def test_inspect_says_how_a_file_is_read(llamo, takes):
    code, out, _ = llamo("inspect", takes / "day 2" / "z_up.bvh", "--json", takes / "facts.json")
    assert code == 0
    lines = out.splitlines()
    assert lines[:2] == ["pelvis", "  left_hip"]  # the hierarchy
    assert "left_knee                    <- left_knee" in lines
    facts = json.loads((takes / "facts.json").read_text())
    assert facts["up"] == "z" and facts["metres in a unit"] == 0.01 and facts["frames"] == 30 and facts["fps"] == 30
    assert facts["rest pose"] == "the zero pose" and facts["metres from ankles to head"] == pytest.approx(
        1.42, abs=0.01
    )
    assert facts["travel, m/s"] == pytest.approx(1.2, abs=0.01)
    assert facts["notes"] == ["its rest pose stands along y and its motion along z: z is taken for up"]
    assert facts["wrong"] == [] and "note: its rest pose stands" in out


def test_inspect_shows_the_hierarchy_of_a_file_that_is_refused(llamo, takes):
    names = ["Bone" if name == "LeftToe" else name for name in names_of("LAFAN1")]
    path = takes / "odd.bvh"
    path.write_text(text_of(RigFile(names=names, bones=DEFAULT_OFFSETS, scale=25.0).bvh(make_walk(4))))
    code, out, err = llamo("inspect", path)
    assert code == 2 and "            Bone" not in err and "Bone" in out
    assert err.startswith(f"error: {path}: 35.47 units from ankles to head are no person") and err.count("\n") == 1
    code, out, _ = llamo("inspect", path, "--unit", "0.04")
    assert code == 0 and "note: took Bone as left_foot by the structure" in out
    (takes / "map.json").write_text('{"left_foot": "Bone"}')
    code, out, _ = llamo("inspect", path, "--unit", "0.04", "--skeleton", takes / "map.json")
    assert code == 0 and "note" not in out


def test_inspect_lists_what_is_wrong(llamo, takes):
    walk = make_walk(30)
    walk.joints[10] += [0, 0, 1460.0]
    walk.save(takes / "glitch.npz")
    code, out, _ = llamo("inspect", takes / "glitch.npz")
    assert code == 0 and "wrong: the pelvis moves 1.46e+03 m in frame 10" in out


def test_a_folder_is_converted_and_every_failure_is_listed(llamo, takes, tmp_path):
    code, out, err = llamo("convert", "motion", takes, tmp_path / "out", "--to", "bvh")
    assert code == 2 and err.endswith("error: 3 of 10 files failed\n")
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert written == {"ours.bvh", "features.bvh", "amass.bvh", "mixamo.bvh", "short.bvh",
                       "day 2/UNREAL.bvh", "day 2/z_up.bvh"}  # fmt: skip
    for name in BROKEN:
        assert f"{takes / name}: " in out
    assert f"note: {takes / 'day 2' / 'z_up.bvh'}: its rest pose stands along y" in out
    walk = make_walk(30)
    for name in ("ours", "mixamo", "day 2/UNREAL", "day 2/z_up"):
        assert np.abs(MotionClip.load(tmp_path / "out" / f"{name}.bvh").joints - walk.joints).max() < 1e-3


def test_patterns_and_lists_are_converted(llamo, takes, tmp_path):
    code, out, _ = llamo("convert", "motion", takes / "*m*.npz", takes / "day 2", tmp_path / "out", "--format", "amass")
    assert code == 0 and "3 files -> " in out
    code, _, _ = llamo("convert", "motion", f"{takes}/*/z*.bvh", tmp_path / "kept")
    assert code == 0 and (tmp_path / "kept" / "day 2" / "z_up.npz").exists()
    with np.load(tmp_path / "out" / "z_up.npz") as arrays:
        assert arrays["pose_body"].shape == (30, 63)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{takes}/nothing*", "out"], "no motion file in it"),
        (["{takes}", "out.npz"], "several files are read; expected a folder to write"),
        (["{takes}"], "expected what to read, and last"),
        (["{takes}", "out", "--to", "fbx"], "no output format"),
        (["{takes}/ours.npz", "{takes}/mixamo.bvh", "out", "--to", "bvh", "--format", "amass"], "2 of 2 files failed"),
        (["{takes}/mixamo.bvh", "out.npz", "--unit", "cubit"], 'unit "cubit" is unknown'),
        (["{takes}/mixamo.bvh", "out.npz", "--person", "2"], "has 1 bodies"),
        (["{takes}/mixamo.bvh", "out.npz", "--fps", "0"], "the rate is given as 0.0 frames a second"),
        (["{takes}/mixamo.bvh", "out.npz", "--skeleton", "none.json"], "none.json: cannot be read"),
    ],
)
def test_mistakes_are_told_in_one_line(llamo, takes, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = llamo("convert", "motion", *[text.format(takes=takes) for text in arguments])
    assert code == 2 and message in err.splitlines()[-1] and err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.npz").exists()


def test_two_files_never_get_one_name(llamo, takes, tmp_path):
    make_walk(10).save(takes / "mixamo.npz")
    code, out, err = llamo("convert", "motion", takes, tmp_path / "out")
    assert code == 2 and err.endswith("error: 4 of 11 files failed\n")
    assert f"{takes / 'mixamo.npz'}: {tmp_path / 'out' / 'mixamo.npz'} is written from {takes / 'mixamo.bvh'}" in out


def test_what_is_read_is_never_written_over(llamo, takes):
    before = {path: path.read_bytes() for path in takes.rglob("*") if path.is_file()}
    code, _, err = llamo("convert", "motion", takes, takes, "--to", "bvh")
    assert code == 2 and "all that is read lies in it" in err
    for _ in range(2):  # what the first run wrote into the folder is no source of the second
        code, out, _ = llamo("convert", "motion", takes, takes / "out", "--to", "npz")
        assert "7 files -> " in out
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_warning_is_one_line(llamo, takes, tmp_path):
    path = takes / "day 2" / "z_up.bvh"
    code, out, err = llamo("convert", "motion", path, tmp_path / "a.npz")
    assert code == 0 and "30 frames, 1.0 s" in out
    assert err == f"warning: {path}: its rest pose stands along y and its motion along z: z is taken for up\n"


def test_a_folder_is_captioned_into_a_table(llamo, bundle, takes, tmp_path):
    code, out, err = llamo("caption", bundle, takes, "-o", tmp_path / "captions.csv", "--json", tmp_path / "all.json")
    assert code == 2 and err.endswith("error: 4 of 10 files failed\n") and "6 captions -> " in out
    with (tmp_path / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    failed = {Path(row["file"]).name for row in rows if row["error"]}
    assert failed == {*BROKEN, "short.npz"} and f"{takes / 'short.npz'}: motion 0 has 3 frames" in out
    assert next(row["notes"] for row in rows if row["file"].endswith("z_up.bvh")).startswith("its rest pose stands")
    assert json.loads((tmp_path / "all.json").read_text()) == rows
    code, out, _ = llamo("caption", bundle, takes / "ours.npz")
    assert code == 0 and out.strip() == next(row["caption"] for row in rows if row["file"].endswith("ours.npz"))
    code, _, err = llamo("caption", bundle, takes, "-o", tmp_path / "captions.txt")
    assert code == 2 and "expected one of .csv .json" in err
