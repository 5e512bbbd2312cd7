"""A server of the programs that were built, in a directory of its own, and a web site for its browsers."""

import contextlib
import http.server
import os
import pathlib
import subprocess
import tempfile
import threading

PROGRAM = pathlib.Path(os.environ["CARGO_TARGET_DIR"]) / "release" / "anchorhold"
READY = "anchorhold is ready on "


class Server:
    """Where it is, and the key for it."""

    def __init__(self, base, data_dir):
        self.base = base
        self.data_dir = data_dir
        self.key = (data_dir / "admin.key").read_text().strip()


@contextlib.contextmanager
def running(settings=""):
    """Serves until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="anchorhold-mcp-") as directory:
        os.chmod(directory, 0o755)
        data_dir = pathlib.Path(directory) / "data"
        command = [PROGRAM, "serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir]
        command += ["--image-dir", os.environ["ANCHORHOLD_IMAGE_DIR"]]
        if settings:
            config = pathlib.Path(directory) / "config.toml"
            config.write_text(settings)
            command += ["--config", config]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                for line in process.stdout:
                    if line.startswith(READY):
                        break
                else:
                    raise SystemExit("the server does not come up")
                yield Server(line.removeprefix(READY).split()[0], data_dir)
            finally:
                process.terminate()
                process.stdout.read()


@contextlib.contextmanager
def site(answer):
    """Serves a site on loopback to the end of the block, and says its host. `answer(path, query, headers, posted)` is a kind
    and a body; what was posted is None where nothing was."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self, posted=None):
            path, _, query = self.path.partition("?")
            kind, body = answer(path, query, self.headers, posted)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            self.do_GET(self.rfile.read(int(self.headers["Content-Length"])))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{listening.server_port}"
        listening.shutdown()


def reaching(host):
    """Settings of an operator who lets sessions list a host of this machine."""
    return f'[egress]\nallow_private = ["{host}"]\n'
