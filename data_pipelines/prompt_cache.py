"""Keys and values that the frozen LLM gives to what comes before a motion: computed once, kept in a file that is mapped
into memory, and read by the loader.

Nothing that trains lies before a motion, so that its text costs the same in every step for nothing. Prompts share what
they begin with: a token's keys depend on the tokens up to it alone, so that the file holds each beginning once (a
trie). They are kept in float16, which rounds them to 11 bits.
"""

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from data_pipelines.records import LatentRecord
from data_pipelines.tasks import Said, Task, Texts
from llamo_jax.config import LLMConfig
from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, read_json, require_replaceable
from llamo_jax.tokenizer import Tokenizer

Encode = Callable[..., tuple[Float[np.ndarray, "B L K T H"], Float[np.ndarray, "B L K T H"]]]
"""(tokens [B, T], padded on the right; keys and values [L, K, S, H] of what comes before all of them, or None) ->
rotated keys and values of every layer (`llamo.prefix_keys`)."""

TYPE = np.dtype(np.float16)
_KEYS, _PROMPTS = "keys.npy", "prompts.json"
_VERSION = 1
_ROWS = 16  # prompts that are encoded at once
_BUCKET = 4  # their length is a multiple of this, so that few shapes compile


class Trie:
    """Prompts, and a number for each of their beginnings."""

    def __init__(self) -> None:
        self.prompts: dict[tuple[int, ...], Int[np.ndarray, " n"]] = {}
        self._nodes: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        """Number of beginnings: rows of the file."""
        return len(self._nodes)

    def copy(self) -> "Trie":
        """Another with the same prompts."""
        other = Trie()
        other.prompts, other._nodes = dict(self.prompts), dict(self._nodes)
        return other

    def add(self, ids: Sequence[int]) -> None:
        """Takes in a prompt and all that it begins with."""
        if (key := tuple(ids)) not in self.prompts:
            self.prompts[key] = self.rows(key)

    def rows(self, ids: Sequence[int]) -> Int[np.ndarray, " n"]:
        """The numbers of the beginnings of a prompt, the shortest first; new ones are added."""
        node, rows = -1, []
        for token in ids:
            node = self._nodes.setdefault((node, token), len(self._nodes))
            rows.append(node)
        return np.array(rows, np.int64)


def readable(records: Sequence[LatentRecord], numbers: Iterable[int]) -> Iterator[LatentRecord]:
    """The records of these numbers but those that are damaged, which the loader counts when it draws them."""
    for number in numbers:
        with contextlib.suppress(InputError):
            yield records[number]


def longest_prefix(task: Task, said: Said, tokenizer: Tokenizer) -> int:
    """Tokens before a motion, at most, where a sentence has one wording."""
    return max(map(len, task.prefixes(said, tokenizer)))


def plan(
    records: Iterable[Texts], tasks: Sequence[Task], tokenizer: Tokenizer, *, tokens: int, prefix_len: int
) -> tuple[Trie, int, int]:
    """Which prompts are kept: of each record the first few of its texts, each in one wording.

    Args:
      records: that are drawn from.
      tasks: that they are drawn for.
      tokenizer: of the LLM.
      tokens: beginnings that there is room for.
      prefix_len: tokens of a row; texts whose prompts are longer are left out.

    Returns:
      The prompts, how many texts of each record they are, and how many texts a record has at most.

    Raises:
      InputError: no record has a text, no prompt fits, or there is no room for one text of each.
    """
    texts = [(task, [said for said in task.texts(record) if said.text.strip()]) for record in records for task in tasks]
    trie, most = Trie(), max((len(each) for _, each in texts), default=0)
    if not most:
        raise InputError("no record has a text whose keys could be kept; set prompt_cache to 0")
    for count in range(most):
        larger = trie.copy()
        for task, each in texts:
            for said in each[count : count + 1]:
                if longest_prefix(task, said, tokenizer) <= prefix_len:
                    for ids in task.prefixes(said, tokenizer):
                        larger.add(ids)
        if len(larger) > tokens:
            if not count:
                raise InputError(
                    f"one text of each record begins with {len(larger):,} tokens, and there is room for {tokens:,}: "
                    f"raise prompt_cache, or set it to 0"
                )
            return trie, count, most
        if not larger.prompts:
            raise InputError(f"no prompt of a text fits {prefix_len} tokens; raise prefix_len")
        trie = larger
    return trie, most, most


