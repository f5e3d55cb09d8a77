"""An MCP server of the older protocol in nothing but the standard library, so it starts at once.

`python upstream_server.py [WAY ...]` behaves badly in the ways that are named. What it is told and
does goes to the file named by UPSTREAM_TRACE, a line each.
"""

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path

WAYS = set(sys.argv[1:])
OUT = threading.Lock()
READ_ONLY = {"readOnlyHint": True}
NUMBER = {"type": "number"}
TEXT = {"type": "string"}
CANCELLED = set()
TOKENS = {}
ANSWERS = {}
TOOLS = {}


def trace(*words):
    path = os.environ.get("UPSTREAM_TRACE")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(" ".join(map(str, words)) + "\n")


def send(message):
    with OUT:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def text(value):
    return {"content": [{"type": "text", "text": value}]}


def tool(hints=READ_ONLY, **properties):
    """Make a function of request and arguments a tool."""

    def register(fn):
        shape = {
            "type": "object",
            "properties": properties,
            "required": list(properties)[:1],
        }
        TOOLS[fn.__name__] = (
            fn,
            {
                "name": fn.__name__,
                "description": f"Tool {fn.__name__}.",
                "inputSchema": shape,
                "annotations": hints,
            },
        )
        return fn

    return register


@tool(text=TEXT)
def echo(request, arguments):
    return text(arguments["text"])


@tool(text=TEXT)
def twice(request, arguments):
    send({"id": request, "result": text(arguments["text"])})
    return text(arguments["text"])


@tool(a=NUMBER, b=NUMBER)
def add(request, arguments):
    total = arguments["a"] + arguments["b"]
    return {**text(str(total)), "structuredContent": {"sum": total}}


@tool(seconds=NUMBER)
def nap(request, arguments):
    deadline = time.monotonic() + arguments["seconds"]
    while time.monotonic() < deadline and request not in CANCELLED:
        time.sleep(0.002)
    return text("done")


@tool(count=NUMBER, path=TEXT)
def steps(request, arguments):
    """Tell each step, and wait after the first one until the file of that path is there."""
    for number in range(1, int(arguments["count"]) + 1):
        if TOKENS.get(request) is not None:
            params = {
                "progressToken": TOKENS[request],
                "progress": number,
                "total": arguments["count"],
                "message": f"step {number}",
            }
            send({"method": "notifications/progress", "params": params})
        while not Path(arguments["path"]).exists():
            time.sleep(0.002)
    return text("all steps")


@tool(text=TEXT)
def fail(request, arguments):
    return {**text(f"no such thing: {arguments['text']}"), "isError": True}


@tool(text=TEXT)
def broken(request, arguments):
    return {"content": "none"}


@tool(text=TEXT)
def picture(request, arguments):
    image = {"type": "image", "data": "aGVsbG8=", "mimeType": "image/png"}
    return {"content": [{"type": "text", "text": "a picture"}, image]}


@tool(text=TEXT)
def ask(request, arguments):
    params = {"messages": [], "maxTokens": 5}
    send({"id": f"ask-{request}", "method": "sampling/createMessage", "params": params})
    return text("asked")


@tool(method=TEXT, params={"type": "object"})
def consult(request, arguments):
    """Ask the client, and return what it answers."""
    return text(json.dumps(answer_to(request, 0, arguments["method"], arguments["params"])))


@tool(times=NUMBER)
def insist(request, arguments):
    """Ask the client so many times, whatever it answers."""
    for number in range(int(arguments["times"])):
        answer_to(request, number, "roots/list", {})
        if request in CANCELLED:
            trace("insisted", number + 1)
            break
    return text("asked enough")


def answer_to(request, number, method, params):
    asked = f"ask-{request}-{number}"
    ANSWERS[asked] = queue.Queue()
    send({"id": asked, "method": method, "params": params})
    answer = ANSWERS[asked].get()
    del ANSWERS[asked]
    return answer.get("result") or answer["error"]["message"]


@tool(text=TEXT)
def want(request, arguments):
    asked = {"method": "elicitation/create", "params": {"message": "Which account?"}}
    return {"resultType": "input_required", "inputRequests": {"who": asked}, "requestState": "s"}


@tool(size=NUMBER)
def large(request, arguments):
    return text("x" * int(arguments["size"]))


