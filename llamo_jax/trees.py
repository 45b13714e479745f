"""Parameter trees as flat dicts of paths. The paths (`motion/layers/attn/q`, ...) are the checkpoint contract."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Tree = dict[str, Any]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": x}} -> {"a/b": x}, in sorted order of paths."""
    flat = {}
    for name in sorted(tree):
        path = f"{prefix}{name}"
        if isinstance(tree[name], Mapping):
            flat |= flatten(tree[name], path + "/")
        else:
            flat[path] = tree[name]
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """The inverse of `flatten`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def fingerprint(flat: Mapping[str, Any]) -> int:
    """A checksum of arrays, so that a run is continued with the same ones only."""
    checksum = 0
    for path in sorted(flat):
        checksum = zlib.crc32(np.ascontiguousarray(flat[path]).view(np.uint8), checksum)
    return checksum


def partition(flat: Mapping[str, Any], keep: Callable[[str], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a flat dict into the paths that `keep` accepts and the others."""
    kept = {path: leaf for path, leaf in flat.items() if keep(path)}
    return kept, {path: leaf for path, leaf in flat.items() if path not in kept}
