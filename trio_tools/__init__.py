"""An MCP server on trio for bulk work: bounded, on time, and never losing what is finished."""

__version__ = "0.1.0"