class PromptCache:
    """Kept keys and values.

    Attributes:
      texts: texts of each record whose prompts are here: the first ones.

    Raises:
      InputError: in `open`, no such file, or a damaged one.
    """

    def __init__(self, trie: Trie, texts: int, kept: Float[np.ndarray, "N 2 L K H"]):
        self._trie, self.texts, self._kept = trie, texts, kept

    @classmethod
    def open(cls, path: Path) -> Self:
        """The cache of a folder, mapped into memory."""
        values = read_json(path / _PROMPTS)
        try:
            trie = Trie()
            for ids in values["prompts"]:
                trie.add(ids)
            kept = np.load(path / _KEYS, mmap_mode="r")
            if len(kept) != len(trie):
                raise ValueError(f"{len(kept)} rows for {len(trie)} tokens")
            return cls(trie, values["texts"], kept)
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(f"{path}: not a cache of prompts ({error}); remove it") from error

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self._kept.nbytes

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self._trie)

    def rows(self, ids: Sequence[int]) -> Int[np.ndarray, " n"]:
        """Where the keys and values of a prompt are."""
        return self._trie.prompts[tuple(ids)]

    def keys_and_values(
        self, rows: Int[np.ndarray, "B T"]
    ) -> tuple[Float[np.ndarray, "B L K T H"], Float[np.ndarray, "B L K T H"]]:
        """What is at these places, for a batch."""
        kept = self._kept[rows]  # [B, T, 2, L, K, H]
        keys, values = (np.ascontiguousarray(np.moveaxis(kept[:, :, part], 1, 3)) for part in (0, 1))
        return keys, values


def prompt_cache(
    path: Path,
    records: Iterable[Texts],
    tasks: Sequence[Task],
    tokenizer: Tokenizer,
    *,
    encode: Encode,
    llm: LLMConfig,
    tower: int,
    gigabytes: float,
    prefix_len: int,
) -> PromptCache:
    """The cache of a folder, which is written unless it holds these very prompts of this very tower.

    Args:
      path: folder.
      records: that are drawn from; all captions are read.
      tasks: that they are drawn for.
      tokenizer: of the LLM.
      encode: runs the tower.
      llm: config of the tower.
      tower: fingerprint of its weights.
      gigabytes: the file's largest size, in 10^9 bytes.
      prefix_len: as for `plan`.

    Raises:
      InputError: as `plan`; the disk has no room for the file; something else is at `path`; keys are beyond the largest
        number of the file's type.
    """
    shape = llm.num_layers, llm.num_kv_heads, llm.head_dim
    per_token = 2 * int(np.prod(shape)) * TYPE.itemsize
    room = int(gigabytes * 1e9 / per_token)
    trie, texts, most = plan(records, tasks, tokenizer, tokens=room, prefix_len=prefix_len)
    prompts = [list(ids) for ids in trie.prompts]
    facts = {"version": _VERSION, "llm": llm.to_json(), "tower": tower, "texts": texts, "prompts": prompts}
    if _holds(path, facts):
        return PromptCache.open(path)
    require_replaceable(path, lambda found: (found / _PROMPTS).exists(), "a cache of prompts")
    if path.exists():
        shutil.rmtree(path)  # of another tower or of other texts: two would take twice the room
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.stem}-*"):
        shutil.rmtree(left)  # of a run that was killed while it wrote
    # A file that is mapped takes its room while it is written, and kills the process where there is none.
    if (free := shutil.disk_usage(path.parent).free) < 1.1 * len(trie) * per_token:
        found = f"{free / 1e9:.1f} GB are free, and kept prompts take {len(trie) * per_token / 1e9:.1f}"
        raise InputError(f"{path}: {found}; lower prompt_cache, or make room")
    print(f"prompts: {len(trie.prompts):,} of {texts} of {most} texts a record, {len(trie):,} tokens, "
          f"{len(trie) * per_token / 1e9:.2f} GB", flush=True)  # fmt: skip
    with atomic_path(path, directory=True) as folder:
        kept = np.lib.format.open_memmap(folder / _KEYS, "w+", TYPE, (len(trie), 2, *shape))
        _encode(trie, encode, kept)
        kept.flush()
        (folder / _PROMPTS).write_text(json.dumps(facts), encoding="utf-8")
    return PromptCache.open(path)


