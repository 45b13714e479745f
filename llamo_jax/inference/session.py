"""Motion as it is made: sessions that go on for as long as somebody wants, one or many on a device.

A session's context is its prompt and the last latents, never more of them than a row of training holds: where it is
full, it is read anew from the prompt and the latest of them, at the positions that training had. So the tenth minute is
made as the first, in constant memory. A new prompt is read in the same way: the body goes on from where it is.

The VAE's decoder and the root go on through all of it.
"""

import dataclasses
import functools
import itertools
import json
import math
import threading
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from llamo_jax.config import Config, LlamoConfig, MotionVAEConfig, SamplingConfig, require
from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, read_arrays
from llamo_jax.inference import decoding
from llamo_jax.inference.buckets import round_up
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.inference.decoding import Decoding
from llamo_jax.models import flow, motion_vae
from llamo_jax.motion import MotionClip
from llamo_jax.motion.representation import (
    FPS,
    FRAMES_PER_LATENT,
    LATENTS_PER_SECOND,
    ORIGIN,
    Root,
    decode_positions,
    decode_rotations,
    root_after,
)
from llamo_jax.prompts import motion_prompt, unconditional_prompt
from llamo_jax.tokenizer import Tokenizer


class Loaded(Protocol):
    """What sessions need of a loaded model (`pretrained.Llamo`)."""

    bundle: Any
    config: LlamoConfig
    codec: MotionCodec
    tokenizer: Tokenizer

    def caption_latents(self, motions: Sequence[Float[np.ndarray, "n Z"]]) -> list[str]:
        """Captions of motions that are latents."""


LETTERS = 16
"""Of a token, at most, on average."""


