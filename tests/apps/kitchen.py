"""Cypress' kitchen sink: a page for each kind of thing that a test does to a page."""

import re
import time

import sites
import todomvc


def uses(agent, _, host):
    agent.go(f"http://{host}/")
    agent.picture("home")
    for page in (actions, boxes, selects, scrolls, pages_that_talk, pages_to_read, stores, moves):
        page(agent, host)
    agent.step = "keeps its todos"
    agent.go(f"http://{host}/todo")
    agent.expect("the list", todomvc.todos, [("Pay electric bill", False), ("Walk the dog", False)])
    todomvc.remove(agent, "Pay electric bill")
    todomvc.remove(agent, "Walk the dog")
    # The box for all is one pixel, and under something else: what people see and click is its label.
    todomvc.uses(agent, label="Mark all as complete")
    return "fields, clicks, boxes, selects, scrolls, requests, storage, cookies, history, window, todos"


def visit(agent, page):
    """By the menu, as people do."""
    if not agent.page.all("link", page):
        agent.act("click", agent.find("button", "Commands"))
    agent.act("click", agent.find("link", page, at=0))
    agent.when(page, lambda seen: [head for head in seen.all("heading") if head.name == page and "level=1" in head.marks])


def actions(agent, _):
    agent.step = "actions: fields"
    visit(agent, "Actions")
    agent.act("type", agent.find("textbox", "Email address"), text="fake@email.com", delay_ms=5)
    for key in ("Home", "Delete", "End", "Backspace", "Shift+ArrowLeft", "Control+x"):
        agent.act("press", key=key)
    agent.expect("the email", lambda page: page.all("textbox", "Email address")[0].value, "ake@email.c")
    off = next(field for field in agent.page.all("textbox") if "disabled" in field.marks)
    agent.equal("a disabled field", "disabled" in agent.refused("fill", off, value="x"), True)
    agent.act("fill", agent.find("textbox", "Password"), value="open sesame")
    shown = agent.page.all("textbox", "Password")[0]
    agent.equal("the password", (shown.value, "active" in shown.marks), ("••••", True))
    agent.act("fill", agent.find("textbox", "Full Name"), value="山田 太郎")
    agent.act("press", key="Tab")
    agent.equal("left", "error" in agent.extract("html", target={"label": "Full Name"}), True)
    agent.act("fill", agent.find("textbox", "Describe:"), value="Clear this text")
    agent.act("clear", agent.find("textbox", "Describe:"))
    agent.equal("cleared", agent.page.all("textbox", "Describe:")[0].value, "")
    agent.act("fill", agent.find("textbox", "Coupon Code"), value="HALFOFF")
    agent.act("click", agent.find("button", "Submit"))
    agent.reads("Your form has been submitted!")
    agent.picture("actions")
    clicks(agent)


def clicks(agent):
    agent.step = "actions: clicks"
    for there in (True, False):
        agent.act("click", agent.find("button", "Click to toggle popover"))
        agent.expect("the popover", lambda page: "This popover shows up on click" in page.said(), there)
    canvas = agent.find("canvas")
    agent.act("click", canvas)
    agent.act("scroll", canvas)
    left, top = agent.value("const b = document.querySelector('canvas').getBoundingClientRect(); [b.x, b.y]")
    for x, y in ((20, 30), (200, 220)):
        agent.act("click", {"x": left + x, "y": top + y})
    drawn = agent.picture("canvas", target=canvas.target())
    agent.equal("the dots", agent.colours(drawn, [(125, 125), (20, 30), (200, 220)]), [[255, 0, 0]] * 3)
    agent.equal("several", "5 elements match" in agent.refused("click", {"text": "and me"}), True)
    agent.act("click", {"selector": ".action-labels .label:nth-child(3)"})
    agent.expect("popovers", lambda page: [node.name for node in page.all("tooltip")], ["clicked"])
    covered = agent.refused("click", agent.find("button", "I'm being covered"))
    agent.equal("what is covered", "covered by" in covered, True)
    agent.act("double_click", agent.find("clickable", "Double click to edit"))
    agent.when("a field", lambda page: [field for field in page.all("textbox") if field.value == "Double click to edit"])
    agent.act("click", agent.find("clickable", "Right click to edit"), button="right")
    agent.when("a field", lambda page: [field for field in page.all("textbox") if field.value == "Right click to edit"])


