"""Pages of our own, for what the apps lack: fields of all kinds, dialogs, frames, files and drags."""

import hashlib
import json
import urllib.parse

import sites


def store(agent, path, data):
    """A file in the workspace; says its digest."""
    agent.api("PUT", f"/{agent.session}/files/{urllib.parse.quote(path)}", data)
    return hashlib.sha256(data).hexdigest()


def fields_sent(agent, how):
    agent.when("what was sent", lambda page: page.all("heading", how))
    found = agent.find("list", "Fields")
    return [one.said().split("=", 1) for one in found.all("listitem")]


def forms(agent, _, host):
    digest = store(agent, "絵.png", b"\x89PNG not quite")
    agent.go(f"http://{host}/own/forms.html")
    agent.step = "sends what is not complete"
    agent.act("click", agent.find("button", "Send"))
    agent.equal("the page", agent.answer["page"]["title"], "Forms")
    agent.equal("what is asked for", "active" in agent.find("textbox", "Name").marks, True)
    agent.step = "fills"
    right = fills(agent, digest)
    agent.picture("filled")
    agent.step = "starts again"
    agent.act("click", agent.find("button", "Start again"))
    agent.equal("reset", [agent.find("textbox", name).value for name in ("Name", "Email", "Letter")], ["", "", "Dear"])
    agent.step = "sends"
    fills(agent, digest, again=True)
    agent.act("click", agent.find("button", "Send"))
    agent.expect("what was sent", lambda _: fields_sent(agent, "POST multipart/form-data"), right)
    agent.picture("sent")
    sends_otherwise(agent, host)
    return "28 fields of all kinds; multipart, text, GET, a point, Enter; required, reset"


TEXTS = {
    "Name": ("name", "Zoë 山田 👩‍💻"),
    "Email": ("email", "zoe@example.org"),
    "Phone": ("phone", "+81 3 0000"),
    "Home page": ("home", "https://example.org/ü"),
    "Password": ("secret", "hunter2"),
}
OTHERS = {
    ("searchbox", "Look for"): ("look", "猫"),
    ("spinbutton", "Amount"): ("amount", "3.5"),
    ("slider", "Loudness"): ("loud", "70"),
    ("textbox", "Day"): ("day", "2028-02-29"),
    ("textbox", "Time"): ("time", "23:59"),
    ("textbox", "Meeting"): ("meeting", "2028-02-29T23:59"),
    ("textbox", "Month"): ("month", "2028-02"),
    ("textbox", "Week"): ("week", "2028-W09"),
    ("textbox", "Colour"): ("colour", "#12ab34"),
    ("textbox", "Letter"): ("letter", "Dear Ada,\nさようなら"),
    ("combobox", "Fruit"): ("fruit", "Pear"),
    ("combobox", "Size"): ("size", "L"),
}


def fills(agent, digest, again=False):
    """Everything, and what has to be sent then."""
    texts = [{"target": agent.find("textbox", label).target(), "value": value} for label, (_, value) in TEXTS.items()]
    others = [{"target": agent.find(*where).target(), "value": value} for where, (_, value) in OTHERS.items()]
    agent.act("fill_form", fields=texts + others)
    for (role, label), (_, value) in OTHERS.items():
        agent.equal(label, agent.find(role, label).value, " ".join(value.split()))
    agent.equal("the password", agent.find("textbox", "Password").value, "••••")
    agent.act("select", agent.find("listbox", "Extras"), label=["Ham", "Olive"])
    agent.act("check", agent.find("checkbox", "By mail"))
    agent.act("uncheck", agent.find("checkbox", "By phone"))
    agent.act("check", agent.find("radio", "In cash"))
    if not again:
        # What a page makes of other elements is not reset with its form.
        agent.act("check", agent.find("switch", "Urgent"))
        agent.act("click", agent.find("button", "More"))
    agent.equal("the switch", "checked" in agent.find("switch", "Urgent").marks, True)
    agent.act("click", agent.find("button", "Country"))
    agent.act("click", agent.find("option", "中国"))
    agent.act("fill", agent.find("textbox", "Remark"), value="rich 文字")
    agent.act("fill", agent.find("textbox", "Nickname"), value="Z")
    agent.act("upload", agent.find("button", "Picture"), paths=["絵.png"])
    agent.act("fill", agent.find("textbox", "Beside the form"), value="too")
    for label, obstacle in (("Locked", "disabled"), ("Fixed", "read-only")):
        agent.equal(label, obstacle in agent.refused("fill", agent.find("textbox", label), value="2"), True)
    sent = {**dict(TEXTS.values()), **dict(OTHERS.values()), "size": "l", "letter": "Dear Ada,\r\nさようなら"}
    order = ["name", "email", "phone", "home", "look", "secret", "amount", "loud", "day", "time", "meeting", "month", "week"]
    order += ["colour", "letter", "fruit", "size"]
    right = [(name, sent[name]) for name in order]
    right += [("extras", "Ham"), ("extras", "Olive"), ("way", "mail"), ("pay", "cash"), ("fixed", "1")]
    right += [("urgent", "yes"), ("country", "中国"), ("remark", "rich 文字"), ("nick", "Z"), ("picture", f"絵.png {digest}")]
    return [[name, json.dumps(value, ensure_ascii=False)] for name, value in [*right, ("beside", "too")]]


