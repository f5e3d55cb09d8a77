"""The operations that every server has, bound to its services."""

from __future__ import annotations

from trio_tools.operations.base import Operation
from trio_tools.operations.content import content_operations
from trio_tools.operations.data import data_operations
from trio_tools.operations.web import web_operations
from trio_tools.services import Services
from trio_tools.settings import Settings


def builtin_operations(services: Services, settings: Settings) -> list[Operation]:
    """Return the built-in operations, bound to the services and settings of a server."""
    return [
        *web_operations(services, settings),
        *content_operations(services),
        *data_operations(services),
    ]
