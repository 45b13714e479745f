"""Model folders that are not read, told by what they are."""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from llamo_jax.errors import InputError
from llamo_jax.files import read_json

_EXPECTED = "expected a Hugging Face model folder with config.json and *.safetensors"

# A GGUF file has its facts in front, each as a name with its length, the number of its type (8 is text) and a value.
_ARCHITECTURE = re.compile(rb"\x14\0{7}general\.architecture\x08\0{3}([\x01-\xff])\0{7}", re.DOTALL)
_HEAD = 1 << 16


class Listing(NamedTuple):
    """The names of the files of a model, and the files.

    Attributes:
      where: a folder, or an id on the Hugging Face Hub.
      names: of the files at the top.
      file: the path of the file of a name; what is on the Hub is fetched for it.
    """

    where: Path | str
    names: Collection[str]
    file: Callable[[str], Path]


def listing_of(folder: Path) -> Listing:
    """The files of a folder.

    Raises:
      InputError: no folder.
    """
    if folder.is_file() and folder.suffix == ".gguf":
        raise _gguf(folder, folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; {_EXPECTED}")
    return Listing(folder, {path.name for path in folder.iterdir()}, folder.joinpath)


def refuse_foreign(listing: Listing) -> None:
    """Called where there are no weights of the expected names.

    Raises:
      InputError: the files are those of a PEFT adapter or a GGUF model.
    """
    if "adapter_config.json" in listing.names:
        values = read_json(listing.file("adapter_config.json"))
        base = values.get("base_model_name_or_path") if isinstance(values, dict) else None
        of = f"of {base!r:.100}" if base else "that does not name its base model"
        raise InputError(f"{listing.where}: a PEFT adapter {of}; expected a whole model: merge the adapter into it")
    if files := sorted(name for name in listing.names if name.endswith(".gguf")):
        # Only of files that are here: on the Hub they are gigabytes.
        raise _gguf(listing.where, listing.file(files[0]) if isinstance(listing.where, Path) else None)


def _gguf(where: Path | str, path: Path | None) -> InputError:
    architecture = _architecture(path) if path else None
    of = f" of architecture {architecture!r:.40}" if architecture else ""
    return InputError(f"{where}: GGUF{of}, which is not read yet; {_EXPECTED}")


def _architecture(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    found = _ARCHITECTURE.search(head) if head.startswith(b"GGUF") else None
    return head[found.end() : found.end() + found[1][0]].decode(errors="replace") if found else None
