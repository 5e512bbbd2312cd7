# The workspace is the working directory and the home; /tmp is there; nothing else is.
#%%
import os, pathlib
os.getcwd(), os.path.expanduser("~"), str(pathlib.Path.home()), os.environ["HOME"]
#%%
with open("note.txt", "w") as f:
    f.write("hello\nworld\n")
open("/workspace/note.txt").read(), open("/home/user/note.txt").read(), pathlib.Path("~/note.txt").expanduser().read_text()
#%%
os.makedirs("a/b", exist_ok=True)
pathlib.Path("a/b/c.bin").write_bytes(bytes(range(256)))
sorted(os.listdir(".")), os.path.getsize("a/b/c.bin"), [p.as_posix() for p in sorted(pathlib.Path("a").rglob("*"))]
#%%
import shutil, tempfile, glob
with tempfile.NamedTemporaryFile("w+", suffix=".txt") as t:
    t.write("temporary"); t.flush(); t.seek(0)
    print(t.read(), t.name.startswith("/tmp/"))
with tempfile.TemporaryDirectory() as d:
    open(os.path.join(d, "f"), "w").close()
    print(os.listdir(d))
shutil.copytree("a", "copy")
shutil.move("note.txt", "moved.txt")
print(sorted(glob.glob("**", recursive=True)))
shutil.rmtree("copy")
os.rename("moved.txt", "renamed.txt"); os.remove("renamed.txt")
os.path.exists("renamed.txt"), os.access("a", os.R_OK), os.access("nope", os.F_OK)
#%%
open("missing.txt")
#%%
open("/etc/passwd")
#%%
open("../../etc/passwd")
#%%
os.chdir("a")
#%%
os.getcwd(), os.listdir()
#%% { cwd = "/tmp", env = { COLOUR = "red" } }
os.getcwd(), os.environ["COLOUR"], os.getenv("COLOUR")
#%%
os.getcwd(), os.environ.get("COLOUR")
#%% { cwd = "/nowhere" }
1
#%%
os.chdir("/workspace")
with open("helper.py", "w") as f:
    f.write("def greet(): return 'from a module'\n")
import helper
helper.greet()
#%%
import csv, gzip, zipfile, io
with open("t.csv", "w", newline="") as f: csv.writer(f).writerows([["a", "b"], [1, "x,y"]])
with gzip.open("t.gz", "wt") as f: f.write("zipped")
with zipfile.ZipFile("t.zip", "w") as z: z.write("t.csv")
list(csv.reader(open("t.csv"))), gzip.open("t.gz", "rt").read(), zipfile.ZipFile("t.zip").namelist()
#%%
with open("t.csv", "r+b") as f:
    f.seek(2); f.write(b"Z"); f.seek(0, 2); print(f.tell()); f.truncate(3)
os.stat("t.csv").st_size
#%%
os.chmod("t.csv", 0o600); os.makedirs("d/e"); os.replace("t.csv", "d/e/t"); [(p, sorted(d), sorted(f)) for p, d, f in os.walk("d")]
