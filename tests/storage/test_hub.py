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
from llamo_jax.pretrained import Llamo
from llamo_jax.storage.bundle import read_bundle
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
    hub.repositories["someone/tiny"] = contents(llm_folder) | {"pytorch_model.bin": b"a pickle", "README.md": b"a card"}
    done = python(cli("convert", "from-hf", "someone/tiny", "-o", tmp_path / "bundle", "--llm-storage", "pin"))
    assert done.returncode == 0, done.stderr
    snapshot = tmp_path / "home" / "hub" / "models--someone--tiny" / "snapshots" / hub.commit("someone/tiny")
    # Neither other formats nor what is not the model's.
    assert {path.name for path in snapshot.iterdir()} == {path.name for path in llm_folder.iterdir()}
    llm = json.loads((tmp_path / "bundle" / "config.json").read_text())["llm"]
    assert (llm["storage"], llm["id"], llm["revision"]) == ("pin", "someone/tiny", hub.commit("someone/tiny"))
    assert "base_model: someone/tiny" in (tmp_path / "bundle" / "README.md").read_text()
    # Another commit of the repository changes nothing: the pinned one is used, from the cache.
    hub.repositories["someone/tiny"]["config.json"] = b"{}"
    code = f"import llamo_jax; print(llamo_jax.load({str(tmp_path / 'bundle')!r}).complete('a person', max_tokens=3))"
    assert python(code).returncode == 0
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
