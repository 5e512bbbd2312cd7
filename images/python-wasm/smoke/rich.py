# Rich representations, display, and values that misbehave.
#%%
class Html:
    def _repr_html_(self): return "<b>bold</b>"
    def __repr__(self): return "Html()"
Html()
#%%
display(Html(), 42, "text", None)
"after"
#%%
class Many:
    def _repr_svg_(self): return "<svg/>"
    def _repr_png_(self): return b"\x89PNG"
    def _repr_json_(self): return {"a": [1, 2]}
    def _repr_markdown_(self): return None
    def _repr_mimebundle_(self, include=None, exclude=None): return {"text/x-own": "own"}
    def __repr__(self): return "Many()"
Many()
#%%
Html
#%%
class Raises:
    def __repr__(self): raise ValueError("no repr today")
Raises()
#%%
class Recurses:
    def __repr__(self): return repr(self)
Recurses()
#%%
loop = []
loop.append(loop)
loop
#%%
"x" * 2_000_000
#%%
class Huge:
    def __repr__(self): return "h" * 2_000_000
Huge()
#%%
display("x" * 2_000_000)
#%%
"y" * 5000
#%%
class NotText:
    def __repr__(self): return 5
NotText()
#%%
"\ud800 lone surrogate, ü, 😀"
#%%
class Surrogate:
    def __repr__(self): return "\ud800"
Surrogate()
#%%
"still alive"