def boxes(agent, _):
    agent.step = "actions: boxes"

    def marked(role):
        """One letter a box, as they stand on the page: on, off; capital letters are disabled."""
        letters = (("x" if "checked" in box.marks else "o", box) for box in agent.page.all(role))
        return "".join(letter.upper() if "disabled" in box.marks else letter for letter, box in letters)

    agent.equal("boxes", (marked("checkbox"), marked("radio")), ("oOoooo" + "xXx", "ooO"))
    for at in (0, 2, 4, 5):
        agent.act("check", agent.page.all("checkbox")[at])
    agent.act("uncheck", agent.page.all("checkbox")[6])
    agent.act("click", agent.page.all("checkbox")[2])
    agent.act("fill", agent.page.all("checkbox")[8], value=False)
    agent.equal("boxes", marked("checkbox"), "xOooxx" + "oXo")
    for at in (1, 7):
        agent.equal("a disabled box", "disabled" in agent.refused("click", agent.page.all("checkbox")[at]), True)
    for at, seen in ((0, "xoO"), (1, "oxO")):
        agent.act("check", agent.page.all("radio")[at])
        agent.equal("radio buttons", marked("radio"), seen)
    agent.equal("a disabled button", "disabled" in agent.refused("check", agent.page.all("radio")[2]), True)
    agent.act("scroll", agent.page.all("checkbox")[8])
    agent.picture("boxes")


def selects(agent, _):
    agent.step = "actions: selects"
    one, many = agent.page.all("combobox"), agent.page.all("listbox")
    agent.equal("one select of each kind", (len(one), len(many)), (1, 1))
    for how, shown in (({"label": "apples"}, "apples"), ({"value": "fr-bananas"}, "bananas")):
        agent.act("select", one[0], **how)
        agent.equal("the fruit", agent.page.all("combobox")[0].value, shown)
    agent.act("select", many[0], value=["fr-apples", "fr-oranges", "fr-bananas"])
    agent.equal("all fruits", agent.page.all("listbox")[0].value, "apples, oranges, bananas")
    agent.act("select", many[0], label=["oranges", "bananas"])
    agent.equal("two fruits", agent.page.all("listbox")[0].value, "oranges, bananas")
    why = agent.refused("select", one[0], label="cherries")
    agent.equal("a fruit that is none", "no option" in why, True)


# Whether a box's button can be seen: within the box, and within the window.
SEEN = """const [box, button] = ['#BOX', '#BOX button'].map((it) => document.querySelector(it).getBoundingClientRect());
button.x >= box.x && button.right <= box.right && button.y >= box.y && button.bottom <= Math.min(box.bottom, innerHeight)"""


def scrolls(agent, _):
    agent.step = "actions: scrolls"
    for box, at in (("scroll-horizontal", 0), ("scroll-vertical", 1), ("scroll-both", 2), ("scrollable-both", 3)):
        agent.act("scroll", agent.page.all("button", "I'm Here")[at])
        agent.equal(f"the button in {box}", agent.value(SEEN.replace("BOX", box)), True)
    agent.picture("scrolled")
    agent.value("scrollTo(0, 0)")
    agent.act("scroll", dy=500)
    agent.when("the wheel's way", lambda _: agent.value("scrollY") == 500)
    agent.act("fill", agent.find("slider"), value="25")
    agent.reads("25")
    agent.act("press", key="ArrowRight")
    agent.expect("the slider", lambda page: page.all("slider")[0].value, "26")
    agent.equal("what it says", "26" in agent.extract("text", target={"selector": ".trigger-input-range + p"}), True)


def pages_that_talk(agent, host):
    agent.step = "network requests"
    visit(agent, "Network Requests")
    for button, told in (
        ("Get Comment", "a comment from this machine"),
        ("Post Comment", "POST successful!"),
        ("Update Comment", "there is no such comment"),
    ):
        agent.act("click", agent.find("button", button))
        agent.reads(told)
    agent.picture("requests")
    agent.step = "files"
    visit(agent, "Files")
    sites.Site.asked.clear()
    agent.act("click", agent.find("button", "Get Comment"))
    agent.when("a request", lambda _: "GET /comments/1" in sites.Site.asked)
    agent.step = "aliasing"
    visit(agent, "Aliasing")
    agent.act("click", agent.find("row", within=agent.find("table"), at=2).all("button", "Change")[0])
    buttons = [[button.name for button in row.all("button")] for row in agent.page.all("row")]
    agent.equal("the table", buttons, [[], ["Change", "Change"], ["Changed", "Change"]])
    agent.step = "a link leads where nothing is allowed"
    visit(agent, "Assertions")
    agent.act("click", agent.find("link", "Cypress Docs"))

    def others(_):
        return [tab["id"] for tab in agent.send({"type": "tabs", "op": "list"})[0]["tabs"] if host not in tab["url"]]

    agent.send({"type": "tabs", "op": "close", "id": agent.when("a tab", others)[0]})
    agent.look()


