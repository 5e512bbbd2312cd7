"""The official clients list and call every tool: both revisions, over HTTP and over standard input and output.

Python's here; TypeScript's is in clients.mjs.
"""

import asyncio
import contextlib
import pathlib
import shutil
import subprocess
import sys

import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

import server

PNG = "iVBORw0KGgo="


@contextlib.asynccontextmanager
async def over_http(running, mode, tools=""):
    headers = {"Authorization": f"Bearer {running.key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(f"{running.base}/mcp{tools}", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@contextlib.asynccontextmanager
async def over_stdio(running, mode):
    arguments = ["mcp", "--url", running.base, "--data-dir", str(running.data_dir)]
    parameters = StdioServerParameters(command=str(server.PROGRAM), args=arguments)
    async with Client(parameters, mode=mode) as client:
        yield client


class Caller:
    """Calls tools, and keeps account of which. The client checks each answer against the tool's output schema."""

    def __init__(self, client):
        self.client = client
        self.called = set()
        self.session = {}

    async def __call__(self, tool, fails=False, **arguments):
        self.called.add(tool)
        result = await self.client.call_tool(tool, arguments)
        assert bool(result.is_error) == fails, (tool, result)
        return result

    async def data(self, tool, **arguments):
        return (await self(tool, **arguments, **self.session)).structured_content


PAGE = (
    "data:text/html,<title>Order</title><label>Name <input id=who></label>"
    "<label>List <input type=file id=list></label>"
    "<label>Size <select id=size><option>small<option>large</select></label>"
    "<button onclick=\"out.textContent=prompt('sure?')+who.value+size.value\">Order</button><output id=out></output>"
)


async def browser_tools(call):
    """Every one of a browser, on a page that needs no network."""
    assert (await call.data("browser_navigate", url=PAGE))["title"] == "Order"
    name = {"label": "Name"}
    await call.data("browser_type", target=name, text="A")
    await call.data("browser_fill_form", fields=[{"target": name, "value": "Ada"}])
    await call.data("browser_select_option", target={"label": "Size"}, values=["large"])
    await call.data("browser_press_key", key="Tab")
    # The page cannot be read before its dialog is answered, and that is said.
    asked = await call("browser_click", target={"text": "Order"}, **call.session)
    assert "sure?" in asked.structured_content["dialog"], asked
    await call.data("browser_handle_dialog", accept=True, text="yes")
    seen = await call.data("browser_wait_for", text="yesAdalarge")
    assert "yesAdalarge" in seen["snapshot"], seen
    assert (await call.data("browser_evaluate", expression="6 * 7"))["value"] == "42"
    await call.data("write_files", files=[{"path": "given.txt", "content": "given"}])
    await call.data("browser_file_upload", target={"label": "List"}, paths=["given.txt"])
    assert (await call.data("browser_evaluate", expression="list.files[0].text()"))["value"] == '"given"'
    picture = await call("browser_take_screenshot", **call.session)
    assert picture.content[1].type == "image"
    assert len((await call.data("browser_tabs", action="list"))["tabs"]) == 1
    assert (await call.data("browser_navigate_back"))["url"] == "about:blank"
    assert (await call.data("browser_snapshot"))["status"] == "succeeded"
    assert (await call.data("browser_close"))["closed"]


async def every_tool(client):
    tools = {tool.name for tool in (await client.list_tools()).tools}
    call = Caller(client)
    made = (await call("session_create", ttl_seconds=120)).structured_content
    call.session = {"session_id": made["session_id"]}

    ran = await call.data("execute_code", language="python", code="x = 41\nprint('hello')\nx + 1")
    assert (ran["stdout"], ran["value"]) == ("hello\n", "42"), ran
    throws = {"language": "javascript", "code": "throw new Error('no')"}
    failed = await call("execute_code", fails=True, **throws, **call.session)
    assert "no" in failed.content[0].text
    begun = await call.data("execute_code", language="python", code="while True: pass", background=True)
    task = await call.data("get_task", task_id=begun["task_id"])
    assert task["status"] == "running", task
    assert (await call.data("stop_task", task_id=begun["task_id"]))["status"] == "cancelled"

    ran = await call.data("run_command", command="echo $((6 * 7)); exit 3", fails=True)
    assert (ran["stdout"], ran["exit_code"]) == ("42\n", 3), ran
    begun = await call.data("start_command", command="sleep 60")
    assert (await call.data("stop_task", task_id=begun["task_id"]))["status"] == "cancelled"

    files = [{"path": "a.txt", "content": "text"}, {"path": "p.png", "content_base64": PNG}]
    await call.data("write_files", files=files)
    read = await call("read_files", paths=["a.txt", "p.png"], **call.session)
    assert read.structured_content["files"][0]["text"] == "text"
    assert (read.content[1].type, read.content[1].data) == ("image", PNG)
    resource = await client.read_resource(f"anchorhold://{made['session_id']}/a.txt")
    assert resource.contents[0].text == "text"
    assert len((await call.data("list_files"))["files"]) == 2
    assert (await call.data("remove_files", paths=["a.txt"]))["removed"] == ["a.txt"]

    await browser_tools(call)
    assert (await call.data("session_get"))["usage"]["records"] >= 3
    assert (await call("usage_get", group_by="session")).structured_content["lines"]
    assert (await call.data("session_close"))["status"] == "closed"
    with contextlib.suppress(MCPError):
        raise AssertionError(await client.call_tool("no_such_tool", {}))
    assert call.called == tools, tools ^ call.called


async def progress(client):
    heard = []

    async def hear(progress, total, message):
        heard.append(message)

    code = "import time\nfor n in range(3):\n    print('step', n, flush=True)\n    time.sleep(0.2)"
    arguments = {"language": "python", "code": code}
    result = await client.call_tool("execute_code", arguments, progress_callback=hear)
    assert "step 2" in heard, heard
    await client.call_tool("session_close", {"session_id": result.structured_content["session_id"]})


async def main():
    with server.running() as running:
        for mode in ("legacy", "2026-07-28", "auto"):
            for door in (over_http, over_stdio):
                async with door(running, mode) as client:
                    await every_tool(client)
                    await progress(client)
                    print(f"ok: every tool, Python, {door.__name__}, {mode}: {client.protocol_version}")
        async with over_http(running, "auto", "?tools=code") as client:
            assert len((await client.list_tools()).tools) == 5
            print("ok: a profile")
        typescript(running)


def typescript(running):
    """node looks for packages beside the program, and they are beside the environment that runs this."""
    here, packages = pathlib.Path(__file__).parent, pathlib.Path(sys.prefix).parent
    program = shutil.copy(here / "clients.mjs", packages)
    command = [pathlib.Path(sys.prefix) / "bin/node", program]
    subprocess.run([*command, running.base, running.key, server.PROGRAM, running.data_dir], check=True)


asyncio.run(main())
