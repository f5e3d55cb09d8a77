"""An MCP server on trio for bulk work: bounded, on time, and never losing what is finished.

The modules, lowest layer first. Each imports only from layers below its own; a test enforces it.
Packages state their inner order in the same way.

    L0   settings  errors  logs  console        what the operator decides; failures; terminal
    L1   responses  cursors  explain            the envelope; page marks; from error to answer
    L2   http  database  files  inference       doors to the outside; no mcp import
         store                                  operations that outlive their calls
    L3   services                               what lives as long as the server
    L4   operations                             functions of one item, by name
    L5   state                                  what is live: limits, lines, calls
    L6   tools                                  the MCP tools, one file per family
    L7   server                                 composition root: tools and policy
    L8   transports                             stdio, Streamable HTTP, in memory
    L9   demo                                   bulk work that goes wrong in every way
    L10  cli                                    arguments to settings; the only `trio.run`
    L11  __main__                               python -m trio_tools
"""

__version__ = "0.1.0"
