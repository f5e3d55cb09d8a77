"""How much code one call goes through, so that it does not grow unseen."""

from tests.benchmarks.path import walk


def test_a_warm_call_of_fetch_urls_passes_through_few_modules_and_classes():
    path = walk()
    assert len(path.modules) <= 88
    assert len(path.classes) <= 84
    assert len(path.frames) <= 520
