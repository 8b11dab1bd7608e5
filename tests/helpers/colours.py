"""Contrast of two colours, by the WCAG, and the colours of a figure."""

from __future__ import annotations

import re

HEX = "#[0-9a-f]{6}"
Rgb = tuple[float, float, float]


def rgb(color: str) -> Rgb:
    """Parts in [0, 1] of ``#rrggbb`` or ``rgb(r, g, b)``."""
    if color.startswith("#"):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    else:
        parts = [int(part) / 255 for part in re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", color).groups()]  # type: ignore[union-attr]
    return (parts[0], parts[1], parts[2])


def over(color: str, ground: str, opacity: float) -> Rgb:
    """What a colour that lets some of its ground through looks like."""
    red, green, blue = (opacity * a + (1 - opacity) * b for a, b in zip(rgb(color), rgb(ground), strict=True))
    return (red, green, blue)


def contrast(one: str | Rgb, other: str | Rgb) -> float:
    """1 (none) to 21; 4.5 is the least for text, 3 for lines and marks."""
    dark, light = sorted(_luminance(rgb(color) if isinstance(color, str) else color) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: Rgb) -> float:
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def colours_of(data: bytes) -> tuple[set[str], set[str], set[str]]:
    """Colours on a light ground, those of them that change on a dark one, and what stands outside the style sheet."""
    sheet = re.findall(r"<style>(.*?)</style>", data.decode(), flags=re.DOTALL)
    light, dark = sheet[0].split("@media (prefers-color-scheme:dark)")
    rest = data.decode().replace(sheet[0], "")
    return set(re.findall(HEX, light)), set(re.findall(HEX, dark)), set(re.findall(HEX, rest))
