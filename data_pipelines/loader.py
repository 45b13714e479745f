"""Training batches of the model: captioned latents, through prompts and tokens, packed into two streams."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import grain
import numpy as np

from data_pipelines.packing import Batch, Sample, motion_to_text, packed_batches, text_only, text_to_motion
from data_pipelines.sampling import SampleOrder, mixed_seed, prefetched, record_weights, sample_stream, stable_hash
from data_pipelines.shards import LatentRecord, Record
from data_pipelines.statistics import Statistics
from llamo_jax import prompts
from llamo_jax.config import Config, require
from llamo_jax.errors import InputError
from llamo_jax.tokenizer import Tokenizer

PLAIN_SHARE = 0.5
"""How often the first wording of a task is used, which is inference's; in the rest of the draws each wording is as likely."""


@dataclasses.dataclass(frozen=True)
class LoaderConfig(Config):
    """Shape of the batches and how samples are drawn."""

    text_len: int = 80
    """Text tokens in a row."""
    motion_len: int = 64
    """Motion slots in a row; a motion of n latents takes n + 1."""
    condition_dropout: float = 0.1
    """Share of text-to-motion samples whose prompt is [BOS] alone, for classifier-free guidance."""
    balance_by: str | None = None
    """Name of a label; records are drawn by count ** -0.5 of its values."""
    seed: int = 0
    """The same seed gives the same batches."""
    prefetch: int = 4
    """Batches that a thread prepares ahead; 0 for none."""

    def __post_init__(self) -> None:
        require(self.text_len >= 2, f"LoaderConfig.text_len is {self.text_len}; expected at least 2")
        require(self.motion_len >= 2, f"LoaderConfig.motion_len is {self.motion_len}; expected at least 2")
        require(0 <= self.condition_dropout <= 1, f"LoaderConfig.condition_dropout is {self.condition_dropout}; expected 0 to 1")
        require(self.prefetch >= 0, f"LoaderConfig.prefetch is {self.prefetch}; expected 0 or more")


@dataclasses.dataclass(frozen=True)
class Fit:
    """What of the records fits the rows. Nothing is left out without being counted here.

    Attributes:
      records: that are drawn from.
      cropped: records whose latents are cut to the row; their end is not learnt.
      captions: that are drawn from.
      captions_dropped: captions with a prompt longer than a row.
      records_dropped: records that have no caption left.
    """

    records: int
    cropped: int
    captions: int
    captions_dropped: int
    records_dropped: int

    def __str__(self) -> str:
        return (
            f"{self.records} records with {self.captions} captions; {self.cropped} records cropped, "
            f"{self.captions_dropped} captions and {self.records_dropped} records dropped as too long"
        )


