"""Runs Python as IPython does: in a zygote, which imports what programs are likely to need, and in the copies of it
that the cell's library forks, one for each context.

Descriptor 3: for each execution a line with a length, and JSON of that length. Descriptor 4: `B 0` when the input is
open, `V <length>` and a rich value, `D <length>` and how it ended. No program that is started here has either of them.
"""

import ast
import base64
import ctypes
import gc
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import uuid

VALUE_BYTES_MAX = 2 * 1024 * 1024
SITE = os.path.expanduser("~/.local/lib/python3.11/site-packages")

shell = None
pools = None
running = False
executions = 0


# ---- in the zygote -------------------------------------------------------------------------------------------------


def zygote(library, first):
    """Imports, warms, and forks cells for as long as the warden wants some."""
    prepare_matplotlib()
    global shell
    shell = make_shell()
    warm()
    tidy()
    loaded = ctypes.PyDLL(library)
    gc.collect()
    gc.collect()
    gc.disable()
    gc.freeze()
    sys.exit(loaded.anchorhold_zygote(first))


def prepare_matplotlib():
    """Its cache of fonts is part of the image, which cannot be written to, and it insists on a place that can."""
    place = os.environ["MPLCONFIGDIR"]
    os.makedirs(place, exist_ok=True)
    for name in os.listdir("/var/cache/matplotlib"):
        shutil.copy(f"/var/cache/matplotlib/{name}", place)


def warm():
    """Programs of the kind that will come; what they leave behind is taken away."""
    global send, executions
    real, send = send, lambda kind, payload=b"": None
    stdout = sys.stdout
    sys.stdout = open(os.devnull, "w")
    for code in (
        "import numpy, pandas, matplotlib.pyplot as plt\n1 + 1",
        "df = pandas.DataFrame({'a': range(10), 'b': list('abcdefghij')})\ndf.groupby('b').a.sum().reset_index()",
        "df",
        "plt.plot([1, 2, 3]); plt.title('x')",
        "import csv, io, re, datetime, requests\nprint(1)",
        "1 / 0",
    ):
        run({"code": code})
    sys.stdout = stdout
    send = real
    shell.reset(new_session=True)
    shell.execution_count, executions = 1, 0
    # Open files of the zygote's, which no cell has.
    from matplotlib import font_manager

    font_manager._get_font.cache_clear()


def tidy():
    """What every copy would do for the first time is done once, here: there it would cost milliseconds and memory."""
    global pools
    from threadpoolctl import ThreadpoolController

    pools = ThreadpoolController()
    reseed()
    rehearse()


def rehearse():
    """Runs a program that does nothing, and leaves no trace of it."""
    stdout, sys.stdout = sys.stdout, open(os.devnull, "w")
    shell.run_cell("None", store_history=False)
    shell.display_formatter.format(2)
    importlib.invalidate_caches()
    sys.stdout.close()
    sys.stdout = stdout


def make_shell():
    from IPython.core.compilerop import CachingCompiler
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.history import HistoryManager
    from IPython.core.interactiveshell import InteractiveShell

    # It would be a file and a thread.
    HistoryManager.enabled = False

    class Publisher(DisplayPublisher):
        def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **kwargs):
            value(False, data)

        def clear_output(self, wait=False):
            pass

    class Hook(DisplayHook):
        def __call__(self, result=None):
            if result is None or self.quiet():
                return
            self.update_user_ns(result)
            data, _ = self.compute_format_data(result)
            value(True, data)

    class Compiler(CachingCompiler):
        def get_code_name(self, raw_code, transformed_code, number):
            return f"<execution {executions}>"

    class Shell(InteractiveShell):
        displayhook_class = Hook
        display_pub_class = Publisher
        compiler_class = Compiler

        def enable_gui(self, gui=None):
            pass

        def init_virtualenv(self):
            pass

        def showtraceback(self, *args, **kwargs):
            # It is part of the answer; see `run`.
            pass

        def showsyntaxerror(self, *args, **kwargs):
            pass

        def transform_cell(self, raw_cell):
            """What is Python already is left as it is: to look for everything that IPython adds to the language takes
            longer than most programs."""
            return raw_cell if is_plain(raw_cell) else super().transform_cell(raw_cell)

        def system(self, command):
            """Output goes where that of the program goes; IPython would open a terminal for it."""
            command = self.var_expand(command, depth=1)
            self.user_ns["_exit_code"] = stream(command)
            # It may have installed something.
            importlib.invalidate_caches()

    made = Shell.instance(colors="nocolor", autoindent=False)
    made.run_line_magic("matplotlib", "inline")
    return made


