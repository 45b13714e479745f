"""What cannot be used, and why: nothing is left out of a data set uncounted."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from data_pipelines.records import MotionRecord

_LISTED = 50  # rejected names that the manifest lists for each reason, and notes


class Rejected(NamedTuple):
    """Something that cannot be used, why, and the whole story."""

    name: str
    reason: str
    detail: str = ""


class Noted(NamedTuple):
    """What a person should know of a recording that is used."""

    what: str


Filter = Callable[[MotionRecord], Rejected | None]
"""A function of a module (it goes to other processes) that finds fault with a record, or None."""


class Rejections:
    """Counts and lists what was left out of a data set."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._notes: list[str] = []

    def note(self, noted: Noted) -> None:
        """Takes note of how a recording was read."""
        self._notes.append(noted.what)

    def add(self, rejected: Rejected) -> None:
        """Takes note of one."""
        entry = f"{rejected.name}: {rejected.detail}" if rejected.detail else rejected.name
        self._names.setdefault(rejected.reason, []).append(entry)

    @property
    def counts(self) -> dict[str, int]:
        """How many for each reason, most first."""
        return dict(Counter({reason: len(names) for reason, names in self._names.items()}).most_common())

    def to_json(self) -> dict[str, Any]:
        """Manifest entries: the counts, the first names of each reason, and the first notes."""
        listed = {reason: names[:_LISTED] for reason, names in self._names.items()}
        notes = {"notes": {"count": len(self._notes), "first": self._notes[:_LISTED]}} if self._notes else {}
        return {"rejected": self.counts, "rejected_names": listed} | notes
