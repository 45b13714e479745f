"""Shared fixtures. Eight simulated devices: the flag must be set before JAX starts its backend."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout: real motion capture, captions and a small LLM. Tests that need it are marked shared_data."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the folder `shared` beside the checkout (real motion capture and a real LLM), which is not here")
    return folder