def pages_to_read(agent, _):
    agent.step = "assertions"
    rows = [row.said() for row in agent.page.all("row")]
    agent.equal("the table", rows[0], "# Column heading Column heading")
    agent.equal("as Markdown", "| 3 | Column content | Column content |" in agent.extract("markdown"), True)
    agent.when("a number", lambda page: re.search(r"Random number: \d+", page.said()))
    agent.step = "querying"
    visit(agent, "Querying")
    fields = [("Name", "李雷"), ("Email", "li@example.org"), ("Password", "not hidden here")]
    agent.act("fill_form", fields=[{"target": agent.find("textbox", name).target(), "value": value} for name, value in fields])
    agent.equal("the fields", [(field.name, field.value) for field in agent.page.all("textbox")], fields)
    agent.equal(
        "fruits", [one.said() for one in agent.page.all("listitem") if "apples" in one.said()], ["apples", "more apples"]
    )
    agent.step = "misc"
    visit(agent, "Misc")
    agent.act("fill", agent.find("textbox", "Name"), value="Ada")
    agent.act("fill", agent.find("textbox", "Description"), value="two\nlines")
    agent.equal("the fields", [field.value for field in agent.page.all("textbox")], ["Ada", "two lines"])
    agent.step = "waiting"
    visit(agent, "Waiting")
    agent.act("click", agent.page.all("textbox")[0])
    for words in ("one", "two", "三"):
        agent.act("type", text=words)
        agent.act("press", key="Tab")
    agent.equal("the fields", [field.value for field in agent.page.all("textbox")], ["one", "two", "三"])
    agent.step = "traversal"
    visit(agent, "Traversal")
    agent.equal("a disabled button", "disabled" in agent.find("button", "Disabled").marks, True)
    agent.equal("rows", [row.said() for row in agent.page.all("row")][1:], ["1 Jane Lane", "2 John Doe"])
    agent.equal("buttons", all(agent.page.all("button", name) for name in ("Link", "Button", "Input", "Submit")), True)
    agent.step = "spies, stubs and clocks"
    visit(agent, "Spies, Stubs & Clocks")
    agent.act("click", {"selector": "#clock-div"})
    shown = agent.extract("text", target={"selector": "#clock-div"})
    agent.equal("the time", abs(float(shown) - time.time()) < 5, True)
    agent.step = "cypress api"
    agent.act("click", agent.find("link", "Cypress API", at=0))
    agent.reads("I'm visible!")
    agent.equal("what is hidden", "I'm hiding!" in agent.page.said(), False)


def stores(agent, _):
    agent.step = "storage"
    visit(agent, "Storage")
    agent.act("click", agent.find("button", "Populate localStorage and sessionStorage", at=0))
    stored = [agent.send({"type": "storage", "op": "get", "area": area})[0]["value"] for area in ("local", "session")]
    right = [{"prop1": "red", "prop2": "blue", "prop3": "magenta"}, {"prop4": "cyan", "prop5": "yellow", "prop6": "black"}]
    agent.equal("what is stored", stored, right)
    agent.send({"type": "storage", "op": "delete", "name": "prop2"})
    agent.equal("less", agent.value("Object.keys(localStorage).sort()"), ["prop1", "prop3"])
    agent.send({"type": "storage", "op": "clear"}, {"type": "storage", "op": "clear", "area": "session"})
    agent.equal("nothing", agent.value("[localStorage.length, sessionStorage.length]"), [0, 0])
    agent.step = "cookies"
    visit(agent, "Cookies")
    agent.act("click", agent.find("button", "Set Cookie", at=0))
    cookies = agent.send({"type": "cookies", "op": "get"})[0]["cookies"]
    agent.equal("the cookie", [(cookie["name"], cookie["value"]) for cookie in cookies], [("token", "123ABC")])
    agent.send({"type": "cookies", "op": "delete", "name": "token"})
    agent.equal("none", agent.value("document.cookie"), "")


def moves(agent, host):
    agent.step = "navigation"
    agent.go(f"http://{host}/commands/navigation")
    visit(agent, "Location")
    for kind, path in (("back", "navigation"), ("forward", "location"), ("reload", "location")):
        agent.act(kind)
        agent.equal(kind, agent.answer["page"]["url"], f"http://{host}/commands/{path}")
    agent.step = "viewport"
    visit(agent, "Viewport")
    agent.equal("a wide menu", bool(agent.page.all("button", "Commands")), True)
    agent.act("set_viewport", width=375, height=667)
    agent.expect("no menu", lambda page: page.all("link", "Utilities"), [])
    agent.act("click", agent.find("button", at=0))
    agent.when("the menu", lambda page: page.all("link", "Utilities"))
    agent.picture("narrow")
    agent.act("set_viewport", width=1280, height=720)
    agent.step = "window"
    visit(agent, "Window")
    agent.equal("the title", agent.answer["page"]["title"], "Cypress.io: Kitchen Sink")
