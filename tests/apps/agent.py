"""What an agent has of a browser: snapshots, refs in them, and actions."""

import base64
import hashlib
import json
import re
import time
import urllib.error
import urllib.request

import sites

PATIENCE = 5  # seconds until a page has to say what it should
LOOK = {"type": "snapshot", "budget_bytes": 1 << 17, "optional": True}


class Wrong(Exception):
    """Something is not as it should be."""


QUOTED = r'"(?:[^"\\]|\\.)*"'
LINE = re.compile(rf"( *)- ([\w-]+)(?: ({QUOTED}))?((?: \[[^\]]+\])*)(?: value=({QUOTED}))?(?: url=({QUOTED}))?")


class Node:
    """A line of a snapshot, with the lines below it."""

    def __init__(self, role="page", name="", marks="", value="", url=""):
        self.role, self.name, self.value, self.url = role, name, value, url
        self.marks = re.findall(r"\[([^\]]+)\]", marks)
        self.ref = next((mark[4:] for mark in self.marks if mark.startswith("ref=")), None)
        self.children = []

    def walk(self):
        for child in self.children:
            yield child
            yield from child.walk()

    def all(self, role, name=None):
        """Those whose name equals, or else those whose name contains, what is asked for."""
        found = [node for node in self.walk() if node.role == role]
        if name is None:
            return found
        return [node for node in found if node.name == name] or [node for node in found if name in node.name]

    def said(self):
        """Everything that is read in it."""
        return " ".join(node.name for node in self.walk() if node.name)

    def target(self):
        """Text alone has no ref: it is named by what it says."""
        return {"ref": self.ref} if self.ref else {"text": self.name}

    def __str__(self):
        words = f"{self.role} {self.name!r} {self.marks} {self.value!r}"
        return "\n  ".join([words, *(line for child in self.children for line in str(child).split("\n"))])


def read(text):
    """A snapshot as a tree."""
    root = Node()
    above = [root]
    for line in text.splitlines():
        matched = LINE.fullmatch(line)
        if not matched:
            raise Wrong(f"a snapshot has a line that is none: {line}")
        indent, role, name, marks, value, url = matched.groups()
        name, value, url = (json.loads(words or '""') for words in (name, value, url))
        node = Node(role, name, marks, value, url)
        depth = len(indent) // 2
        above[depth].children.append(node)
        above[depth + 1 :] = [node]
    return root


