#%% { sessions_differ = true }
import os, random, secrets, tempfile, uuid
secrets.token_hex()
