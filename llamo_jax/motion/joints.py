"""Which joint of a file is which of SMPL's: by names, by a map that a person wrote, and by structure where both are
silent."""

import dataclasses
import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from llamo_jax.errors import InputError
from llamo_jax.files import read_json
from llamo_jax.motion.bvh import Bvh
from llamo_jax.motion.rigs import LEFT, MIDDLE, MIDDLE_NAMES, NO_WORDS, RIGHT, SIDED_NAMES
from llamo_jax.motion.skeleton import JOINT_NAMES

SIDES = ("left", "right")
LEG = ("hip", "knee", "ankle", "foot")
ARM = ("collar", "shoulder", "elbow", "wrist")
_NEEDED = {LEG: ("hip", "knee", "ankle"), ARM: ("shoulder", "elbow")}
_VOCABULARY = {word for words in (*SIDED_NAMES.values(), *MIDDLE_NAMES.values()) for word in words}
_SIDED_WORDS = {word for words in SIDED_NAMES.values() for word in words}
_TOKENS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_a-zA-Z]+")


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """The joints of a file that are SMPL's.

    Attributes:
      joints: SMPL joint name -> index in the file. A joint of the spine, the collars, the neck, and the wrists may be
        absent; end sites stand in for feet, wrists and the head.
      notes: what names did not say, in sentences.
    """

    joints: Mapping[str, int]
    notes: tuple[str, ...] = ()


def read_map(path: str | Path) -> dict[str, str]:
    """A map of joints that a person wrote: JSON of SMPL joint names -> names in the file, of as many as need it.

    Raises:
      InputError: the file is missing, or is something else.
    """
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise InputError(f'{path}: expected an object of names, as {{"left_knee": "LeftLeg", ...}}')
    if unknown := sorted(set(found) - set(JOINT_NAMES)):
        raise InputError(f"{path}: {', '.join(unknown)} are no joints of SMPL; expected among {', '.join(JOINT_NAMES)}")
    return found


def find_joints(bvh: Bvh, where: str | Path, given: Mapping[str, str] | None = None) -> Skeleton:
    """The joints of a file that are SMPL's.

    Args:
      bvh: the file's contents.
      where: named in errors.
      given: SMPL joint name -> name in the file, for joints that are settled.

    Raises:
      InputError: a joint that cannot be done without is not found, or may be one of two.
    """
    settled = {}
    for joint, name in (given or {}).items():
        if name not in bvh.names:
            raise InputError(f'{where}: has no joint "{name}" for {joint}; the file has {", ".join(bvh.names):.2000}')
        settled[joint] = bvh.names.index(name)
    tree = _Tree(bvh.parents, tuple(bvh.is_end(joint) for joint in range(len(bvh.names))))
    found = _by_names(bvh.names, tree)
    for joint in _doubtful(bvh.names, tree, found):
        del found[joint]
    found |= settled
    notes: list[str] = []
    lengths = np.linalg.norm(bvh.bones(), axis=-1)
    missing = [
        f"{side}_{joint}"
        for side in SIDES
        for limb, needed in _NEEDED.items()
        for joint in needed
        if f"{side}_{joint}" not in found
    ]
    before = dict(found)
    if missing:
        _limbs_by_structure(bvh, tree, found, lengths)
    if missing := [joint for joint in missing if joint not in found]:
        raise InputError(
            f"{where}: no joint found for {', '.join(missing)}; the file has {', '.join(bvh.names):.2000}; name them "
            f"with --skeleton"
        )
    _middle(bvh, tree, found, settled, lengths, where)
    _ends_of_limbs(tree, found)
    told = [f"{bvh.names[index]} as {joint}" for joint, index in found.items()
            if joint not in before and joint.partition("_")[0] in SIDES and not tree.ends[index]]  # fmt: skip
    if told:
        notes.append(f"took {', '.join(told)} by the structure of the skeleton")
    tips = [f"{side}_{joint}" for side in SIDES for joint in ("foot", "wrist")]
    if missing := [joint for joint in tips if joint not in found]:
        raise InputError(f"{where}: no joint and no end site found for {', '.join(missing)}; name them with --skeleton")
    if twice := [index for index, count in Counter(found.values()).items() if count > 1]:
        both = ", ".join(joint for joint, index in found.items() if index == twice[0])
        raise InputError(f"{where}: {bvh.names[twice[0]]} would be {both}; name them with --skeleton")
    _require_order(bvh, tree, found, where)
    if notes:
        notes = [f"{note}; another choice can be given with --skeleton" for note in notes]
    return Skeleton({joint: found[joint] for joint in JOINT_NAMES if joint in found}, tuple(notes))


