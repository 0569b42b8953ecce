"""
A small drawing surface: seconds go in, SVG comes out.

Rules that must stay true here:

- Every text is escaped; nothing refers to anything outside the document.
- Colours are class names, so that the page decides what they look like by day and by night.
"""

from __future__ import annotations

from html import escape

GUTTER = 150.0
"""Pixels on the left that hold the names of the rows."""
WIDTH = 1180.0
_RIGHT = 14.0
_CHARACTER = 6.1  # average width of one character at 11 px: decides whether a label fits into its bar


class Canvas:
    """Shapes over a horizontal axis of seconds, from *start* to *stop*; grows downwards."""

    def __init__(self, *, start: float, stop: float, label: str) -> None:
        self.start = start
        self.stop = max(stop, start + 1.0)
        self.height = 0.0
        self._label = label
        self._shapes: list[str] = []

    def x(self, at: float) -> float:
        """Return the pixel of second *at*, kept inside the drawing."""
        inside = min(max(at, self.start), self.stop)
        return GUTTER + (inside - self.start) / (self.stop - self.start) * (WIDTH - GUTTER - _RIGHT)

    def take(self, height: float) -> float:
        """Reserve *height* pixels below what is drawn; return where they begin."""
        top = self.height
        self.height += height
        return top

    def bar(
        self, start: float, stop: float, *, y: float, height: float, css: str, title: str = "", text: str = ""
    ) -> None:
        """Draw a bar from second *start* to second *stop*; *text* stands in it where it fits."""
        if stop <= self.start or start >= self.stop or stop <= start:
            return
        left, width = self.x(start), max(self.x(stop) - self.x(start), 1.2)
        said = f"<title>{escape(title)}</title>" if title else ""
        self._shapes.append(
            f'<rect class="bar {css}" x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2">'
            f"{said}</rect>"
        )
        if text and len(text) * _CHARACTER + 6 <= width:
            self.text(left + width / 2, y + height / 2 + 3.8, text, css="inside")

    def line(self, at: float, *, top: float, bottom: float, css: str) -> None:
        """Draw a vertical line at second *at*."""
        pixel = self.x(at)
        self._shapes.append(f'<line class="{css}" x1="{pixel:.1f}" x2="{pixel:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')

    def rule(self, y: float, *, css: str) -> None:
        """Draw a horizontal line over the whole axis."""
        right = WIDTH - _RIGHT
        self._shapes.append(f'<line class="{css}" x1="{GUTTER:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')

    def dot(self, at: float, *, y: float, radius: float, css: str, title: str = "") -> None:
        """Draw a dot at second *at*."""
        said = f"<title>{escape(title)}</title>" if title else ""
        self._shapes.append(f'<circle class="{css}" cx="{self.x(at):.1f}" cy="{y:.1f}" r="{radius:g}">{said}</circle>')

    def area(self, points: list[tuple[float, float]], *, base: float, css: str) -> None:
        """Fill the area between *points* (second, y pixel) and *base*."""
        if points:
            path = " ".join(f"{self.x(at):.1f},{y:.1f}" for at, y in points)
            first, last = self.x(points[0][0]), self.x(points[-1][0])
            corners = f"{first:.1f},{base:.1f} {path} {last:.1f},{base:.1f}"
            self._shapes.append(f'<polygon class="{css}" points="{corners}"/>')

    def text(self, x: float, y: float, text: str, *, css: str = "", anchor: str = "middle") -> None:
        """Write *text* at a pixel position."""
        self._shapes.append(f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def name(self, y: float, text: str, *, css: str = "name") -> None:
        """Write the name of a row into the gutter."""
        self.text(GUTTER - 10, y, text, css=css, anchor="end")

    def axis(self, y: float, *, top: float, bottom: float, every: int = 10) -> None:
        """Write the seconds at *y* and draw a fine line at each from *top* to *bottom*, behind what follows."""
        for second in range(int(self.start), int(self.stop) + 1, every):
            self.line(second, top=top, bottom=bottom, css="grid")
            self.text(self.x(second), y, f"{second} s", css="axis")

    def behind(self, count: int) -> None:
        """Move the last *count* shapes behind all others."""
        if count:
            self._shapes = self._shapes[-count:] + self._shapes[:-count]

    @property
    def shapes(self) -> int:
        """Return how many shapes are drawn."""
        return len(self._shapes)

    def svg(self) -> str:
        """Return the drawing."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(self._label)}" '
            f'viewBox="0 0 {WIDTH:.0f} {self.height:.0f}">\n' + "\n".join(self._shapes) + "\n</svg>"
        )
