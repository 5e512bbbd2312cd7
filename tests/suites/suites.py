"""Parts of the test suites of CPython, numpy, pandas, scikit-learn and matplotlib, run in native cells of a real server.

    python suites.py FETCHED                         in a session; 1 if anything is not as expected.json says
    python suites.py FETCHED --where both            there and in the image's root without walls: what differs
    python suites.py FETCHED --only 'test_s*'        some of it
    python suites.py FETCHED --record                the same, and writes the counts into expected.json

FETCHED is what fetch.sh made. expected.json names the modules, how many of each one's tests pass, each that fails and why,
each that is skipped because of a wall, and those that are left out, since they hinder the rest. A reason begins with what is behind it: "wall" (it passes without the walls),
"image" (what the image has or has not), "suite" (the test is wrong about this version or place).
"""

import argparse
import collections
import concurrent.futures
import fnmatch
import io
import json
import pathlib
import re
import sys
import tarfile
import time
import zipfile

import places

HERE = pathlib.Path(__file__).parent
EXPECTED = HERE / "expected.json"
# Where the suites are in the session: CPython's `test` and the packages, as the image has them, with the tests beside.
SUITES = "/workspace/suites"
SITE = "/usr/local/lib/python3.11/dist-packages"
LIBRARY = "/usr/lib/python3.11"
LIBRARIES = ["test", "ctypes", "unittest"]
PACKAGES = ["numpy", "numpy.libs", "pandas", "sklearn", "scikit_learn.libs", "matplotlib", "mpl_toolkits"]
# Names of the image's own files, not copies. What was uploaded is not replaced. The wheel of matplotlib has no pictures to
# compare with, and its tests want at least their directory.
FURNISH = f"""
cd {SUITES}
for name in ctypes unittest; do cp -rsn {LIBRARY}/$name . || exit; done
for name in {" ".join(PACKAGES)}; do [ ! -e {SITE}/$name ] || cp -rsn {SITE}/$name . || exit; done
mkdir -p matplotlib/tests/baseline_images
"""
ENVIRONMENT = {"PYTHONPATH": SUITES, "MPLBACKEND": "agg"}
# Debian's CPython has none of what these test.
LEFT_OUT = {"ctypes/test/test_macholib.py"}
# Without Internet, a sound card and a screen; tests that write gigabytes or take minutes are left out.
REGRTEST = ["-u", "all,-network,-urlfetch,-gui,-audio,-largefile,-cpu", "--timeout", "240"]
PYTEST = ["-q", "--tb=short", "-p", "no:cacheprovider", "--rootdir", SUITES, "-m", "not slow and not network and not db"]
# Directories of tests.
TESTS = {"test", "tests"}
SECONDS_MAX = 300
# In the reason of a test that passes or fails by chance.
AT_TIMES = "at times"
AT_ONCE = 3


def archive(fetched):
    """What is uploaded, as a tar."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as out:

        def add(name, data, mode=0o644):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), mode, time.time()
            out.addfile(info, io.BytesIO(data))

        for told in [*cpython(fetched / "cpython.tar.gz"), *wheels(fetched / "wheels")]:
            add(*told)
        add("run.py", (HERE / "run.py").read_bytes())
    return made.getvalue()


def cpython(source):
    with tarfile.open(source) as tar:
        for member in tar:
            _, _, name = member.name.partition("/Lib/")
            # A link is followed: archives that are uploaded have none.
            if name in LEFT_OUT or name.split("/")[0] not in LIBRARIES:
                continue
            if TESTS & set(name.split("/")[:-1]) and not member.isdir():
                yield name, tar.extractfile(member).read(), member.mode


def wheels(directory):
    for path in sorted(directory.glob("*.whl")):
        whole = path.name.startswith(("hypothesis", "sortedcontainers"))
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if not name.endswith("/") and (whole or TESTS & set(name.split("/")[:-1])):
                    yield name, wheel.read(name)


class Ended(collections.namedtuple("Ended", "passed failed skipped seconds how output")):
    """How a module's tests ended: a count, and texts by name."""

    def __str__(self):
        counts = f"{self.passed:>6} passed {len(self.failed):>4} failed {len(self.skipped):>4} skipped"
        return f"{counts} {self.seconds:>6.1f} s"


def run(place, runner, module, left_out, number):
    report = f"results/{module}.json"
    # The cells of a session share /tmp, but not the numbers of processes that tests name their files by.
    env = {**ENVIRONMENT, "TMPDIR": f"/tmp/{number}"}
    without = [argument for name in left_out for argument in ("--ignore", name)]
    options = {"regrtest": [*REGRTEST, *without, module], "pytest": [*PYTEST, "--pyargs", module]}[runner]
    start = time.monotonic()
    command = ["python3", f"{SUITES}/run.py", f"/workspace/{report}", runner, *options]
    how, output = place.run(command, env, SECONDS_MAX)
    seconds = time.monotonic() - start
    read = place.read(report)
    if read is None:
        return Ended(0, {module: f"it ended without a report: {how}\n{output}"}, {}, seconds, how, output)
    told = json.loads(read)
    failed, skipped = ({n: o["text"] for n, o in told["others"].items() if o["outcome"] == kind} for kind in ("failed", "skipped"))
    # What hinders the whole module is told by the runner only.
    if how != "exit code 0" and not failed:
        failed[module] = f"{how}\n{output}"
    elif not told["passed"] and not failed and not skipped:
        skipped[module] = output
    return Ended(told["passed"], failed, skipped, seconds, how, output)