def _require_order(bvh: Bvh, tree: "_Tree", found: Mapping[str, int], where: str | Path) -> None:
    """Raises InputError where a joint is not below the one before it in its limb: a map may say anything."""
    chains = [("pelvis", *(f"{side}_{joint}" for joint in LEG)) for side in SIDES]
    chains += [("pelvis", *(f"{side}_{joint}" for joint in ARM)) for side in SIDES]
    chains += [("pelvis", "spine1", "spine2", "spine3", "neck", "head")]
    for chain in chains:
        for upper, lower in itertools.pairwise([joint for joint in chain if joint in found]):
            if not tree.above(found[upper], found[lower]):
                raise InputError(
                    f"{where}: {lower} ({bvh.names[found[lower]]}) is not below {upper} ({bvh.names[found[upper]]}); "
                    f"name them with --skeleton"
                )


class _Tree:
    """Questions about a hierarchy."""

    def __init__(self, parents: Sequence[int], ends: Sequence[bool]):
        self.parents, self.ends = tuple(parents), tuple(ends)
        self.children: list[list[int]] = [[] for _ in parents]
        for joint, parent in enumerate(parents):
            if parent >= 0:
                self.children[parent].append(joint)

    def path(self, joint: int) -> list[int]:
        """The joint and all above it, up to the root."""
        path = [joint]
        while self.parents[path[-1]] >= 0:
            path.append(self.parents[path[-1]])
        return path

    def above(self, upper: int, lower: int) -> bool:
        """Whether one joint is strictly above another."""
        return upper != lower and upper in self.path(lower)

    def meeting(self, joints: Iterable[int]) -> int:
        """The lowest joint that is above all of these, or one of them."""
        paths = [self.path(joint) for joint in joints]
        return next(joint for joint in paths[0] if all(joint in path for path in paths))

    def end(self, joint: int) -> int | None:
        """The end site of a joint."""
        return next((child for child in self.children[joint] if self.ends[child]), None)


# Names


def _words(name: str, shared: frozenset[str]) -> tuple[str, str]:
    """("left", "upleg") of "mixamorig:LeftUpLeg", "L_UpLeg", "UpLeg_L", "leftupleg", "Bip001 L UpLeg" or
    "|Armature|LeftUpLeg_012".

    Args:
      name: of a joint.
      shared: words that nearly all names of the file have.
    """
    words = [word.lower() for word in _TOKENS.findall(re.split(r"[:|/\\]", name)[-1])]
    words = [word for word in words if not word.isdecimal()]
    # What is shared goes first: what is left may begin with "l" or "r".
    words = [word for word in words if word not in shared and not NO_WORDS.fullmatch(word)] or words
    if len(words) == 1 and words[0] not in _VOCABULARY:
        words = _split(words[0])
    sides = [side for word in words for side, marks in zip(SIDES, (LEFT, RIGHT), strict=True) if word in marks]
    base = "".join(word for word in words if word not in (*LEFT, *RIGHT) and (len(words) == 1 or word not in MIDDLE))
    if not sides and base not in _VOCABULARY:
        *side, base = _split(base)
        sides = [each for each, marks in zip(SIDES, (LEFT, RIGHT), strict=True) if side and side[0] in marks]
    return (sides[0] if sides else ""), base


def _split(word: str) -> list[str]:
    """["left", "upleg"] of "leftupleg" or "uplegleft"."""
    for mark in (*LEFT, *RIGHT):
        if word.startswith(mark) and word[len(mark) :] in _SIDED_WORDS:
            return [mark, word[len(mark) :]]
        if word.endswith(mark) and word[: -len(mark)] in _SIDED_WORDS:
            return [mark, word[: -len(mark)]]
    return [word]