@dataclasses.dataclass(frozen=True)
class Window(Config):
    """How much of a motion its context holds.

    Attributes:
      latents: at most, [BOM] counted as one: what a row of training holds.
      kept: of them, when the context is read anew because it is full.
      carried: of them, when it is read anew because the prompt is another.
      text: tokens of a prompt, at most.
    """

    latents: int = 96
    kept: int = 48
    carried: int = 16
    text: int = 128

    def __post_init__(self) -> None:
        found = f"window of {self.latents} latents, {self.kept} kept, {self.carried} carried, {self.text} tokens"
        require(0 < self.kept < self.latents and 0 < self.carried < self.latents and self.text > 0, found)

    @classmethod
    def of(cls, longest: int) -> Self:
        """For a model whose longest motion of training had so many latents."""
        return cls(longest + 1, kept=(longest + 1) // 2, carried=min(cls.carried, (longest + 1) // 2))

    @property
    def slots(self) -> int:
        """Of the cache: one size for whatever is asked, for which everything is compiled."""
        return round_up(self.text) + round_up(self.latents)


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """Four frames, as soon as they are there.

    Attributes:
      index: number of the latent in its session.
      text: the prompt under which it was made.
      features: un-normalised.
      start: where the body stands before them.
    """

    index: int
    text: str
    features: Float[np.ndarray, "4 272"]
    start: Root

    @functools.cached_property
    def joints(self) -> Float[np.ndarray, "4 22 3"]:
        """World positions in metres, Y up."""
        return decode_positions(self.features, self.start)

    @functools.cached_property
    def rotations(self) -> Float[np.ndarray, "4 22 3 3"]:
        """Parent-relative; the root's is in the world."""
        return decode_rotations(self.features, self.start)[0]

    @property
    def seconds(self) -> float:
        """When its first frame is due, from the session's start."""
        return self.index * FRAMES_PER_LATENT / FPS


@functools.partial(jax.jit, static_argnames=("config", "vae_config", "sampling"), donate_argnames=("state", "memory"))
def _advance(
    params: dict,
    config: LlamoConfig,
    vae: dict,
    vae_config: MotionVAEConfig,
    statistics: tuple[Array, Array, Array, Array],
    sampling: SamplingConfig,
    times: flow.Schedule,
    state: Decoding,
    memory: motion_vae.State,
    active: Bool[Array, " B"],
) -> tuple[Decoding, motion_vae.State, Float[Array, "B Z"], Float[Array, "B 4 272"], Bool[Array, " B"]]:
    """The next latent and frames of each sample that is active: one call of the device."""
    state, latent, ended = decoding.draw(params, config, sampling, times, state, active=active)
    feature_mean, feature_std, latent_mean, latent_std = statistics
    raw = latent * latent_std + latent_mean
    features, after = motion_vae.decode(vae, vae_config, raw[:, None], memory)
    memory = {name: jnp.where(active[:, None, None], after[name], memory[name]) for name in memory}
    return state, memory, latent, features * feature_std + feature_mean, ended


@functools.partial(jax.jit, donate_argnames="memory")
def _put_memory(memory: motion_vae.State, row: Array, one: motion_vae.State) -> motion_vae.State:
    return {name: memory[name].at[row].set(one[name][0]) for name in memory}


class Streams:
    """Sessions that share a device: a latent of all of them is one step.

    Sessions may be used from several threads. Whoever needs frames makes the step, for all that have none left.
    """

    def __init__(self, model: Loaded, sampling: SamplingConfig, *, capacity: int = 1, window: Window = Window()):
        """Sessions of a model.

        Args:
          model: that moves.
          sampling: how to draw.
          capacity: most sessions at a time: a step takes as long whether all of them are there or one.
          window: how much of a motion its context holds.

        Raises:
          InputError: the LLM has not as many positions as the window.
        """
        require(capacity >= 1, f"capacity is {capacity}; expected at least 1")
        needed, most = window.text + window.latents + 1, model.config.text.max_positions
        found = f"a prompt of {window.text} tokens and {window.latents} latents need {needed} positions"
        require(needed <= most, f"{found}; the LLM has {most}")
        self.model, self.sampling, self.window, self.capacity = model, sampling, window, capacity
        self._params, self._config, codec = model.bundle.params, model.config, model.codec
        self._times = decoding.schedule(self._params, sampling)
        self._statistics = tuple(
            jnp.asarray(part) for each in (codec.features, codec.latents) for part in (each.mean, each.std)
        )
        self._state: Decoding | None = None
        self._memory = motion_vae.decoder_state(codec.config, capacity)
        self._rows: list[MotionSession | None] = [None] * capacity
        self._lock = threading.RLock()

    def open(self, text: str, seed: int = 0, *, until_exit: bool = False, min_latents: int = 1) -> "MotionSession":
        """A session, from standing nowhere.

        Raises:
          InputError: all places are taken, or the prompt is empty or too long.
        """
        with self._lock:
            self.tokens(text)
            row = next((row for row, taken in enumerate(self._rows) if taken is None), None)
            if row is None:
                raise InputError(f"all {self.capacity} places for sessions are taken; close one, or ask again later")
            key = jax.random.fold_in(jax.random.key(seed), 0)  # as of the first text of `generate`
            session = MotionSession(self, row, text, key, until_exit=until_exit, min_latents=min_latents)
            self._rows[row] = session
            self._memory = _put_memory(self._memory, row, motion_vae.decoder_state(self.model.codec.config, 1))
            self._read(session, 0)
            return session

    def load(self, path: str | Path) -> "MotionSession":
        """A session that `MotionSession.save` wrote, which goes on to the bit.

        Raises:
          InputError: all places are taken, or it is no session, or one of another model or of other settings.
        """
        arrays = read_arrays(path)
        try:
            told = json.loads(str(arrays.pop("told")))
            prompts = [(int(index), str(text)) for index, text in told["prompts"]]
            session_of = {name: told[name] for name in ("index", "slots", "until_exit", "min_latents")}
            root, whose = Root(*map(float, told["root"])), told["whose"]
            key = jax.random.wrap_key_data(jnp.asarray(arrays.pop("key")))
            latents = arrays.pop("latents")
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"{path}: no saved session ({error!r:.80}); expected a file of `MotionSession.save`"
            ) from None
        if whose != self._whose():
            found = ", ".join(name for name, value in self._whose().items() if whose.get(name) != value)
            raise InputError(f"{path}: a session with another {found}; load it with its own model and settings")
        with self._lock:
            session = self.open(
                prompts[-1][1], until_exit=session_of["until_exit"], min_latents=session_of["min_latents"]
            )
            session.key, session.prompts, session._root = key, prompts, root
            session.index, session.slots = session_of["index"], session_of["slots"]
            session.latents.extend(latents)
            try:
                self._put(session.row, *_from_arrays(self._taken(session.row), arrays))
            except InputError as error:
                session.stop()
                raise InputError(f"{path}: {error}") from None
        return session

    def _whose(self) -> dict[str, Any]:
        """What a saved session must share with those that go on with it."""
        some = {"bom": self._params["motion"]["bom"], "mean": self.model.codec.latents.mean}
        settings = {"sampling": self.sampling, "window": self.window, "architecture": self._config}
        weights = {name: zlib.crc32(np.asarray(leaf, np.float32).tobytes()) for name, leaf in some.items()}
        return {"weights": weights} | {name: config.to_json() for name, config in settings.items()}

    def _taken(self, row: int) -> tuple[Decoding, motion_vae.State]:
        return decoding.take(self._state, row), {name: leaf[row][None] for name, leaf in self._memory.items()}

    def _put(self, row: int, one: Decoding, memory: motion_vae.State | None = None) -> None:
        if self.capacity == 1:
            self._state = one
        else:
            self._state = decoding.put(self._state or decoding.repeat(one, self.capacity), row, one)
        if memory is not None:
            self._memory = _put_memory(self._memory, row, memory)

    def tokens(self, text: str) -> list[list[int]]:
        """Token ids of a prompt, for each side of guidance.

        Raises:
          InputError: it is empty, or longer than the window has room for.
        """
        if len(text) > (most := LETTERS * self.window.text):  # not even tokenised
            raise InputError(f"the text has {len(text)} letters; expected at most {most}: make it shorter")
        sides = [motion_prompt(self.model.tokenizer, text)]
        if self.sampling.guided:
            sides.append(unconditional_prompt(self.model.tokenizer))
        if (found := max(map(len, sides))) > self.window.text:
            raise InputError(f"the text has {found} tokens; expected at most {self.window.text}: make it shorter")
        return sides

    def _read(self, session: "MotionSession", count: int) -> None:
        """Makes a session's context anew, of its prompt and its last `count` latents."""
        sides = self.tokens(session.text)
        room = self.window.slots - round_up(max(map(len, sides)))
        prompts, keys = [[side] for side in sides], session.key[None]
        if count:
            history = np.array(list(session.latents)[-count:], np.float32)
            padded = np.zeros((1, round_up(max(self.window.kept, self.window.carried)), history.shape[1]), np.float32)
            padded[0, : len(history)] = history
            one = decoding.resume(
                self._params, self._config, prompts, jnp.asarray(padded), jnp.array([len(history)]),
                room=room, keys=keys, index=jnp.array([session.index]),
            )  # fmt: skip
            session.slots = len(history)
        else:
            one = decoding.start(self._params, self._config, prompts, room=room, keys=keys)
            session.slots = 0
        self._put(session.row, one)

    def step(self) -> None:
        """Makes the next four frames of all sessions that have none left and are not at their end."""
        with self._lock:
            going = [session for session in self._rows if session is not None and session.hungry]
            if not going:
                return
            for session in going:
                if session.slots >= self.window.latents:
                    self._read(session, self.window.kept)
            active = np.zeros(self.capacity, bool)
            active[[session.row for session in going]] = True
            codec = self.model.codec
            self._state, self._memory, latents, features, ended = _advance(
                self._params, self._config, codec.params, codec.config, self._statistics, self.sampling, self._times,
                self._state, self._memory, jnp.asarray(active),
            )  # fmt: skip
            latents, features, ended = (np.asarray(each) for each in (latents, features, ended))
            for session in going:
                session.slots += 1
                session._take(latents[session.row], features[session.row], bool(ended[session.row]))

    def close(self, session: "MotionSession") -> None:
        """Frees a session's place."""
        with self._lock:
            if self._rows[session.row] is session:
                self._rows[session.row] = None


