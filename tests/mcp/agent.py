"""What an agent does, without a model: it is given a table, and a web page that asks about it. It works on the table, draws it,
reads the page, fills its form, gives it the drawing, and brings back a picture of what the page said. All of it by MCP.

    python agent.py [DIRECTORY]        where its two pictures shall be stored
"""

import asyncio
import base64
import email
import email.policy
import pathlib
import re
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

import server

TABLE = "city,month,rain_mm\nOslo,1,54\nOslo,7,92\nRome,1,67\nRome,7,21\nOslo,10,95\nRome,10,94\n"

LOOK = """
import pandas
rain = pandas.read_csv('rain.csv')
{'rows': len(rain), 'columns': list(rain.columns)}
"""

WORK = """
sums = rain.groupby('city').rain_mm.sum().sort_values(ascending=False)
f'{sums.index[0]} {sums.iloc[0]}'
"""

DRAW = """
import matplotlib.pyplot as plt
axes = rain.pivot(index='month', columns='city', values='rain_mm').plot.bar(title='Rain', ylabel='mm', rot=0)
axes.figure.savefig('rain.png')
plt.show()
"""

PAGE = """<!doctype html><title>Rain survey</title><h1>Rain survey</h1><p>Which city had the most rain, and how much?</p>
<form method=post action=/sent enctype=multipart/form-data><p><label>City <input name=city></label>
<p><label>Rain <input name=rain type=number></label> <label>Unit <select name=unit><option>inch<option>mm</select></label>
<p><label><input type=checkbox name=sure> I am sure</label>
<p><label>Drawing <input type=file name=drawing accept=image/png></label> <p><button>Send</button></form>"""


class Survey:
    """The web site: a form, and what it was sent."""

    def __init__(self):
        self.sent = {}

    def __call__(self, path, query, headers, posted):
        if path != "/sent":
            return "text/html", PAGE.encode()
        head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
        form = email.message_from_bytes(head + posted, policy=email.policy.HTTP)
        parts = {part.get_param("name", header="Content-Disposition"): part for part in form.iter_parts()}
        self.sent = {name: part.get_content() for name, part in parts.items()}
        city, rain, unit, drawing = (self.sent[name] for name in ("city", "rain", "unit", "drawing"))
        said = f"Thank you: {city}, {rain} {unit}, with {parts['drawing'].get_filename()}"
        shown = base64.b64encode(drawing).decode()
        return "text/html", f"<title>Sent</title><h1>{said}</h1><img src=data:image/png;base64,{shown}>".encode()


class Agent:
    """Calls tools, and gives back the session that the first answer named."""

    def __init__(self, client):
        self.client = client
        self.session = {}

    async def __call__(self, tool, **arguments):
        result = await self.client.call_tool(tool, {**arguments, **self.session})
        if result.is_error:
            raise SystemExit(f"{tool}: {result.content[0].text}")
        self.session = {"session_id": result.structured_content["session_id"]}
        return result

    async def python(self, code):
        return await self("execute_code", language="python", code=code)


def ref(snapshot, what):
    """The ref of an element, as a model reads it off a snapshot."""
    found = re.search(rf"{what}.*\[ref=(e\d+)\]", snapshot)
    if not found:
        raise SystemExit(f"no {what} in:\n{snapshot}")
    return {"ref": found[1]}


def picture(result):
    """The image of an answer, whose first block is its text."""
    image = result.content[1]
    assert (image.type, image.mime_type) == ("image", "image/png"), image
    return base64.b64decode(image.data)


async def analyse(agent):
    """The answer to the page's question, and a drawing."""
    await agent("write_files", files=[{"path": "rain.csv", "content": TABLE}])
    looked = await agent.python(LOOK)
    print("looked:", looked.structured_content["value"])
    worked = (await agent.python(WORK)).structured_content["value"].strip("'")
    print("worked:", worked)
    drawing = picture(await agent.python(DRAW))
    print("drew:", len(drawing), "bytes")
    return worked.split(), drawing


async def answer(agent, host, city, amount):
    """A picture of what the page said to it."""
    page = (await agent("browser_navigate", url=f"http://{host}/")).structured_content["snapshot"]
    assert "Which city had the most rain" in page, page
    fields = [
        {"target": ref(page, 'textbox "City"'), "value": city},
        {"target": ref(page, 'spinbutton "Rain"'), "value": amount},
        {"target": ref(page, 'checkbox "I am sure"'), "value": "true"},
    ]
    await agent("browser_fill_form", fields=fields)
    await agent("browser_select_option", target=ref(page, 'combobox "Unit"'), values=["mm"])
    await agent("browser_file_upload", target=ref(page, '"Drawing"'), paths=["rain.png"])
    await agent("browser_click", target=ref(page, 'button "Send"'))
    seen = (await agent("browser_wait_for", text="Thank you")).structured_content["snapshot"]
    print("was told:", re.search('Thank you[^"]*', seen)[0])
    return picture(await agent("browser_take_screenshot"))


async def work(running, host, survey):
    headers = {"Authorization": f"Bearer {running.key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        async with Client(streamable_http_client(f"{running.base}/mcp", http_client=http)) as client:
            agent = Agent(client)
            await agent("session_create", network={"mode": "allow", "hosts": [host]})
            (city, amount), drawing = await analyse(agent)
            screenshot = await answer(agent, host, city, amount)
            bill = await agent("session_close")
            print("cost:", bill.structured_content["usage"]["cost_picos"], "picodollars")
    given = survey.sent.pop("drawing")
    assert survey.sent == {"city": "Oslo", "rain": "241", "unit": "mm", "sure": "on"}, survey.sent
    for image in (drawing, given, screenshot):
        assert image.startswith(b"\x89PNG\r\n"), image[:8]
    return {"drawing.png": drawing, "screenshot.png": screenshot}


def main():
    survey = Survey()
    with server.site(survey) as host, server.running(server.reaching(host)) as running:
        pictures = asyncio.run(work(running, host, survey))
    for directory in sys.argv[1:]:
        for name, data in pictures.items():
            (pathlib.Path(directory) / name).write_bytes(data)
    print("ok: an agent")


main()