def run_all(place, wanted, fetched, at_once):
    """All modules, some at a time, since much of what they do is waiting."""
    place.put(archive(fetched))
    how, output = place.run(["bash", "-c", FURNISH + "mkdir -p /workspace/results"], {}, 100)
    if how != "exit code 0":
        raise SystemExit(f"the suites could not be laid out: {how}\n{output}")
    ended = {}
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        running = {pool.submit(run, place, *of, number): of[1] for number, of in enumerate(wanted)}
        for done in concurrent.futures.as_completed(running):
            module = running[done]
            ended[module] = done.result()
            print(f"  {len(ended):>3} of {len(wanted)}  {module:<44} {ended[module]}", flush=True)
    return ended


def matches(pattern, name):
    """A star in a name that is expected stands for anything."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name)


def known(name, reasons):
    """The reason for a name, if there is one."""
    return next((reason for pattern, reason in reasons.items() if matches(pattern, name)), "")


def compare(ended, expected):
    """Prints what was expected, and gives back what was not."""
    surprises = []
    for module, result in sorted(ended.items()):
        told = expected[module]
        reasons, least = told.get("failed", {}), told.get("passed", 1)
        for name, text in sorted(result.failed.items()):
            reason = known(name, reasons)
            least -= AT_TIMES in reason
            if reason:
                print(f"  {name}\n      {reason}")
            else:
                surprises.append(f"{name} failed:\n{indented(text)}")
        for pattern, reason in reasons.items():
            if AT_TIMES not in reason and not any(matches(pattern, name) for name in result.failed):
                print(f"  {pattern}\n      did not fail this time")
        if result.passed < least:
            surprises.append(f"{module}: {result.passed} passed, and {least} were expected to")
    return surprises


def indented(text):
    return "\n".join("    " + line for line in text.strip().splitlines()[-30:])


def differences(inside, outside, expected):
    """Prints what the walls change. What is skipped for their sake is to be known, too."""
    surprises = []
    for module, here in sorted(inside.items()):
        there, told = outside[module], expected[module]
        for kind in ("failed", "skipped"):
            for name in sorted(set(getattr(here, kind)) - set(getattr(there, kind))):
                reason = known(name, told.get(kind, {}))
                print(f"  {kind} in a cell only: {name}\n      {reason or 'unknown: ' + getattr(here, kind)[name][-300:]}")
                if not reason.startswith("wall"):
                    surprises.append(f"{name}: {kind} in a cell only, and not explained by a wall")
        for name in sorted(set(there.failed) - set(here.failed)):
            print(f"  failed without walls only: {name}")
        for name in sorted(set(here.failed) & set(there.failed)):
            if known(name, told.get("failed", {})).startswith("wall"):
                surprises.append(f"{name} fails without walls, too: not explained by a wall")
    return surprises


def record(expected, ended):
    """The longest first, so that the last to end is short."""
    for runner, modules in expected.items():
        for module in modules:
            if module in ended:
                modules[module] = {"passed": ended[module].passed, **{k: v for k, v in modules[module].items() if k != "passed"}}
        order = sorted(modules, key=lambda module: -ended[module].seconds if module in ended else 0)
        expected[runner] = {module: modules[module] for module in order}
    EXPECTED.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("fetched", type=pathlib.Path)
    parser.add_argument("--where", choices=["inside", "outside", "both"], default="inside")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="MODULE")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--reports", type=pathlib.Path, help="where to write all that did not pass")
    return parser.parse_args()


def main():
    asked = arguments()
    expected = json.loads(EXPECTED.read_text())
    wanted = [
        (runner, module, told.get("left_out", {}))
        for runner, modules in expected.items()
        for module, told in modules.items()
        if any(fnmatch.fnmatch(module, pattern) for pattern in asked.only)
    ]
    by_module = {module: told for modules in expected.values() for module, told in modules.items()}
    start, ended = time.monotonic(), {}
    for where, enter in [("inside", places.inside), ("outside", places.outside)]:
        if asked.where in (where, "both"):
            print(f"{len(wanted)} modules, {'in native cells' if where == 'inside' else 'without walls'}:", flush=True)
            with enter() as place:
                ended[where] = run_all(place, wanted, asked.fetched, asked.at_once)
            if asked.reports:
                told = {module: result._asdict() for module, result in ended[where].items()}
                (asked.reports / f"{where}.json").write_text(json.dumps(told, indent=1))
    here = ended.get("inside") or ended["outside"]
    print("\nfailures that are known:")
    surprises = compare(here, by_module)
    if asked.where == "both":
        print("\nwhat the walls change:")
        surprises += differences(ended["inside"], ended["outside"], by_module)
    if asked.record:
        record(expected, here)
    if surprises:
        print("\nnot expected:")
        print("\n".join(surprises))
    failed, skipped = (sum(len(getattr(result, kind)) for result in here.values()) for kind in ("failed", "skipped"))
    passed = sum(result.passed for result in here.values())
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped, {len(surprises)} surprises, {time.monotonic() - start:.0f} s")
    sys.exit(bool(surprises))


main()
