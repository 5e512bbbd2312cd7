# The standard library that programs lean on.
#%%
import sys, platform
sys.version_info[:2], sys.implementation.name, sys.platform, sys.byteorder, sys.maxsize
#%%
from zoneinfo import ZoneInfo, available_timezones
from datetime import datetime, timedelta, timezone, date
datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin")).isoformat(), datetime(2026, 1, 1, tzinfo=timezone.utc).astimezone(ZoneInfo("America/New_York")).isoformat(), len(available_timezones()) > 500
#%%
ZoneInfo("Mars/Olympus")
#%%
date(2026, 3, 1) - timedelta(days=1), datetime.strptime("2026-11-25", "%Y-%m-%d").strftime("%A %d %B %Y"), datetime.fromisoformat("2026-11-25T01:02:03+02:00")
#%%
import decimal, fractions, statistics, math
decimal.Decimal("0.1") + decimal.Decimal("0.2"), fractions.Fraction(1, 3) * 3, statistics.stdev([1, 2, 4]), math.comb(50, 25), 2**200, round(2.675, 2)
#%%
import hashlib, hmac, base64, zlib
hashlib.sha256(b"x").hexdigest()[:16], hashlib.md5(b"x").hexdigest()[:8], hashlib.blake2b(b"x").hexdigest()[:8], hmac.new(b"k", b"m", "sha256").hexdigest()[:8], base64.b64encode(b"hello"), zlib.decompress(zlib.compress(b"a" * 100)) == b"a" * 100
#%%
import re, json
re.findall(r"(?P<w>\w+)@(\w+)\.com", "a@b.com, c@d.com"), json.loads('{"a": [1, 2.5, null, "\\u00fc"]}'), json.dumps({"ü": float("nan")}, ensure_ascii=False)
#%%
from dataclasses import dataclass, field, asdict
from collections import Counter, defaultdict, deque, namedtuple, OrderedDict
from enum import Enum
@dataclass(order=True, slots=True)
class Item:
    name: str
    tags: list = field(default_factory=list)
class Colour(Enum):
    RED = 1
asdict(Item("a", ["x"])), Counter("hello").most_common(1), Colour.RED, Item("a") < Item("b")
#%%
import itertools, functools, operator, heapq, bisect
list(itertools.batched(range(5), 2)), functools.reduce(operator.mul, range(1, 6)), heapq.nsmallest(2, [3, 1, 2]), bisect.bisect([1, 3], 2)
#%%
match {"kind": "point", "at": [1, 2]}:
    case {"kind": "point", "at": [x, y]} if x < y:
        print("matched", x, y)
def typed[T](value: T) -> T: return value
type Pair[A] = tuple[A, A]
f"{typed(3):>5}|{'nested ' + f"{1 + 1}"!r}|{1234567.891:,.2f}", Pair.__name__
#%%
import textwrap, string, difflib, pprint, struct, uuid, csv, io, copy, pickle, inspect, typing, xml.etree.ElementTree as ET, html, urllib.parse, tomllib, configparser, unicodedata
print(textwrap.fill("the quick brown fox jumps over the lazy dog", 20))
struct.pack(">IH", 1, 2), pickle.loads(pickle.dumps({"a": {1, 2}})), ET.fromstring("<a><b c='1'/></a>")[0].attrib, urllib.parse.quote("a b/ü"), tomllib.loads("a = 1"), unicodedata.name("ü"), html.escape("<&>"), uuid.uuid5(uuid.NAMESPACE_DNS, "example.com")
#%%
def source(): return "inspected"
inspect.getsource(source), inspect.signature(lambda a, *, b=2: None)
#%%
import unittest
class T(unittest.TestCase):
    def test_it(self): self.assertEqual(1, 1)
unittest.TextTestRunner(stream=io.StringIO()).run(unittest.defaultTestLoader.loadTestsFromTestCase(T))
#%%
hash("a") == hash("a"), sorted({"b", "a"}), "abc".translate(str.maketrans("a", "x")), int("ff", 16), "%s %05.1f" % ("a", 3.14159)
#%%
import argparse, time, calendar, gc, weakref, contextlib, traceback, logging, glob, sqlite3
#%%
time.strftime("%Y", time.gmtime(0)), time.tzname[0], calendar.monthrange(2026, 2), time.time() > 1.7e9, time.monotonic() <= time.monotonic()
#%%
gc.collect() >= 0
