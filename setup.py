"""Packaging of llamo_jax. Tool settings live in pyproject.toml."""

from setuptools import find_packages, setup

# jax and flax work in pairs: flax up to 0.12.8 does not import under jax 0.11.1 and later, and jax 0.11 needs Python
# 3.12.
JAX_PAIRS = [
    'jax>=0.10.2,<0.11; python_version < "3.12"',
    'flax>=0.12.8,<0.12.9; python_version < "3.12"',
    'jax>=0.11,<0.13; python_version >= "3.12"',
    'flax>=0.12.12,<0.13; python_version >= "3.12"',
]

# Weights by the one, tokenizers by the other.
GGUF = ["gguf>=0.17", "transformers>=5.24"]

setup(
    name="llamo_jax",
    version="0.1.0",
    description="Text and human motion in one pretrained LLM: LLaMo (arXiv 2602.12370) in JAX",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=["llamo_jax", "llamo_jax.*", "data_pipelines", "data_pipelines.*", "experiments", "experiments.*"]
    ),
    package_data={"data_pipelines.builders": ["*.csv"]},
    install_requires=[
        *JAX_PAIRS,
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8,<0.13",
        "grain>=0.2.18,<0.3",
        "array-record>=0.8.3",
        "transformers>=5.0",
        "sentencepiece>=0.2",
        "tensorflow-datasets>=4.9.10",
        "numpy>=2.0",
        "scipy>=1.14",
        "safetensors>=0.6",
        "etils[epath]>=1.13",
        "filelock>=3.12",
        "tyro>=1.0",
        "tqdm>=4.66",
        "matplotlib>=3.9",
        "imageio-ffmpeg>=0.6",
        "pillow>=10.1",
        "jaxtyping>=0.3",
        "tensorboardX>=2.6",
    ],
    extras_require={
        "torch": ["torch>=2.6"],
        "stream": ["viser>=1.0"],
        "gguf": GGUF,
        "eval": ["pycocoevalcap>=1.2", "lm-eval>=0.4.9"],
        "beam": ["apache-beam>=2.60"],
        "cuda": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        "gcs": ["gcsfs>=2024.6"],
        # accelerate: transformers' own loading of GGUF files, which ours is compared with, asks for it.
        "test": ["pytest>=9", "pytest-xdist>=3.6", "hypothesis>=6", "ruff>=0.15", *GGUF, "accelerate>=1.0"],
    },
    entry_points={"console_scripts": ["llamo = llamo_jax.cli:main"]},
)