class LatentLoader:
    """Endless batches {"t2m": ..., "m2t": ...} from latent records, each with its own number of rows.

    `iter(loader)` is a Grain iterator: batches depend on the seed and the position alone; `get_state` is plain JSON, and after
    `set_state` an iterator goes on exactly where the other was.

    Args:
      records: to draw from. Every host reads all and draws its own share (`SampleOrder`).
      statistics: of the latents.
      tokenizer: of the LLM.
      eom_id: token id of [EOM].
      rows: task -> rows of a batch on this host; {"t2m": 6, "m2t": 2} trains three quarters on text-to-motion.
      config: shapes and sampling.
      process_index: which host this is.
      process_count: how many hosts there are.

    Attributes:
      fit: what was cropped and dropped.

    Raises:
      InputError: no record has a caption that fits, a label to balance by is missing, or a task does not exist.
    """

    def __init__(
        self,
        records: Sequence[LatentRecord],
        statistics: Statistics,
        tokenizer: Tokenizer,
        eom_id: int,
        rows: Mapping[str, int],
        config: LoaderConfig,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ):
        if not rows or set(rows) - {"t2m", "m2t"} or min(rows.values()) < 1:
            raise InputError(f'task mixture is {dict(rows)}; expected rows of at least one of "t2m" and "m2t", each 1 or more')
        self._statistics, self._tokenizer, self._eom_id, self._config = statistics, tokenizer, eom_id, config
        self._process = process_index, process_count
        self.tasks = dict(rows)
        self._records, self._captions, self.fit = self._fitting(records)
        self._weights = record_weights(self._records, config.balance_by)

    def __iter__(self) -> grain.DatasetIterator[dict[str, Batch]]:
        config, (process_index, process_count) = self._config, self._process
        streams = []
        for number, (task, rows) in enumerate(self.tasks.items()):
            # Each task draws in an order of its own; each host draws its own captions.
            order = SampleOrder(self._weights, mixed_seed(config.seed, number), process_index, process_count)
            samples = sample_stream(self._sampler(task, order), config.seed, number, process_index)
            packing_seed = mixed_seed(config.seed, number, process_index)
            streams.append(
                packed_batches(samples, rows=rows, text_len=config.text_len, motion_len=config.motion_len, seed=packing_seed)
            )
        return iter(prefetched(_named(tuple(self.tasks), streams), config.prefetch))

    def _sampler(self, task: str, order: SampleOrder) -> Callable[[int, np.random.Generator], Sample]:
        tokenizer, config = self._tokenizer, self._config
        room = config.motion_len - 1
        around = [prompts.caption_prompt(tokenizer, self._eom_id, number) for number in range(len(prompts.MOTION_TO_TEXT))]

        def sample(draw: int, rng: np.random.Generator) -> Sample:
            index = order[draw]
            record, captions = self._records[index], self._captions[index]
            caption = captions[rng.integers(len(captions))]
            latents = self._statistics.normalise(record.latents[:room])
            if task == "m2t":
                before, after = around[_wording(rng, len(around))]
                return motion_to_text(before, latents, after, prompts.caption_target(tokenizer, caption))
            if rng.random() < config.condition_dropout:
                prompt = prompts.unconditional_prompt(tokenizer)
            else:
                prompt = prompts.motion_prompt(tokenizer, caption, _wording(rng, len(prompts.TEXT_TO_MOTION)))
            return text_to_motion(prompt, latents, complete=record.complete and len(record.latents) <= room)

        return sample

    def _fitting(self, records: Sequence[LatentRecord]) -> tuple[list[LatentRecord], list[tuple[str, ...]], Fit]:
        """The records that have captions that fit, those captions, and the count of what does not."""
        kept, captions, dropped, longest = [], [], 0, 0
        for record in records:
            lengths = [self._longest_text(caption) for caption in record.captions]
            fitting = tuple(c for c, length in zip(record.captions, lengths, strict=True) if length <= self._config.text_len)
            dropped += len(record.captions) - len(fitting)
            longest = max(longest, *lengths, 0)
            if fitting:
                kept.append(record)
                captions.append(fitting)
        if not kept:
            raise InputError(
                f"none of {len(records)} records has a caption that fits {self._config.text_len} text tokens with its prompt "
                f"(the longest takes {longest}): raise text_len"
            )
        cropped = sum(len(record.latents) >= self._config.motion_len for record in kept)
        return kept, captions, Fit(len(kept), cropped, sum(map(len, captions)), dropped, len(records) - len(kept))

    def _longest_text(self, caption: str) -> int:
        lengths = []
        if "t2m" in self.tasks:
            lengths += [len(prompts.motion_prompt(self._tokenizer, caption, n)) for n in range(len(prompts.TEXT_TO_MOTION))]
        if "m2t" in self.tasks:
            target = len(prompts.caption_target(self._tokenizer, caption))
            for number in range(len(prompts.MOTION_TO_TEXT)):
                before, after = prompts.caption_prompt(self._tokenizer, self._eom_id, number)
                lengths.append(len(before) + len(after) + target)
        return max(lengths)


