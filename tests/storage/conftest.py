"""A Hugging Face Hub that is not there: what it holds was downloaded before."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def hub_cache(llm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of "someone/tiny-llm" in the Hub's cache, with no network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny-llm"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = Path(shutil.copytree(llm_folder, repository / "snapshots" / commit))
    for module in ("huggingface_hub.constants", "huggingface_hub._snapshot_download", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return snapshot
