"""What the guest says in Python: rich display, the event loop, errors, what is missing.

Runs once, when the image is built. `session.rs` calls seed_random, update_environment, enter, leave,
run_coroutine, bundle, describe and renew_stdin; it has put emit_display, check_size and TZDATA into
this module's names.
"""

# Imported here, so that importing them in a session costs a dictionary look-up.
import _random, _sitebuiltins, abc, argparse, array, ast, asyncio, base64, binascii, bisect
import builtins, calendar, cmath, codecs, collections, collections.abc, configparser, contextlib
import contextvars, copy, csv, dataclasses, datetime, decimal, difflib, email.message, enum
import errno, fractions, functools, getpass, glob, gzip, hashlib, heapq, hmac, html, html.parser
import importlib, importlib.util, inspect, io, ipaddress, itertools, json, keyword, linecache
import locale, logging, math, mimetypes, numbers, operator, os, os.path, pathlib, pickle
import platform, pprint, queue, random, re, reprlib, secrets, shlex, shutil, signal, socket, stat
import statistics, string, struct, subprocess, sys, tempfile, textwrap, threading, time, timeit
import tokenize, tomllib, traceback, types, typing, unicodedata, unittest, urllib.parse
import urllib.request, uuid, warnings, weakref, xml.etree.ElementTree, zipfile, zlib, zoneinfo
import zoneinfo._common, zoneinfo._tzpath

NATIVE = 'use the "native" runtime instead'


# --- the session --------------------------------------------------------------------------------

BASE_ENVIRONMENT = {
    "HOME": "/home/user",
    "LANG": "C.UTF-8",
    "PWD": "/workspace",
    "TMPDIR": "/tmp",
    "TZ": "UTC",
    "USER": "user",
}


# `start` calls these two from Rust and runs no bytecode: a session pays for every page of the snapshot
# that it is the first to touch. What else holds randomness (uuid, tempfile, secrets) has no state
# before its first use, which no warm-up program may be.
seed_random = functools.partial(_random.Random.seed, random._inst)
update_environment = os.environ.update


def enter(env, cwd):
    """Apply what one execution asks for; `leave` undoes it."""
    before = {name: os.environ.get(name) for name in env}
    directory = os.getcwd() if cwd is not None else None
    if cwd is not None:
        os.chdir(os.path.expanduser(cwd))
    os.environ.update(env)
    return before, directory


def leave(state):
    before, directory = state
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if directory is not None:
        os.chdir(directory)


class ExecutionTimeout(KeyboardInterrupt):
    """The execution ran into its time limit. Not an Exception: `except Exception` lets it through."""


# --- results ------------------------------------------------------------------------------------

# Jupyter's names. Bytes go to the host as base64.
REPRESENTATIONS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_latex_": "text/latex",
    "_repr_json_": "application/json",
    "_repr_javascript_": "application/javascript",
}


def mime_bundle(value):
    """All that a value says about how it looks, by mime type."""
    mime = {}
    kind = type(value)
    # A class has its instances' methods, but they are not about the class.
    if not isinstance(value, type):
        if hasattr(kind, "_repr_mimebundle_"):
            data = value._repr_mimebundle_()
            mime.update(data[0] if isinstance(data, tuple) else data)
        for name, mime_type in REPRESENTATIONS.items():
            if mime_type not in mime and hasattr(kind, name):
                data = getattr(value, name)()
                if isinstance(data, tuple):  # data and metadata
                    data = data[0]
                if data is not None:
                    mime[mime_type] = data
    mime.setdefault("text/plain", repr(value))
    return mime


def encode(value):
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    raise TypeError(f"a {type(value).__name__} cannot be sent as JSON")


def bundle(value):
    text = json.dumps(mime_bundle(value), default=encode, ensure_ascii=False, allow_nan=False)
    check_size(text)
    return text


def display(*values):
    """Show values in the answer, as rich as they can be, before the execution ends."""
    for value in values:
        emit_display(bundle(value))


# --- errors -------------------------------------------------------------------------------------

# Frames that say nothing about the program.
OWN_FRAMES = ("<anchorhold>", "<frozen importlib")


def skip_to_program(tb):
    """Leave out what stands above the program's first line: the event loop, ourselves."""
    start = tb
    while start is not None and not start.tb_frame.f_code.co_filename.startswith("<execution "):
        start = start.tb_next
    return start or tb


