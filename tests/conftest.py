"""Shared fixtures. Eight simulated devices: the flag must be set before JAX starts its backend."""

import os
from pathlib import Path

from tests import devices

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Two processes test at once: threads of PyTorch that wait for one another would take the other's time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), devices.flags(8)))

import jax
import numpy as np
import pytest

import llamo_jax
from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig, MotionVAEConfig
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models import llamo
from llamo_jax.models.declaration import init
from llamo_jax.models.motion_vae import MotionVAE
from llamo_jax.motion import MotionClip, rotations
from llamo_jax.motion.statistics import Statistics
from llamo_jax.pretrained import Llamo
from llamo_jax.storage.bundle import Bundle, write_bundle
from llamo_jax.storage.hub import Source
from llamo_jax.storage.huggingface import load_llm, load_tokenizer, save_llm
from llamo_jax.tokenizer import train_tokenizer
from tests.chat_llms import CHATML, with_template

LLM = LLMConfig(
    vocab_size=300, width=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4, ffn_width=24, tie_embeddings=True
)


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests that run the same program compile it once, in whichever process."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout: real motion capture, captions and a small LLM. Tests that need it are
    marked shared_data."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(
            "needs the folder `shared` beside the checkout (real motion capture and a real LLM), which is not here"
        )
    return folder


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a tiny random Llama with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("llm")
    train_tokenizer(["a person walks.", "a person waves the left hand.", "someone runs fast."], 300, folder)
    text = init(llamo.LLM, LLM, jax.random.key(0))
    save_llm(folder, LLM, jax.tree.map(np.asarray, text), bos_id=1, eos_id=2)
    return folder


@pytest.fixture(scope="session")
def chat_folder(llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a chat template."""
    return with_template(llm_folder, tmp_path_factory.mktemp("chat") / "llm", CHATML)


@pytest.fixture(scope="session")
def bundle(llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random weights that says of itself that it is trained: its motions are noise, but everything
    runs."""
    config, text = load_llm(llm_folder)
    model = LlamoConfig(config, MotionTowerConfig(24, 32), FlowHeadConfig(16, 2), latent_channels=4)
    motion = llamo.init_motion(model, jax.random.key(1), text)
    head = motion["flow_head"]
    # Zero-initialised output layers would ignore everything before them.
    for number, part in enumerate(
        (head["output"], head["output_modulation"], *(b["modulation"] for b in head["blocks"]))
    ):
        part["weight"] += 0.1 * jax.random.normal(jax.random.key(2 + number), part["weight"].shape)
    vae = MotionVAEConfig(width=16, latent_channels=4)
    features = _standing(120).features()
    codec = MotionCodec(
        vae,
        init(MotionVAE, vae, jax.random.key(4)),
        features=Statistics(features.mean(0), np.full(272, 0.05, np.float32)),
        latents=Statistics.identity(4),
    )
    path = tmp_path_factory.mktemp("bundles") / "bundle"
    tokens = load_tokenizer(llm_folder)
    params, info = {"text": text, **motion}, {"trained": True}
    write_bundle(path, Bundle(model, params, codec, Source(llm_folder), tokens.bos_id, tokens.eos_id, info))
    return path


@pytest.fixture(scope="session")
def model(bundle: Path) -> Llamo:
    return llamo_jax.load(bundle)


@pytest.fixture
def clip() -> MotionClip:
    """Two seconds of a body that sways."""
    return _standing(60)


def _standing(frames: int) -> MotionClip:
    joint_rotations = np.broadcast_to(np.eye(3), (frames, 22, 3, 3)).copy()
    joint_rotations[:, 16] = rotations.from_rotvec(np.outer(0.5 * np.sin(np.arange(frames) / 5), [1.0, 0.0, 0.0]))
    return MotionClip.from_rotations(
        joint_rotations, np.tile([0.0, 0.95, 0.0], (frames, 1)), captions=("a person sways.",)
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long properties are tried."""
    parser.addoption("--draws", type=int, default=200, help="draws of a property that is tried on random inputs")
