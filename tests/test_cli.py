"""The `llamo` command: what each command does, and one clear line for each mistake, with nothing left behind."""

import dataclasses
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import llamo_jax
from data_pipelines.builders.dataset import build
from data_pipelines.builders.synthetic import Synthetic
from llamo_jax import commands
from llamo_jax.cli import main
from llamo_jax.files import atomic_path
from llamo_jax.motion import MotionClip

TEXT = "a person waves the left hand."


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that works; returns what it prints."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["llamo", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def mistake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command with a user's mistake; returns the one line that it prints."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["llamo", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        assert exit.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


@pytest.fixture
def bvh(clip: MotionClip, tmp_path: Path) -> Path:
    path = tmp_path / "motion.bvh"
    clip.save(path)
    return path


def test_generate_writes_what_the_suffix_says(run: Callable, bundle: Path, tmp_path: Path) -> None:
    for suffix in ("npz", "bvh", "png"):
        out = tmp_path / f"wave.{suffix}"
        printed = run("generate", bundle, TEXT, "-o", out, "--seconds", 1, "--json", tmp_path / "figures.json")
        assert out.stat().st_size > 0 and str(out) in printed
        assert json.loads((tmp_path / "figures.json").read_text())["frames"] == 30
    same = tmp_path / "same.npz"
    run("generate", bundle, TEXT, "-o", same, "--seconds", 1)
    np.testing.assert_array_equal(MotionClip.load(same).joints, MotionClip.load(tmp_path / "wave.npz").joints)
    run("generate", bundle, TEXT, "-o", same, "--seed", 3, "--max-seconds", 4, "--length", "drawn")
    drawn = llamo_jax.load(bundle).generate(TEXT, seed=3, max_seconds=4.0, length="drawn")
    np.testing.assert_allclose(MotionClip.load(same).joints, drawn.joints, atol=1e-5)


def test_caption_says_a_line(run: Callable, bundle: Path, bvh: Path, tmp_path: Path) -> None:
    printed = run("caption", bundle, bvh, "--json", tmp_path / "caption.json")
    assert json.loads((tmp_path / "caption.json").read_text())["caption"] in printed


def test_render_and_convert(run: Callable, bvh: Path, tmp_path: Path) -> None:
    assert "60 frames, 2.0 s" in run("render", bvh, "-o", tmp_path / "a.png")
    run("convert", "motion", bvh, tmp_path / "a.npz")
    np.testing.assert_allclose(MotionClip.load(tmp_path / "a.npz").joints, MotionClip.load(bvh).joints, atol=1e-4)
    run("convert", "motion", tmp_path / "a.npz", tmp_path / "b.bvh")
    assert len(MotionClip.load(tmp_path / "b.bvh")) == 60


def test_a_bundle_from_an_llm_is_inspected(run: Callable, llm_folder: Path, tmp_path: Path) -> None:
    run("convert", "from-hf", llm_folder, "-o", tmp_path / "fresh")
    printed = run("inspect", tmp_path / "fresh")
    assert "motion parameters" in printed and "trained" in printed


def test_a_bundle_goes_to_pytorch_and_back(run: Callable, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert "verify.py" in run("convert", "to-torch", bundle, "-o", tmp_path / "torch")
    assert (tmp_path / "torch" / "modeling_llamo.py").exists()
    run("convert", "from-torch", tmp_path / "torch", "-o", tmp_path / "back")
    assert (tmp_path / "back" / "motion.safetensors").read_bytes() == (bundle / "motion.safetensors").read_bytes()


def test_an_llm_may_be_linked(run: Callable, mistake: Callable, llm_folder: Path, tmp_path: Path) -> None:
    run("convert", "from-hf", llm_folder, "-o", tmp_path / "fresh", "--llm-storage", "link")
    assert (tmp_path / "fresh" / "llm" / "model.safetensors").is_symlink()
    assert "storage link" in run("inspect", tmp_path / "fresh")
    line = mistake("convert", "from-hf", llm_folder, "-o", tmp_path / "pinned", "--llm-storage", "pin")
    assert (
        "a folder cannot be pinned, only an id on the Hugging Face Hub" in line and not (tmp_path / "pinned").exists()
    )


def test_motionstreamers_tae_comes_in(mistake: Callable, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"no checkpoint")
    np.save(tmp_path / "m.npy", np.ones(272))
    arguments = ("--mean", tmp_path / "m.npy", "--std", tmp_path / "m.npy", "-o", tmp_path / "vae")
    assert "net.pth" in mistake("convert", "from-motionstreamer", tmp_path / "net.pth", *arguments)
    assert not (tmp_path / "vae").exists()


def test_a_data_folder_is_inspected(run: Callable, tmp_path: Path) -> None:
    build(Synthetic(num_clips=20), tmp_path / "data")
    printed = run("inspect", tmp_path / "data", "--json", tmp_path / "facts.json")
    assert "records" in printed
    assert json.loads((tmp_path / "facts.json").read_text())["records"] == {"train": 17, "validation": 1, "test": 2}


def test_help_names_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["llamo", "--help"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("generate", "caption", "render", "inspect", "convert"))


def _pickle(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _nan(path: Path) -> None:
    shutil.copyfile(path.with_name("good.npz"), path)
    arrays = dict(np.load(path))
    for array in arrays.values():
        if array.dtype.kind == "f" and array.ndim > 1:
            array[3] = np.nan
    np.savez(path, **arrays)


def _edited(path: Path, pattern: str, replacement: str) -> None:
    path.write_text(re.sub(pattern, replacement, path.with_name("motion.bvh").read_text()))


def _flat(path: Path) -> None:
    arrays = dict(np.load(path.with_name("good.npz")))
    np.savez(path, **(arrays | {"rotations": np.zeros_like(arrays["rotations"])}))


BROKEN: dict[str, tuple[str, Callable[[Path], None]]] = {
    "absent.bvh": ("No such file", lambda path: None),
    "truncated.bvh": ("truncated.bvh", lambda path: path.write_text(path.with_name("motion.bvh").read_text()[:-400])),
    "empty.bvh": ("empty.bvh", lambda path: path.write_text("")),
    "binary.bvh": ("binary.bvh", lambda path: path.write_bytes(bytes(range(256)))),
    "channels.npy": ("expected [T, 272]", lambda path: np.save(path, np.zeros((40, 263), np.float32))),
    "pickle.npy": ("pickle", _pickle),
    "nan.npz": ("NaN", _nan),
    "text.npz": ("text.npz", lambda path: path.write_text("no zip")),
    "motion.fbx": (".fbx", lambda path: path.write_text("")),
    "time.bvh": ('frame time is "0.0.3"', lambda path: _edited(path, r"Frame Time: \S+", "Frame Time: 0.0.3")),
    "axes.bvh": (
        "each channel once",
        lambda path: _edited(path, "3 Zrotation Xrotation Yrotation", "3 Zrotation Zrotation Yrotation"),
    ),
    "renamed.npy": (
        "suffix is not that of its contents",
        lambda path: shutil.copyfile(path.with_name("good.npz"), path),
    ),
    "words.npy": ("expected numbers", lambda path: np.save(path, np.full((40, 272), "a"))),
    "zero.npy": ("off unit length", lambda path: np.save(path, np.zeros((40, 272), np.float32))),
    "flat.npz": ("no rotation matrices", lambda path: _flat(path)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_motion_files_are_told(
    mistake: Callable, clip: MotionClip, bvh: Path, tmp_path: Path, name: str
) -> None:
    clip.save(tmp_path / "good.npz")
    expected, write = BROKEN[name]
    path = tmp_path / name
    write(path)
    before = sorted(tmp_path.iterdir())
    for command in (("render", path, "-o", tmp_path / "out.mp4"), ("convert", "motion", path, tmp_path / "out.npz")):
        line = mistake(*command)
        assert name in line and expected in line, line
    assert sorted(tmp_path.iterdir()) == before


def test_mistakes_with_a_bundle_are_told(
    mistake: Callable, bundle: Path, llm_folder: Path, bvh: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    assert "the text is empty" in mistake("generate", bundle, "", "-o", out)
    big = str(2**63)
    assert f"--seed {big}; expected a seed" in mistake("generate", bundle, TEXT, "-o", out, "--seed", big)
    assert "cannot be written" in mistake("generate", bundle, TEXT, "-o", bvh / "out.npz", "--seconds", 1)
    assert 'suffix ".avi" is no output format' in mistake("generate", bundle, TEXT, "-o", tmp_path / "out.avi")
    assert "no such bundle" in mistake("generate", tmp_path / "absent", TEXT, "-o", out)
    assert "no format_version" in mistake("generate", llm_folder, TEXT, "-o", out)
    assert "no such folder" in mistake("convert", "from-hf", tmp_path / "absent", "-o", tmp_path / "fresh")
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    tensors = load_file(broken / "motion.safetensors")
    save_file(tensors | {"surplus": np.zeros(1, np.float32)}, broken / "motion.safetensors")
    assert "1 tensors unexpected: surplus" in mistake("caption", broken, bvh)
    bert = Path(shutil.copytree(llm_folder, tmp_path / "bert"))
    config = json.loads((bert / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (bert / "config.json").write_text(json.dumps(config))
    assert 'architecture "BertModel" is not supported' in mistake("convert", "from-hf", bert, "-o", tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert", "broken", "motion.bvh"]


def test_a_wrong_flag_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["llamo", "render", "a.bvh", "-o", "a.mp4", "--sped", "2"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2 and "--sped" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interrupted(commands.Command):
    """Is sent a signal while it writes."""

    output: Path
    number: int

    def run(self) -> None:
        with atomic_path(self.output) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), self.number)
            time.sleep(10)


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends processes there")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_leave_one_line_and_no_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, code: int
) -> None:
    number, remove = getattr(signal, name), shutil.rmtree
    before = signal.getsignal(number)

    def interrupted(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), number)  # once more, while it cleans up
        remove(*arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(SystemExit) as exit:
        commands.run(Interrupted(output=tmp_path / "new" / "a.txt", number=number))
    assert exit.value.code == code
    assert capsys.readouterr().err == f"stopped by {name}\n"
    assert list(tmp_path.iterdir()) == [] and signal.getsignal(number) == before


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_an_encoder_that_fails_or_is_missing_is_told(
    mistake: Callable, monkeypatch: pytest.MonkeyPatch, bvh: Path, tmp_path: Path
) -> None:
    encoder, out = tmp_path / "ffmpeg", tmp_path / "out.mp4"
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(encoder))
    line = mistake("render", bvh, "-o", out)
    assert f"{out}: ffmpeg, which writes videos, cannot be run" in line and str(encoder) in line
    for script in ("cat > /dev/null", "exec 0<&-"):  # when all is sent, and while frames are
        encoder.write_text(f"#!/bin/sh\n{script}\necho '[mp4 @ 0x1] Error closing file: No space left' >&2\nexit 228\n")
        encoder.chmod(0o755)
        assert f"{out}: ffmpeg cannot write it (Error closing file: No space left)" in mistake("render", bvh, "-o", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ffmpeg", "motion.bvh"]