def without_own_frames(report):
    report.stack[:] = [frame for frame in report.stack if not frame.filename.startswith(OWN_FRAMES)]
    for other in (report.__cause__, report.__context__, *(report.exceptions or ())):
        if other is not None:
            without_own_frames(other)
    return report


# The attribute of an error that holds where the program was waiting when the loop raised it.
WAITING = "anchorhold waiting"


def waiting_lines(coroutine):
    """Where a suspended coroutine stands, from its outermost `await` to the innermost."""
    frames = []
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        code = frame.f_code
        frames.append(traceback.FrameSummary(code.co_filename, frame.f_lineno, code.co_name))
        coroutine = coroutine.cr_await
    return frames


def describe(error):
    """Message and traceback of the error that ended a program."""
    try:
        message = str(error)
    except Exception:
        message = f"<the message of this {type(error).__name__} cannot be shown>"
    if isinstance(error, SyntaxError) and error.text is None and error.filename:
        error.text = linecache.getline(error.filename, error.lineno or 0) or None
    report = traceback.TracebackException(type(error), error, skip_to_program(error.__traceback__))
    waiting = vars(error).pop(WAITING, None)
    if waiting:
        report.stack[:] = waiting
    return message, "".join(without_own_frames(report).format())


# --- asyncio ------------------------------------------------------------------------------------

class Sleeper:
    """Stands where a selector would: there is nothing to wait for but time."""

    def select(self, timeout):
        if timeout is None:
            raise RuntimeError("deadlock: every task waits, and nothing is left that could wake one")
        if timeout > 0:
            flush_output()
            time.sleep(timeout)
        return ()

    def get_map(self):
        return {}


class EventLoop(asyncio.BaseEventLoop):
    """An event loop of timers and tasks."""

    def __init__(self):
        super().__init__()
        self._selector = Sleeper()

    def _process_events(self, events):
        pass

    def _write_to_self(self):
        pass

    def run_in_executor(self, executor, function, *arguments):
        """There are no threads: the function runs at once, and the loop waits for it."""
        if executor is not None:
            return super().run_in_executor(executor, function, *arguments)
        future = self.create_future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    async def shutdown_default_executor(self, timeout=None):
        pass

    async def getaddrinfo(self, *arguments, **options):
        raise OSError(errno.ENOSYS, f"no network in the wasm runtime: {NATIVE}")

    create_connection = create_server = create_datagram_endpoint = getaddrinfo
    connect_read_pipe = connect_write_pipe = create_unix_connection = create_unix_server = getaddrinfo

    async def subprocess_exec(self, *arguments, **options):
        raise OSError(errno.ENOSYS, f"no processes in the wasm runtime: {NATIVE}")

    subprocess_shell = subprocess_exec


class EventLoopPolicy(asyncio.events._BaseDefaultEventLoopPolicy):
    _loop_factory = EventLoop


asyncio.events._set_event_loop_policy(EventLoopPolicy())
asyncio.EventLoop = asyncio.SelectorEventLoop = EventLoop
session_loop = None


def run_coroutine(coroutine):
    """Run an execution with a top-level `await`, on a loop that lives as long as the session: tasks
    that one execution starts go on in the next one that awaits."""
    global session_loop
    if session_loop is None or session_loop.is_closed():
        session_loop = EventLoop()
    asyncio.set_event_loop(session_loop)
    task = session_loop.create_task(coroutine)
    try:
        return session_loop.run_until_complete(task)
    except BaseException as error:
        # Raised by the loop, not by the program: the deadline, or a deadlock. The task must not come
        # back to life in the next execution.
        if not task.done():
            setattr(error, WAITING, waiting_lines(coroutine))
            task.cancel()
            with contextlib.suppress(BaseException):
                session_loop.run_until_complete(task)
        raise


# --- streams ------------------------------------------------------------------------------------

class Input(io.RawIOBase):
    """Standard input of one execution. What a program leaves unread in Python's buffers must not
    become the next one's input, so `session.rs` renews a stdin that was used."""

    name = "<stdin>"
    mode = "rb"

    def readable(self):
        return True

    def fileno(self):
        return 0

    def readinto(self, buffer):
        global stdin_used
        stdin_used = True
        data = os.read(0, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self):
        global stdin_used
        stdin_used = True
        super().close()


def renew_stdin():
    global stdin_used
    stdin_used = False
    buffered = io.BufferedReader(Input())
    sys.stdin = io.TextIOWrapper(buffered, encoding="utf-8", errors="surrogateescape")
    sys.__stdin__ = sys.stdin