_CANDIDATES = 6  # joints that may be one part of a limb; a file with more is no rig of a person
_PREFIX = 40
_LONGEST = 40  # joints of a limb, twist bones and fingers included


def _shared(names: Sequence[str]) -> frozenset[str]:
    """Words in four of five names that say nothing of a joint: of an actor, a file, a program."""
    counts = Counter(word for name in names for word in {word.lower() for word in _TOKENS.findall(name)})
    told = {*_VOCABULARY, *LEFT, *RIGHT}
    everywhere = {"l", "r"}  # no rig has one side alone
    return frozenset(
        word
        for word, count in counts.items()
        if (count >= 0.8 * len(names) and word not in told) or (count >= 0.95 * len(names) and word in everywhere)
    )


def _without_prefix(names: Sequence[str]) -> Sequence[str]:
    """The names without letters that most begin with, where more of them are known then ("robothips")."""
    best, shared = names, _shared(names)
    known = sum(_words(name, shared)[1] in _VOCABULARY for name in names)
    for length in range(1, min(max(map(len, names)), _PREFIX)):
        prefix, count = Counter(name[:length].lower() for name in names).most_common(1)[0]
        if count < 0.6 * len(names) or count < 8:
            break
        shorter = [name[length:] if name.lower().startswith(prefix) else name for name in names]
        shared = _shared(shorter)
        if (more := sum(_words(name, shared)[1] in _VOCABULARY for name in shorter)) > known:
            best, known = shorter, more
    return best


@functools.lru_cache(maxsize=64)  # the files of a data set share their skeleton
def _named(names: tuple[str, ...], ends: tuple[bool, ...]) -> tuple[tuple[str, str] | None, ...]:
    """Side and word of each joint; None for end sites."""
    real = _without_prefix([name for name, end in zip(names, ends, strict=True) if not end])
    shared = _shared(real)
    words = iter([_words(name, shared) for name in real])
    return tuple(None if end else next(words) for end in ends)


def words_of(bvh: Bvh) -> tuple[tuple[str, str] | None, ...]:
    """Side and word of each joint's name; None for end sites."""
    return _named(bvh.names, tuple(bvh.is_end(joint) for joint in range(len(bvh.names))))


def _by_names(names: tuple[str, ...], tree: _Tree) -> dict[str, int]:
    """The joints whose names are known, each limb in its order from the body outwards."""
    named = _named(names, tree.ends)
    found: dict[str, int] = {}
    for side, limb in itertools.product(SIDES, (LEG, ARM)):
        candidates = []
        for joint in limb:
            ranks = {word: rank for rank, word in enumerate(SIDED_NAMES[joint])}
            told = [(ranks[words[1]], index) for index, words in enumerate(named)
                    if words and words[0] == side and words[1] in ranks]  # fmt: skip
            candidates.append(sorted(told)[:_CANDIDATES])
        for joint, index in zip(limb, _chain(candidates, limb, tree), strict=True):
            if index is not None:
                found[f"{side}_{joint}"] = index
    for joint, words in MIDDLE_NAMES.items():
        told = [(words.index(each[1]), index) for index, each in enumerate(named)
                if each and each[0] == "" and each[1] in words]  # fmt: skip
        if told:
            found[joint] = min(told)[1]
    return found


def _doubtful(names: tuple[str, ...], tree: _Tree, found: Mapping[str, int]) -> list[str]:
    """Joints whose names may mean the one before (a "shoulder" is a collar in many rigs, a "hip" the pelvis' side), and
    from which a joint without a known name leads to the next: the lengths of bones decide."""
    named = _named(names, tree.ends)
    doubtful = []
    for side, (joint, bend) in itertools.product(SIDES, (("hip", "knee"), ("shoulder", "elbow"))):
        upper, lower = found.get(f"{side}_{joint}"), found.get(f"{side}_{bend}")
        if upper is None or lower is None or not tree.above(upper, lower):
            continue
        between = tree.path(lower)[1 : tree.path(lower).index(upper)]
        if between and (words := named[upper]) and words[1] in _DOUBTFUL:
            doubtful.append(f"{side}_{joint}")
    return doubtful


