"""The way of traffic as an SVG diagram: hooks at the top, chains and verdicts below, read downwards."""

from __future__ import annotations

from html import escape

from istio_init.visible import visible
from istio_init.wording.words import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.inspector.flow import FlowStep, HookFlow

ROW, INDENT, TEXT, MARGIN = 30, 26, 7.85, 14
"""Height of a row, indentation of a level, width of a character, margin: all in pixels."""

COLOURS = {
    "redirected": "var(--ok)",
    "handed": "var(--ok)",
    "dropped": "var(--error)",
    "returned": "var(--warning)",
    "accepted": "var(--warning)",
}


class _Canvas:
    """Collects shapes and remembers how far they reach."""

    def __init__(self) -> None:
        self.shapes: list[str] = []
        self.y = MARGIN
        self.width = 0.0

    def text(self, x: float, words: str, *, style: str = "") -> float:
        """Draw words in the current row; the x at which they end."""
        words = visible(words)
        self.shapes.append(f'<text x="{x:.0f}" y="{self.y + 19}" fill="var(--fg)"{style}>{escape(words)}</text>')
        end = x + len(words) * TEXT
        self.width = max(self.width, end)
        return end

    def pill(self, x: float, words: str, colour: str) -> float:
        """Draw words in a rounded box; the x at which it ends."""
        words = visible(words)
        width = len(words) * TEXT + 18
        self.shapes.append(
            f'<rect x="{x:.0f}" y="{self.y + 3}" width="{width:.0f}" height="23" rx="11" '
            f'fill="none" stroke="{colour}"/>'
            f'<text x="{x + 9:.0f}" y="{self.y + 19}" fill="{colour}">{escape(words)}</text>'
        )
        self.width = max(self.width, x + width)
        return x + width

    def line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw a connector."""
        way = f"M{x1:.0f} {y1:.0f} V{y2:.0f} H{x2:.0f}"
        self.shapes.append(f'<path d="{way}" fill="none" stroke="var(--wire)" shape-rendering="crispEdges"/>')


def flow_svg(hooks: tuple[HookFlow, ...]) -> str:
    """One diagram of all hooks, one below the other."""
    canvas = _Canvas()
    for hook in hooks:
        title = f"{hook.direction}: {hook.title}, in {hook.where}"
        canvas.text(MARGIN, title, style=' font-weight="700"')
        top = canvas.y + ROW - 4
        canvas.y += ROW
        _draw(canvas, hook.steps, MARGIN, top)
        canvas.y += ROW // 2
    width, height = canvas.width + MARGIN, canvas.y
    shapes = "".join(canvas.shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" role="img" aria-label="where traffic goes">{shapes}</svg>'
    )


def _draw(canvas: _Canvas, steps: tuple[FlowStep, ...], x: float, top: float) -> None:
    for step in steps:
        canvas.line(x + 6, top, x + INDENT - 4, canvas.y + ROW / 2)
        end = canvas.text(x + INDENT, step.tests, style=' opacity=".6"' if step.foreign else "")
        end = canvas.text(end + 8, "→")
        note = f"{step.action} (foreign)" if step.foreign else step.action
        end = canvas.pill(end + 8, note, COLOURS.get(step.action.split()[0], "var(--info)"))
        if step.packets:
            canvas.text(end + 10, packets(step.packets), style=' opacity=".6"')
        inner_top = canvas.y + ROW - 4
        canvas.y += ROW
        _draw(canvas, step.steps, x + INDENT, inner_top)