def flush_output():
    with contextlib.suppress(Exception):
        sys.stdout.flush()


# --- time zones ---------------------------------------------------------------------------------

def read_time_zones(archive):
    """The content of PyPI's tzdata, by name."""
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        names = files.read("tzdata/zones").decode().split()
        return {name: files.read(f"tzdata/zoneinfo/{name}") for name in names}


time_zones = read_time_zones(TZDATA)
del TZDATA


def load_tzdata(key):
    try:
        return io.BytesIO(time_zones[key])
    except KeyError:
        raise zoneinfo.ZoneInfoNotFoundError(f"No time zone found with key {key}") from None


# --- what is missing ----------------------------------------------------------------------------

# Modules of the standard library that need what a guest does not have.
MISSING_MODULES = {
    "ctypes", "_ctypes", "curses", "_curses", "dbm.gnu", "dbm.ndbm", "fcntl", "grp", "idlelib", "mmap",
    "multiprocessing", "pty", "pwd", "readline", "resource", "sqlite3", "_sqlite3", "ssl", "_ssl",
    "syslog", "termios", "tkinter", "_tkinter", "tty", "turtle",
}


def is_asked_by_import():
    """Or else by `importlib.util.find_spec`, which asks whether there is such a module."""
    return sys._getframe(4).f_code.co_name == "_find_and_load_unlocked"


def refuse_module(name, what):
    if is_asked_by_import():
        raise ModuleNotFoundError(f"No module named {name!r}: the wasm runtime {what}, {NATIVE}", name=name)


class BrokenModules:
    """The first finder: modules whose Python part is here, but could not work."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in MISSING_MODULES:
            refuse_module(name, "lacks this module")


class OtherModules:
    """The last finder: nobody else knows the module."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if path is None:
            refuse_module(name, "has the standard library only")


def unavailable(what):
    def refuse(*arguments, **options):
        raise OSError(errno.ENOSYS, f"no {what} in the wasm runtime: {NATIVE}")

    return refuse


def refuse_thread(self, *arguments, **options):
    raise RuntimeError(f"can't start new thread: no threads in the wasm runtime, {NATIVE}")


def leave_process(code):
    """The process holds the session, so only the execution ends."""
    raise SystemExit(code)


def change_mode(path, mode, *, dir_fd=None, follow_symlinks=True):
    """WASI has no permissions to change."""
    os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


def access(path, mode, *, dir_fd=None, effective_ids=False, follow_symlinks=True):
    """WASI has no permissions: what exists can be used."""
    try:
        os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
    except OSError:
        return False
    return True


def install():
    """Change what the interpreter came with."""
    subprocess.Popen.__init__ = unavailable("processes")
    subprocess.Popen.__del__ = lambda self: None
    os.system = os.popen = os.fork = os.forkpty = os.posix_spawn = unavailable("processes")
    for name in ("create_connection", "create_server", "getaddrinfo", "gethostbyname", "socketpair"):
        setattr(socket, name, unavailable("network"))
    socket.socket.__init__ = unavailable("network")
    # WASI has no signals; `asyncio.run` asks for the handler of this one.
    for name, number in {"SIGINT": 2, "SIGTERM": 15}.items():
        if not hasattr(signal, name):
            setattr(signal, name, number)
    threading.Thread.start = refuse_thread
    os._exit = leave_process
    os.access = access
    os.chmod = change_mode
    os.umask = lambda mask: 0o022
    os.getuid = os.geteuid = os.getgid = os.getegid = lambda: 1000
    # All there is to a machine's own time zone, here.
    time.tzname = ("UTC", "UTC")
    time.timezone = time.altzone = time.daylight = 0
    time.tzset = lambda: None
    zoneinfo._common.load_tzdata = load_tzdata
    zoneinfo.available_timezones = zoneinfo._tzpath.available_timezones = lambda: set(time_zones)
    zoneinfo.reset_tzpath(to=())
    # A line is seen when it is written, and standard error does not overtake standard output.
    sys.stdout.reconfigure(line_buffering=True)
    renew_stdin()
    os.environ.clear()
    os.environ.update(BASE_ENVIRONMENT)
    builtins.display = display
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
    builtins.help = _sitebuiltins._Helper()
    for name in MISSING_MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, BrokenModules)
    sys.meta_path.append(OtherModules)


install()
