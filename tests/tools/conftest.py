"""Both eras of the protocol, and no settings of whoever runs the tests."""

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
