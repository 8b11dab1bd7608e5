"""DataTables, which sorts and filters the tables of the page, taken out of the installed package ``itables``.

Flow: the module that itables carries -> the same statements in a function, which names DataTables for other scripts.
Browsers refuse to load modules from disk, and the page has to work from there.
"""

from __future__ import annotations

import re
from importlib.resources import files

from fmcs_bench.core.errors import PluginError

NAME = "datatables.js"
_EXPORT = re.compile(r"\bexport\s*\{([^{}]*)\};?")
_DEFAULT = re.compile(r"([\w$]+) as default")


def script() -> bytes:
    """A script that defines ``DataTable``, with the licences of all that it bundles at its end.

    Raises:
        PluginError: this version of itables carries something else.
    """
    module = (files("itables") / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    exports = list(_EXPORT.finditer(module))
    default = _DEFAULT.search(exports[0][1]) if len(exports) == 1 else None
    if default is None or "Bundled license information" not in module:
        raise PluginError(
            "this version of itables does not carry DataTables in a form that the page can use; install itables 2.9"
        )
    named = module[: exports[0].start()] + f"window.DataTable={default[1]};" + module[exports[0].end() :]
    return f"(() => {{\n{named}\n}})();\n".encode()
