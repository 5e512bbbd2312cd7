"""Runs Python as IPython does: in a zygote, which imports what programs are likely to need, and in the copies of it
that the cell's library forks, one for each context.

Descriptor 3: for each execution a line with a length, and JSON of that length. Descriptor 4: `B 0` when the input is
open, `V <length>` and a rich value, `D <length>` and how it ended. No program that is started here has either of them.
"""

import ast
import base64
import contextlib
import ctypes
import gc
import importlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import uuid

from IPython.core.autocall import IPyAutocall
from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.history import HistoryManager
from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell
from IPython.core.macro import Macro

VALUE_BYTES_MAX = 2 * 1024 * 1024
# The state of a Mersenne twister: 624 words.
TWISTER_BYTES = 624 * 4
# As text these are what `repr` says, and nothing else is made of them unless IPython is told to.
SCALARS = (bool, int, str)
SITE = os.path.expanduser("~/.local/lib/python3.11/site-packages")

shell = None
pools = None
# For each format that IPython makes of a value, what makes it, by type; and what that was for scalars at first.
printers = []
usual = {}
# What `numpy.random.rand` and its like draw from.
twister = None
# How many directories the zygote has imported from. They are the image's, which does not change.
imported = 0
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
    often = (
        "df = pandas.DataFrame({'a': range(10), 'b': list('abcdefghij')})\ndf.groupby('b').a.sum().reset_index()",
        "df",
        "int(df.a.sum())",
        "print(1)",
        "1 / 0",
    )
    run({"code": "import csv, io, re, datetime, requests, numpy, pandas, matplotlib.pyplot as plt"})
    run({"code": "plt.plot([1, 2, 3]); plt.title('x')"})
    # Python writes to its code until it has seen often enough what passes there, and a copy pays for each page it writes.
    for code in often * 16:
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
    global imported, pools, printers, twister
    import numpy
    from threadpoolctl import ThreadpoolController

    pools = ThreadpoolController()
    printers = [formatter.type_printers for formatter in shell.display_formatter.formatters.values()]
    usual.update((kind, [by_type.get(kind) for by_type in printers]) for kind in SCALARS)
    numpy.random.seed(0)
    address = numpy.random.mtrand._rand._bit_generator.ctypes.state_address
    twister = (ctypes.c_char * TWISTER_BYTES).from_address(address)
    importlib.invalidate_caches()
    imported = len(sys.path_importer_cache)
    for _ in range(16):
        reseed()
        rehearse()


def rehearse():
    """What happens around every program, without one."""
    global send
    real, send = send, lambda kind, payload=b"": None
    json.loads('{"code": null}')
    look_again()
    before_program()
    run_tree(plain("None"), "<execution>", None)
    shell.push({}, interactive=False)
    value(True, {"text/plain": "2"})
    after_program()
    send = real


def make_shell():
    # It would be a file and a thread.
    HistoryManager.enabled = False

    class History(HistoryManager):
        def store_inputs(self, number, source, source_raw=None):
            """In `In` and `_i`, and nowhere else."""
            raw = (source_raw or source).rstrip("\n")
            self.input_hist_parsed.append(source.rstrip("\n"))
            self.input_hist_raw.append(raw)
            last = [self.shell.user_ns.get(name, "") for name in (f"_i{number - 1}", "_i", "_ii")]
            names = dict(zip(("_i", "_ii", "_iii", f"_i{number}"), (*last, raw)))
            self.shell.push(names, interactive=False)

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
            kind = type(result)
            if kind in SCALARS and [by_type.get(kind) for by_type in printers] == usual[kind]:
                data = {"text/plain": repr(result)}
            else:
                data, _ = self.compute_format_data(result)
            value(True, data)

    class Compiler(CachingCompiler):
        def get_code_name(self, raw_code, transformed_code, number):
            return f"<execution {executions}>"

    class Shell(InteractiveShell):
        displayhook_class = Hook
        display_pub_class = Publisher
        compiler_class = Compiler

        def init_history(self):
            self.history_manager = History(shell=self, parent=self)
            self.configurables.append(self.history_manager)

        def enable_gui(self, gui=None):
            pass

        def init_virtualenv(self):
            pass

        def showtraceback(self, *args, **kwargs):
            # It is part of the answer; see `run`.
            pass

        def showsyntaxerror(self, *args, **kwargs):
            pass

        def _format_exception_for_storage(self, exception, *args, **kwargs):
            # For a notebook's file, and slower than most programs.
            return {}

        def _tee(self, channel):
            # It would keep all output for such a file, and stand in the way of every print.
            return contextlib.nullcontext()

        def system(self, command):
            """Output goes where that of the program goes; IPython would open a terminal for it."""
            command = self.var_expand(command, depth=1)
            self.user_ns["_exit_code"] = stream(command)
            # It may have installed something.
            look_again()

    made = Shell.instance(colors="nocolor", autoindent=False)
    made.run_line_magic("matplotlib", "inline")
    return made


def plain(code):
    """The program as a tree, when IPython would make nothing else of it: it is Python, waits for nothing outside of its
    functions, is not pasted from a session (`In [1]: x` is Python, too), and is not a single line that begins with the name
    of a command, a macro or what is called by its name alone."""
    if "await" in code or "async" in code or shell.ast_transformers:
        return None
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    code = code.strip()
    word = re.match(r"\w*", code)[0]
    if word == "In":
        return None
    if "\n" not in code and word.isidentifier():
        called = isinstance(shell.user_ns.get(word), (IPyAutocall, Macro))
        return None if called or shell.find_magic(word) else tree
    return tree


def run_plain(code, tree):
    """What IPython does with such a program. The way to it through all that it could have been is longer than most
    programs are."""
    result = ExecutionResult(ExecutionInfo(code, True, False, True, None, None, transformed_cell=code))
    number = result.execution_count = shell.execution_count
    shell.execution_count += 1
    before_program()
    shell.events.trigger("pre_run_cell", result.info)
    try:
        shell.history_manager.store_inputs(number, code)
        run_tree(tree, shell.compile.cache(code, number), result)
        shell.last_execution_succeeded = result.success
        shell.last_execution_result = result
    finally:
        after_program()
        shell.events.trigger("post_run_cell", result)
    return result


def run_tree(tree, name, result):
    shell.displayhook.exec_result = result
    with shell.builtin_trap, shell.display_trap:
        interactivity = shell.ast_node_interactivity
        runs = shell.run_ast_nodes(tree.body, name, interactivity, compiler=shell.compile, result=result)
        # It waits for nothing, so it ends at once.
        with contextlib.suppress(StopIteration):
            runs.send(None)
    shell.displayhook.exec_result = None


def before_program():
    shell.events.trigger("pre_execute")


def after_program():
    shell.events.trigger("post_execute")


def look_again():
    """A program may have written what the next one imports; the image stays as it is. Its directories came first."""
    known = sys.path_importer_cache
    for path in list(itertools.islice(reversed(known), max(len(known) - imported, 0))):
        if known[path] is None or not os.path.isabs(path):
            del known[path]
        else:
            known[path].invalidate_caches()


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
    threading.main_thread()._set_native_id()
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
    twister.raw = os.urandom(TWISTER_BYTES)


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
    look_again()
    failure = None
    running = True
    try:
        code = job["code"]
        tree = plain(code)
        result = run_plain(code, tree) if tree else shell.run_cell(code, store_history=True)
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
