"""Somebody else's names are text in Markdown, wherever they stand."""

import re
from html import unescape

import pytest
from helpers.hostile import HOSTILE
from markdown_it import MarkdownIt

from fmcs_bench.core.markdown import block, code, escape, rows


def rendered(text):
    return MarkdownIt("gfm-like", {"linkify": False}).render(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_renders_as_itself(text):
    inside = re.fullmatch(r"<p>x (.*) y</p>\n", rendered(f"x {escape(text)} y"), re.DOTALL)[1]
    assert "<" not in inside
    assert unescape(inside).split() == text.split()


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("as_markdown", [escape, code])
def test_a_name_stays_in_its_cell(text, as_markdown):
    html = rendered(rows(["a", "b"], [[as_markdown(text), "2"]]))
    assert html.count("<tr>") == 2
    assert html.count("<td>") == 2
    assert "<td>2</td>" in html
    assert not re.search(r"<(script|img|a|hr|h1|em|strong|s)\b", html)


@pytest.mark.parametrize("text", ["a = 1", "```\n# out?\n```", "````` five", "one\n~~~\ntwo"])
def test_nothing_leaves_a_block(text):
    html = rendered(f"before\n\n{block(text, 'python')}\n\nafter")
    inside = re.fullmatch(
        r'<p>before</p>\n<pre><code class="language-python">(.*)\n</code></pre>\n<p>after</p>\n', html, re.DOTALL
    )[1]
    assert unescape(inside) == text
