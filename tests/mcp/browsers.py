"""Stock Playwright (Python; TypeScript's and Puppeteer in browsers.mjs) drives a session's browser by its CDP endpoint.

No client brings a browser: what they drive is the session's, in its cell.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

from playwright.sync_api import Error, sync_playwright

import server

PAGE = b"""<!doctype html><title>Order</title>
<form action=/sent><label>Name <input name=who></label><label><input type=checkbox name=gift> Gift</label>
<input type=file><button>Send</button></form><a href=/file.csv download>List</a>"""


def answer(path, query, *_):
    if path == "/sent":
        return "text/html", f"<title>Sent</title><p>{query}</p>".encode()
    if path == "/file.csv":
        return "text/csv", b"1,2\n"
    return "text/html", PAGE


class Api:
    """What is asked of the server beside the browser."""

    def __init__(self, running, host):
        self.running, self.host = running, host

    def __call__(self, method, path, body=None):
        request = urllib.request.Request(f"{self.running.base}/v1/sessions{path}", method=method)
        request.add_header("Authorization", f"Bearer {self.running.key}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
            return json.loads(text) if "json" in answer.headers["Content-Type"] else text

    def refused(self, method, path, body=None):
        try:
            raise AssertionError(self(method, path, body))
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def session(self):
        network = {"mode": "allow", "hosts": [self.host]}
        return self("POST", "", {"browser": {}, "network": network, "ttl_seconds": 120})["id"]

    def link(self, session):
        return self("POST", f"/{session}/browser/links", {"role": "cdp"})["url"]


def drives(api, playwright):
    """What scripts do, in the browser's own page and in pages and contexts of their own."""
    session = api.session()
    browser = playwright.chromium.connect_over_cdp(api.link(session))
    page = browser.contexts[0].pages[0]
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"http://{api.host}/")
    page.get_by_label("Name").fill("Ada")
    page.get_by_label("Gift").check()
    page.set_input_files("input[type=file]", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"hello"})
    assert page.evaluate("document.querySelector('input[type=file]').files[0].text()") == "hello"
    page.evaluate("console.log('said')")
    page.on("dialog", lambda dialog: dialog.accept("yes"))
    assert page.evaluate("prompt('sure?')") == "yes"
    page.get_by_role("button", name="Send").click()
    page.wait_for_url("**/sent?*")
    assert "who=Ada&gift=on" in page.text_content("p")
    assert said == ["said"], said
    assert page.screenshot().startswith(b"\x89PNG")
    assert page.pdf().startswith(b"%PDF")
    page.route("**/made-up", lambda route: route.fulfill(body="<title>Made up</title>", content_type="text/html"))
    page.goto(f"http://{api.host}/made-up")
    assert page.title() == "Made up"

    other = browser.contexts[0].new_page()
    other.goto(f"http://{api.host}/")
    with other.expect_popup() as popup:
        other.evaluate("void open('/sent?popup')")
    popup.value.wait_for_load_state()
    assert popup.value.text_content("p") == "popup"
    popup.value.close()
    other.close()
    context = browser.new_context(viewport={"width": 400, "height": 300}, locale="de-DE")
    apart = context.new_page()
    apart.goto(f"http://{api.host}/")
    assert apart.evaluate("[innerWidth, navigator.language]") == [400, "de-DE"]
    context.add_cookies([{"name": "a", "value": "b", "url": f"http://{api.host}"}])
    assert context.cookies()[0]["value"] == "b"
    context.close()
    assert len(browser.contexts[0].pages) == 1
    browser.close()
    return session


def is_kept_within(api, playwright, session):
    """Refused are files of the cell, pages of the browser itself, and others while one is connected."""
    browser = playwright.chromium.connect_over_cdp(api.link(session))
    page = browser.contexts[0].pages[0]
    # What the client before has left is there.
    assert page.title() == "Made up"
    for url in ("file:///etc/passwd", "chrome://version", "view-source:file:///etc/passwd", "devtools://x"):
        try:
            raise AssertionError(page.goto(url))
        except Error as error:
            assert "not opened here" in error.message, error
    page.goto("about:blank")
    code, problem = api.refused("POST", f"/{session}/browser/actions", {"actions": [{"type": "snapshot"}]})
    assert (code, problem["code"]) == (409, "conflict"), problem
    try:
        raise AssertionError(playwright.chromium.connect_over_cdp(api.link(session)))
    except Error as error:
        assert "409" in error.message, error
    # A download lands in the workspace, whatever place the client named.
    page.goto(f"http://{api.host}/")
    with page.expect_download() as download:
        page.get_by_text("List").click()
    assert download.value.suggested_filename == "file.csv"
    download.value.failure()
    assert api("GET", f"/{session}/files/downloads/file.csv") == b"1,2\n"
    browser.close()
    # Connections are executions, and over.
    listed = api("GET", f"/{session}/executions")["items"]
    assert {(item["language"], item["status"]) for item in listed} == {("browser", "succeeded")}, listed
    ran = api("POST", f"/{session}/browser/actions", {"actions": [{"type": "snapshot"}]})
    assert ran["status"] == "succeeded", ran


def node(api, session, log):
    """node looks for packages beside the program, and they are beside the environment that runs this."""
    here, packages = pathlib.Path(__file__).parent, pathlib.Path(sys.prefix).parent
    program = shutil.copy(here / "browsers.mjs", packages)
    command = [pathlib.Path(sys.prefix) / "bin/node", program, f"http://{api.host}/"]
    endpoint = api.link(session).split("?")[0]
    for client in ("playwright", "puppeteer"):
        arguments = [*command, client, api.link(session), endpoint, api.running.key]
        if subprocess.run(arguments, stderr=log).returncode != 0:
            log.seek(0)
            said = [line for line in log.read().decode(errors="replace").splitlines() if ":protocol" not in line.lower()]
            raise SystemExit("\n".join([f"{client} failed", *said[-40:]]))


# What the clients themselves print of the protocol.
DEBUG = {"DEBUG": "pw:protocol", "NODE_DEBUG": "puppeteer:protocol:SEND*"}
SENT = re.compile(r"SEND ►.*?method\W{2,5}([A-Za-z]+\.[A-Za-z]+)")
METHODS = pathlib.Path(__file__).parent.parent / "golden/cdp_methods.txt"


def check_methods(log):
    """The calls that the clients make are those of the list, which a test of the filter reads, too."""
    log.seek(0)
    called = set(SENT.findall(log.read().decode(errors="replace")))
    assert len(called) > 30, f"the clients do not say what they call any more: {sorted(called)}"
    if "UPDATE_GOLDEN" in os.environ:
        METHODS.write_text("".join(f"{method}\n" for method in sorted(called)))
    new = called - set(METHODS.read_text().split())
    assert not new, f"not in {METHODS}: {sorted(new)}"
    print(f"ok: {len(called)} methods of the protocol were called, all listed")


def main():
    with server.site(answer) as host, server.running(server.reaching(host)) as running, tempfile.TemporaryFile() as log:
        api = Api(running, host)
        os.environ.update(DEBUG)
        # Playwright's own process inherits what it prints to.
        said = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            with sync_playwright() as playwright:
                session = drives(api, playwright)
                is_kept_within(api, playwright, session)
        finally:
            os.dup2(said, 2)
        print("ok: Playwright, Python")
        node(api, session, log)
        check_methods(log)
        api("DELETE", f"/{session}")


main()