# The colour of a picture at a point.
PIXEL = """([x, y]) => {
  const c = new OffscreenCanvas(1, 1).getContext('2d');
  c.drawImage(picture, -x, -y);
  return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""


class Api:
    def __init__(self, running, hosts):
        self.running, self.hosts = running, hosts

    def __call__(self, method, path, body=None):
        request = urllib.request.Request(f"{self.running.base}/v1/sessions{path}", method=method)
        request.add_header("Authorization", f"Bearer {self.running.key}")
        raw = isinstance(body, bytes)
        if body is not None:
            request.add_header("Content-Type", "application/octet-stream" if raw else "application/json")
            request.data = body if raw else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request) as answer:
                text = answer.read()
                return json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text
        except urllib.error.HTTPError as error:
            raise Wrong(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def session(self):
        network = {"mode": "allow", "hosts": list(self.hosts)}
        return self("POST", "", {"browser": {}, "network": network, "ttl_seconds": 300})["id"]


class Agent:
    """Drives the browser of a session, and knows nothing of the page but what it is answered."""

    def __init__(self, api, directory, name):
        self.api, self.directory, self.name = api, directory, name
        self.session = api.session()
        self.page = Node()
        self.text = ""
        self.step = "begins"
        self.pictures = 0

    def send(self, *actions, seconds=20):
        """What each of them returned."""
        body = {"actions": actions, "timeout_seconds": seconds}
        self.answer = self.api("POST", f"/{self.session}/browser/actions", body)
        for action, result in zip(actions, self.answer["results"], strict=True):
            if result["outcome"] != "done":
                raise Wrong(f"{json.dumps(action, ensure_ascii=False)}: {result['outcome']}: {result['error']}")
        return self.answer["results"]

    def act(self, kind, target=None, **fields):
        """Does one thing, and reads the page again. A dialog holds it meanwhile: then there is nothing to read."""
        if target is not None:
            fields["target"] = target.target() if isinstance(target, Node) else target
        result, seen = self.send({"type": kind, **fields}, LOOK)
        self.text = seen.get("text", "")
        self.page = read(self.text)
        return result

    def refused(self, kind, target, **fields):
        """Why it cannot be done. Nothing is waited for that will not come."""
        target = target.target() if isinstance(target, Node) else target
        body = {"actions": [{"type": kind, "target": target, **fields}], "timeout_seconds": 1}
        result = self.api("POST", f"/{self.session}/browser/actions", body)["results"][0]
        if result["outcome"] != "failed":
            raise Wrong(f"{kind} {target}: {result['outcome']}, and it should have failed")
        return result["error"]

    def look(self):
        self.text = self.send(LOOK)[0].get("text", "")
        self.page = read(self.text)

    def go(self, url):
        went = self.act("navigate", url=url)
        self.equal("the page's status", went["status"], 200)

    def when(self, what, probe):
        """What a probe finds in the page, once it finds something."""
        until = time.monotonic() + PATIENCE
        while not (found := probe(self.page)) and time.monotonic() < until:
            time.sleep(0.05)
            self.look()
        if not found:
            raise Wrong(f"{what} is not there")
        return found

    def find(self, role, name=None, within=None, at=None):
        """The one element of this role and name; `at` says which where there are several."""
        found = self.when(f"{role} {name!r}", lambda page: (within or page).all(role, name))
        if at is None and len(found) > 1:
            raise Wrong(f"{len(found)} elements are {role} {name!r}")
        return found[at or 0]

    def expect(self, what, probe, right):
        """The page comes to say what is right."""
        until = time.monotonic() + PATIENCE
        while (seen := probe(self.page)) != right and time.monotonic() < until:
            time.sleep(0.05)
            self.look()
        self.equal(what, seen, right)

    def reads(self, words):
        """The page comes to say these words."""
        self.when(repr(words), lambda page: words in page.said())

    def equal(self, what, seen, right):
        if seen != right:
            raise Wrong(f"{what}: seen {seen!r}, right is {right!r}")

    def value(self, expression):
        return self.send({"type": "evaluate", "expression": expression})[0]["value"]

    def extract(self, kind, **fields):
        return self.send({"type": "extract", "format": kind, **fields})[0]["text"]

    def picture(self, what, **options):
        """A screenshot, which is stored for people, too. One of a whole page is too much for an answer."""
        ending = "jpg" if options.get("format") == "jpeg" else "png"
        if options.get("full_page"):
            options["path"] = f"{what}.{ending}"
        shot = self.send({"type": "screenshot", **options})[0]
        if "path" in options:
            data = self.api("GET", f"/{self.session}/files/{options['path']}")
        else:
            data = base64.b64decode(shot["base64"])
        self.pictures += 1
        (self.directory / f"{self.name}-{self.pictures}-{what}.{ending}").write_bytes(data)
        return data

    def colours(self, picture, points):
        """Pixels of a picture, as Chromium's decoder sees them."""
        return self.decoded(picture, f"{json.dumps(points)}.map({PIXEL})")

    def decoded(self, picture, expression):
        """What an expression says of a `picture`, in a tab of its own."""
        host = self.api.hosts[0]
        path = f"/pictures/{hashlib.sha256(picture).hexdigest()}"
        sites.Site.pictures[path] = picture
        script = f"const picture = await createImageBitmap(await (await fetch('{path}')).blob()); ({expression})"
        tab = {"type": "tabs", "op": "new", "url": f"http://{host}/own/drag.html"}
        *_, told, listed = self.send(tab, {"type": "evaluate", "expression": script}, {"type": "tabs", "op": "list"})
        self.send({"type": "tabs", "op": "close", "id": next(tab["id"] for tab in listed["tabs"] if tab["selected"])})
        return told["value"]
