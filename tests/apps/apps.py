"""Real web pages, used as an agent uses them: it reads a snapshot, finds refs by role and name, acts, and reads again. TodoMVC in
five frameworks, Cypress' kitchen sink, and next to it pages of our own for what these lack: fields of all kinds, dialogs, frames,
uploads and downloads, drags, and a page that is long, dark, and written in Japanese and Chinese.

    python apps.py NODE_MODULES [DIRECTORY]        where pictures shall be stored; otherwise, in a new temporary one
"""

import contextlib
import json
import pathlib
import sys
import tempfile
import time
import traceback

import kitchen
import looks
import own
import todomvc
from agent import Agent, Api, Wrong
from sites import site

sys.path.append(str(pathlib.Path(__file__).parent.parent / "mcp"))

import server  # noqa: E402, as the other clients start it

PARTS = {
    **{name: todomvc.framework(name) for name in ("react", "vue", "angularjs", "backbone", "emberjs")},
    "kitchen sink": kitchen.uses,
    "forms": own.forms,
    "dialogs": own.dialogs,
    "frames": own.frames,
    "files": own.files,
    "drags": own.drags,
    "looks": looks.looks,
}


def part(api, directory, name):
    """One row of the table; None when it failed."""
    began = time.monotonic()
    agent = Agent(api, directory, name.replace(" ", "-"))
    try:
        did = PARTS[name](agent, *api.hosts)
    except Exception as error:
        where = "" if isinstance(error, Wrong) else traceback.format_exc()
        print(f"FAILED: {name}: {agent.step}: {error}\n{where}{agent.text}", file=sys.stderr)
        with contextlib.suppress(Wrong):
            agent.picture("failed")
        return None
    finally:
        api("DELETE", f"/{agent.session}")
    return name, did, f"{time.monotonic() - began:.1f} s"


def main():
    modules = pathlib.Path(sys.argv[1])
    directory = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix="anchorhold-apps-"))
    directory.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[3:] or list(PARTS)
    # Two addresses are two sites: a frame of the other one is another process.
    with site("127.0.0.2", modules / "todomvc") as todo, site("127.0.0.1", modules / "cypress-example-kitchensink/app") as sink:
        settings = f"[egress]\nallow_private = {json.dumps([todo, sink])}\n"
        with server.running(settings) as running:
            api = Api(running, (todo, sink))
            rows = [part(api, directory, name) for name in wanted]
    for row in filter(None, rows):
        print("{:14}{:108}{:>8}".format(*row))
    print("pictures:", directory)
    if None in rows:
        raise SystemExit(f"{rows.count(None)} of {len(rows)} failed")


main()