_DOUBTFUL = ("shoulder", "hip", "leg")


def _chain(candidates: list[list[tuple[int, int]]], limb: tuple[str, ...], tree: _Tree) -> list[int | None]:
    """One joint for each part of a limb, each below the one before it: as many needed parts as there are, then the
    best words, then as many other parts, nearest to the body."""
    best: tuple[tuple, list[int | None]] = ((), [None] * len(limb))
    for choice in itertools.product(*[[*options, None] for options in candidates]):
        chosen = [option[1] for option in choice if option]
        if any(not tree.above(upper, lower) for upper, lower in itertools.pairwise(chosen)):
            continue
        needed = sum(option is not None for part, option in zip(limb, choice, strict=True) if part in _NEEDED[limb])
        ranks = sum(option[0] for part, option in zip(limb, choice, strict=True) if option and part in _NEEDED[limb])
        others = sum(option[0] for part, option in zip(limb, choice, strict=True)
                     if option and part not in _NEEDED[limb])  # fmt: skip
        score = (needed, -ranks, len(chosen), -others, *(-len(tree.path(index)) for index in chosen))
        if not best[0] or score > best[0]:
            best = (score, [option[1] if option else None for option in choice])
    return best[1]


# Structure


def _limbs_by_structure(bvh: Bvh, tree: _Tree, found: dict[str, int], lengths: np.ndarray) -> None:
    """Adds needed joints of the limbs that names do not tell: of each limb that is known in part the joints between, of
    one that is not known at all a chain that has its like on the other side of the body."""
    for side, limb in itertools.product(SIDES, (LEG, ARM)):
        known = {joint: found[f"{side}_{joint}"] for joint in limb if f"{side}_{joint}" in found}
        if known and any(joint not in known for joint in _NEEDED[limb]):
            path = _longest(max(known.values(), key=lambda index: len(tree.path(index))), tree, lengths)
            others = {index for joint, index in found.items() if joint not in {f"{side}_{part}" for part in limb}}
            shared = {above for index in others for above in tree.path(index)}
            path = [index for index in path if index not in shared]  # the trunk is no part of a limb
            for joint, index in _bend(path, limb, known, tree, lengths).items():
                found[f"{side}_{joint}"] = index
    if any(f"{side}_{limb[1]}" in found for side in SIDES for limb in (LEG, ARM)):
        return
    for (side, limb), path in _pairs(bvh, tree, lengths).items():
        for joint, index in _bend(path, limb, {}, tree, lengths).items():
            found.setdefault(f"{side}_{joint}", index)


def _longest(joint: int, tree: _Tree, lengths: np.ndarray) -> list[int]:
    """From the root through a joint to the furthest tip below it."""

    def reach(start: int) -> tuple[float, list[int]]:
        below = [reach(child) for child in tree.children[start]]
        far, path = max(below, default=(0.0, []), key=lambda each: each[0])
        return far + lengths[start], [start, *path]

    return [*reversed(tree.path(joint)), *reach(joint)[1][1:]]


def _bend(
    path: list[int], limb: tuple[str, ...], known: Mapping[str, int], tree: _Tree, lengths: np.ndarray
) -> dict[str, int]:
    """Which joints of a path are a limb's: the two bones about its bend are the longest that the path can be cut into.

    Joints in between (of twist) belong to the bone that they are on.
    """
    if len(path) > _LONGEST:
        return {}
    along = np.cumsum(lengths[path])  # from the root
    middle = limb.index("knee" if limb is LEG else "elbow")
    parts = limb[middle - 1 : middle + 2]
    place = {index: number for number, index in enumerate(path)}
    options = [[place[known[part]]] if part in known else range(len(path)) for part in parts]
    best, chosen = (-1.0, 0.0), None
    for upper, bend, lower in itertools.product(*options):
        if not upper < bend < lower:
            continue
        # Of cuts whose shorter bone is the same, that with the shorter other: a collar is no part of the upper arm.
        bones = sorted((along[bend] - along[upper], along[lower] - along[bend]))
        score = (round(bones[0], 6), -round(bones[1], 6))
        if score > best:
            best, chosen = score, (upper, bend, lower)
    if chosen is None or best[0] <= 0:
        return {}
    told = {part: path[number] for part, number in zip(parts, chosen, strict=True)}
    if tree.ends[told[parts[2]]] and parts[2] == "wrist":
        del told["wrist"]  # found with the other ends
    outer = path[chosen[2] + 1 : chosen[2] + 2]
    if limb is LEG and "foot" not in known and outer and not tree.ends[outer[0]]:
        told["foot"] = outer[0]
    if limb is ARM and "collar" not in known and chosen[0] >= 1:
        inner = path[chosen[0] - 1]
        if len(tree.children[inner]) == 1 and lengths[path[chosen[0]]] > 0:
            told["collar"] = inner
    return told


