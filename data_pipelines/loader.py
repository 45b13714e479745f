"""Training batches of the model: captioned latents, through prompts and tokens, packed into two streams."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import grain
import numpy as np
import tyro

from data_pipelines.index import Index
from data_pipelines.order import SampleOrder, mixed_seed
from data_pipelines.packing import Sample, packed_batches, text_only, without_prefix
from data_pipelines.prompt_cache import PromptCache, longest_prefix
from data_pipelines.records import LatentRecord
from data_pipelines.skipped import Reader, Skipped
from data_pipelines.streams import ShardedBatches, require_enough, rows_of_shard, sample_stream
from data_pipelines.tasks import TASKS, Drawn, Said, Task, wording
from llamo_jax import prompts
from llamo_jax.batch import Batch
from llamo_jax.config import Config, require
from llamo_jax.errors import InputError
from llamo_jax.motion.statistics import Statistics
from llamo_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class LoaderConfig(Config):
    """Shape of the batches and how samples are drawn."""

    text_len: int = 80
    """Text tokens in a row."""
    prefix_len: int | None = None
    """Tokens before motions in a row, where their keys are kept; text_len is then of what comes after motions. None is
    text_len."""
    motion_len: int = 64
    """Motion slots in a row; a motion of n latents takes n + 1."""
    condition_dropout: float = 0.1
    """Share of text-to-motion samples whose prompt is [BOS] alone, for classifier-free guidance."""
    balance_by: str | None = None
    """Name of a label; records are drawn by count ** -0.5 of its values."""
    min_speed: tyro.conf.Suppress[float] = 0.0
    """Motions slower than this (mean joint speed, m/s) are not drawn."""
    seed: tyro.conf.Suppress[int] = 0
    """The same seed gives the same batches."""
    prefetch: int = 4
    """Batches that a thread prepares ahead; 0 for none."""
    shards: int = 1
    """Parts of a batch, which hosts load by themselves; they divide the rows of every task. Another number gives other
    batches, another number of hosts does not."""

    @property
    def room_for_prefixes(self) -> int:
        """Tokens before motions in a row, where their keys are kept."""
        return self.prefix_len or self.text_len

    @property
    def max_latents(self) -> int:
        """Latents of the longest motion that a row holds whole: the last slot is its end."""
        return self.motion_len - 1

    def __post_init__(self) -> None:
        require(self.text_len >= 2, f"LoaderConfig.text_len is {self.text_len}; expected at least 2")
        require(
            self.prefix_len is None or self.prefix_len >= 2,
            f"LoaderConfig.prefix_len is {self.prefix_len}; expected at least 2",
        )
        require(self.motion_len >= 2, f"LoaderConfig.motion_len is {self.motion_len}; expected at least 2")
        require(
            0 <= self.condition_dropout <= 1,
            f"LoaderConfig.condition_dropout is {self.condition_dropout}; expected 0 to 1",
        )
        require(self.prefetch >= 0, f"LoaderConfig.prefetch is {self.prefetch}; expected 0 or more")
        require(self.shards >= 1, f"LoaderConfig.shards is {self.shards}; expected at least 1")


class LatentLoader(ShardedBatches):
    """Endless batches, task -> `Batch`, from latent records, each with its own number of rows.

    Shard s of S takes the draws s, s + S, s + 2S, ... of each task: an epoch draws each record once over all of them.
    No record is read before it is drawn: what is asked of all of them (length, labels, speed) comes from the index.
    One that cannot be read then is passed over.

    Args:
      records: to draw from.
      index: of the records.
      statistics: of the latents.
      tokenizer: of the LLM.
      eom_id: token id of [EOM].
      rows: task -> rows of a global batch; {"t2m": 6, "m2t": 2} trains three quarters on text-to-motion.
      config: shapes and sampling.

    Attributes:
      cache: of what comes before motions; None, unless it is set before the first batch is drawn. Batches have it as
        their prefix, and the text stream is what comes after motions; before a motion only the texts that are in it are
        drawn, each in one wording.
      numbers: of the records that are drawn from.
      cut: how many of them are longer than a row; their end is not learnt.
      skipped: what did not fit, as far as it was drawn.

    Raises:
      InputError: no record is left, or fewer than shards; one has no measured speed where that is asked for, a label
        to balance by is missing, a task does not exist, or its rows do not divide by the shards. While drawing: none of
        many records has a caption that fits, or more than 1 % of them are damaged.
    """

    def __init__(
        self,
        records: Sequence[LatentRecord],
        index: Index,
        statistics: Statistics,
        tokenizer: Tokenizer,
        eom_id: int,
        rows: Mapping[str, int],
        config: LoaderConfig,
    ):
        if not rows or set(rows) - set(TASKS) or min(rows.values()) < 1:
            expected = " and ".join(f'"{name}"' for name in TASKS)
            raise InputError(
                f"task mixture is {dict(rows)}; expected rows of at least one of {expected}, each 1 or more"
            )
        self._statistics, self._tokenizer = statistics, tokenizer
        self._eom_id, self._config = eom_id, config
        self.cache: PromptCache | None = None
        self.rows, self.shards, self.prefetch = dict(rows), config.shards, config.prefetch
        self._rows = rows_of_shard(self.rows, config.shards)
        self.numbers = np.flatnonzero(_moving(index, config.min_speed))
        if not len(self.numbers):
            slow = f" moves at {config.min_speed} m/s: lower min_speed" if len(index) else " is there"
            raise InputError(f"none of {len(index)} records{slow}")
        require_enough(len(self.numbers), config.shards, "records")
        self.cut = int((index.lengths[self.numbers] > config.max_latents).sum())
        weights = index.balanced_weights(self.numbers, config.balance_by)
        # Each task draws in an order of its own.
        self._orders = [SampleOrder(weights, mixed_seed(config.seed, number)) for number in range(len(self.rows))]
        self.skipped = Skipped()
        self._reader = Reader(records, len(self.numbers), len(statistics.mean), self.skipped)

    def _shard(self, shard: int) -> grain.IterDataset[dict[str, Batch]]:
        config, cached = self._config, self.cache is not None
        streams = []
        for number, (name, rows) in enumerate(self._rows.items()):
            sampler = self._sampler(TASKS[name], self._orders[number], shard)
            samples = sample_stream(sampler, config.seed, number, shard)
            packed = packed_batches(
                samples,
                rows=rows,
                text_len=config.text_len if TASKS[name].text_follows or not cached else None,
                motion_len=config.motion_len,
                prefix_len=config.room_for_prefixes if cached else None,
                seed=mixed_seed(config.seed, number, shard),
                shards=config.shards,
                batch=self._batch,
            )
            streams.append(packed)
        return _named(tuple(self._rows), streams)

    def _batch(self, arrays: dict[str, np.ndarray]) -> Batch:
        if self.cache is None:
            return Batch.of(arrays)
        keys, values = self.cache.keys_and_values(arrays.pop("prefix/rows"))
        arrays = arrays | {"prefix/keys": keys, "prefix/values": values}
        if "text/tokens" not in arrays:
            nothing = np.zeros((len(keys), 0), np.int32)
            arrays |= {f"text/{name}": nothing for name in ("tokens", "positions", "segments")}
        return Batch.of(arrays)

    def _sampler(
        self, task: Task, order: SampleOrder, shard: int
    ) -> Callable[[int, np.random.Generator], Sample | None]:
        config, room = self._config, self._config.max_latents
        in_a_row = 0

        def sample(draw: int, rng: np.random.Generator) -> Sample | None:
            nonlocal in_a_row
            record = self._reader.read(int(self.numbers[order[shard + draw * config.shards]]))
            if record is None:
                return None
            everything = task.texts(record)
            texts = [said for said in everything if said.text.strip()]
            self.skipped.captions += len(everything) - len(texts)
            if self.cache is not None and not task.text_follows:
                texts = texts[: self.cache.texts]
            needed = [self._tokens(task, said) for said in texts]
            fitting = [
                said
                for said, (prefix, text) in zip(texts, needed, strict=True)
                if prefix <= config.room_for_prefixes and text <= config.text_len
            ]
            self.skipped.captions += len(texts) - len(fitting)
            if not fitting:
                self.skipped.records += 1
                in_a_row += 1
                self._require_some(in_a_row, needed[-1] if needed else (0, 0))
                return None
            in_a_row = 0
            drawn = Drawn(
                fitting[rng.integers(len(fitting))],
                self._statistics.normalise(record.latents[:room]),
                complete=record.complete and len(record.latents) <= room,
                condition_dropout=config.condition_dropout,
                one_wording=self.cache is not None,
            )
            made = task.sample(drawn, self._tokenizer, self._eom_id, rng)
            return made if self.cache is None else without_prefix(made, self.cache.rows, follows=task.text_follows)

        return sample

    def _tokens(self, task: Task, said: Said) -> tuple[int, int]:
        """Tokens that a sentence takes among the prefixes, and in the text stream, in its longest wording."""
        around = task.text_lengths(said, self._tokenizer, self._eom_id)
        if self.cache is None:
            return 0, max(before + after for before, after in around)
        return longest_prefix(task, said, self._tokenizer), max(after for _, after in around)

    def _require_some(self, in_a_row: int, last: tuple[int, int]) -> None:
        if in_a_row < max(1000, 2 * len(self.numbers) // self.shards):
            return
        (prefix, text), room = last, self._config.room_for_prefixes
        found = f"none of {in_a_row} records that were drawn has a caption that fits"
        if prefix > room:
            raise InputError(
                f"{found} {room} tokens before its motion (the last takes {prefix}): raise "
                f"{'prefix_len' if self._config.prefix_len else 'text_len'}"
            )
        raise InputError(
            f"{found} {self._config.text_len} text tokens with its prompt (the last takes {text}): raise text_len"
        )


class TextLoader(ShardedBatches):
    """Endless text-only batches {"text": ...}, for pretraining a text tower on captions in the wordings of both tasks.

    A sample says the same motion twice: a text-to-motion prompt with one caption, then a motion-to-text prompt with
    another and [EOS], without the motion between them ([BOM] and [EOM] are no tokens of the LLM). To say "left" again,
    the tower has to keep left and right apart. Single captions never ask for it: either word may come next, and
    the embeddings of the two grow alike. Where two do not fit a row, the sample ends after the first. Batches have no
    motion arrays.

    Args:
      captions: of each motion; motions without any are passed over.
      tokenizer: of the LLM.
      rows: of a global batch.
      config: text_len, seed, prefetch and shards are used.

    Attributes:
      dropped: captions that do not fit a row.

    Raises:
      InputError: no caption fits, fewer motions have one than there are shards, or rows do not divide by the shards.
    """

    def __init__(
        self,
        captions: Iterable[Sequence[str]],
        tokenizer: Tokenizer,
        rows: int,
        config: LoaderConfig,
    ):
        given = [[caption for caption in of_motion if caption.strip()] for of_motion in captions]
        self._tokenizer, self._config = tokenizer, config
        self.shards, self.prefetch = config.shards, config.prefetch
        self._rows = rows_of_shard({"text": rows}, config.shards)["text"]
        fitting = [
            [caption for caption in of_motion if self._longest_text(caption) <= config.text_len] for of_motion in given
        ]
        self._captions = [of_motion for of_motion in fitting if of_motion]
        count = sum(map(len, given))
        self.dropped = count - sum(map(len, self._captions))
        if not self._captions:
            raise InputError(
                f"none of {count} captions fits {config.text_len} text tokens with its prompt: raise text_len"
            )

        require_enough(len(self._captions), config.shards, "motions with captions")
        self._order = SampleOrder(np.ones(len(self._captions)), config.seed)

    def _shard(self, shard: int) -> grain.IterDataset[dict[str, Batch]]:
        config = self._config

        def sample(draw: int, rng: np.random.Generator) -> Sample:
            captions = self._captions[self._order[shard + draw * config.shards]]
            first, second = (captions[rng.integers(len(captions))] for _ in range(2))
            begin = self._first(first, wording(rng, len(prompts.TEXT_TO_MOTION)))
            end = self._second(second, wording(rng, len(prompts.MOTION_TO_TEXT)))
            fits = len(begin) + len(end) <= config.text_len
            return text_only(begin + end if fits else [*begin, self._tokenizer.eos_id])

        # The seed of shard 0 is that of no shards: trailing zeros do not count.
        samples = sample_stream(sample, config.seed, 0, shard)
        packed = packed_batches(
            samples,
            rows=self._rows,
            text_len=config.text_len,
            motion_len=None,
            seed=mixed_seed(config.seed, 0, shard),
            shards=config.shards,
        )
        return _named(("text",), [packed])

    def _first(self, caption: str, wording: int) -> list[int]:
        return prompts.motion_prompt(self._tokenizer, caption, wording)

    def _second(self, caption: str, wording: int) -> list[int]:
        before, (_, *after) = prompts.caption_prompt(self._tokenizer, -1, wording)
        # One text: what starts a sequence stands at its start alone.
        start, _ = self._tokenizer.turns["m2t"]
        return [*before[len(start) :], *after, *prompts.caption_target(self._tokenizer, caption)]

    def _longest_text(self, caption: str) -> int:
        return 1 + max(len(self._first(caption, number)) for number in range(len(prompts.TEXT_TO_MOTION)))


def _moving(index: Index, min_speed: float) -> np.ndarray:
    if not min_speed:
        return np.ones(len(index), bool)
    if unknown := int(np.isnan(index.speeds).sum()):
        found = f"{unknown} of {len(index)} records have no measured speed"
        raise InputError(f"{found}; expected one for min_speed {min_speed}: let their data set measure it")
    return index.speeds >= min_speed


def _named(names: tuple[str, ...], streams: list[grain.IterDataset]) -> grain.IterDataset[dict[str, Batch]]:
    return grain.experimental.ZipIterDataset(streams).map(lambda batches: dict(zip(names, batches, strict=True)))
