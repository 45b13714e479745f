"""Parameter trees as flat dicts of paths. The paths (`motion/layers/attn/q/weight`, ...) are the checkpoint
contract."""

from collections.abc import Callable, Mapping
from typing import Any

Tree = dict[str, Any]


def flatten(tree: Mapping[str, Any] | tuple[Any, ...], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": x}, "c": (y, z)} -> {"a/b": x, "c/0": y, "c/1": z}; dicts in sorted order of their keys."""
    items = sorted(tree.items()) if isinstance(tree, Mapping) else enumerate(tree)
    flat = {}
    for name, value in items:
        path = f"{prefix}{name}"
        if isinstance(value, Mapping | tuple):
            flat |= flatten(value, path + "/")
        else:
            flat[path] = value
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
    return _with_tuples(tree)


def _with_tuples(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node and all(name.isdigit() for name in node):
        return tuple(_with_tuples(node[name]) for name in sorted(node, key=int))
    return {name: _with_tuples(value) for name, value in node.items()}


def partition(flat: Mapping[str, Any], keep: Callable[[str], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a flat dict into the paths that `keep` accepts and the others."""
    kept = {path: leaf for path, leaf in flat.items() if keep(path)}
    return kept, {path: leaf for path, leaf in flat.items() if path not in kept}
