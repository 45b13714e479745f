"""Imports run one way, and `import llamo_jax` is fast: it starts no backend."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = (
    {"errors", "solvers", "batch"},
    {"files", "trees", "families"},
    {"config", "remote"},
    {"commands"},
    {"hosts", "motion", "presets", "sharding", "tokenizer"},
    {"prompts", "models"},
    {"training", "inference"},
    {"storage"},
    {"convert"},
    {"pretrained"},
    {"evaluation"},
    {"cli"},
)
"""Parts of llamo_jax from the bottom up: each imports itself and what lies below."""

FOR_DATA = {"errors", "files", "config", "motion", "tokenizer", "prompts", "batch", "commands"}
"""What of llamo_jax data_pipelines may import: nothing that needs JAX, since data workers import it."""


def imports(path: Path) -> Iterator[str]:
    """Dotted names of this project's modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ("llamo_jax", "data_pipelines", "experiments"))


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", files("llamo_jax"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_imports_downwards(path: Path) -> None:
    part = path.relative_to(ROOT / "llamo_jax").parts[0].removesuffix(".py")
    if part == "__init__":
        return  # the public names, from wherever they are
    level = next(index for index, layer in enumerate(LAYERS) if part in layer)
    allowed = set().union(*LAYERS[:level]) | {part}
    for name in imports(path):
        root, *rest = name.split(".")
        if name == "experiments.evaluate":
            # The one command that is above the library: it needs recipes and data sets.
            assert path.relative_to(ROOT) == Path("llamo_jax/cli/evaluate.py")
            continue
        assert root == "llamo_jax", f"{path} imports {name}"
        assert (rest[0] in allowed) if rest else part == "cli", f"{path} imports {name}"


@pytest.mark.parametrize("path", files("data_pipelines"), ids=lambda path: str(path.relative_to(ROOT)))
def test_data_pipelines_import_nothing_of_networks(path: Path) -> None:
    for name in imports(path):
        root, *rest = name.split(".")
        assert root == "data_pipelines" or (root == "llamo_jax" and rest[0] in FOR_DATA), f"{path} imports {name}"


def test_importing_the_library_starts_nothing() -> None:
    heavy = ("jax", "transformers", "torch", "grain", "matplotlib")
    code = f"import sys, llamo_jax; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
