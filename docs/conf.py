"""How Sphinx builds the documentation: `python -m sphinx -W docs site`."""

import tempfile
import zlib
from pathlib import Path

import nursery_patterns
import nursery_patterns.testing
from trio_tools.version import __version__

project = "trio-tools"
author = "The trio-tools authors"
copyright = "the trio-tools authors, MIT licence"  # noqa: A001 - the name that Sphinx reads
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib_trio",
    "sphinx_copybutton",
]
root_doc = "index"
source_suffix = {".md": "markdown"}
exclude_patterns = ["changes", "deploying"]
# Pages link to headings and files as on a code host, so that both places read the same.
myst_heading_anchors = 4
suppress_warnings = ["myst.xref_missing"]  # links to files outside docs: a test checks them
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

html_theme = "furo"
html_title = "trio-tools"
html_static_path = ["static"]
html_css_files = ["site.css"]
pygments_style = "friendly"
pygments_dark_style = "monokai"

# Where trio's own documentation has a name. A build downloads nothing, so the inventory is made
# from this table.
_TRIO = {
    "reference-core.html": {
        "class": "CapacityLimiter CancelScope Nursery Event Semaphore StrictFIFOLock TaskStatus",
        "exception": "Cancelled TooSlowError WouldBlock BrokenResourceError ClosedResourceError",
        "function": "run current_time sleep sleep_forever sleep_until move_on_after move_on_at "
        "fail_after open_nursery open_memory_channel current_effective_deadline "
        "to_thread.run_sync from_thread.check_cancelled",
    },
    "reference-io.html": {
        "class": "SocketStream SocketListener SSLStream abc.Stream",
        "function": "open_tcp_listeners serve_listeners open_signal_receiver",
    },
    "reference-lowlevel.html": {
        "class": "abc.Instrument abc.Clock lowlevel.ParkingLot lowlevel.RunVar lowlevel.Task",
        "function": "lowlevel.checkpoint lowlevel.current_task lowlevel.start_guest_run",
    },
    "reference-testing.html": {
        "class": "testing.MockClock",
        "function": "testing.wait_all_tasks_blocked",
    },
}


def _inventory() -> str:
    lines = [
        f"trio.{name} py:{kind} 1 {page}#$ -\n"
        for page, kinds in _TRIO.items()
        for kind, names in kinds.items()
        for name in names.split()
    ]
    head = "# Sphinx inventory version 2\n# Project: trio\n# Version: 0.31\n"
    head += "# The remainder of this file is compressed using zlib.\n"
    path = Path(tempfile.mkdtemp()) / "objects.inv"
    path.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
    return str(path)


intersphinx_mapping = {"trio": ("https://trio.readthedocs.io/en/stable", _inventory())}

_MODULES = {"nursery_patterns": nursery_patterns, "testing": nursery_patterns.testing}


def _list_names(_app, page, source):
    """Put every public name of the module into its reference page."""
    folder, _, name = page.partition("/")
    if folder != "reference" or name not in _MODULES:
        return
    module = _MODULES[name]
    directives = []
    for public in sorted(module.__all__, key=str.lower):
        value = getattr(module, public)
        kind = "autofunction"
        if isinstance(value, type):
            kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        directives.append(f"```{{eval-rst}}\n.. {kind}:: {module.__name__}.{public}\n```\n")
    source[0] = f"{source[0]}\n" + "\n".join(directives)


def setup(app):
    """Register what this configuration adds."""
    app.connect("source-read", _list_names)
