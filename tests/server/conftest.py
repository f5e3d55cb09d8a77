"""No test of the server sees the settings of whoever runs it."""

import os

import pytest

from tests.server.kit import ERAS


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in [name for name in os.environ if name.startswith("TRIO_TOOLS_")]:
        monkeypatch.delenv(name)


@pytest.fixture(params=ERAS)
def era(request):
    return request.param
