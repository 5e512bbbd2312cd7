"""The same two programs in a native session, in a Jupyter kernel, and in a Python that bubblewrap jails, in turn.

    python beside.py [ROUNDS]

All three have the image's own tree as their root: the same CPython and the same packages, in the same files. The kernel
runs in it as it would on a machine of its own, without walls; what it needs beyond the image (ipykernel, and what that
needs) is the environment's that runs this. The client of each is what its users have: kept HTTP connections, jupyter_client,
a process that is started.
"""

import contextlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.parse

import server
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

ROUNDS = 20
WARM = 10
# As long as the server takes to make the next cell, so that this shows in nobody's figures.
PAUSE = 0.25
PROGRAMS = {
    "1+1": ("1+1", "2"),
    "pandas": ("import pandas; int(pandas.DataFrame({'a': range(10)}).a.sum())", "45"),
}
# How long it works, by its own clock.
WORK = (
    "import time; begun = time.perf_counter(); work = sum(n * n for n in range(5_000_000)); "
    "(time.perf_counter() - begun) * 1000"
)
WORKS = 7
WHICH = "import sys, pandas; f'CPython {sys.version.split()[0]}, pandas {pandas.__version__}'"


def tree():
    images = pathlib.Path(os.environ["ANCHORHOLD_IMAGE_DIR"])
    digest = json.loads((images / "code.json").read_text())["digest"]
    return images / "trees" / digest.removeprefix("sha256:")


