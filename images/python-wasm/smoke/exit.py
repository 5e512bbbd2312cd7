# sys.exit ends the execution, not the session.
#%%
import sys
sys.exit()
#%%
sys.exit(0)
#%%
sys.exit(3)
#%%
sys.exit("a message")
#%%
exit(-1)
#%%
raise SystemExit
#%%
print("text before")
quit(7)
#%%
"still alive"
