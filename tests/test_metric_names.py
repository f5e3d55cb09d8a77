"""docs/metrics.md has each metric of a server with all that it can have, and no other."""

import re
from pathlib import Path

from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports.http.metrics import Metrics, merged

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def offered():
    """Return a row of the table for each metric: its name, its type, what it says."""
    settings = Settings(upstreams={"other": {"command": "true"}}, fetch={"hedge_after_seconds": 1})
    metrics = Metrics(create_server(settings).state, connections=lambda: 0, restarts=0)
    text = merged({0: metrics.text()[0]}).decode()
    says = dict(re.findall(r"^# HELP (\w+) (.*)$", text, re.MULTILINE))
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    # What a client library adds to a counter or a histogram: when it was made.
    return {
        f"| `{name}` | {kind} | {says[name]} |" for name, kind in kinds if "_created" not in name
    }


async def test_the_page_has_each_metric_as_it_describes_itself():
    rows = set(re.findall(r"^\| `\w+` .*$", PAGE.read_text("utf-8"), re.MULTILINE))
    assert rows == offered()