class Native:
    """A session of its own for each life."""

    name = "anchorhold"

    def __init__(self, running):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(running.base).netloc)
        self.headers = {"Authorization": f"Bearer {running.key}", "Content-Type": "application/json"}

    def ask(self, method, path, body):
        self.connection.request(method, "/v1/sessions" + path, json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        told = json.loads(answer.read())
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {told}")
        return told

    def start(self):
        return self.ask("POST", "", {"runtime": "native"})["id"]

    def run(self, session, code):
        ran = self.ask("POST", f"/{session}/executions", {"language": "python", "code": code})
        return ran["results"][0]["mime"]["text/plain"]

    def end(self, session):
        self.ask("DELETE", f"/{session}", None)


class Here(KernelSpecManager):
    """Knows one kernel."""

    command = []

    def get_kernel_spec(self, kernel_name):
        return KernelSpec(argv=self.command, display_name=kernel_name, language="python")


class Jupyter:
    """A kernel of its own for each life. Nothing is waited for that the kernel does not need: the program is sent before
    it is up, and its value comes with the answer. At the end it is killed, not asked to go."""

    name = "Jupyter kernel"

    def __init__(self, root, directory):
        self.root, self.directory, self.count = root, directory, 0
        enter = ["nsenter", f"--target={root.pid}", "--mount", "--root", "--wd"]
        self.specs = Here()
        self.specs.command = [*enter, "/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]

    def start(self):
        self.count += 1
        file = self.directory / f"{self.count}.json"
        manager = KernelManager(kernel_spec_manager=self.specs, kernel_name="image", connection_file=str(file))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "PYTHONPATH": "/tmp/packages", "LANG": "C.UTF-8"}
        manager.start_kernel(env=environment, **quiet)
        client = manager.blocking_client()
        client.start_channels(iopub=True, stdin=False, hb=False, control=False)
        return manager, client

    def run(self, kernel, code):
        asked = kernel[1].execute(code, user_expressions={"value": "_"}, store_history=True)
        while True:
            answer = kernel[1].get_shell_msg(timeout=60)
            if answer["parent_header"].get("msg_id") == asked:
                return answer["content"]["user_expressions"]["value"]["data"]["text/plain"]

    def end(self, kernel):
        manager, client = kernel
        client.stop_channels()
        manager.shutdown_kernel(now=True)


class Bubblewrap:
    """A process for each program, with all namespaces of its own."""

    name = "bubblewrap"

    def __init__(self):
        places = ["--ro-bind", tree(), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/workspace"]
        who = ["--unshare-all", "--uid", "1000", "--gid", "1000", "--die-with-parent", "--clearenv", "--chdir", "/workspace"]
        self.command = ["bwrap", *who, *places, "/usr/bin/python3", "-c"]

    def start(self):
        return None

    def run(self, _, code):
        before, _, value = code.rpartition("; ")
        said = subprocess.run([*self.command, f"{before}\nprint({value})"], check=True, stdout=subprocess.PIPE, text=True)
        return said.stdout.strip()

    def end(self, _):
        pass


# The image's root for kernels: in a mount namespace of its own, which ends with the process that holds it.
ROOT = """
set -e
tree=$1 root=$2 shared=$3 packages=$4
mount --bind "$tree" "$root"
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mkdir -p "$root/$shared" "$root/tmp/packages"
mount --bind "$shared" "$root/$shared"
mount --bind "$packages" "$root/tmp/packages"
mount -t tmpfs -o mode=1777 workspace "$root/workspace"
echo ready
exec chroot "$root" /usr/bin/sleep infinity
"""


@contextlib.contextmanager
def image_root(directory):
    place, shared = directory / "root", directory / "kernels"
    place.mkdir()
    shared.mkdir()
    command = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", ROOT, "sh", tree(), place, shared]
    command.append(sysconfig.get_path("purelib"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as root:
        try:
            if root.stdout.readline() != "ready\n":
                raise SystemExit("the image's root does not stand")
            yield root, shared
        finally:
            root.send_signal(signal.SIGKILL)


class Clock:
    """Milliseconds by system and row."""

    def __init__(self):
        self.taken = {}

    @contextlib.contextmanager
    def __call__(self, *rows):
        start = time.perf_counter()
        yield
        for row in rows:
            self.taken.setdefault(row, []).append((time.perf_counter() - start) * 1e3)

    def at(self, row, part):
        taken = sorted(self.taken[row])
        return taken[min(int(len(taken) * part), len(taken) - 1)]


def life(system, program, clock, warm):
    """From nothing to a result, more of them, and the end."""
    code, value = PROGRAMS[program]
    with clock((system.name, "life", program)):
        with clock((system.name, "first", program)):
            made = system.start()
            said = system.run(made, code)
        with clock((system.name, "end", program)):
            system.end(made)
    if said != value:
        raise SystemExit(f"{system.name} says {said}, not {value}")
    if not warm:
        return
    made = system.start()
    system.run(made, code)
    for _ in range(WARM):
        with clock((system.name, "warm", program)):
            system.run(made, code)
    system.end(made)


def work(system, clock):
    """A loop of Python's own, which no wall should slow down."""
    made = system.start()
    clock.taken.setdefault((system.name, "work", "loop"), []).append(float(system.run(made, WORK)))
    system.end(made)


ROWS = [
    ("from nothing to the first result, 1+1", "first", "1+1"),
    ("from nothing to the first result, with pandas", "first", "pandas"),
    ("made, used once and gone, 1+1", "life", "1+1"),
    ("made, used once and gone, with pandas", "life", "pandas"),
    ("the end alone, 1+1", "end", "1+1"),
    ("warm, 1+1", "warm", "1+1"),
    ("a loop of 5,000,000 squares, by its own clock", "work", "loop"),
]


def show(clock, systems):
    """Each row with a ratio of p50 to ours."""
    head = "".join(f"{system.name:>26}" for system in systems)
    print(f"{'milliseconds: p50, p95, times ours':<48}{head}")
    for title, *row in ROWS:
        cells = []
        ours = clock.at((systems[0].name, *row), 0.5)
        for system in systems:
            key = (system.name, *row)
            # One that is started for each program is never warm, and has ended with its result.
            if key not in clock.taken or isinstance(system, Bubblewrap) and row[0] == "end":
                cells.append(f"{'–':>26}")
                continue
            middle, high = clock.at(key, 0.5), clock.at(key, 0.95)
            digits = 3 if row[0] == "work" else 1
            ratio = "" if system is systems[0] else f"×{middle / ours:.{digits}f}"
            cells.append(f"{middle:>10.1f}{high:>8.1f}{ratio:>8}")
        print(f"{title:<48}{''.join(cells)}")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    clock = Clock()
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anchorhold-beside-")))
        os.chmod(directory, 0o755)
        root, shared = stack.enter_context(image_root(directory))
        running = stack.enter_context(server.running("[pool]\nnative = 2\nbrowser = 0\n"))
        systems = [Native(running), Jupyter(root, shared), Bubblewrap()]
        for system in systems:
            made = system.start()
            print(f"{system.name}: {system.run(made, WHICH)}, in the image's root")
            system.end(made)
        for count in range(rounds):
            for system in systems:
                for program in PROGRAMS:
                    time.sleep(PAUSE)
                    life(system, program, clock, warm=program == "1+1" and not isinstance(system, Bubblewrap))
        for _ in range(WORKS):
            for system in systems:
                work(system, clock)
        print(f"{rounds} rounds, in turn; {WARM} warm executions in each")
        show(clock, systems)


main()
