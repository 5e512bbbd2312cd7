# Output is flushed before an execution ends; input is one execution's own.
#%% { stdin = "Ada\n36\nrest\n" }
name = input("Name? ")
age = int(input())
print(name, age)
#%% { stdin = "second" }
print(input())
input()
#%%
input()
#%% { stdin = "a\nb\nc" }
import sys
sys.stdin.read().split()
#%%
print("no newline", end="")
#%%
sys.stdout.write("out\n")
sys.stderr.write("err\n")
print("more", file=sys.stderr)
#%%
import os
os.write(1, b"raw bytes\n")
print("ü", "😀", repr("\udc80"))
#%%
for i in range(3): print(i, sep="", end=" ", flush=True)
#%%
import io, contextlib
with contextlib.redirect_stdout(io.StringIO()) as f:
    print("captured")
f.getvalue()
#%%
print(*range(3), sep="\n")
import logging
logging.warning("a warning")
#%%
import warnings
warnings.warn("careful")
