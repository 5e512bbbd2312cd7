# Variables live from one execution to the next; the value of the last expression is the result.
#%%
x = 41
def add(n):
    return x + n
#%%
add(1)
#%%
_ + 1
#%%
None
#%%
y: int = 5
[y] * 3
#%%
class Point:
    """A definition at the end has no value."""
    z: float = 1.5
#%%
Point.__annotations__, Point.z, __name__
#%%
"text", 1.5, True, {"a": [1, None]}, {3}, b"x", 2j
#%%
x = 1; x
#%%
x;
#%%
# nothing but a comment
#%%
from __future__ import annotations
def f(a: Unknown) -> None: ...
f.__annotations__
