"""Files that appear whole or not at all, and what is read of files from other systems."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, find_files, read_json


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    if there:
        (tmp_path / "far" / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("far/real.txt")
    with atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "far" / "real.txt").read_text() == "new"
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["real.txt"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("4096 requested and 1024 written"), "4096 requested and 1024 written; is the disk full?"),  # NumPy
        (RuntimeError("write() failed: No space left on device; at byte 9"), "No space left on device"),  # ArrayRecord
    ],
)
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, error: Exception, reason: str) -> None:
    with (
        pytest.raises(InputError, match=f"new/a.txt: cannot be written \\({reason}\\)".replace("?", "\\?")),
        atomic_path(tmp_path / "new" / "a.txt") as temporary,
    ):
        temporary.write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fails", "kind"),
    [
        (lambda: Path("absent").read_text(), FileNotFoundError),
        (lambda: (_ for _ in ()).throw(ConnectionResetError(errno.ECONNRESET, "reset")), ConnectionResetError),
        (lambda: (_ for _ in ()).throw(RuntimeError("a bug")), RuntimeError),
    ],
)
def test_errors_that_are_not_of_writing_stay_what_they_are(tmp_path: Path, fails: Callable, kind: type) -> None:
    with pytest.raises(kind), atomic_path(tmp_path / "a.txt"):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_names_have_at_most_255_bytes(tmp_path: Path) -> None:
    with atomic_path(tmp_path / f"{'x' * 251}.txt") as temporary:
        temporary.write_text("")
    with (
        pytest.raises(InputError, match=r"xxx.txt: cannot be written \(File name too long\)"),
        atomic_path(tmp_path / f"{'x' * 252}.txt"),
    ):
        pytest.fail("told only after the work")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in folders")
def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is no regular file"), atomic_path(tmp_path / "pipe"):
        pass


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_of_every_editor_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_text('{"a": "à 一"}', encoding=encoding)
    assert read_json(tmp_path / "a.json") == {"a": "à 一"}
    (tmp_path / "a.json").write_bytes(b'{\n"a": "\xe0"}')
    with pytest.raises(InputError, match="not UTF-8 \\(byte 0xe0 in line 2\\); expected a JSON file in UTF-8"):
        read_json(tmp_path / "a.json")


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    for name in ("in/b/walk.bvh", "in/b/RUN.BVH", "in/b/notes.txt", "out/jump.bvh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for link, to in (("in/a", "b"), ("in/b/round", "../../in"), ("in/more", "../out"), ("in/again", "../out")):
        (tmp_path / link).symlink_to(to)
    found = [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path / "in", (".bvh",))]
    assert found == ["in/again/jump.bvh", "in/b/RUN.BVH", "in/b/walk.bvh"]
