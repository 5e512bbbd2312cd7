1 + 1
#%%
x = 1 + 1
#%%
print("warm", 1, 2.5, [1, {"a": None}], sep=",")
x
#%%
import json, math, re
def square(n):
    return n * n
class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y
    def __repr__(self):
        return f"Point({self.x}, {self.y})"
total = sum(square(i) for i in range(10))
text = json.dumps({"total": total, "list": [1, 2.5, "x"]})
assert json.loads(text)["total"] == 285
assert re.sub(r"\d+", lambda m: str(int(m[0]) + 1), "a1b22") == "a2b23"
try:
    1 / 0
except ZeroDivisionError as error:
    message = f"{type(error).__name__}: {error}"
Point(math.floor(1.5), sorted({"b": 1, "a": 2}.items()))
#%%
display(Point(1, 2))
#%%
import asyncio
await asyncio.sleep(0)
#%%
del x, square, Point, total, text, message, json, math, re, asyncio
#%%
# Last: what the snapshot holds is never garbage. A collection in a session must not walk it, because
# every object that it touches is a page to copy.
import gc
gc.collect()
gc.freeze()
del gc