OTHER_WAYS = {"Send as text": "POST text/plain", "Send by GET": "GET", "Send the point": "POST multipart/form-data"}


def sends_otherwise(agent, host):
    for button, how in OTHER_WAYS.items():
        agent.step = button
        agent.go(f"http://{host}/own/forms.html")
        agent.act("fill", agent.find("textbox", "Name"), value="猫 & 犬")
        agent.act("click", agent.find("button", button))
        told = agent.when("the fields", lambda _, how=how: fields_sent(agent, how))
        agent.equal("the name", told[0], ["name", '"猫 & 犬"'])
        if button == "Send the point":
            agent.equal("the point", told[-3:-1], [["at.x", '"30"'], ["at.y", '"10"']])
    agent.step = "sends by Enter"
    agent.go(f"http://{host}/own/forms.html")
    agent.act("type", agent.find("textbox", "Quick search"), text="速い\n")
    agent.expect("what was sent", lambda _: fields_sent(agent, "GET"), [["q", '"速い"']])


def log(page):
    return [one.said() for listed in page.all("list", "Log") for one in listed.all("listitem")]


def dialogs(agent, _, host):
    agent.go(f"http://{host}/own/dialogs.html")
    said = []

    def opens(button, kind, message):
        agent.act("click", agent.find("button", button))
        agent.equal(f"the dialog of {button}", agent.answer["page"]["dialog"], {"kind": kind, "message": message})

    def answers(words, **answer):
        agent.act("dialog", **answer)
        said.append(words)
        agent.expect("the log", log, said)

    agent.step = "answers"
    opens("Alert", "alert", "Line one\nライン二")
    held = agent.refused("click", {"text": "Prompt"})
    agent.equal("held", "dialog" in held, True)
    answers("alerted", accept=True)
    for accept, words in ((True, "deleted"), (False, "kept")):
        opens("Confirm", "confirm", "Delete everything?")
        answers(words, accept=accept)
    opens("Prompt", "prompt", "Your name?")
    answers("name: 李雷", accept=True, text="李雷")
    opens("Prompt", "prompt", "Your name?")
    answers("name: null", accept=False)
    opens("Two", "alert", "first")
    agent.act("dialog", accept=True)
    agent.equal("another", agent.answer["page"]["dialog"], {"kind": "alert", "message": "second"})
    answers("both", accept=True)
    agent.step = "answers one that comes later"
    agent.act("click", agent.find("button", "Later"))
    agent.when("a dialog", lambda _: agent.answer["page"]["dialog"])
    answers("gone", accept=False)
    agent.step = "answers one of the page's own"
    agent.act("click", agent.find("button", "Ask in the page"))
    asked = agent.find("dialog", "Order")
    agent.equal("what it covers", "covered by" in agent.refused("click", agent.find("button", "Alert")), True)
    agent.act("fill", agent.find("spinbutton", "How many", within=asked), value="3")
    agent.picture("own")
    agent.act("click", agent.find("button", "Yes"))
    said.append("closed: yes")
    agent.expect("the log", log, said)
    return "alert, confirm, prompt, two in a row, a late one, <dialog>"


