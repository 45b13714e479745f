"""Folders for PyTorch: they run without this project, check themselves, and come back bit for bit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import llamo_jax
from llamo_jax.convert.from_hf import bundle_from_llm
from llamo_jax.convert.to_torch import from_torch, to_torch
from llamo_jax.errors import InputError
from llamo_jax.storage.bundle import read_bundle, write_bundle
from llamo_jax.tokenizer import train_tokenizer
from llamo_jax.trees import flatten

torch = pytest.importorskip("torch", reason="needs PyTorch, for which the folders are made")
from llamo_jax.convert.torch_folder import modeling_llamo  # noqa: E402
from llamo_jax.convert.torch_folder.modeling_llamo import LLaMoForMotion  # noqa: E402
from tests.random_llms import VARIANTS, random_llm  # noqa: E402

sys.modules.setdefault("modeling_llamo", modeling_llamo)  # the name that it has in a folder

pytestmark = pytest.mark.torch

FILES = (
    "motion.safetensors",
    "motion_vae.safetensors",
    "llm/model.safetensors",
    "llm/config.json",
    "llm/tokenizer.json",
)


@pytest.fixture(scope="module")
def folder(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "model"
    to_torch(bundle, path)
    return path


def run(folder: Path, script: str) -> subprocess.CompletedProcess:
    """Runs a script of the folder where neither this project nor JAX can be imported."""
    code = (
        "import runpy, sys\n"
        "sys.modules.update(dict.fromkeys(('llamo_jax', 'jax', 'jaxlib', 'flax', 'experiments')))\n"
        f"sys.argv = [{script!r}]; sys.path.insert(0, {str(folder)!r}); runpy.run_path({str(folder / script)!r}, "
        f"run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder.parent, check=False)


def verify(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs the check of a folder in this process, which saves the imports; returns its exit code."""
    from llamo_jax.convert.torch_folder import verify

    monkeypatch.setattr(verify, "FOLDER", folder)
    monkeypatch.setattr(sys, "argv", ["verify.py"])
    return verify.main()


def test_the_folder_checks_itself_without_this_project(folder: Path) -> None:
    done = run(folder, "verify.py")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert (
        lines[-1] == "the PyTorch model is the JAX model"
        and len(lines) == 16
        and all(line.startswith("ok ") for line in lines[:-1])
    )


def test_the_example_runs_without_this_project(folder: Path) -> None:
    done = run(folder, "example.py")
    assert done.returncode == 0, done.stderr
    assert "joints in metres" in done.stdout and "frames, streamed four at a time" in done.stdout
    assert len((folder / "example.py").read_text().splitlines()) <= 12


