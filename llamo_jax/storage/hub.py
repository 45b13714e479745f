"""The Hugging Face Hub: folders by id, and back. Everything else in the project works without a network."""

import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llamo_jax.errors import InputError
from llamo_jax.storage.foreign import Listing

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Source(NamedTuple):
    """A folder, and where on the Hub it is from.

    Attributes:
      folder: on this machine.
      repo_id: "owner/name", or None for a folder that the user gave.
      revision: commit of the repository, or None.
    """

    folder: Path
    repo_id: str | None = None
    revision: str | None = None


def resolve(
    path_or_id: str | Path,
    patterns: Sequence[str],
    revision: str | None = None,
    *,
    also: Sequence[str] = (),
    choose: Callable[[Listing], Sequence[str]] | None = None,
) -> Source:
    """A folder on this machine for a path or a Hub id; what is on the Hub is downloaded, once.

    Args:
      path_or_id: a path wins where both could be meant.
      patterns: the files to fetch. A * stands for folders too.
      revision: branch, tag or commit, for ids.
      also: patterns of files that `choose` is to know of.
      choose: gives the names of the files to fetch, which may be others than it knows of; None fetches those of
        `patterns`.

    Raises:
      InputError: neither a folder nor a repository that can be fetched, or what `choose` raises.
    """
    path = Path(path_or_id)
    if path.exists() or not _ID.fullmatch(str(path_or_id)):
        return Source(path)
    repo_id = str(path_or_id)
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        folder = _fetch(repo_id, patterns, revision, also, choose)
    except GatedRepoError as error:
        raise InputError(
            f"{repo_id}: gated on the Hugging Face Hub; accept its licence there and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{repo_id}: no such folder here, and no such repository on the Hugging Face Hub (or a private one)"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f'{repo_id}: the Hugging Face Hub has no revision "{revision}" of it') from error
    except (*_network_errors(), HFValidationError) as error:
        raise InputError(
            f"{repo_id}: no such folder here, and the Hugging Face Hub cannot be reached ({_reason(error)}); "
            "check the network, or download it elsewhere and give the path of its folder"
        ) from error
    return Source(folder, repo_id, folder.name if _COMMIT.fullmatch(folder.name) else revision)


def _fetch(
    repo_id: str,
    patterns: Sequence[str],
    revision: str | None,
    also: Sequence[str],
    choose: Callable[[Listing], Sequence[str]] | None,
) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import DryRunError
    from huggingface_hub.utils import tqdm

    class Quiet(tqdm):
        """A bar of nothing: listing fetches nothing that would take a while."""

        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options | {"disable": True})

    def listed(names: Sequence[str]) -> dict[str, Any]:
        found = snapshot_download(repo_id, revision=revision, allow_patterns=names, dry_run=True, tqdm_class=Quiet)
        return {file.filename: file for file in found}

    names = list(patterns)
    try:
        files = listed([*names, *also])
        if choose:

            def file(name: str) -> Path:
                return Path(hf_hub_download(repo_id, name, revision=files[name].commit_hash))

            names = list(choose(Listing(repo_id, files.keys(), file)))
            if further := set(names) - files.keys():
                files |= listed(sorted(further))
            if missing := set(names) - files.keys():
                raise InputError(f"{repo_id}/{min(missing)}: no such file; expected all files that its index names")
            files = {name: files[name] for name in names}
        if sizes := [file.file_size or 0 for file in files.values() if file.will_download]:
            print(f"{repo_id}: {len(sizes)} files, {_readable(sum(sizes))} to fetch", file=sys.stderr)
    except DryRunError:
        pass  # no network, or no such repository: fetching finds it in the cache, or tells which
    return Path(snapshot_download(repo_id, revision=revision, allow_patterns=names))


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{math.ceil(size / 1e6)} MB"


def push(folder: Path, repo_id: str, *, private: bool | None = None, token: str | None = None, message: str) -> str:
    """Uploads a folder as one commit to a repository that is made if it is not there; returns the commit's URL.

    Raises:
      InputError: not logged in, not allowed, or no network.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError

    if not (token or get_token()):
        raise InputError(f"{repo_id}: not logged in to the Hugging Face Hub; run `hf auth login`, or pass a token")
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        # Symbolic links (an LLM that is linked, not copied) are uploaded as what they point to.
        return api.upload_folder(repo_id=repo_id, folder_path=str(folder), commit_message=message).commit_url
    except (*_network_errors(), HFValidationError) as error:
        raise InputError(f"{repo_id}: cannot be uploaded to the Hugging Face Hub ({_reason(error)})") from error


def _network_errors() -> tuple[type[Exception], ...]:
    """What the HTTP client raises, whichever the Hub's library uses: its own error is the first base of the
    library's."""
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, OSError)


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
