"""kill -9 in the middle of a batch: what was told is stored, and what is stored is done once.

`python -m tests.benchmarks kills` does it as often as one likes.
"""

import random

import pytest

from tests.benchmarks.kills import Campaign


@pytest.mark.parametrize("state", ["sqlite", "postgresql"])
@pytest.mark.parametrize("way", ["stdio", "http"])
async def test_a_kill_loses_nothing_that_was_told_and_repeats_nothing_that_is_stored(
    way, state, tmp_path, request
):
    url = (
        f"sqlite:///{tmp_path}/operations.db"
        if state == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    campaign = Campaign(way, url, tmp_path / "marks", items=500, nap=0.02, most_seconds=1.0)
    await campaign.run(1, random.Random())
    assert campaign.kills == 1
