"""Texts that must stay text in Markdown and HTML."""

HOSTILE = [
    "</script><script>alert(1)</script>",
    "a | b",
    "[x](javascript:alert(1))",
    "![x](http://tracker/y.png)",
    "`code` ``and`` more",
    "*a* _b_ ~~c~~ **d**",
    "<img src=x onerror=y> &amp; &lt;",
    "$x^2$ \\( y \\) #1 \\",
    "---",
    "one\n---\ntwo\r\n# three",
]
