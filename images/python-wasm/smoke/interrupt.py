# A deadline stops any loop, with the variables intact. Where exactly in a loop it lands differs from run to run, so
# only the sleeping program shows its traceback.
#%% { timeout_ms = 200 }
count = 0
try:
    while True: count += 1
except KeyboardInterrupt as e: print("loop", type(e).__name__)
#%%
count > 1000
#%% { timeout_ms = 200 }
import time
time.sleep(60)
#%% { timeout_ms = 200 }
def forever():
    while True:
        try:
            time.sleep(0.001)
        except Exception:
            pass
try: forever()
except KeyboardInterrupt as e: print("stubborn", type(e).__name__)
#%% { timeout_ms = 200 }
try: sum(x for x in iter(int, 1))
except KeyboardInterrupt as e: print("generator", type(e).__name__)
#%% { timeout_ms = 200 }
import itertools
try: sum(itertools.count())
except KeyboardInterrupt as e: print("native loop", type(e).__name__)
#%% { timeout_ms = 300 }
def deep(n):
    return sum(deep(n - 1) for _ in range(2)) if n else 1
try: deep(60)
except KeyboardInterrupt as e: print("deep", type(e).__name__)
#%% { timeout_ms = 200 }
try:
    while True: pass
except KeyboardInterrupt as e:
    print("caught", type(e).__name__, e)
#%%
"alive"