class MotionSession:
    """One motion without an end, as an iterator of `Chunk`.

    Attributes:
      text: the prompt.
      prompts: (number of the first latent, text) of each prompt so far.
      index: latents made so far.
      done: whether it is stopped, or has ended where the exit head says.
    """

    def __init__(self, streams: Streams, row: int, text: str, key: Array, *, until_exit: bool, min_latents: int):
        self.text = text
        self.prompts: list[tuple[int, str]] = [(0, text)]
        self.index = 0
        self.done = False
        self.row, self.key, self.slots = row, key, 0
        self.latents: deque[np.ndarray] = deque(maxlen=streams.window.latents)
        self._streams, self._until_exit, self._min_latents = streams, until_exit, min_latents
        self._root = ORIGIN
        self._ready: deque[Chunk] = deque()

    @property
    def hungry(self) -> bool:
        """Whether the next step is to make frames for it."""
        return not self._ready and not self.done

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        with self._streams._lock:
            if self.hungry:
                self._streams.step()
            if not self._ready:
                raise StopIteration
            return self._ready.popleft()

    def prompt(self, text: str) -> None:
        """Another text from here on: the body goes on from where it is.

        Raises:
          InputError: it is empty or too long; the session goes on as it was.
        """
        with self._streams._lock:
            self._streams.tokens(text)
            self.text = text
            self.prompts.append((self.index, text))
            self._streams._read(self, min(self._streams.window.carried, len(self.latents)))

    def stop(self) -> None:
        """Ends the session and frees its place."""
        self.done = True
        self._ready.clear()
        self._streams.close(self)

    def __enter__(self) -> "MotionSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def caption(self, seconds: float | None = None) -> str:
        """What the body has been doing, in the words of the model: over the last seconds, or all that its context
        may hold. It is told the motion alone, not the prompt.

        Raises:
          InputError: there is no motion yet, or the time is less than a latent.
        """
        with self._streams._lock:
            latents = list(self.latents)
        if seconds is not None:
            require(seconds >= 1 / LATENTS_PER_SECOND, f"{seconds} s are less than a latent; expected 0.14 s or more")
            latents = latents[-round(seconds * LATENTS_PER_SECOND) :]
        if not latents:
            raise InputError("nothing has moved yet; take a chunk of the session first")
        return self._streams.model.caption_latents([np.array(latents)])[0]

    def save(self, path: str | Path) -> None:
        """Writes all of it to an .npz file, for `Streams.load`. What is made and not taken yet is lost."""
        streams = self._streams
        with streams._lock:
            require(not self.done, "the session has ended; save it while it goes on")
            told = {
                "prompts": self.prompts, "index": self.index, "slots": self.slots, "root": self._root,
                "until_exit": self._until_exit, "min_latents": self._min_latents, "whose": streams._whose(),
            }  # fmt: skip
            arrays = _to_arrays(*streams._taken(self.row))
            latents, key = np.array(self.latents), jax.random.key_data(self.key)
        with atomic_path(path) as temporary:
            np.savez(temporary, told=json.dumps(told), latents=latents, key=key, **arrays)

    def clip(self, seconds: float) -> MotionClip:
        """The next seconds as a clip; fewer where the motion ends before."""
        require(0 < seconds < math.inf, f"duration is {seconds} s; expected more than 0")
        chunks = list(itertools.islice(self, math.ceil(round(seconds * LATENTS_PER_SECOND, 6))))
        if not chunks:
            raise InputError("the session has ended")
        joints, rotations = (
            np.concatenate([getattr(each, name) for each in chunks]) for name in ("joints", "rotations")
        )
        return MotionClip(joints, rotations, captions=tuple(dict.fromkeys(each.text for each in chunks)))

    def _take(self, latent: np.ndarray, features: np.ndarray, ended: bool) -> None:
        if self._until_exit and ended and self.index >= self._min_latents:
            self.stop()
            return
        self._ready.append(Chunk(self.index, self.text, features, self._root))
        self.latents.append(latent)
        self._root = root_after(features, self._root)
        self.index += 1


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _to_arrays(state: Decoding, memory: motion_vae.State) -> dict[str, np.ndarray]:
    plain = dataclasses.replace(state, keys=jax.random.key_data(state.keys))
    return {name: np.asarray(leaf) for name, leaf in _named((plain, memory)).items()}


def _from_arrays(
    like: tuple[Decoding, motion_vae.State], arrays: dict[str, np.ndarray]
) -> tuple[Decoding, motion_vae.State]:
    """The inverse of `_to_arrays`; raises InputError where names, shapes or types are not those of `like`."""
    expected = _to_arrays(*like)
    for name, leaf in expected.items():
        found = arrays.get(name)
        if found is None or found.shape != leaf.shape or found.dtype != leaf.dtype:
            raise InputError(f"a damaged session: {name} is {'missing' if found is None else found.shape}")
    structure = jax.tree.structure((dataclasses.replace(like[0], keys=0), like[1]))
    state, memory = jax.tree.unflatten(structure, [jnp.asarray(arrays[name]) for name in expected])
    return dataclasses.replace(state, keys=jax.random.wrap_key_data(state.keys)), memory
