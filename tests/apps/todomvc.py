"""TodoMVC: the same list of things to do, written with many frameworks."""

import re


TODOS = ["Buy milk", "牛乳を買う 🥛", 'Say "hello" & <b>wave</b>']


def items(page):
    return [item for item in page.all("listitem") if item.all("checkbox")]


def todos(page):
    """What the list shows: titles, and whether they are done."""
    return [(item.said(), "checked" in item.all("checkbox")[0].marks) for item in items(page)]


def left(page):
    counted = re.search(r"(\d+) items? left", page.said())
    return counted and int(counted[1])


def item(agent, title):
    return agent.when(title, lambda page: [found for found in items(page) if title in found.said()])[0]


def add(agent, title, typed=False):
    field = agent.find("textbox", "What needs to be done?")
    if typed:
        agent.act("type", field, text=title + "\n")
    else:
        agent.act("fill", field, value=title)
        agent.act("press", key="Enter")


def edit(agent, title):
    """The field that a double click makes of a title."""
    agent.act("double_click", agent.find("text", title, within=item(agent, title)))
    return agent.when("a field", lambda page: [field for one in page.all("listitem") for field in one.all("textbox")])[0]


def remove(agent, title):
    """Its button shows under the mouse only."""
    agent.act("hover", agent.find("text", title, within=item(agent, title)))
    agent.act("click", agent.when("its button", lambda _: item(agent, title).all("button"))[0])


def choose(agent, name):
    agent.act("click", agent.find("link", name))


def uses(agent, picture="todos", label=None):
    first, second, third = TODOS
    agent.step = "adds"
    add(agent, first)
    add(agent, second, typed=True)
    add(agent, "   ")
    agent.act("clear", agent.find("textbox", "What needs to be done?"))
    add(agent, third)
    agent.expect("the list", todos, [(title, False) for title in TODOS])
    agent.expect("the count", left, 3)
    agent.step = "completes"
    agent.act("check", agent.find("checkbox", within=item(agent, second)))
    agent.expect("the list", todos, [(first, False), (second, True), (third, False)])
    agent.expect("the count", left, 2)
    agent.picture(picture)
    agent.step = "filters"
    choose(agent, "Active")
    agent.expect("what is active", todos, [(first, False), (third, False)])
    choose(agent, "Completed")
    agent.expect("what is completed", todos, [(second, True)])
    choose(agent, "All")
    agent.expect("the list", todos, [(first, False), (second, True), (third, False)])
    changes(agent, picture, label)


def changes(agent, picture, label):
    first, second, third = TODOS
    agent.step = "edits"
    agent.act("fill", edit(agent, first), value="Buy oat milk")
    agent.picture(f"{picture}-edit")
    agent.act("press", key="Enter")
    agent.expect("the list", todos, [("Buy oat milk", False), (second, True), (third, False)])
    agent.step = "edits and thinks better of it"
    agent.act("type", edit(agent, third), text=" never")
    agent.act("press", key="Escape")
    agent.expect("the list", todos, [("Buy oat milk", False), (second, True), (third, False)])
    agent.step = "completes all, and none"
    for done in (True, False):
        listed = [box for one in items(agent.page) for box in one.all("checkbox")]
        toggle = next(box for box in agent.page.all("checkbox") if box not in listed)
        if label:
            agent.act("click", {"text": label})
        else:
            agent.act("check" if done else "uncheck", toggle)
        marked = [box for box in agent.page.all("checkbox") if box.ref == toggle.ref]
        agent.equal("the box for all", [("checked" in box.marks) for box in marked], [done])
        agent.expect("the list", todos, [(title, done) for title in ("Buy oat milk", second, third)])
    agent.step = "removes"
    remove(agent, "Buy oat milk")
    agent.expect("the list", todos, [(second, False), (third, False)])
    agent.act("check", agent.find("checkbox", within=item(agent, third)))
    agent.act("click", agent.find("button", "Clear completed"))
    agent.expect("the list", todos, [(second, False)])
    agent.step = "comes back"
    agent.act("reload")
    agent.expect("the list", todos, [(second, False)])


def framework(name):
    def run(agent, host, _):
        agent.go(f"http://{host}/examples/{name}/")
        uses(agent)
        return "3 added, 1 edited, 1 edit left, completed, filtered, removed, kept"

    return run
