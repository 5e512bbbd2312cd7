"""Where suites run: in native cells of a server's session, or outside of all walls, in the same image's root."""

import contextlib
import http.client
import io
import json
import os
import pathlib
import subprocess
import tarfile
import tempfile
import urllib.parse

import server

# What CPython's and the packages' authors expect of a machine that runs their tests.
LIMITS = {
    "cpu_cores": 2.0,
    "memory_bytes": 2 << 30,
    "disk_bytes": 1 << 30,
    "processes": 1024,
    "execution_seconds": 900.0,
    "cpu_seconds": 7200.0,
}


class Session:
    """One session of a server. Each command is in a cell of its own."""

    def __init__(self, running):
        self.host = urllib.parse.urlsplit(running.base).netloc
        self.key = running.key
        self.path = "/v1/sessions/" + self.json("POST", "/v1/sessions", {"runtime": "native", "limits": LIMITS})["id"]

    def ask(self, method, path, body=None, kind="application/json"):
        # One for each request: a kept one would be closed while a module runs for minutes.
        connection = http.client.HTTPConnection(self.host, timeout=1000)
        connection.request(method, path, body, {"Authorization": f"Bearer {self.key}", "Content-Type": kind})
        answer = connection.getresponse()
        read = answer.read()
        connection.close()
        if answer.status == 404:
            return None
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {read.decode(errors='replace')}")
        return read

    def json(self, method, path, body=None):
        return json.loads(self.ask(method, path, body and json.dumps(body)))

    def put(self, archive):
        self.ask("POST", f"{self.path}/archive?path=suites", archive, "application/x-tar")

    def run(self, command, env, seconds):
        """How it ended and the last of what it printed."""
        asked = {"command": command, "env": env, "timeout_seconds": seconds}
        ran = self.json("POST", f"{self.path}/executions", asked)
        how = ran["status"] if ran["exit_code"] is None else f"exit code {ran['exit_code']}"
        hit = f", at the limit of {', '.join(ran['limits_hit'])}" if ran["limits_hit"] else ""
        return how + hit, ran["stdout"][-4000:] + ran["stderr"][-4000:]

    def read(self, name):
        return self.ask("GET", f"{self.path}/files/{name}")

    def close(self):
        return self.json("DELETE", self.path)["usage"]


@contextlib.contextmanager
def inside():
    # No browser is asked for.
    with server.running("[pool]\nbrowser = 0\n") as running:
        session = Session(running)
        yield session
        session.close()


# The same root, user, places to write and lonely network as in a cell; no filter, no Landlock, no groups, and the kernel's
# whole /proc. Everything that it mounts ends with the namespace.
OUTSIDE = """
set -e
root=$1 tree=$2 workspace=$3
shift 3
ip link set lo up
mount --bind "$tree" "$root"
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
    set -- $device "$@"
    mknod -m 666 "$root/dev/$1" c $2 $3
    shift 3
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for n in "0 stdin" "1 stdout" "2 stderr"; do ln -s "/proc/self/fd/${n% *}" "$root/dev/${n#* }"; done
mount -t proc proc "$root/proc"
mount --bind "$workspace" "$root/workspace"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
exec chroot --userspec=1000:1000 --groups= "$root" /usr/bin/env -i -C /workspace --default-signal "$@"
"""

ENVIRONMENT = {
    "PATH": "/home/user/.local/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/home/user",
    "USER": "user",
    "PWD": "/workspace",
    "TMPDIR": "/tmp",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "MATPLOTLIBRC": "/etc/matplotlibrc",
    "MPLCONFIGDIR": "/tmp/.matplotlib",
}
NAMESPACES = ["--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc", "--propagation", "private"]


class Outside:
    """A copy of what a session is, without walls."""

    def __init__(self, directory):
        images = pathlib.Path(os.environ["ANCHORHOLD_IMAGE_DIR"])
        digest = json.loads((images / "code.json").read_text())["digest"]
        self.tree = images / "trees" / digest.removeprefix("sha256:")
        self.root = pathlib.Path(directory) / "root"
        self.workspace = pathlib.Path(directory) / "workspace"
        for made in (self.root, self.workspace):
            made.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700,uid=1000,gid=1000", "workspace", self.workspace], check=True)

    def put(self, archive):
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(self.workspace / "suites")
        subprocess.run(["chown", "-R", "1000:1000", self.workspace], check=True)

    def run(self, command, env, seconds):
        environment = [f"{name}={value}" for name, value in {**ENVIRONMENT, **env}.items()]
        enter = ["unshare", *NAMESPACES, "/bin/sh", "-c", OUTSIDE, "sh", self.root, self.tree, self.workspace]
        printed = subprocess.PIPE
        with subprocess.Popen([*enter, *environment, *command], stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT) as process:
            try:
                output, _ = process.communicate(timeout=seconds)
                how = f"exit code {process.returncode}"
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                how = "timed_out"
        return how, output.decode(errors="replace")[-8000:]

    def read(self, name):
        path = self.workspace / name
        return path.read_bytes() if path.exists() else None


@contextlib.contextmanager
def outside():
    with tempfile.TemporaryDirectory(prefix="anchorhold-suites-") as directory:
        place = Outside(directory)
        try:
            yield place
        finally:
            subprocess.run(["umount", place.workspace], check=True)