@pytest.mark.parametrize("change", ["weight", "output", "shape", "words", "nan"])
def test_the_check_fails_where_something_differs(
    folder: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    reference = load_file(copy / "reference.safetensors")
    said = {"text": "a", "continuation": "b", "caption": [5]}
    if change == "weight":
        raw = bytearray((copy / "motion.safetensors").read_bytes())
        raw[-1] ^= 1
        (copy / "motion.safetensors").write_bytes(raw)
    else:
        decoded = reference["decoded"]
        with open(copy / "reference.safetensors", "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        said = said if change == "words" else json.loads(header["__metadata__"]["said"])
        decoded = {"output": decoded + 1e-3, "shape": decoded[:-4], "nan": decoded * np.nan, "words": decoded}[change]
        save_file(reference | {"decoded": decoded}, copy / "reference.safetensors", metadata={"said": json.dumps(said)})
    assert verify(copy, monkeypatch) == 1
    printed = capsys.readouterr()
    assert ("SHA-256" in printed.err) if change == "weight" else "the PyTorch model is NOT the JAX model" in printed.out
    assert ("FAIL  decoded" in printed.out) == (change in ("output", "shape", "nan"))
    assert ("FAIL  caption" in printed.out) == (change == "words")


def test_it_comes_back_bit_for_bit(bundle: Path, folder: Path, tmp_path: Path) -> None:
    """JAX -> PyTorch folder -> JAX, and JAX -> a PyTorch model in memory -> save_pretrained -> JAX."""
    from_torch(folder, tmp_path / "back")
    LLaMoForMotion.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    from_torch(tmp_path / "saved", tmp_path / "again")
    original = read_bundle(bundle)
    for name in ("back", "again"):
        for file in FILES:
            if name == "back" or file.startswith("llm/"):
                assert (tmp_path / name / file).read_bytes() == (bundle / file).read_bytes(), file
        found = read_bundle(tmp_path / name)
        assert (
            found.config == original.config
            and found.codec.config == original.codec.config
            and found.info == original.info
        )
        assert found.eos_id == original.eos_id
        for path, leaf in flatten(original.params).items():
            bits = [np.asarray(array).view(np.uint8) for array in (flatten(found.params)[path], leaf)]
            np.testing.assert_array_equal(*bits, err_msg=path)
        for path, leaf in flatten(original.codec.params).items():
            np.testing.assert_array_equal(flatten(found.codec.params)[path], leaf)
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted(path.name for path in bundle.iterdir())


def test_what_pytorch_trains_jax_runs(folder: Path, tmp_path: Path) -> None:
    model = LLaMoForMotion.from_pretrained(folder)
    with torch.no_grad():
        model.motion.adapter.weight.mul_(2)
        model.vae.decoder.input.weight[1, 2, 0] = 7
    model.save_pretrained(tmp_path / "trained")
    from_torch(tmp_path / "trained", tmp_path / "bundle")
    before, after = read_bundle(folder), read_bundle(tmp_path / "bundle")
    np.testing.assert_array_equal(
        after.params["motion"]["adapter"]["weight"], 2 * before.params["motion"]["adapter"]["weight"]
    )
    assert after.codec.params["decoder"]["input"]["weight"][1, 0, 2] == 7
    assert llamo_jax.load(tmp_path / "bundle").complete("a person", max_tokens=2) == model.complete(
        "a person", max_tokens=2
    )


@pytest.mark.parametrize("variant", ["llama-biases", "llama-llama3", "mistral-window", "qwen2-tied", "qwen3-biases"])
def test_every_family_goes_to_pytorch(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a Hugging Face folder to a bundle, whose towers have the family's options, to PyTorch, compared with what
    JAX recorded."""
    family, changes = VARIANTS[variant]
    random_llm(tmp_path / "llm", family, **(changes | {"vocab_size": 320, "max_position_embeddings": 256}))
    train_tokenizer(["a person walks."], 300, tmp_path / "llm")
    bundle_from_llm(tmp_path / "llm", tmp_path / "bundle")
    whole = read_bundle(tmp_path / "bundle")
    # What starts at zero would hide what lies behind it; much larger weights make random motion chaotic, where rounding
    # grows.
    head = whole.params["flow_head"]
    for index, part in enumerate(
        (head["output"], head["output_modulation"], *(b["modulation"] for b in head["blocks"]))
    ):
        part["weight"] += 0.01 * jax.random.normal(jax.random.key(index), part["weight"].shape)
    write_bundle(tmp_path / "bundle", whole)
    to_torch(tmp_path / "bundle", tmp_path / "torch")
    assert verify(tmp_path / "torch", monkeypatch) == 0


def test_mistakes_are_told(bundle: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for convert, source in ((to_torch, bundle), (from_torch, folder)):
        with pytest.raises(InputError, match="exists and is not a bundle"):
            convert(source, tmp_path / "mine")
        with pytest.raises(InputError, match="no such bundle"):
            convert(tmp_path / "absent", tmp_path / "new")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    tensors = load_file(copy / "motion.safetensors")
    tensors["motion.adapter.weights"] = tensors.pop("motion.adapter.weight")
    save_file(tensors, copy / "motion.safetensors")
    with pytest.raises(
        InputError,
        match=r"1 tensors missing: motion\.adapter\.weight .*; 1 tensors unexpected: motion\.adapter\.weights",
    ):
        from_torch(copy, tmp_path / "new")
    assert not (tmp_path / "new").exists()
