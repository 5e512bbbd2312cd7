# What a guest lacks says where it could be had.
#%%
import numpy
#%%
import pandas.core.frame
#%%
from PIL import Image
#%%
for name in ("ctypes", "sqlite3", "ssl", "multiprocessing", "tkinter", "curses", "readline", "mmap", "requests"):
    try:
        __import__(name)
        print(name, "is here")
    except ImportError as e:
        print(type(e).__name__, e.name, "-", e)
#%%
import importlib.util
importlib.util.find_spec("numpy"), importlib.util.find_spec("json") is not None
#%%
try:
    import ujson as json
except ImportError:
    import json
json.dumps([1])
#%%
import json.nothing
#%%
import subprocess
subprocess.run(["ls"])
#%%
import os
os.system("ls")
#%%
import socket
socket.create_connection(("example.com", 80))
#%%
socket.socket()
#%%
import urllib.request
try: urllib.request.urlopen("http://example.com")
except OSError as e: print(e)
#%%
import threading
threading.Thread(target=print).start()
#%%
import concurrent.futures
with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(str, range(3)))
#%%
concurrent.futures.ProcessPoolExecutor()
#%%
"alive"