class TextLoader:
    """Endless text-only batches {"text": ...}, for pretraining a text tower on captions in the wordings of both tasks.

    A sample says the same motion twice: a text-to-motion prompt with one caption, then a motion-to-text prompt with another and [EOS],
    without the motion between them ([BOM] and [EOM] are no tokens of the LLM). To say "left" again, the tower has to keep left and right
    apart, which single captions never ask for: either word may come next, so that their embeddings grow alike. Where two do not fit a
    row, the sample ends after the first. The iterator is as `LatentLoader`'s; its batches have no motion arrays.

    Args:
      captions: of each motion; motions without any are passed over.
      tokenizer: of the LLM.
      rows: of a batch on this host.
      config: text_len, seed and prefetch are used.
      process_index: which host this is.
      process_count: how many hosts there are.

    Attributes:
      dropped: captions that do not fit a row.

    Raises:
      InputError: no caption fits.
    """

    def __init__(
        self,
        captions: Iterable[Sequence[str]],
        tokenizer: Tokenizer,
        rows: int,
        config: LoaderConfig,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ):
        given = [[caption for caption in of_motion if caption.strip()] for of_motion in captions]
        self._tokenizer, self._rows, self._config = tokenizer, rows, config
        self._process = process_index, process_count
        fitting = [[caption for caption in of_motion if self._longest_text(caption) <= config.text_len] for of_motion in given]
        self._captions = [of_motion for of_motion in fitting if of_motion]
        count = sum(map(len, given))
        self.dropped = count - sum(map(len, self._captions))
        if not self._captions:
            raise InputError(f"none of {count} captions fits {config.text_len} text tokens with its prompt: raise text_len")

    def __iter__(self) -> grain.DatasetIterator[dict[str, Batch]]:
        config, (process_index, process_count) = self._config, self._process
        order = SampleOrder(np.ones(len(self._captions)), config.seed, process_index, process_count)

        def sample(draw: int, rng: np.random.Generator) -> Sample:
            captions = self._captions[order[draw]]
            first, second = (captions[rng.integers(len(captions))] for _ in range(2))
            begin = self._first(first, _wording(rng, len(prompts.TEXT_TO_MOTION)))
            end = self._second(second, _wording(rng, len(prompts.MOTION_TO_TEXT)))
            fits = len(begin) + len(end) <= config.text_len
            return text_only(begin + end if fits else [*begin, self._tokenizer.eos_id])

        samples = sample_stream(sample, config.seed, process_index)
        packing_seed = mixed_seed(config.seed, process_index)
        batches = packed_batches(samples, rows=self._rows, text_len=config.text_len, motion_len=None, seed=packing_seed)
        return iter(prefetched(_named(("text",), [batches]), config.prefetch))

    def _first(self, caption: str, wording: int) -> list[int]:
        return prompts.motion_prompt(self._tokenizer, caption, wording)

    def _second(self, caption: str, wording: int) -> list[int]:
        (_, *before), (_, *after) = prompts.caption_prompt(self._tokenizer, -1, wording)
        return [*before, *after, *prompts.caption_target(self._tokenizer, caption)]

    def _longest_text(self, caption: str) -> int:
        return 1 + max(len(self._first(caption, number)) for number in range(len(prompts.TEXT_TO_MOTION)))


def evaluation_examples(records: Sequence[Record], limit: int | None = None) -> Iterator[tuple[str, Record]]:
    """(caption, record) of every record, or of `limit` spread evenly over them; which caption depends on the record's name alone."""
    numbers = range(len(records)) if limit is None else np.linspace(0, len(records) - 1, min(limit, len(records))).round().astype(int)
    for number in numbers:
        record = records[int(number)]
        if record.captions:
            yield record.captions[stable_hash(record.name) % len(record.captions)], record


def _wording(rng: np.random.Generator, count: int) -> int:
    return 0 if rng.random() < PLAIN_SHARE else int(rng.integers(count))


def _named(names: tuple[str, ...], streams: list[grain.IterDataset]) -> grain.IterDataset[dict[str, Batch]]:
    return grain.experimental.ZipIterDataset(streams).map(lambda batches: dict(zip(names, batches, strict=True)))
