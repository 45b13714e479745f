"""Models from the Hugging Face Hub and back to it, over HTTP, in processes of their own as users have them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import llamo_jax
from llamo_jax.errors import InputError
from llamo_jax.pretrained import Llamo
from llamo_jax.storage.bundle import read_bundle
from llamo_jax.storage.huggingface import files_of, resolve_llm
from tests.storage.fake_hub import FakeHub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    yield hub
    hub.close()


@pytest.fixture
def python(hub: FakeHub, tmp_path: Path):
    """Runs code with the Hub at hand and an empty cache; gives its output and errors."""

    def run(code: str, **environment: str) -> subprocess.CompletedProcess:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        variables = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "JAX_PLATFORMS": "cpu",
        }
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, capture_output=True, text=True, env=inherited | variables | environment, check=False
        )

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def cli(*arguments: object) -> str:
    return f"import sys; sys.argv = ['llamo', *{list(map(str, arguments))}]; from llamo_jax.cli import main; main()"


def test_an_llm_is_fetched_once_and_pinned(hub: FakeHub, python, llm_folder: Path, tmp_path: Path) -> None:
    others = ("pytorch_model.bin", "consolidated.00.pth", "consolidated.safetensors", "original/tokenizer.model",
        "original/model.safetensors", "onnx/model.onnx", "onnx/config.json", "model.gguf", "README.md",
    )  # fmt: skip
    hub.repositories["someone/tiny"] = contents(llm_folder) | dict.fromkeys(others, b"other")
    done = python(cli("convert", "from-hf", "someone/tiny", "-o", tmp_path / "bundle", "--llm-storage", "pin"))
    assert done.returncode == 0, done.stderr
    snapshot = tmp_path / "home" / "hub" / "models--someone--tiny" / "snapshots" / hub.commit("someone/tiny")
    # Neither other formats nor what is not the model's, and the size is said before.
    assert f"someone/tiny: {len(contents(llm_folder))} files, 1 MB to fetch\n" in done.stderr
    assert {path.name for path in snapshot.iterdir()} == {path.name for path in llm_folder.iterdir()}
    llm = json.loads((tmp_path / "bundle" / "config.json").read_text())["llm"]
    assert (llm["storage"], llm["id"], llm["revision"]) == ("pin", "someone/tiny", hub.commit("someone/tiny"))
    assert "base_model: someone/tiny" in (tmp_path / "bundle" / "README.md").read_text()
    # Another commit of the repository changes nothing: the pinned one is used, from the cache.
    hub.repositories["someone/tiny"]["config.json"] = b"{}"
    code = f"import llamo_jax; print(llamo_jax.load({str(tmp_path / 'bundle')!r}).complete('a person', max_tokens=3))"
    again = python(code)
    assert again.returncode == 0 and "to fetch" not in again.stderr
    done = python(code, HF_HOME=str(tmp_path / "elsewhere"))
    assert done.returncode == 1 and "InputError" in done.stderr and "no revision" in done.stderr


def test_bundles_are_pushed_and_loaded(hub: FakeHub, python, bundle: Path, model: Llamo) -> None:
    code = "import llamo_jax; print(llamo_jax.load({!r}).push_to_hub('someone/motion', token='secret'))"
    done = python(code.format(str(bundle)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/someone/motion/commit/{hub.commit('someone/motion')}"
    assert {
        name: data for name, data in hub.repositories["someone/motion"].items() if name != ".gitattributes"
    } == contents(bundle)
    code = (
        "import llamo_jax; model = llamo_jax.load('someone/motion'); "
        "print(model.generate('a person walks.', seconds=0.5).joints.sum())"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(model.generate("a person walks.", seconds=0.5).joints.sum(), rel=1e-4)


@pytest.fixture
def near_hub(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The Hub of this process, with an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in ("constants", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    for module in ("constants", "_snapshot_download", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return hub


SHARDS = {f"model-0000{number}-of-00002.safetensors": 600_000 * b"x" for number in (1, 2)}
INDEX = {"model.safetensors.index.json": json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}).encode()}
OTHERS = dict.fromkeys(
    ("consolidated.safetensors", "consolidated.00.pth", "pytorch_model.bin", "original/config.json",
     "original/model-00001-of-00002.safetensors", "onnx/tokenizer.json", "onnx/model.onnx", "a.gguf"), b"other"
)  # fmt: skip


@pytest.mark.parametrize("whole", [{}, {"model.safetensors": 1_200_000 * b"x"}], ids=["sharded", "whole and sharded"])
def test_only_what_is_read_is_fetched(
    near_hub: FakeHub, llm_folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, whole: dict
) -> None:
    """Whole weights or those of the index, never both, and nothing of the folders inside."""
    llm = {name: data for name, data in contents(llm_folder).items() if name != "model.safetensors"}
    near_hub.repositories["someone/tiny"] = llm | whole | INDEX | SHARDS | OTHERS
    source = resolve_llm("someone/tiny")
    used = llm | (whole or INDEX | SHARDS)
    assert contents(source.folder) == used | INDEX  # the index is looked at
    assert files_of(source.folder) == [source.folder / name for name in sorted(used)]
    assert f"someone/tiny: {len(used)} files, 2 MB to fetch\n" in capsys.readouterr().err
    assert resolve_llm("someone/tiny") == source and "to fetch" not in capsys.readouterr().err
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_llm("someone/tiny") == source


def test_what_is_not_read_is_not_fetched(near_hub: FakeHub, llm_folder: Path, tmp_path: Path) -> None:
    llm = {name: data for name, data in contents(llm_folder).items() if name != "model.safetensors"}
    for change, message in (
        (INDEX, "/model-00001-of-00002.safetensors: no such file"),
        ({"a.gguf": b"GGUF"}, ": GGUF, which is read from files on this machine; fetch one and give its path"),
        ({"adapter_config.json": b'{"base_model_name_or_path": "a/base"}'}, ": a PEFT adapter of 'a/base'"),
        ({"pytorch_model.bin": b"x"}, "/model.safetensors: no such file; expected .* as safetensors"),
        ({"model.safetensors": b"x", "config.json": b"{}"}, 'config.json: architecture "none" is not supported'),
    ):
        near_hub.repositories["someone/tiny"] = llm | change
        with pytest.raises(InputError, match=message) as error:
            resolve_llm("someone/tiny")
        assert "someone/tiny" in str(error.value) or "models--someone--tiny" in str(error.value)
    fetched = {path.name for path in (tmp_path / "cache").glob("*/snapshots/*/*")}
    assert fetched == {"config.json", "adapter_config.json", "model.safetensors.index.json"}


@pytest.mark.parametrize(
    ("repo_id", "message"),
    [
        ("someone/absent", "no such folder here, and no such repository on the Hugging Face Hub"),
        ("someone/gated", "gated on the Hugging Face Hub; accept its licence there and log in"),
        ("someone/tiny --revision v9", 'has no revision "v9"'),
    ],
)
def test_what_cannot_be_fetched_is_told(
    hub: FakeHub, python, llm_folder: Path, tmp_path: Path, repo_id: str, message: str
) -> None:
    hub.repositories |= {name: contents(llm_folder) for name in ("someone/tiny", "someone/gated")}
    hub.gated.add("someone/gated")
    done = python(cli("convert", "from-hf", *repo_id.split(), "-o", tmp_path / "bundle"))
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "bundle").exists()


def test_no_network_is_told(python, bundle: Path, tmp_path: Path) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = python(cli("convert", "from-hf", "someone/tiny", "-o", tmp_path / "bundle"), **nowhere)
    assert done.returncode == 2 and "the Hugging Face Hub cannot be reached" in done.stderr, done.stderr
    assert "give the path of its folder" in done.stderr
    for token, message in (("None", "not logged in"), ("'secret'", "cannot be uploaded to the Hugging Face Hub")):
        done = python(
            f"import llamo_jax; llamo_jax.load({str(bundle)!r}).push_to_hub('someone/motion', token={token})", **nowhere
        )
        assert done.returncode == 1 and "InputError" in done.stderr and message in done.stderr, done.stderr


def test_a_bundle_that_is_linked_is_pushed_whole(hub: FakeHub, python, bundle: Path, tmp_path: Path) -> None:
    llamo_jax.load(bundle).save_pretrained(tmp_path / "linked", llm_storage="link")
    code = (
        f"import llamo_jax; model = llamo_jax.load({str(tmp_path / 'linked')!r}); "
        "model.push_to_hub('someone/motion', token='t', llm_storage='link')"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "linked")
    for name, data in hub.repositories["someone/motion"].items():
        (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fetched" / name).write_bytes(data)
    np.testing.assert_array_equal(
        read_bundle(tmp_path / "fetched").params["text"]["norm"], read_bundle(bundle).params["text"]["norm"]
    )
