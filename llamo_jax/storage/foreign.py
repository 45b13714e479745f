"""Model folders that are not read, told by what they are."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from llamo_jax.errors import InputError
from llamo_jax.files import read_json

_EXPECTED = "expected a Hugging Face model folder with config.json and *.safetensors"


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
        raise _gguf(folder)
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
    if any(name.endswith(".gguf") for name in listing.names):
        raise _gguf(listing.where)


def _gguf(where: Path | str) -> InputError:
    if isinstance(where, Path):
        return InputError(f"{where}: GGUF; expected the folder that `llamo_jax.storage.gguf_llm.converted` makes of it")
    return InputError(f"{where}: GGUF, which is read from files on this machine; fetch one and give its path")
