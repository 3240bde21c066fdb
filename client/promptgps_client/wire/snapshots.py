"""Snapshots of runs, and the way back to them."""

from __future__ import annotations

from pydantic import Field

from promptgps_client.wire.base import Name, Wire


class TakeSnapshot(Wire):
    """Mark the run as it is now by a tag.

    Asked again with the same tag it answers the snapshot that is there.
    """

    tag: Name = Field(
        description="Yours, as `step-400`; one that goes with the trainer's checkpoint."
    )


class Snapshot(Wire):
    """A run at one moment."""

    run: str
    tag: str
    epoch: int
    selections: int
    draws: int
    log_position: int
    model_version: int
    trained_through: int
    created_at: str
    superseded: bool = Field(
        description="Whether the run was put back to before it; then nobody can go back to it."
    )


class Restore(Wire):
    """Put the run back to a snapshot.

    Asked again before anything else has happened it changes nothing.
    """

    tag: Name


class SupersededCounts(Wire):
    """What came after the snapshot: kept, but no part of the run any more."""

    selections: int
    draws: int
    outcomes: int
    snapshots: int


class Restored(Wire):
    """The run as it is once it was put back."""

    run: str
    tag: str
    epoch: int = Field(
        description="How often the run was put back; new draws carry it in their ids."
    )
    selections: int
    draws: int
    log_position: int
    model_version: int
    trained_through: int
    superseded: SupersededCounts = Field(
        description="By this restore; all zero where the run was at the tag already."
    )


class RestoreNote(Wire):
    """One restore of the past.

    Outcomes that were reported late, of draws that it has superseded, count too.
    """

    epoch: int = Field(description="That it began.")
    tag: str
    created_at: str
    superseded: SupersededCounts


class Snapshots(Wire):
    """Snapshots of a run, superseded ones too, and its restores, both in order."""

    run: str
    epoch: int
    snapshots: list[Snapshot]
    restores: list[RestoreNote]
