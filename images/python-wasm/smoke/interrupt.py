# A deadline stops any loop, with the variables intact.
#%% { timeout_ms = 200 }
count = 0
while True:
    count += 1
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
forever()
#%% { timeout_ms = 200 }
sum(x for x in iter(int, 1))
#%% { timeout_ms = 200 }
import itertools
sum(itertools.count())
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