def _pairs(bvh: Bvh, tree: _Tree, lengths: np.ndarray) -> dict[tuple[str, tuple[str, ...]], list[int]]:
    """Side and limb -> path from the root to its tip, where the skeleton has exactly two pairs of like limbs, of which
    one hangs on the pelvis and the other above it, and its zero pose shows which is left.

    Names must not be known, so that nothing but the zero pose says what is where.
    """
    found = []
    for joint in range(len(tree.parents)):
        inner = [child for child in tree.children[joint] if not tree.ends[child]]
        tips = [_longest(child, tree, lengths) for child in inner[:_CANDIDATES]]
        for first, second in itertools.combinations(tips, 2):
            ends = [np.cumsum(lengths[path])[-1] for path in (first, second)]
            whole = [len(path) for path in (first, second)]
            if abs(ends[0] - ends[1]) < 0.03 * max(ends) and whole[0] == whole[1]:
                found.append((joint, first, second))
    extent = float(np.ptp(bvh.zero_pose(), axis=0).max())
    limbs = [
        (joint, first, second)
        for joint, first, second in found
        if lengths[[index for index in first if index not in tree.path(joint)]].sum() > 0.25 * extent
    ]
    if len(limbs) != 2 or not tree.above(limbs[0][0], limbs[1][0]):
        return {}
    legs, arms = limbs
    if arms[0] in legs[1] or arms[0] in legs[2]:
        return {}
    pose = bvh.zero_pose()
    sided = {}
    for limb, (joint, *paths) in ((LEG, legs), (ARM, arms)):
        paths = [[index for index in path if index not in tree.path(joint)] for path in paths]
        told = [_bend(path, limb, {}, tree, lengths) for path in paths]
        if not all(told):
            return {}
        sided[limb] = (joint, paths, told)
    ankles = [each["ankle"] for each in sided[LEG][2]]
    up = pose[arms[0]] - pose[ankles].mean(0)
    # Toes point forward; what is left of that is left.
    forward = sum(pose[path[-1]] - pose[ankle] for path, ankle in zip(legs[1:], ankles, strict=True))
    forward = forward - up * (forward @ up) / max(up @ up, 1e-12)
    if np.linalg.norm(forward) < 0.03 * extent or np.linalg.norm(up) < 0.3 * extent:
        return {}
    leftwards = np.cross(up, forward)
    result = {}
    for limb, (_, paths, _) in sided.items():
        first, second = ((pose[path[-1]] - pose[0]) @ leftwards / np.linalg.norm(leftwards) for path in paths)
        if abs(first - second) < 0.05 * extent:
            return {}
        left, right = paths if first > second else paths[::-1]
        result["left", limb], result["right", limb] = left, right
    return result


def _reach(joint: int, tree: _Tree, lengths: np.ndarray) -> float:
    """Length of the longest path down from a joint."""
    return max((lengths[child] + _reach(child, tree, lengths) for child in tree.children[joint]), default=0.0)


