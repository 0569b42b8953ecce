"""
The timeline of one run as SVG: request rate, CAs, leaves, workers, and the moments that matter.

Rules that must stay true here:

- Pure: a recording goes in, SVG comes out.
- One colour a CA generation, in every row: the eye follows the change of hands downwards.
- A failure is drawn where it happened, never smoothed away; the naive way has a drawing of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from rotator.demo.canvas import GUTTER, Canvas
from rotator.demo.claims import MINIMUM_RATE
from rotator.demo.recording import Load, Marker, MarkerKind, Recording, Roll, TaskRun, Tick
from rotator.demo.traffic import BUCKET_SECONDS

_SMOOTHED_BUCKETS = 5  # half a second: 25 requests in 100 ms jitter too much to read
_LANE = 10.0
_CA_LANE = 17.0


def timeline(recording: Recording) -> str:
    """Return the picture of everything up to the moment the daemon was stopped."""
    last = recording.load.ticks[-1].at if recording.load.ticks else 0.0
    canvas = Canvas(start=0.0, stop=max(recording.ended_at, last), label="timeline of the run")
    _markers_head(canvas, recording.markers)
    top = canvas.height
    _rate(canvas, recording.load)
    _daemon(canvas, recording)
    _authorities(canvas, recording)
    for subject in recording.subjects:
        _leaves(canvas, subject, recording)
    for worker in recording.workers:
        _worker(canvas, worker, recording)
    bottom = canvas.height
    before = canvas.shapes
    canvas.axis(canvas.take(20) + 13, top=top, bottom=bottom)
    for marker in recording.markers:
        canvas.line(marker.at, top=top - 4, bottom=bottom, css=f"mark {marker.kind.value}")
    canvas.behind(canvas.shapes - before)
    return canvas.svg()


def control(recording: Recording) -> str:
    """Return the picture of the naive way: requests per 100 ms, the failed ones in red."""
    load = recording.control
    stop = load.ticks[-1].at + BUCKET_SECONDS if load.ticks else 1.0
    canvas = Canvas(start=0.0, stop=stop, label="requests while the CA was replaced in one step")
    canvas.take(18)
    top = canvas.take(96)
    base = top + 90
    canvas.name(top + 40, "per 100 ms")
    highest = max((tick.ok + tick.failed for tick in load.ticks), default=1) or 1
    for tick in load.ticks:
        ok, failed = tick.ok / highest * 84, tick.failed / highest * 84
        until = tick.at + BUCKET_SECONDS * 0.86
        canvas.bar(tick.at, until, y=base - ok, height=ok, css="ok", title=f"{tick.ok} answered")
        if tick.failed:
            tall = max(failed, 3)
            canvas.bar(tick.at, until, y=base - ok - tall, height=tall, css="fail", title=f"{tick.failed} failed")
    if recording.control_switch_at is not None:
        canvas.line(recording.control_switch_at, top=top - 4, bottom=base, css="mark killed")
        canvas.text(canvas.x(recording.control_switch_at), top - 7, "CA replaced in one step", css="marker")
    canvas.rule(base, css="base")
    canvas.axis(canvas.take(20) + 13, top=base, bottom=base + 3, every=1)
    return canvas.svg()


def _markers_head(canvas: Canvas, markers: Sequence[Marker]) -> None:
    """Write the markers' texts above the picture, each on the first of three lines where it is not overwritten."""
    free = [GUTTER] * 3
    height = canvas.take(48)
    for marker in sorted(markers, key=lambda each: each.at):
        pixel, width = canvas.x(marker.at), len(marker.text) * 6.2 + 14
        row = next((index for index, taken in enumerate(free) if taken <= pixel), None)
        if row is None:
            row = free.index(min(free))
        free[row] = pixel + width
        y = height + 40 - row * 14
        canvas.dot(marker.at, y=y - 3.5, radius=3.2, css=f"dot {marker.kind.value}")
        canvas.text(pixel + 7, y, marker.text, css="marker", anchor="start")


