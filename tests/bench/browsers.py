"""The same Chromium, launched and driven by stock Playwright on this machine without walls: rows beside those of browser
sessions, in the same run."""

import base64
import http.server
import json
import os
import pathlib
import stat
import statistics
import tempfile
import threading
import time

from playwright.sync_api import sync_playwright

PAGE = b"<title>Page</title><h1>A page</h1><p>with some text, and <a href=/>a link</a>."
LAUNCHES = 12
# No account has this number.
USER = 58900
# The image is where an unprivileged user can read it, in a mount namespace of its own, with its own libraries. Playwright's
# pipe is on descriptors 3 and 4, which stay.
WRAPPER = """#!/bin/sh
for argument; do
    case "$argument" in --user-data-dir=*) chown -R {user}:{user} "${{argument#*=}}" ;; esac
done
exec unshare --mount sh -c 'mount --bind {image} /mnt && exec "$@"' sh \\
    setpriv --reuid={user} --regid={user} --clear-groups \\
    env -i HOME=/tmp PATH=/usr/bin:/bin LD_LIBRARY_PATH=/mnt/usr/lib/x86_64-linux-gnu:/mnt/lib/x86_64-linux-gnu:/mnt/usr/lib/x86_64-linux-gnu/pulseaudio \\
    /mnt/usr/lib/chromium/chromium-headless-shell "$@"
"""


class Site(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_):
        pass


def image():
    store = pathlib.Path(os.environ["ANCHORHOLD_IMAGE_DIR"])
    digest = json.loads((store / "chromium.json").read_text())["digest"].removeprefix("sha256:")
    return store / "trees" / digest


def timed(act):
    begun = time.perf_counter()
    act()
    return (time.perf_counter() - begun) * 1000


def row(name, values):
    values = sorted(values)
    p99 = values[min(len(values) - 1, round(len(values) * 0.99))]
    print(f"{name:<58} {statistics.median(values):>8.2f} {p99:>8.2f} ms", flush=True)


def main():
    with tempfile.TemporaryDirectory() as directory, http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        wrapper = pathlib.Path(directory) / "chromium"
        wrapper.write_text(WRAPPER.format(image=image(), user=USER))
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        url = f"http://127.0.0.1:{site.server_port}/"
        loaded, again, shot, raw = [], [], [], []
        with sync_playwright() as playwright:
            for n in range(LAUNCHES + 1):
                begun = time.perf_counter()
                browser = playwright.chromium.launch(
                    executable_path=wrapper, chromium_sandbox=True, args=["--site-per-process"]
                )
                page = browser.new_page()
                page.goto(url)
                # The first finds nothing in the page cache.
                if n:
                    loaded.append((time.perf_counter() - begun) * 1000)
                cdp = page.context.new_cdp_session(page)
                for _ in range(5):
                    again.append(timed(lambda: page.goto(url)))
                    shot.append(timed(page.screenshot))
                    raw.append(timed(lambda: base64.b64decode(cdp.send("Page.captureScreenshot")["data"])))
                browser.close()
        row("the same by stock Playwright: launch until the page is there", loaded)
        row("  a page loaded in a browser that is there", again)
        row("  a screenshot of it", shot)
        row("  a screenshot by one call of the protocol", raw)
        site.shutdown()


main()
