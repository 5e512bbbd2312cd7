"""Runs tests where it is started, in a cell or outside of one, and says in a file how each of them ended.

    python3 run.py REPORT regrtest [OPTION...] MODULE       CPython's own tests, by CPython's own runner
    python3 run.py REPORT pytest [OPTION...] MODULE...      those of packages

The report is JSON: how many passed, and of those that did not, by name: {"outcome": "failed" or "skipped", "text": why}.
A test that fails as its authors expect has passed.
"""

import json
import os
import sys

SEVERITY = {"passed": 0, "skipped": 1, "failed": 2}
TEXT_MAX = 4000


class Report:
    def __init__(self):
        self.ended = {}

    def note(self, name, outcome, text=""):
        """A test may be heard of several times: by its parts, by its setting up. The worst counts."""
        before, _ = self.ended.get(name, ("passed", ""))
        if name not in self.ended or SEVERITY[outcome] > SEVERITY[before]:
            self.ended[name] = (outcome, text[-TEXT_MAX:])

    def write(self, path):
        others = {name: ended for name, ended in self.ended.items() if ended[0] != "passed"}
        told = {name: {"outcome": outcome, "text": text} for name, (outcome, text) in others.items()}
        with open(path + ".new", "w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump({"passed": len(self.ended) - len(others), "others": told}, file)
        os.rename(path + ".new", path)


def regrtest(report, arguments):
    from test import libregrtest
    from test.support import testresult

    def name(test):
        test = getattr(test, "test_case", test)
        return test.id() if hasattr(test, "id") else str(test)

    class Result(testresult.RegressionTestResult):
        """The runner's own report loses the names of tests of which a part fails."""

        def addSuccess(self, test):
            super().addSuccess(test)
            report.note(name(test), "passed")

        def addExpectedFailure(self, test, err):
            super().addExpectedFailure(test, err)
            report.note(name(test), "passed")

        def addSkip(self, test, reason):
            super().addSkip(test, reason)
            report.note(name(test), "skipped", reason)

        def addFailure(self, test, err):
            super().addFailure(test, err)
            report.note(name(test), "failed", self.failures[-1][1])

        def addError(self, test, err):
            super().addError(test, err)
            report.note(name(test), "failed", self.errors[-1][1])

        def addUnexpectedSuccess(self, test):
            super().addUnexpectedSuccess(test)
            report.note(name(test), "failed", "it was expected to fail")

        def addSubTest(self, test, subtest, err):
            super().addSubTest(test, subtest, err)
            if err is not None:
                kind = self.failures if issubclass(err[0], test.failureException) else self.errors
                report.note(name(test), "failed", f"{subtest}\n{kind[-1][1]}")

    testresult.RegressionTestResult = Result
    # It reads the command line itself.
    sys.argv[1:] = arguments
    libregrtest.main()


class Plugin:
    """What pytest tells."""

    def __init__(self, report):
        self.report = report

    def pytest_runtest_logreport(self, report):
        self.hear(report)

    def pytest_collectreport(self, report):
        if report.outcome != "passed":
            self.hear(report)

    def hear(self, report):
        expected = report.outcome == "skipped" and hasattr(report, "wasxfail")
        self.report.note(report.nodeid, "passed" if expected else report.outcome, self.text(report))

    def text(self, report):
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            return report.longrepr[2]
        return report.longreprtext


def pytest(report, arguments):
    import pytest

    return pytest.main(arguments, plugins=[Plugin(report)])


def main():
    path, runner, *arguments = sys.argv[1:]
    report = Report()
    os.makedirs(os.environ["TMPDIR"], exist_ok=True)
    try:
        sys.exit({"regrtest": regrtest, "pytest": pytest}[runner](report, arguments))
    finally:
        report.write(path)


if __name__ == "__main__":
    main()