def is_plain(code):
    """Whether IPython would make nothing else of it: it is Python, not pasted from a session (`In [1]: x` is Python, too),
    and not a single line that begins with the name of a command, a macro or what is called by its name alone."""
    from IPython.core.autocall import IPyAutocall
    from IPython.core.macro import Macro

    try:
        ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    code = code.strip()
    word = re.match(r"\w*", code)[0]
    if word == "In":
        return False
    called = isinstance(shell.user_ns.get(word), (IPyAutocall, Macro))
    return "\n" in code or not (called or shell.find_magic(word))


def stream(command):
    sys.stdout.flush()
    child = subprocess.Popen(["/bin/bash", "-c", command])
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise


# ---- in a cell -----------------------------------------------------------------------------------------------------


def prepare():
    """Gets ready for a session that nobody knows yet, and may become another program. No wall stands."""
    reseed()
    sys.stdout.reconfigure(line_buffering=True)
    sys.path.insert(0, "")
    sys.path.append(SITE)
    gc.enable()
    rehearse()


def serve():
    """Runs what comes until the cell ends."""
    for number in (3, 4):
        os.set_inheritable(number, False)
    signal.signal(signal.SIGINT, interrupted)
    # As every Python does: who writes to a pipe that nobody reads is told by an error.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    start = receive()
    os.environ.clear()
    os.environ.update(start["env"])
    # It starts threads.
    if start["threads"] > 1:
        pools.limit(limits=start["threads"])
    while True:
        job = receive()
        if job is None:
            os._exit(0)
        send("D", json.dumps(execute(job)).encode())


def interrupted(number, frame):
    # One that comes between two programs is nobody's.
    if running:
        raise KeyboardInterrupt


def reseed():
    """Nothing that is random may be what another cell of the zygote gets."""
    import ssl

    random.seed()
    ssl.RAND_add(os.urandom(32), 32.0)
    tempfile._name_sequence = None
    uuid._node = None
    numpy = sys.modules.get("numpy")
    if numpy:
        numpy.random.seed(list(os.urandom(32)))


def execute(job):
    """One program, with its own input, environment and directory."""
    replace_input(job["input"] or os.devnull)
    sys.stdin = open(0, closefd=False)
    send("B")
    before = {name: os.environ.get(name) for name in job["env"]}
    place = os.getcwd()
    os.environ.update(job["env"])
    try:
        if job["cwd"]:
            os.chdir(job["cwd"])
        return run(job)
    except OSError as error:
        return {"error": describe(error)}
    finally:
        replace_input(os.devnull)
        for name, was in before.items():
            if was is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = was
        if job["cwd"]:
            os.chdir(place)


def replace_input(path):
    opened = os.open(path, os.O_RDONLY)
    os.dup2(opened, 0)
    os.close(opened)


def run(job):
    global running, executions
    executions += 1
    importlib.invalidate_caches()
    failure = None
    running = True
    try:
        result = shell.run_cell(job["code"], store_history=True)
        failure = result.error_before_exec or result.error_in_exec
    except BaseException as error:
        failure = error
    finally:
        running = False
    for flush in (sys.stdout.flush, sys.stderr.flush):
        try:
            flush()
        except (OSError, ValueError, AttributeError):
            pass
    if failure is None:
        return {}
    if isinstance(failure, SystemExit):
        code = failure.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr, flush=True)
            code = 1
        return {"exit_code": code or 0}
    return {"error": describe(failure)}


def describe(error):
    """In the shape of an answer's `error`. What of the traceback is not the program's is left out."""
    trace = error.__traceback__
    while trace and not trace.tb_frame.f_code.co_filename.startswith("<execution"):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    try:
        message = str(error)
    except Exception:
        message = ""
    return {"name": type(error).__name__, "message": message[:65536], "traceback": text[-262144:]}


def value(main, data):
    """A rich value, by media type."""
    mime = {}
    for kind, content in data.items():
        if isinstance(content, bytes):
            content = base64.b64encode(content).decode()
        mime[kind] = content
    payload = encode(main, mime)
    if len(payload) > VALUE_BYTES_MAX:
        note = f"{', '.join(mime)}: {len(payload)} bytes are too many for an answer; write them to a file"
        text = mime.get("text/plain", "")
        payload = encode(main, {"text/plain": f"{text[:65536]}\n[{note}]"})
    sys.stdout.flush()
    send("V", payload)


def encode(main, mime):
    return json.dumps({"main": main, "mime": mime}, default=str).encode(errors="replace")


def receive():
    head = b""
    while not head.endswith(b"\n"):
        byte = os.read(3, 1)
        if not byte:
            return None
        head += byte
    left, parts = int(head), []
    while left:
        part = os.read(3, min(left, 1 << 20))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return json.loads(b"".join(parts))


def send(kind, payload=b""):
    left = memoryview(f"{kind} {len(payload)}\n".encode() + payload)
    while left:
        left = left[os.write(4, left) :]
