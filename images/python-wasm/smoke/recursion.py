# Every kind of deep recursion ends in RecursionError.
#%%
def f(n): return f(n + 1)
try: f(0)
except RecursionError as e: print(e)
#%%
class A:
    def __repr__(self): return "A(" + repr(self) + ")"
try: repr(A())
except RecursionError as e: print("repr")
#%%
nested = []
for _ in range(100_000): nested = [nested]
try: repr(nested)
except RecursionError as e: print("nested repr")
#%%
try: nested == [[nested]]
except RecursionError as e: print("compare")
#%%
import json, copy, pickle
for what in (json.dumps, copy.deepcopy, pickle.dumps):
    try: what(nested)
    except RecursionError: print(what.__name__)
try: json.loads("[" * 100_000)
except RecursionError: print("loads")
#%%
try: eval("(" * 5000 + ")" * 5000)
except (SyntaxError, RecursionError, MemoryError) as e: print("parser", type(e).__name__)
try: eval("-" * 50_000 + "1")
except (SyntaxError, RecursionError, MemoryError) as e: print("unary", type(e).__name__)
try: eval("+".join(["1"] * 50_000))
except (SyntaxError, RecursionError, MemoryError) as e: print("binary", type(e).__name__)
try: compile("if 1:\n" + "".join(" " * i + "if 1:\n" for i in range(1, 200)) + " " * 200 + "pass", "x", "exec")
except (SyntaxError, RecursionError, MemoryError) as e: print("blocks", type(e).__name__)
try: eval("[" * 300 + "]" * 300); print("300 brackets")
except (SyntaxError, RecursionError, MemoryError) as e: print("brackets", type(e).__name__)
#%%
import functools
def g(n): return max([n], key=lambda x: g(x + 1))
try: g(0)
except RecursionError as e: print("through native code")
class D(dict):
    def __missing__(self, key): return self[key + 1]
try: D()[0]
except RecursionError as e: print("missing")
class P:
    def __getattr__(self, name): return getattr(self, name + "x")
try: P().a
except RecursionError as e: print("getattr")
@functools.lru_cache
def fib(n): return fib(n - 1) + fib(n - 2) if n > 1 else n
try: fib(10_000)
except RecursionError as e: print("lru_cache")
def gen(n): yield from gen(n + 1)
try: next(gen(0))
except RecursionError as e: print("generator")
#%%
import sys
sys.setrecursionlimit(1_000_000)
def h(n): return h(n + 1)
try: h(0)
except RecursionError as e: print("raised limit", e)
except MemoryError as e: print("memory")
#%%
def k(n): return max([n], key=lambda x: k(x + 1))
try: k(0)
except RecursionError as e: print("raised limit, native")
#%%
nested = None
"alive"
