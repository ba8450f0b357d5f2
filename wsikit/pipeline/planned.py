"""The lines of ``--dry-run``: what a run would make of each slide, as far as can be told without running it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsikit.errors import WsikitError
from wsikit.pipeline.each import all_complete
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.state import read_record


@dataclass(frozen=True, slots=True)
class Planned:
    """A line of what a run would do."""

    text: str
    complete: bool = True
    """Whether the slide would end complete, for all that is seen of it; True of lines about no slide."""

    @classmethod
    def part(cls, entry: SlideEntry) -> Planned:
        """A file that is read with another slide."""
        return cls(f"{entry.slide_id}: skipped, part of {entry.part_of}")

    @classmethod
    def kept(cls, entry: SlideEntry, folder: Path) -> Planned:
        """A slide that is done, however it ended: running it again with these parameters would change nothing."""
        record = read_record(folder) or {}
        complete = all_complete([record])
        return cls(f"{entry.slide_id}: done, kept" + ("" if complete else f" ({record.get('status')})"), complete)

    @classmethod
    def failing(cls, entry: SlideEntry, error: WsikitError) -> Planned:
        """A slide that no run could do."""
        return cls(f"{entry.slide_id}: would fail ({error.code}): {error}", complete=False)
