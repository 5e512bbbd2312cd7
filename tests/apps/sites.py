"""Serves the apps on loopback, and answers what they ask a server."""

import contextlib
import email
import email.policy
import hashlib
import html
import http.server
import json
import pathlib
import threading
import urllib.parse

PAGES = pathlib.Path(__file__).parent / "pages"
# The kitchen sink asks this server for comments. Nothing here leaves the machine, so that ours answers in its place.
OUTSIDE = b"https://jsonplaceholder.cypress.io"
REPORT = "city,雨\nOslo,54\n".encode()
BIG = bytes(range(256)) * (16 << 10)


class Site(http.server.SimpleHTTPRequestHandler):
    """A directory of files, our own pages below /own, what a form sent, downloads, and comments."""

    protocol_version = "HTTP/1.1"
    pictures = {}
    asked = []

    def do_GET(self, posted=b""):
        path, _, query = self.path.partition("?")
        self.asked.append(f"{self.command} {path}")
        if path == "/sent":
            return self.answer(200, "text/html; charset=utf-8", sent(self.command, query, self.headers, posted))
        if path.startswith("/pictures/"):
            return self.answer(200, "image/png", self.pictures[path])
        if path.startswith("/files/"):
            name = {"/files/report.csv": "報告 1.csv", "/files/big.bin": "big.bin"}[path]
            data = REPORT if path.endswith("csv") else BIG
            return self.answer(
                200, "application/octet-stream", data, f"attachment; filename*=UTF-8''{urllib.parse.quote(name)}"
            )
        if path.startswith("/comments"):
            return self.answer(*comment(self.command))
        if path == "/assets/js/scripts.js":
            script = pathlib.Path(self.translate_path(path)).read_bytes()
            assert OUTSIDE in script
            return self.answer(200, "text/javascript", script.replace(OUTSIDE, b""))
        return super().do_GET()

    def do_POST(self):
        self.do_GET(self.rfile.read(int(self.headers["Content-Length"])))

    do_PUT = do_POST

    def answer(self, status, kind, body, disposition=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if disposition:
            self.send_header("Content-Disposition", disposition)
        self.end_headers()
        self.wfile.write(body)

    def translate_path(self, path):
        path = path.partition("?")[0]
        if path.startswith("/own/"):
            return str(PAGES / pathlib.PurePath(path).name)
        found = super().translate_path(path)
        # The kitchen sink's own server leaves endings away.
        return found if pathlib.Path(found).exists() else found + ".html"

    def log_message(self, *_):
        pass


def sent(method, query, headers, posted):
    """A page that says what a form sent, and how."""
    kind = headers.get("Content-Type", "").partition(";")[0]
    fields = []
    if kind == "multipart/form-data":
        head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
        for part in email.message_from_bytes(head + posted, policy=email.policy.HTTP).iter_parts():
            content = part.get_payload(decode=True)
            name = part.get_param("name", header="Content-Disposition")
            file = part.get_filename()
            fields.append((name, content.decode() if file is None else f"{file} {hashlib.sha256(content).hexdigest()}"))
    elif kind == "text/plain":
        fields = [line.split("=", 1) for line in posted.decode().split("\r\n") if "=" in line]
    else:
        fields = urllib.parse.parse_qsl(query + posted.decode(), keep_blank_values=True)
    lines = "".join(f"<li>{html.escape(f'{name}={json.dumps(value, ensure_ascii=False)}')}" for name, value in fields)
    return f"<!doctype html><title>Sent</title><h1>{method} {kind}</h1><ul aria-label=Fields>{lines}</ul>".encode()


def comment(method):
    """What stands in for the outside server."""
    if method == "PUT":
        return 404, "application/json", b'{"error": "there is no such comment"}'
    return 201 if method == "POST" else 200, "application/json", b'{"id": 1, "body": "a comment from this machine"}'


@contextlib.contextmanager
def site(address, directory):
    def handler(*args):
        return Site(*args, directory=directory)

    with http.server.ThreadingHTTPServer((address, 0), handler) as listening:
        listening.daemon_threads = True
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"{address}:{listening.server_port}"
        listening.shutdown()
