"""The examples of the documentation, as modules."""

import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"


def load_example(name):
    """Load docs/examples/NAME.py without running it as a script."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
