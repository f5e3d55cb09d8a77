"""The number of CPUs is what this process may use."""

import os

import pytest

from nursery_patterns import _cpus as machine
from nursery_patterns import usable_cpus


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8), ("", 8)],
)
def test_a_quota_of_the_cgroup_counts(tmp_path, monkeypatch, text, cpus):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(machine, "_CGROUP_2", tmp_path / "cpu.max")
    monkeypatch.setattr(machine, "_CGROUP_1", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cpus() == cpus


def test_affinity_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CGROUP_2", tmp_path / "none")
    monkeypatch.setattr(machine, "_CGROUP_1", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cpus() == 1
