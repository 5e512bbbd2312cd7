#%% { sessions_differ = true }
import os, random, secrets, tempfile, uuid
tempfile.mktemp()