def _holds(path: Path, facts: dict[str, Any]) -> bool:
    try:
        return (path / _KEYS).exists() and read_json(path / _PROMPTS) == facts
    except InputError:
        return False


def _encode(trie: Trie, encode: Encode, kept: Float[np.ndarray, "N 2 L K H"]) -> None:
    common, written = _common(trie), np.zeros(len(trie), bool)
    after = [ids for ids in trie.prompts if common and ids[: len(common)] == common and ids != common]
    others = {common, *trie.prompts} - {*after, ()}
    _encode_after((), [*others], trie, encode, kept, written)
    _encode_after(common, after, trie, encode, kept, written)


def _common(trie: Trie) -> tuple[int, ...]:
    """The beginning that saves most: many prompts have it, and it is long (a chat template's turns)."""
    best, saved = (), 0
    for length in range(1, max(map(len, trie.prompts))):
        ((beginning, count),) = Counter(ids[:length] for ids in trie.prompts if len(ids) > length).most_common(1)
        if count > 1 and length * count > saved:
            best, saved = beginning, length * count
    return best


def _encode_after(
    before: tuple[int, ...],
    prompts: Sequence[tuple[int, ...]],
    trie: Trie,
    encode: Encode,
    kept: Float[np.ndarray, "N 2 L K H"],
    written: Bool[np.ndarray, " N"],
) -> None:
    """Fills in what prompts have after a beginning, whose own keys and values are there."""
    given = None
    if before:
        rows = trie.rows(before)
        given = tuple(np.moveaxis(kept[rows, part].astype(np.float32), 0, 2) for part in (0, 1))
    skip = len(before)
    # Longest first: what others begin with is there before it is looked at.
    prompts = sorted(prompts, key=lambda ids: (-len(ids), ids))
    for start in tqdm(range(0, len(prompts), _ROWS), desc="prompts", unit="batch", delay=1, mininterval=10):
        rows_of = {ids: trie.rows(ids)[skip:] for ids in prompts[start : start + _ROWS]}
        chunk = [(ids[skip:], rows) for ids, rows in rows_of.items() if not written[rows].all()]
        if not chunk:
            continue
        tokens = np.zeros((_ROWS, -(-len(chunk[0][0]) // _BUCKET) * _BUCKET), np.int32)
        for row, (ids, _) in zip(tokens, chunk, strict=False):
            row[: len(ids)] = ids
        parts = [np.moveaxis(np.asarray(part, np.float32), 3, 1) for part in encode(tokens, given)]  # [B, T, L, K, H]
        for number, (ids, rows) in enumerate(chunk):
            new = ~written[rows]
            for part, values in enumerate(parts):
                if not np.abs(values[number, : len(ids)]).max() < np.finfo(TYPE).max:
                    raise InputError("keys or values of prompts are too large for float16; set prompt_cache to 0")
                kept[rows[new], part] = values[number, : len(ids)][new]
            written[rows] = True
