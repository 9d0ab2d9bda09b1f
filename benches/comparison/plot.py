"""Plots as SVG, without dependencies: bars and lines, both on logarithmic scales, for light and dark backgrounds.

Colours are told apart by those who see fewer of them, and every bar has its number beside it: nothing relies on colour.
"""

import html
import math

COLOURS = {"forge": "#d55e00", "docker": "#0072b2", "buildah": "#009e73"}
OTHERS = ["#d55e00", "#0072b2", "#009e73", "#cc79a7"]
# One grey that is read on white and on black: not all who show SVG tell it which of the two is behind it.
STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #777777 }
.title { font-size: 15px; font-weight: 600 }
.grid { stroke: #888888; stroke-opacity: 0.35 }
.spread { stroke: #777777 }
</style>"""


def number(value):
    """Three digits that count."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}" if digits else f"{round(value):,}"


class Scale:
    """A logarithmic scale from pixels to pixels, from a power of ten to one, with a mark at each."""

    def __init__(self, values, begin, end):
        some = [value for value in values if value > 0] or [1]
        self.low = math.floor(math.log10(min(some)))
        self.high = max(math.ceil(math.log10(max(some))), self.low + 1)
        self.begin, self.end = begin, end

    def __call__(self, value):
        share = (math.log10(max(value, 10 ** self.low)) - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def marks(self):
        return [10.0 ** exponent for exponent in range(self.low, self.high + 1)]


class Drawing:
    """Elements of one SVG."""

    def __init__(self, width, title):
        self.width, self.elements = width, []
        self.text(10, 22, title, "title")

    def text(self, x, y, text, kind="", anchor="start"):
        self.elements.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{html.escape(text)}</text>')

    def line(self, x1, y1, x2, y2, kind):
        self.elements.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def raw(self, element):
        self.elements.append(element)

    def legend(self, x, y, names):
        for name, colour in names:
            self.raw(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colour}"/>')
            self.text(x + 17, y, name)
            x += 35 + 7 * len(name)

    def write(self, path, height, about):
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{height}" '
                f'viewBox="0 0 {self.width} {height}" role="img" aria-label="{html.escape(about, quote=True)}">')
        path.write_text("\n".join([head, STYLE, *self.elements, "</svg>", ""]), encoding="utf-8")


def bars(path, title, unit, groups):
    """Bars from left to right: `groups` are (label, [(tool, median, low, high)])."""
    drawing = Drawing(760, title)
    left, right, y = 150, 620, 62
    scale = Scale([value for _, tools in groups for _, *values in tools for value in values], left, right)
    names = list(dict.fromkeys(tool for _, tools in groups for tool, *_ in tools))
    drawing.legend(left, 44, [(name, COLOURS[name]) for name in names])
    height = y + sum(14 * len(tools) + 14 for _, tools in groups)
    for mark in scale.marks():
        drawing.line(scale(mark), y, scale(mark), height, "grid")
        drawing.text(scale(mark), height + 16, f"{mark:,g}", "quiet", "middle")
    drawing.text(right + 60, height + 16, unit, "quiet")
    for label, tools in groups:
        drawing.text(left - 10, y + 7 * len(tools) + 8, label, anchor="end")
        for tool, median, low, high in tools:
            end = scale(median)
            drawing.raw(f'<rect x="{left}" y="{y + 4}" width="{max(end - left, 1):.1f}" height="11" fill="{COLOURS[tool]}"/>')
            if high > low:
                drawing.line(scale(low), y + 9.5, scale(high), y + 9.5, "spread")
            drawing.text(max(end, scale(high)) + 6, y + 14, number(median))
            y += 14
        y += 14
    drawing.write(path, height + 28, title)


def lines(path, title, x_name, y_name, series):
    """Lines: `series` are {name: [(x, median, low, high)]}."""
    drawing = Drawing(760, title)
    left, right, top, bottom = 80, 720, 62, 380
    across = Scale([point[0] for points in series.values() for point in points], left, right)
    up = Scale([value for points in series.values() for point in points for value in point[1:]], bottom, top)
    colours = dict(zip(series, OTHERS))
    drawing.legend(left, 44, colours.items())
    for mark in up.marks():
        drawing.line(left, up(mark), right, up(mark), "grid")
        drawing.text(left - 8, up(mark) + 4, f"{mark:,g}", "quiet", "end")
    for mark in across.marks():
        drawing.line(across(mark), top, across(mark), bottom, "grid")
        drawing.text(across(mark), bottom + 18, f"{mark:,g}", "quiet", "middle")
    drawing.text(right, bottom + 38, x_name, "quiet", "end")
    drawing.text(10, 44, y_name, "quiet")
    for name, points in series.items():
        path_of = " ".join(f"{across(x):.1f},{up(median):.1f}" for x, median, _, _ in points)
        drawing.raw(f'<polyline points="{path_of}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
        for x, median, low, high in points:
            drawing.line(across(x), up(low), across(x), up(high), "spread")
            drawing.raw(f'<circle cx="{across(x):.1f}" cy="{up(median):.1f}" r="3" fill="{colours[name]}"/>')
            drawing.text(across(x), up(median) - 8, number(median), "", "middle")
    drawing.write(path, bottom + 50, title)
