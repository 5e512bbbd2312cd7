#%% { sessions_differ = true }
import os, random, secrets, tempfile, uuid
os.urandom(8)
