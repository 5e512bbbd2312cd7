# Errors carry the user's lines, and leave the variables alone.
#%%
kept = "kept"
def inner(n):
    return 10 / n

def outer(n):
    total = 1
    return inner(n) + total
#%%
print("before")
outer(0)
#%%
import json
json.loads("{bad")
#%%
try:
    {}["missing"]
except KeyError as error:
    raise RuntimeError("wrapped") from error
#%%
def f(:
    pass
#%%
x = 1
  y = 2
#%%
print("unclosed"
#%%
return 5
#%%
class Odd(Exception):
    def __str__(self): raise ValueError("no message")
raise Odd
#%%
raise ExceptionGroup("several", [ValueError(1), TypeError("two")])
#%%
undefined_name
#%%
assert kept == "lost", "not lost"
#%%
import sys
try:
    raise ValueError("noted")
except ValueError as e:
    e.add_note("a note")
    raise
#%%
raise KeyboardInterrupt
#%%
kept