@tool()
def environment(request, arguments):
    return {**text(""), "structuredContent": {"env": dict(os.environ), "cwd": str(Path.cwd())}}


@tool(code=NUMBER)
def die(request, arguments):
    os._exit(int(arguments["code"]))


@tool(path=TEXT)
def die_once(request, arguments):
    if Path(arguments["path"]).exists():
        return text("the second time")
    Path(arguments["path"]).touch()
    os._exit(7)


@tool()
def grow(request, arguments):
    WAYS.add("grown")
    send({"method": "notifications/tools/list_changed"})
    return text("grown")


@tool({}, text=TEXT)
def write(request, arguments):
    return text(arguments["text"])


@tool({}, text=TEXT)
def write_and_die(request, arguments):
    os._exit(7)


BAD_TOOLS = [
    {"name": "bad1", "inputSchema": {"type": "object", "properties": 5}},
    {"name": "bad2", "inputSchema": "none"},
    {"name": "bad3"},
    {"name": "bad 4", "inputSchema": {"type": "object"}},
    {"inputSchema": {"type": "object"}},
    "no tool",
]


def listing():
    plain = {"inputSchema": {"type": "object"}, "annotations": READ_ONLY}
    if "thousand" in WAYS:
        return {"tools": [{"name": f"t{number}", **plain} for number in range(1_500)]}
    tools = [listed for _, listed in TOOLS.values()]
    if "bad-schemas" in WAYS:
        tools = tools + BAD_TOOLS
    if "grown" in WAYS:
        tools = [*tools, {"name": "new", **plain}]
    return {"tools": tools}


def work(request, params):
    fn, _ = TOOLS[params["name"]]
    trace("call", params["name"], json.dumps(params["arguments"]))
    result = fn(request, params["arguments"])
    if request in CANCELLED and "late" not in WAYS:
        return
    send({"id": request, "result": result})
    if "flood" in WAYS:
        for number in range(2_000):
            send({"method": "notifications/message", "params": {"level": "info", "data": number}})
            progress = {"progressToken": 0, "progress": number}
            send({"method": "notifications/progress", "params": progress})


def initialize(request):
    info = {"name": os.environ.get("UPSTREAM_NAME", "small"), "version": "1"}
    capabilities = {"tools": {"listChanged": True}}
    result = {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": info}
    send({"id": request, "result": result})


def discover(request):
    result = {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {}},
        "ttlMs": 0,
        "cacheScope": "private",
    }
    send({"id": request, "result": result})


def start_call(request, params):
    TOKENS[request] = (params.get("_meta") or {}).get("progressToken")
    if "tell-meta" in WAYS:
        trace("meta", json.dumps(params.get("_meta")))
    if "inline" in WAYS:
        work(request, params)
    else:
        threading.Thread(target=work, args=(request, params), daemon=True).start()


def handle(message):
    request = message.get("id")
    match message.get("method"):
        case _ if "silent" in WAYS:
            pass
        case "initialize":
            initialize(request)
        case "server/discover" if "modern" in WAYS:
            discover(request)
        case "ping" if "modern" not in WAYS:
            send({"id": request, "result": {}})
        case "tools/list":
            send({"id": request, "result": listing()})
        case "tools/call":
            start_call(request, message["params"])
        case "notifications/cancelled":
            trace("cancelled", message["params"]["requestId"])
            CANCELLED.add(message["params"]["requestId"])
        case str() if request is not None and "strict" in WAYS:
            sys.exit("expected initialize")
        case str() if request is not None:
            send({"id": request, "error": {"code": -32601, "message": "Method not found"}})
        case _:
            trace("message", json.dumps(message))


def main():
    trace("start", os.getpid())
    if "rubbish" in WAYS:
        sys.stdout.write("Welcome to the server!\n{not json\n")
    if "no-start" in WAYS:
        sys.exit(f"cannot open the database with {os.environ.get('PASSWORD')}")
    if "child" in WAYS and os.fork() == 0:
        trace("child", os.getpid())
        time.sleep(600)
    for line in sys.stdin:
        message = json.loads(line)
        if "method" not in message and message["id"] in ANSWERS:
            ANSWERS[message["id"]].put(message)
        else:
            handle(message)
    if "stays" in WAYS:
        time.sleep(600)
    trace("end", os.getpid())


main()
