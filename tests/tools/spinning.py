"""What a worker process runs for `test_cancel`. It imports little, so that workers start soon."""

import os
from pathlib import Path


def spin(path: str) -> None:
    """Say which process this is, then compute for ever."""
    Path(path).write_text(str(os.getpid()), encoding="ascii")
    while True:
        pass