def _rate(canvas: Canvas, load: Load) -> None:
    """Draw the request rate, with every failure as a red dot."""
    top = canvas.take(92)
    base = top + 80
    points = [
        (chunk[0].at, sum(tick.ok + tick.failed for tick in chunk) / (len(chunk) * BUCKET_SECONDS))
        for chunk in _chunks(load.ticks, _SMOOTHED_BUCKETS)
    ]
    highest = max((rate for _, rate in points), default=0.0)
    scale = 70 / max(highest * 1.15, MINIMUM_RATE * 1.25)
    canvas.area([(at, base - rate * scale) for at, rate in points], base=base, css="rate")
    canvas.rule(base - MINIMUM_RATE * scale, css="floor")
    canvas.rule(base, css="base")
    canvas.name(top + 58, "new connections")
    canvas.name(top + 70, "a second", css="name small")
    canvas.text(GUTTER + 4, base - MINIMUM_RATE * scale - 3, f"{MINIMUM_RATE:.0f}", anchor="start")
    canvas.name(base + 4, "0", css="name small")
    for failure in load.failures:
        canvas.dot(failure.at, y=top + 12, radius=3.6, css="dot failed", title=f"{failure.kind}: {failure.reason}")


def _daemon(canvas: Canvas, recording: Recording) -> None:
    """Draw when the daemon ran."""
    top = canvas.take(24)
    canvas.name(top + 11, "rotator")
    edges = [0.0]
    edges += [each.at for each in recording.markers if each.kind in {MarkerKind.KILLED, MarkerKind.RESTARTED}]
    edges.append(recording.ended_at)
    for index, (start, stop) in enumerate(pairwise(edges)):
        if index % 2 == 0:
            canvas.bar(start, stop, y=top, height=14, css="daemon", text="running", title="the daemon runs")
        else:
            canvas.bar(start, stop, y=top, height=14, css="down", title=f"killed: down for {stop - start:.1f} s")


def _authorities(canvas: Canvas, recording: Recording) -> None:
    """Draw the mesh's CA generations and the phases of their rotations."""
    generations = sorted(
        (each for each in recording.authorities if each.subject == recording.mesh), key=lambda each: each.generation
    )
    top = canvas.take(8 + _CA_LANE * max(len(generations), 1))
    canvas.name(top + 14, f"CAs of {recording.mesh}")
    successors = {
        before.serial: after.activated_at for before, after in pairwise(generations) if after.activated_at is not None
    }
    for row, ca in enumerate(generations):
        y = top + 3 + row * _CA_LANE
        colour = f"g{_colour(ca.generation)}"
        gone = ca.left_at if ca.left_at is not None else min(ca.not_after, canvas.stop)
        active = ca.activated_at if ca.activated_at is not None else gone
        signs_until = min(successors.get(ca.serial, gone), gone)
        says = f"generation {ca.generation}, serial {ca.serial[:16]}"
        canvas.bar(gone, ca.not_after, y=y, height=13, css=f"{colour} unused", title=f"{says}: life it did not need")
        canvas.bar(ca.issued_at, active, y=y, height=13, css=f"{colour} waiting", title=f"{says}: trusted, not signing")
        canvas.bar(
            active, signs_until, y=y, height=13, css=colour, text=f"g{ca.generation} signs", title=f"{says}: signs"
        )
        canvas.bar(signs_until, gone, y=y, height=13, css=f"{colour} waiting", title=f"{says}: trusted, not signing")
    top = canvas.take(24)
    canvas.name(top + 11, "phase")
    for span in recording.phases:
        if span.domain == recording.mesh:
            lasted = span.stop - span.start
            says = f"{span.phase} for {lasted:.1f} s"
            canvas.bar(span.start, span.stop, y=top, height=14, css=f"phase {span.phase}", text=span.phase, title=says)


