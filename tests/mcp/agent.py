"""What an agent does, without a model: it is given a table, looks at it, works on it and draws it, all by MCP.

    python agent.py URL KEY        of a running server; without arguments it starts one
"""

import asyncio
import base64
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

TABLE = "city,month,rain_mm\nOslo,1,54\nOslo,7,92\nRome,1,67\nRome,7,21\nOslo,10,95\nRome,10,94\n"

LOOK = """
import csv
rows = list(csv.DictReader(open('rain.csv')))
{'rows': len(rows), 'columns': list(rows[0])}
"""

WORK = """
from collections import defaultdict
sums = defaultdict(int)
for row in rows:
    sums[row['city']] += int(row['rain_mm'])
dict(sums)
"""

# The standard library only: a bar for each city, as a PNG.
DRAW = """
import struct, zlib

def png(width, height, pixel):
    lines = b''.join(b'\\0' + b''.join(bytes(pixel(x, y)) for x in range(width)) for y in range(height))
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(lines)) + chunk(b'IEND', b'')

values, most = list(sums.values()), max(sums.values())
def pixel(x, y):
    bar = values[min(x // 40, len(values) - 1)]
    return (40, 90, 160) if x % 40 > 8 and (100 - y) <= bar * 90 // most else (255, 255, 255)
open('rain.png', 'wb').write(png(40 * len(values), 100, pixel))
"""


async def work(url, key):
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        async with Client(streamable_http_client(url, http_client=http)) as client:
            session = {}

            async def call(tool, **arguments):
                result = await client.call_tool(tool, {**arguments, **session})
                if result.is_error:
                    raise SystemExit(f"{tool}: {result.content[0].text}")
                # Whoever has no MCP session is told which session it is in, and says it from then on.
                session["session_id"] = result.structured_content["session_id"]
                return result

            await call("write_files", files=[{"path": "rain.csv", "content": TABLE}])
            look = await call("execute_code", language="python", code=LOOK)
            print("looked:", look.structured_content["value"])
            work = await call("execute_code", language="python", code=WORK)
            print("worked:", work.structured_content["value"])
            await call("execute_code", language="python", code=DRAW)
            image = (await call("read_files", paths=["rain.png"])).content[1]
            drawn = base64.b64decode(image.data)
            print("drew:", image.mime_type, len(drawn), "bytes")
            bill = await call("session_close")
            print("cost:", bill.structured_content["usage"]["cost_picos"], "picodollars")
            assert work.structured_content["value"] == "{'Oslo': 241, 'Rome': 182}"
            assert drawn.startswith(b"\x89PNG"), drawn[:8]


if len(sys.argv) == 3:
    asyncio.run(work(*sys.argv[1:]))
else:
    import server

    with server.running() as running:
        asyncio.run(work(f"{running.base}/mcp", running.key))
