"""An MCP server on trio for bulk work: bounded, on time, and never losing what is finished.

The modules, lowest layer first. Each imports only from layers below its own; a test enforces it.
Packages state their inner order in the same way.

    L0   settings  errors  logs  console        what the operator decides; failures; terminal
    L1   responses  cursors  explain            the envelope; page marks; from error to answer
    L2   http  database  files  inference       doors to the outside; no mcp import
    L3   services                               what lives as long as the server
    L4   operations                             functions of one item, by name
    L5   store                                  operations that outlive their calls
    L6   state                                  what is live: limits, lines, calls
    L7   tools                                  the MCP tools, one file per family
    L8   server                                 composition root: tools and policy
    L9   transports                             stdio, Streamable HTTP, in memory
    L10  demo                                   bulk work that goes wrong in every way
    L11  cli                                    arguments to settings; the only `trio.run`
    L12  __main__                               python -m trio_tools
"""

__version__ = "0.1.0"