def frames(agent, other, host):
    agent.go(f"http://{host}/own/frames.html?other={other}")
    for name in ("same", "other", "deep"):
        agent.step = f"fills the frame {name}"

        def within(role, label, name=name):
            return agent.when(label, lambda page: page.all("iframe", name) and page.all("iframe", name)[0].all(role, label))[0]

        agent.act("fill", within("textbox", "Word"), value=f"言葉 {name}")
        agent.act("select", within("combobox", "Kind"), label="verb")
        agent.act("check", within("checkbox", "Sure"))
        agent.act("click", within("button", "Press"))
        said = f"1: 言葉 {name}, verb, true"
        agent.when("what it says", lambda page, name=name, said=said: said in page.all("iframe", name)[0].said())
        agent.act("click", within("button", "Ask"))
        agent.equal("its dialog", agent.answer["page"]["dialog"], {"kind": "confirm", "message": "From a frame?"})
        agent.act("dialog", accept=True)
        agent.expect("its answer", lambda page, name=name: "true" in page.all("iframe", name)[0].said().split(), True)
    agent.step = "fills a frame without a URL"
    agent.act("fill", agent.find("textbox", "Word", within=agent.find("iframe", "written")), value="写")
    agent.expect("the frame", lambda page: "word 写" in page.all("iframe", "written")[0].said(), True)
    agent.step = "reads a frame whose scripts are off"
    agent.reads("Inner page")
    agent.equal("its field", len(agent.find("iframe", "shut").all("textbox", "Word")), 1)
    agent.picture("frames")
    agent.step = "goes on in a frame"
    agent.act("click", within("link", "Go on"))
    agent.expect("the frame", lambda page: 'from="frame"' in page.all("iframe", "deep")[0].said(), True)
    agent.equal("the page above", agent.answer["page"]["title"], "Frames")
    return "same site, another site, nested, srcdoc, sandboxed"


def files(agent, _, host):
    """Of the workspace into pages, and of pages into the workspace."""
    data = {"a.csv": b"1,2\n", "二.txt": "二".encode(), "big.bin": sites.BIG, "empty": b""}
    lines = [f"{path} {len(content)} {store(agent, path, content)}" for path, content in data.items()]
    agent.go(f"http://{host}/own/files.html")

    def chosen(page):
        return [one.said() for one in agent.find("list", "Chosen").all("listitem")]

    agent.step = "uploads"
    agent.act("upload", agent.find("button", "One"), paths=["a.csv"])
    agent.expect("the file", chosen, lines[:1])
    agent.act("upload", agent.find("button", "Many"), paths=list(data))
    agent.expect("the files", chosen, lines)
    agent.picture("uploaded")
    agent.act("upload", {"text": "Hidden field"}, paths=["二.txt"])
    agent.expect("the file", chosen, lines[1:2])
    why = agent.refused("upload", agent.find("button", "One"), paths=["a.csv", "empty"])
    agent.equal("too many", "one file only" in why, True)
    agent.step = "downloads"
    here = (sites.PAGES / "inner.html").read_bytes()
    for role, link, name, content in (
        ("link", "Report", "報告 1.csv", sites.REPORT),
        ("link", "Big", "big.bin", sites.BIG),
        ("link", "Page as a file", "page.txt", here),
        ("button", "Make one", "made.csv", "作った,1\n".encode()),
    ):
        agent.act("click", agent.find(role, link))
        agent.expect(link, lambda _, name=name: downloaded(agent, name), (len(content), hashlib.sha256(content).hexdigest()))
    agent.equal("all of them", len(agent.api("GET", f"/{agent.session}/files?path=downloads")["items"]), 4)
    agent.equal("the page", agent.answer["page"]["title"], "Files")
    return "4 files up by 3 fields, 4 down (4 MiB, Japanese names, made by a script)"


def downloaded(agent, name):
    """A download's size and digest, by the files API."""
    listed = agent.api("GET", f"/{agent.session}/files?path=")["items"]
    if not any(item["path"] == "downloads" for item in listed):
        return None
    listed = agent.api("GET", f"/{agent.session}/files?path=downloads")["items"]
    if not any(item["path"] == f"downloads/{name}" for item in listed):
        return [item["path"] for item in listed]
    data = agent.api("GET", f"/{agent.session}/files/{urllib.parse.quote(f'downloads/{name}')}")
    return len(data), hashlib.sha256(data).hexdigest()


def drags(agent, _, host):
    agent.go(f"http://{host}/own/drag.html")
    agent.step = "drags what the page moves itself"
    agent.act("drag", **{"from": agent.find("button", "Knob").target(), "to": agent.find("button", "Goal").target()})
    agent.reads("knob at 420")
    agent.step = "drags and drops"
    glass = next(thing for thing in agent.page.all("listitem") if thing.said() == "Glass")
    agent.act("drag", **{"from": glass.target(), "to": agent.find("group", "Bin").target()})
    agent.expect("the bin", lambda page: page.all("group", "Bin")[0].said(), "Glass")
    agent.picture("dragged")
    return "a pointer's drag, drag and drop"
