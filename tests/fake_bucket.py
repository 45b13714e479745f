"""Buckets without a network: gs:// through epath and fsspec, as where gcsfs is installed, kept in memory."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from etils.epath import backend, gpath
from fsspec.implementations.memory import MemoryFileSystem

registry = sys.modules["fsspec.registry"]  # a mapping of that name hides the module


class Bucket(MemoryFileSystem):
    """The file system behind gs://. `fails` says of (mode, path) whether opening or closing it fails."""

    protocol = ("gcs", "gs")
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    opened: list[tuple[str, str]] = []  # noqa: RUF012
    fails: Callable[[str, str], bool] = staticmethod(lambda mode, path: False)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        for scheme in ("gs://", "gcs://"):
            path = str(path).removeprefix(scheme)
        return super()._strip_protocol(path)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        found = super().info(path, **options)
        file = self.store.get(found["name"])
        return found if file is None else found | {"mtime": file.modified}

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        place = self._strip_protocol(path)
        self.opened.append((mode, place))
        if self.fails(mode, place):
            raise ConnectionError("503 the bucket is away")
        return super().open(path, mode, **options)


def paths() -> list[str]:
    """What lies in all buckets."""
    return sorted(Bucket.store)


@contextlib.contextmanager
def served(patch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    """Buckets, empty at first, behind gs:// in the block."""
    patch.setenv("EPATH_USE_TF", "false")
    patch.setitem(registry._registry, "gcs", Bucket)
    patch.setattr(Bucket, "fails", staticmethod(lambda mode, path: False))
    forget = (gpath._is_tf_installed.cache_clear, backend._FileSystemSpecBackend._get_filesystem.cache_clear)
    for kept in (Bucket.store, Bucket.opened):
        kept.clear()
    Bucket.pseudo_dirs[:] = [""]
    for each in forget:
        each()
    yield Bucket
    for each in forget:
        each()
