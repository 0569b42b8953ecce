"""
What the demonstration claims, judged by what was recorded.

Rules that must stay true here:

- Pure: a recording goes in, claims come out.
- A claim without anything to judge it by has not held.
- The comparison with the naive way is no claim: it is counted and shown, never required.
"""

from __future__ import annotations

from rotator.demo.recording import Claim, Recording

MINIMUM_RATE = 200.0
"""New TLS connections a second that the demonstration promises."""


def claims(recording: Recording) -> tuple[Claim, ...]:
    """Return every claim with its verdict and figure, in the order in which it is printed."""
    load = recording.load
    moves = recording.ca_moves
    scheduled = sum(1 for move in moves if move.trigger == "schedule")
    requested = recording.ca_rotation(recording.requested_rotation)
    killed = recording.ca_rotation(recording.killed_rotation)
    came_to_its_end = Claim(text="the run came to its end", held=False, figure=recording.trouble or "")
    return (
        *((came_to_its_end,) if recording.trouble is not None else ()),
        Claim(
            text="no request failed while certificates and CAs changed",
            held=load.requests > 0 and load.failed == 0,
            figure=f"{load.failed} of {load.requests:,} failed",
        ),
        Claim(
            text=f"every request was a new mutual TLS connection, at {MINIMUM_RATE:.0f} or more a second",
            held=load.rate >= MINIMUM_RATE and load.sessions_resumed == 0 and load.handshakes >= load.requests,
            figure=f"{load.rate:.0f} a second, {load.handshakes:,} handshakes, {load.sessions_resumed} resumed",
        ),
        Claim(
            text="leaves were renewed on schedule",
            held=recording.leaf_rotations > 0,
            figure=f"{recording.leaf_rotations} renewals",
        ),
        Claim(
            text="the CA moved on schedule",
            held=scheduled > 0,
            figure=f"{scheduled} of {len(moves)} CA moves by the schedule",
        ),
        Claim(
            text="the CA moved when a person asked for it",
            held=requested is not None and requested in moves,
            figure=_lasted(recording.requested_rotation, recording),
        ),
        Claim(
            text="a CA rotation that was killed in the middle completed after the restart",
            held=killed is not None and killed in moves,
            figure=_lasted(recording.killed_rotation, recording),
        ),
        *(_rolled(worker, recording) for worker in recording.workers),
        Claim(
            text="no task was lost",
            held=recording.tasks_lost == 0 and 0 < recording.tasks_submitted <= _done(recording),
            figure=_tasks(recording),
        ),
        Claim(
            text="the log verifies against a checkpoint that was pinned outside it before the kill",
            held=recording.evidence is not None and recording.evidence.exit_code == 0,
            figure=recording.evidence.verdict if recording.evidence is not None else "not verified",
        ),
    )


def _done(recording: Recording) -> int:
    """Return how many tasks ended well."""
    return sum(1 for task in recording.tasks if task.ok)


def _tasks(recording: Recording) -> str:
    """Return how many tasks were lost, and how many ended with a call that failed."""
    failed = sum(1 for task in recording.tasks if not task.ok)
    lost = f"{recording.tasks_lost} of {recording.tasks_submitted} lost"
    return f"{lost}, {failed} with a failed call" if failed else lost


def _lasted(rotation_id: str | None, recording: Recording) -> str:
    """Return how long the rotation took, in words."""
    rotation = recording.ca_rotation(rotation_id)
    if rotation is None:
        return "not seen"
    if rotation.completed_at is None:
        return f"generation {rotation.generation}: active at {rotation.activated_at:.0f} s, never complete"
    return (
        f"generation {rotation.generation}: active at {rotation.activated_at:.0f} s, "
        f"complete at {rotation.completed_at:.0f} s"
    )


def _rolled(worker: str, recording: Recording) -> Claim:
    """Return the claim that *worker* was replaced, drained, and that the server saw its new serial."""
    rolls = [roll for roll in recording.rolls if roll.worker == worker]
    proven = [roll for roll in rolls if roll.serial is not None]
    return Claim(
        text=f"{worker} was drained, replaced, and seen with its new certificate by the server",
        held=bool(proven),
        figure=f"{len(rolls)} rolls, {len(proven)} new serials seen",
    )
