"""`trio-tools dashboard`: the page of a stored state, for servers without one, as on stdio."""

from __future__ import annotations

import argparse
import signal
import webbrowser
from functools import partial

import trio

from trio_tools.settings import Settings
from trio_tools.settings.threads import run_in_tool_thread


async def dashboard(options: argparse.Namespace, settings: Settings, _: list[str]) -> int:
    """Serve the page on this machine until Ctrl-C; the state is read and not changed.

    Returns:
        0.

    Raises:
        ValueError: The state is memory, does not exist, or cannot be read.
        OSError: The port is in use.
    """
    from trio_tools.live.stored_view import StoredView  # noqa: PLC0415 - of this command alone
    from trio_tools.server import create_server  # noqa: PLC0415
    from trio_tools.transports.local_page import serve_page  # noqa: PLC0415 - heavy

    # Reading does not need upstreams, and listing their operations would start them.
    server = create_server(settings.model_copy(update={"upstreams": {}}))
    view, problem = StoredView(server.state), ""
    try:
        await view.check()
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                url = await nursery.start(partial(serve_page, view, port=options.page_port))
                print(f"the dashboard is at {url}", flush=True)  # noqa: T201
                print("it ends with Ctrl-C", flush=True)  # noqa: T201
                if options.open and not await run_in_tool_thread(webbrowser.open, url):
                    print("no browser could be started: open the address yourself")  # noqa: T201
                await anext(signals)
                nursery.cancel_scope.cancel(reason="a person ended it")
    except* OSError as group:
        problem = str(group.exceptions[0])
    finally:
        view.close()
    if problem:
        raise ValueError(f"--port {options.page_port}: {problem}; leave it out for a free port")
    return 0