def _middle(
    bvh: Bvh,
    tree: _Tree,
    found: dict[str, int],
    settled: Mapping[str, int],
    lengths: np.ndarray,
    where: str | Path,
) -> None:
    """Pelvis, spine, neck and head, between and above the limbs."""
    legs = [found[f"{side}_hip"] for side in SIDES]
    arms = [found[f"{side}_shoulder"] for side in SIDES]
    fork = tree.meeting([*legs, *arms])
    if "pelvis" not in settled:
        # Of several, the nearest to the legs. A "root" is none, unless it is where legs and spine part.
        words = words_of(bvh)
        told = MIDDLE_NAMES["pelvis"][: MIDDLE_NAMES["pelvis"].index("cog")]
        named = (joint for joint in tree.path(fork) if (word := words[joint]) and word[1] in told)
        found["pelvis"] = next(named, fork)
    pelvis, chest = found["pelvis"], tree.meeting(arms)
    if chest in tree.path(pelvis):
        raise InputError(f"{where}: arms and legs of the skeleton meet in {bvh.names[chest]}; expected a spine between")
    blocked = {joint for arm in arms for joint in tree.path(arm) if tree.above(chest, joint)}
    trunk = [child for child in tree.children[chest] if child not in blocked]
    if "head" in found and "head" not in settled and not tree.above(pelvis, found["head"]):
        del found["head"]
    if "neck" in found and "neck" not in settled:
        # The lowest of several, if it carries the head.
        words = words_of(bvh)
        named = [
            joint
            for joint, told in enumerate(words)
            if told
            and told[0] == ""
            and told[1] in MIDDLE_NAMES["neck"]
            and tree.above(pelvis, joint)
            and ("head" not in found or tree.above(joint, found["head"]))
        ]
        if named:
            found["neck"] = min(named, key=lambda joint: len(tree.path(joint)))
        else:
            del found["neck"]
    if "neck" not in found and "head" not in found:
        # A skeleton whose names do not say: the one chain that goes on above the arms.
        words = words_of(bvh)
        trunk = [child for child in trunk if (told := words[child]) and not told[0]]
        if not trunk:
            names = f"{', '.join(bvh.names):.2000}"
            raise InputError(f"{where}: no joint found for head; the file has {names}; name it with --skeleton")
        chain = [max(trunk, key=lambda child: _reach(child, tree, lengths))]
        while len(below := [child for child in tree.children[chain[-1]] if not tree.ends[child]]) == 1:
            chain.append(below[0])
        found["neck"] = chain[0]
        if len(chain) > 1:
            found["head"] = chain[-1]
    elif "neck" not in found:
        between = [joint for joint in tree.path(found["head"])[1:] if tree.above(chest, joint)]
        if between:
            found["neck"] = between[-1]
    if "head" not in found:
        below = [child for child in tree.children[found["neck"]] if not tree.ends[child]]
        head = below[0] if len(below) == 1 else tree.end(found["neck"])
        if head is None:
            raise InputError(f"{where}: no joint and no end site found for head; name it with --skeleton")
        found["head"] = head
    top = tree.parents[found["neck"] if "neck" in found else found["head"]]
    chain = [joint for joint in tree.path(top) if tree.above(pelvis, joint)] if top >= 0 else []
    if not chain:
        upper = bvh.names[found.get("neck", found["head"])]
        raise InputError(f"{where}: no spine between {bvh.names[pelvis]} and {upper}; expected 1 or more joints")
    # The top of the chain carries neck and arms; of what is below, the first is spine1 and the one in the middle
    # spine2.
    found.setdefault("spine3", chain[0])
    if len(chain) > 1:
        found.setdefault("spine1", chain[-1])
    if len(chain) > 2:
        found.setdefault("spine2", chain[len(chain) // 2])


def _ends_of_limbs(tree: _Tree, found: dict[str, int]) -> None:
    """Feet, wrists and collars that names do not tell: the end site of the joint before, or the one joint that is
    there."""
    for side in SIDES:
        for joint, parent in (("foot", "ankle"), ("wrist", "elbow")):
            if f"{side}_{joint}" in found:
                continue
            above = found[f"{side}_{parent}"]
            below = [child for child in tree.children[above] if not tree.ends[child]]
            end = below[0] if len(below) == 1 else tree.end(above)
            if end is not None:
                found[f"{side}_{joint}"] = end
        inner = tree.path(found[f"{side}_shoulder"])[1:]
        inner = inner[: inner.index(found["spine3"])] if found["spine3"] in inner else []
        if f"{side}_collar" not in found and inner:
            found[f"{side}_collar"] = inner[-1]
