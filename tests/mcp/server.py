"""A server of the programs that were built, in a directory of its own."""

import contextlib
import os
import pathlib
import subprocess
import tempfile

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