def _leaves(canvas: Canvas, subject: str, recording: Recording) -> None:
    """Draw one subject's certificates on two alternating lanes: solid while published, hollow for the rest."""
    leaves = [each for each in recording.lifetimes if each.subject == subject]
    top = canvas.take(8 + 2 * _LANE + 4)
    canvas.name(top + 14, subject)
    canvas.name(top + 26, f"{len(leaves)} certificates", css="name small")
    for index, leaf in enumerate(sorted(leaves, key=lambda each: each.issued_at)):
        y = top + 5 + index % 2 * _LANE
        left = leaf.left_at if leaf.left_at is not None else min(leaf.not_after, canvas.stop)
        colour = f"g{_colour(leaf.generation)}" if leaf.domain == recording.mesh else "elsewhere"
        says = (
            f"serial {leaf.serial[:16]}, signed by generation {leaf.generation} of {leaf.domain}, "
            f"in use {left - leaf.issued_at:.1f} s of {leaf.not_after - leaf.issued_at:.0f} s"
        )
        canvas.bar(left, leaf.not_after, y=y, height=8, css=f"{colour} unused", title=says)
        canvas.bar(leaf.issued_at, left, y=y, height=8, css=colour, title=says)


def _worker(canvas: Canvas, worker: str, recording: Recording) -> None:
    """Draw one worker: its processes, its drains, and its tasks below."""
    tasks = sorted((each for each in recording.tasks if each.worker == worker), key=lambda each: each.start)
    rolls = sorted((each for each in recording.rolls if each.worker == worker), key=lambda each: each.drain_at)
    rows = _packed(tasks)
    top = canvas.take(8 + 14 + 6.0 * max(len(rows), 2) + 6)
    canvas.name(top + 14, worker)
    canvas.name(top + 27, f"{len(tasks)} tasks", css="name small")
    _processes(canvas, rolls, y=top + 4, first=min((each.start for each in tasks), default=0.0))
    for row, packed in enumerate(rows):
        for task in packed:
            state = "finished" if task.ok else "failed"
            title = f"a task of {task.stop - task.start:.1f} s, {state}, serial {(task.serial or 'unknown')[:16]}"
            y = top + 21 + row * 6
            canvas.bar(task.start, task.stop, y=y, height=4.4, css="task" if task.ok else "fail", title=title)


def _processes(canvas: Canvas, rolls: Sequence[Roll], *, y: float, first: float) -> None:
    """Draw the runs of one worker between its rolls."""
    begins = first
    for number, roll in enumerate(rolls, start=1):
        canvas.bar(begins, roll.drain_at, y=y, height=14, css="run", text=f"run {number}", title="takes new tasks")
        held = f"draining for {roll.drained_at - roll.drain_at:.1f} s: no new tasks, the running ones finish"
        canvas.bar(roll.drain_at, roll.drained_at, y=y, height=14, css="drain", text="drains", title=held)
        gone = f"replaced within {roll.rolled_at - roll.drained_at:.1f} s"
        canvas.bar(roll.drained_at, roll.rolled_at, y=y, height=14, css="down", title=gone)
        begins = roll.rolled_at
    canvas.bar(begins, canvas.stop, y=y, height=14, css="run", text=f"run {len(rolls) + 1}", title="takes new tasks")
    for roll in rolls:
        if roll.serial_seen_at is not None and roll.serial is not None:
            says = f"the server sees the new serial {roll.serial[:16]}"
            canvas.dot(roll.serial_seen_at, y=y + 7, radius=3.4, css="dot proven", title=says)


def _packed(tasks: Iterable[TaskRun]) -> list[list[TaskRun]]:
    """Return *tasks* in as few rows as need not overlap."""
    rows: list[list[TaskRun]] = []
    for task in tasks:
        row = next((each for each in rows if each[-1].stop <= task.start), None)
        if row is None:
            rows.append([task])
        else:
            row.append(task)
    return rows


def _chunks(items: Sequence[Tick], size: int) -> Iterable[Sequence[Tick]]:
    """Yield *items* in pieces of *size*, the last one shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _colour(generation: int) -> int:
    """Return which of the five colours *generation* has."""
    return (generation - 1) % 5 + 1
