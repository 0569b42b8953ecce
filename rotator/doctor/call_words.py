"""
What was found of a call, as findings for people and as one document for programs.

Rules that must stay true here:

- Findings come in the order of the chain, each link by its number: what stands before the break is seen as good.
- One break is the finding. What else is wrong further on is told, with its mend, as something to look at.
"""

from __future__ import annotations

from typing import Any, Final

from rotator.doctor.call import CallReport
from rotator.doctor.findings import Finding, Grade
from rotator.platform.call_verdict import JudgedLink, Mark, Point

_GRADES: Final = {
    Mark.GOOD: Grade.FINE,
    Mark.FOLLOWS: Grade.WARNING,
    Mark.NOT_SEEN: Grade.WARNING,
    Mark.DOUBTFUL: Grade.WARNING,
    Mark.BROKEN: Grade.BROKEN,
}


def as_findings(report: CallReport) -> tuple[Finding, ...]:
    """Return a finding for everything that was looked at, in the order of the chain."""
    found = []
    for number, judged in enumerate(report.verdict.links, 1):
        about = f"{number} {judged.link}"
        found += [_finding(report, judged, each, about) for each in judged.points]
        if not judged.points:
            found.append(Finding(about=about, grade=Grade.WARNING, what="not looked at: nobody there can be asked"))
    return tuple(found)


def _finding(report: CallReport, judged: JudgedLink, point: Point, about: str) -> Finding:
    first = report.verdict.broken
    grade, what = _GRADES[point.mark], point.what
    if point.mark is Mark.BROKEN and first is not None and judged is not first:
        grade, what = Grade.WARNING, f"further on: {what}"
    elif point.mark is Mark.NOT_SEEN:
        what = f"not seen: {what}"
    elif point.mark is Mark.FOLLOWS:
        what = f"{what}: it follows"
    return Finding(about=about, grade=grade, what=what, mend=point.mend)


def headline(report: CallReport) -> str:
    """Return the finding in one line."""
    broken, point = report.verdict.broken, report.verdict.point
    pair = f"{report.caller} to {report.service}"
    if broken is not None and point is not None:
        return f"{pair} breaks at {broken.link}: {point.what}"
    unseen = [str(each.link) for each in report.verdict.links if each.mark is Mark.NOT_SEEN]
    return f"{pair}: no link is broken" + (f"; not seen: {', '.join(unseen)}" if unseen else "")


def as_document(report: CallReport) -> dict[str, Any]:
    """Return everything that was found, as ``rotator --json doctor --from … --to …`` prints it."""
    broken, point = report.verdict.broken, report.verdict.point
    findings = as_findings(report)
    return {
        "from": report.caller,
        "to": report.service,
        "broken_link": None if broken is None else broken.link.value,
        "cause": None if point is None or point.cause is None else point.cause.value,
        "mend": None if point is None else point.mend,
        "links": [
            {
                "link": judged.link.value,
                "state": judged.mark.value,
                "seen": [
                    {
                        "state": each.mark.value,
                        "cause": None if each.cause is None else each.cause.value,
                        "what": each.what,
                        "mend": each.mend or None,
                    }
                    for each in judged.points
                ],
            }
            for judged in report.verdict.links
        ],
        "findings": [
            {"about": each.about, "grade": each.grade.value, "what": each.what, "mend": each.mend or None}
            for each in findings
        ],
        "broken": sum(each.grade is Grade.BROKEN for each in findings),
        "warnings": sum(each.grade is Grade.WARNING for each in findings),
    }
