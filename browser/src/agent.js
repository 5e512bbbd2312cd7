// What we know about a document, from inside it. Runs in an isolated world: it sees the page's DOM, the page sees none of
// this and cannot change the built-ins used here. Still, everything it returns is the page's word, and bounded.
(() => {
  "use strict";
  if (globalThis.anchorhold) return;

  const TEXT_CHARS = 200; // of a name or a value in a snapshot
  const DEPTH = 400; // of nested elements that are looked at; deeper ones would overflow the stack
  const OPTIONS = 30; // of a select that are listed

  // ---- Elements and their numbers ---------------------------------------------------------------------------------

  const elements = new Map(); // number → WeakRef, so that what the page throws away is thrown away
  const numbers = new WeakMap();
  const secrets = new WeakSet(); // fields that once held a password: a page may turn them into text fields
  let next = 1;
  let current = null; // what `locate` found last; the other functions act on it
  let holder = null; // what `owner` was last called on

  const number = (el) => {
    let n = numbers.get(el);
    if (!n) {
      n = next++;
      numbers.set(el, n);
      elements.set(n, new WeakRef(el));
    }
    return n;
  };

  const numbered = (n) => {
    const el = elements.get(n)?.deref();
    return el && el.isConnected ? el : null;
  };

  // ---- The composed tree ------------------------------------------------------------------------------------------

  const parentOf = (el) => el.assignedSlot || el.parentElement || el.getRootNode().host || null;

  const childrenOf = (el) => {
    if (el.shadowRoot) return el.shadowRoot.childNodes;
    if (el.localName === "slot") {
      const assigned = el.assignedNodes({ flatten: true });
      if (assigned.length) return assigned;
    }
    return el.childNodes;
  };

  // The document and every open shadow root in it.
  const roots = () => {
    const found = [document];
    for (let i = 0; i < found.length; i++)
      for (const el of found[i].querySelectorAll("*")) if (el.shadowRoot) found.push(el.shadowRoot);
    return found;
  };

  const IGNORED = new Set(["script", "style", "noscript", "template", "head", "meta", "link", "title"]);
  const shown = (el) => el.checkVisibility({ visibilityProperty: true });
  const squash = (text) => text.replace(/\s+/g, " ").trim();
  const shorten = (text) => (text.length > TEXT_CHARS ? text.slice(0, TEXT_CHARS) + "…" : text);

  const visible = (el) => {
    if (!shown(el)) return false;
    const box = el.getBoundingClientRect();
    return box.width > 0 && box.height > 0;
  };

  // ---- Roles and names (a lean reading of HTML-AAM and accname) -----------------------------------------------------

  const ROLES = {
    article: "article", aside: "complementary", button: "button", datalist: "listbox", details: "group",
    dialog: "dialog", fieldset: "group", figure: "figure", form: "form", h1: "heading", h2: "heading",
    h3: "heading", h4: "heading", h5: "heading", h6: "heading", hr: "separator", iframe: "iframe", frame: "iframe",
    li: "listitem", main: "main", menu: "list", meter: "meter", nav: "navigation", ol: "list", optgroup: "group",
    option: "option", output: "status", progress: "progressbar", search: "search", summary: "button",
    table: "table", td: "cell", textarea: "textbox", th: "columnheader", tr: "row", ul: "list",
    video: "video", audio: "audio", canvas: "canvas",
  };
  const INPUTS = {
    button: "button", checkbox: "checkbox", file: "button", hidden: null, image: "button", number: "spinbutton",
    radio: "radio", range: "slider", reset: "button", search: "searchbox", submit: "button",
  };

  const role = (el) => {
    const given = el.getAttribute("role");
    if (given) {
      const first = given.trim().split(/\s+/, 1)[0].toLowerCase();
      if (first === "none" || first === "presentation") return null;
      if (/^[a-z]{1,30}$/.test(first)) return first;
    }
    switch (el.localName) {
      case "a":
      case "area":
        return el.hasAttribute("href") ? "link" : null;
      case "img":
        return el.getAttribute("alt") === "" ? null : "img";
      case "svg":
        return el.getAttribute("aria-label") || el.querySelector(":scope > title") ? "img" : null;
      case "input":
        if (el.type in INPUTS) return INPUTS[el.type];
        return el.hasAttribute("list") ? "combobox" : "textbox";
      case "select":
        return el.multiple || el.size > 1 ? "listbox" : "combobox";
      case "section":
        return el.hasAttribute("aria-label") || el.hasAttribute("aria-labelledby") ? "region" : null;
      case "header":
        return el.closest("article, aside, main, nav, section") ? null : "banner";
      case "footer":
        return el.closest("article, aside, main, nav, section") ? null : "contentinfo";
    }
    if (ROLES[el.localName]) return ROLES[el.localName];
    return el.isContentEditable && !el.parentElement?.isContentEditable ? "textbox" : null;
  };

  const NAMED_BY_CONTENT = new Set([
    "button", "link", "heading", "option", "tab", "menuitem", "menuitemcheckbox", "menuitemradio", "checkbox", "radio",
    "switch", "treeitem", "tooltip",
  ]);
  const INTERACTIVE = new Set([
    "button", "link", "textbox", "searchbox", "combobox", "listbox", "checkbox", "radio", "switch", "slider",
    "spinbutton", "tab", "menuitem", "menuitemcheckbox", "menuitemradio", "treeitem", "option", "iframe", "clickable",
  ]);
  const INLINE = new Set([
    "a", "abbr", "b", "bdi", "bdo", "cite", "code", "em", "font", "i", "kbd", "mark", "q", "s", "samp", "small",
    "span", "strong", "sub", "sup", "time", "u", "var",
  ]);
  const BUTTONS = new Set(["button", "submit", "reset"]);

  // What an element says without having it as text.
  const spoken = (el) =>
    el.getAttribute("aria-label") || (el.localName === "img" && el.alt) ||
    (el.localName === "input" && BUTTONS.has(el.type) && el.value) || "";

  // What a person reads in an element, at most `chars` of it.
  const textOf = (el, chars = TEXT_CHARS * 2) => {
    let text = "";
    const collect = (node, depth) => {
      if (text.length > chars || depth > DEPTH) return;
      if (node.nodeType === Node.TEXT_NODE) {
        text += node.data.slice(0, chars + 1);
      } else if (node.nodeType === Node.ELEMENT_NODE && !IGNORED.has(node.localName) && shown(node)) {
        const gap = INLINE.has(node.localName) ? "" : " ";
        text += gap;
        const words = spoken(node);
        if (words) text += words.slice(0, chars + 1);
        else if (node.localName !== "textarea" && node.localName !== "select")
          for (const child of childrenOf(node)) collect(child, depth + 1);
        text += gap;
      }
    };
    for (const child of childrenOf(el)) collect(child, 0);
    return squash(text);
  };

  const labelled = (el) => {
    const ids = el.getAttribute("aria-labelledby");
    if (ids) {
      const root = el.getRootNode();
      const parts = ids.split(/\s+/).slice(0, 10).map((id) => root.getElementById?.(id)).filter(Boolean);
      const text = squash(parts.map((part) => part.getAttribute("aria-label") || textOf(part)).join(" "));
      if (text) return text;
    }
    const label = el.getAttribute("aria-label");
    if (label && label.trim()) return squash(label);
    if (el.labels?.length) return squash([...el.labels].slice(0, 10).map((part) => textOf(part)).join(" "));
    return "";
  };

  const CAPTIONS = { fieldset: "legend", table: "caption", figure: "figcaption", svg: "title" };
  const DEFAULTS = { submit: "Submit", reset: "Reset", image: "Submit", file: "Choose file" };

  const name = (el, itsRole) => {
    const label = labelled(el);
    if (label) return label;
    if (el.localName === "input" && itsRole === "button")
      return squash((el.type === "image" ? el.alt : el.type === "file" ? "" : el.value) || DEFAULTS[el.type] || "");
    if (el.localName === "img" || el.localName === "area") {
      if (el.alt) return squash(el.alt);
    } else if (CAPTIONS[el.localName]) {
      const caption = el.querySelector(`:scope > ${CAPTIONS[el.localName]}`);
      if (caption) return squash(caption.textContent.slice(0, TEXT_CHARS * 2));
    } else if (NAMED_BY_CONTENT.has(itsRole)) {
      const text = textOf(el);
      if (text) return text;
    }
    const title = el.getAttribute("title") || el.getAttribute("placeholder") || "";
    return squash(title || (el.localName === "iframe" ? el.name : ""));
  };

  const secret = (el) => {
    if (el.localName !== "input") return false;
    if (el.type === "password" || /\b(cc-|current-password|new-password|one-time-code)/.test(el.autocomplete || ""))
      secrets.add(el);
    return secrets.has(el);
  };

  const value = (el) => {
    if (secret(el)) return el.value ? "••••" : "";
    if (el.localName === "select") return [...el.selectedOptions].slice(0, OPTIONS).map((o) => o.label).join(", ");
    if (el.localName === "textarea" || el.localName === "input") return el.value;
    return el.getAttribute("aria-valuetext") || el.getAttribute("aria-valuenow") || "";
  };

  const disabled = (el) => el.matches(":disabled") || !!el.closest('[aria-disabled="true"]');

  // ---- Snapshot -----------------------------------------------------------------------------------------------------

  const VALUED = new Set(["textbox", "searchbox", "combobox", "listbox", "slider", "spinbutton", "progressbar", "meter"]);

  const marks = (el, itsRole) => {
    let out = "";
    const aria = (key) => el.getAttribute("aria-" + key);
    if (/^(checkbox|radio|switch|menuitemcheckbox|menuitemradio)$/.test(itsRole)) {
      if (el.indeterminate || aria("checked") === "mixed") out += " [checked=mixed]";
      else if (el.localName === "input" ? el.checked : aria("checked") === "true") out += " [checked]";
    }
    if (itsRole === "heading") out += ` [level=${(aria("level") || el.localName.slice(1) || "2").slice(0, 2)}]`;
    if (INTERACTIVE.has(itsRole) && disabled(el)) out += " [disabled]";
    if (el.readOnly || aria("readonly") === "true") out += " [readonly]";
    const open = itsRole === "button" && el.localName === "summary" ? String(!!el.parentElement?.open) : aria("expanded");
    if (open === "true") out += " [expanded]";
    if (open === "false") out += " [collapsed]";
    if (aria("pressed") === "true") out += " [pressed]";
    if (aria("selected") === "true") out += " [selected]";
    if (aria("invalid") === "true") out += " [invalid]";
    if (el.required || aria("required") === "true") out += " [required]";
    if (el === (el.getRootNode().activeElement ?? null) && el !== document.body) out += " [active]";
    return out;
  };

  // One line per node that says something, children two spaces deeper; whatever the page wrote stands in quotes.
  // `frames` are the lines of iframes, whose documents somebody else must ask.
  const snapshot = (from, chars) => {
    next = Math.max(next, from);
    for (const [n, weak] of elements) if (!weak.deref()) elements.delete(n);
    const lines = [];
    const frames = [];
    let length = 0;
    let full = false;
    let text = null; // the text line that inline neighbours join: { depth, words }

    const say = (depth, line) => {
      if (full) return;
      const whole = "  ".repeat(depth) + "- " + line;
      length += whole.length + 1;
      if (length > chars) full = true;
      else lines.push(whole);
    };
    const flush = () => {
      if (!text) return;
      const words = shorten(squash(text.words));
      if (words) say(text.depth, "text " + JSON.stringify(words));
      text = null;
    };
    const speak = (depth, words) => {
      if (text && text.depth !== depth) flush();
      text ??= { depth, words: "" };
      if (text.words.length <= TEXT_CHARS) text.words += words;
    };

    const emit = (el, itsRole, itsName, depth) => {
      flush();
      const line = itsRole + (itsName ? " " + JSON.stringify(shorten(itsName)) : "") + marks(el, itsRole);
      const held = VALUED.has(itsRole) ? squash(value(el)) : "";
      const target = itsRole === "link" ? el.getAttribute("href") : null;
      if (itsRole === "iframe") frames.push({ line: lines.length, ref: number(el) });
      say(depth, line + ` [ref=e${number(el)}]` + (held ? " value=" + JSON.stringify(shorten(held)) : "") +
        (target ? " url=" + JSON.stringify(shorten(target)) : ""));
    };

    // `said`: an ancestor's name already says the text in here. `pointer`: an ancestor was found clickable.
    const walk = (node, depth, nesting, said, pointer) => {
      if (full) return;
      if (node.nodeType === Node.TEXT_NODE) return said || speak(depth, node.data);
      if (node.nodeType !== Node.ELEMENT_NODE || IGNORED.has(node.localName) || nesting > DEPTH) return;
      if (node.getAttribute("aria-hidden") === "true") return;
      if (!shown(node)) return walkHidden(node, depth, nesting, said, pointer);
      let itsRole = role(node);
      if (!itsRole && !pointer && clickable(node)) itsRole = "clickable";
      // A label's text is its field's name.
      if (!itsRole) return inside(node, depth, nesting, said || !!node.control, pointer);
      const itsName = itsRole === "clickable" ? textOf(node) : name(node, itsRole);
      emit(node, itsRole, itsName, depth);
      if (itsRole === "combobox" || itsRole === "listbox") if (node.localName === "select") return options(node, depth + 1);
      if (node.localName === "textarea" || node.localName === "iframe" || node.localName === "svg") return;
      const quiet = said || (!!itsName && (NAMED_BY_CONTENT.has(itsRole) || itsRole === "clickable"));
      inside(node, depth + 1, nesting, quiet, pointer || itsRole === "clickable" || itsRole === "link" || itsRole === "button");
      flush();
    };
    const inside = (node, depth, nesting, said, pointer) => {
      const apart = !INLINE.has(node.localName);
      if (apart) flush();
      for (const child of childrenOf(node)) walk(child, depth, nesting + 1, said, pointer);
      if (apart) flush();
    };
    // Not shown itself; yet children of `visibility: hidden` and `display: contents` may be.
    const walkHidden = (node, depth, nesting, said, pointer) => {
      const style = getComputedStyle(node);
      if (style.display === "none" || style.contentVisibility === "hidden") return;
      const contents = style.display === "contents" && style.visibility === "visible";
      if (!INLINE.has(node.localName)) flush();
      for (const child of childrenOf(node))
        if (contents || child.nodeType === Node.ELEMENT_NODE) walk(child, depth, nesting + 1, said, pointer);
    };
    const options = (select, depth) => {
      const all = [...select.options];
      for (const option of all.slice(0, OPTIONS))
        say(depth, "option " + JSON.stringify(shorten(squash(option.label))) + (option.selected ? " [selected]" : "") +
          (option.disabled ? " [disabled]" : ""));
      if (all.length > OPTIONS) say(depth, `text "… ${all.length - OPTIONS} more options"`);
    };
    const clickable = (el) =>
      el.hasAttribute("onclick") || (el.hasAttribute("tabindex") && el.tabIndex >= 0) ||
      (el.localName !== "label" && el.localName !== "body" && getComputedStyle(el).cursor === "pointer");

    if (document.body) walk(document.body, 0, 0, false, false);
    flush();
    return { text: lines.join("\n"), frames, next, truncated: full };
  };

  // ---- Finding --------------------------------------------------------------------------------------------------------

  const fold = (text) => squash(text).toLowerCase();

  // Those whose text equals what is asked for, or else those that contain it.
  const best = (candidates, wanted, textFor) => {
    const needle = fold(wanted);
    const equal = [];
    const containing = [];
    for (const el of candidates) {
      const text = fold(textFor(el));
      if (text === needle) equal.push(el);
      else if (needle && text.includes(needle)) containing.push(el);
    }
    return equal.length ? equal : containing;
  };

  const all = (selector) => roots().flatMap((root) => [...root.querySelectorAll(selector)]);

  const bySelector = (selector) => {
    const direct = document.querySelectorAll(selector);
    return direct.length ? [...direct] : all(selector);
  };

  const byRole = (wanted, itsName) => {
    const ofRole = all("*").filter((el) => role(el) === wanted);
    return itsName === null ? ofRole : best(ofRole, itsName, (el) => name(el, wanted));
  };

  const said = (el) => spoken(el) || textOf(el, 1e5);

  const byText = (wanted) => {
    const needle = fold(wanted);
    const found = [];
    // Raw text decides cheaply where it is not worth looking. It lacks what shadow roots, buttons and labels say.
    const plain = roots().length === 1;
    const opaque = "input, img, [aria-label]";
    const search = (el, depth) => {
      if (depth > DEPTH || IGNORED.has(el.localName)) return false;
      const cheap = plain && !el.matches(opaque) && !el.querySelector(opaque);
      if (cheap && !fold(el.textContent).includes(needle)) return false;
      let below = false;
      for (const child of childrenOf(el)) if (child.nodeType === Node.ELEMENT_NODE && search(child, depth + 1)) below = true;
      if (below) return true;
      const here = fold(said(el)).includes(needle);
      if (here) found.push(el);
      return here;
    };
    if (needle && document.body) search(document.body, 0);
    return best(found, wanted, said);
  };

  const FIELDS = "input, textarea, select, [contenteditable], [role=textbox], [role=combobox], [role=checkbox], " +
    "[role=radio], [role=switch], [role=slider], [role=spinbutton], button, meter, progress, output";

  const byLabel = (wanted) => {
    const fields = all(FIELDS).filter((el) => el.type !== "hidden");
    const labels = best(fields, wanted, labelled);
    return labels.length ? labels : best(fields, wanted, (el) => el.getAttribute("placeholder") || el.title || "");
  };

  const find = (target) => {
    if ("ref" in target) return [numbered(target.ref)].filter(Boolean);
    if ("selector" in target) return bySelector(target.selector);
    if ("role" in target) return byRole(target.role, target.name ?? null);
    if ("text" in target) return byText(target.text);
    return byLabel(target.label);
  };

  // ---- Waiting until an element can be acted on -------------------------------------------------------------------------

  // Frames that are not on the screen get no animation frames.
  const frame = () => new Promise((done) => {
    const late = setTimeout(done, 100);
    requestAnimationFrame(() => { clearTimeout(late); done(); });
  });

  const steady = async (el) => {
    const before = el.getBoundingClientRect();
    await frame();
    await frame();
    const after = el.getBoundingClientRect();
    return ["x", "y", "width", "height"].every((side) => before[side] === after[side]);
  };

  const describe = (el) => {
    const id = el.id ? "#" + el.id : "";
    const itsName = name(el, role(el)) || textOf(el, 60);
    return `<${el.localName}${shorten(id)}>` + (itsName ? " " + JSON.stringify(shorten(itsName)) : "");
  };

  const hit = (x, y) => {
    let el = document.elementFromPoint(x, y);
    while (el?.shadowRoot) {
      const inner = el.shadowRoot.elementFromPoint(x, y);
      if (!inner || inner === el) break;
      el = inner;
    }
    return el;
  };

  // What covers an element at a point, or null when the element itself gets the events.
  const cover = (el, x, y) => {
    const top = hit(x, y);
    for (let node = top; node; node = parentOf(node)) if (node === el || node.control === el) return null;
    return top ? describe(top) : "nothing that can be seen";
  };

  const UNTYPED = new Set(["button", "checkbox", "color", "file", "hidden", "image", "radio", "range", "reset", "submit"]);
  const typed = (el) =>
    el.localName === "textarea" || el.isContentEditable || (el.localName === "input" && !UNTYPED.has(el.type));
  const editable = (el) => !el.readOnly && el.getAttribute("aria-readonly") !== "true";

  const point = (el) => {
    const box = [...el.getClientRects()].find((rect) => rect.width > 0 && rect.height > 0) ?? el.getBoundingClientRect();
    const inner = (from, size, limit) => (Math.max(from, 0) + Math.min(from + size, limit)) / 2;
    const [right, bottom] = [innerWidth, innerHeight];
    const outside = box.right <= 0 || box.bottom <= 0 || box.left >= right || box.top >= bottom;
    return outside ? null : { x: inner(box.left, box.width, right), y: inner(box.top, box.height, bottom) };
  };

  const choose = (target, control) => {
    let found;
    try {
      found = find(target);
    } catch (error) {
      return { state: "invalid", why: String(error.message).slice(0, TEXT_CHARS) };
    }
    if (control) found = [...new Set(found.map((el) => (el.localName === "label" && el.control) || el))];
    if (!found.length) return { state: "missing" };
    const seen = found.filter(visible);
    if (seen.length > 1 || (found.length > 1 && !seen.length))
      return seen.length ? { state: "ambiguous", why: seen.slice(0, 5).map(describe).join(", "), count: seen.length } : { state: "hidden" };
    return { el: seen[0] ?? found[0], state: seen.length ? "found" : "hidden" };
  };

  const ALIGN = ["center", "end", "start"];

  // Finds the target, scrolls it into view and says whether it can be acted on; `needs` names the checks.
  const locate = async (target, needs, covered) => {
    const { el, ...verdict } = choose(target, needs.control);
    if (!el) return verdict;
    current = el;
    if (needs.visible && verdict.state === "hidden") return { state: "hidden" };
    if (needs.enabled && disabled(el)) return { state: "disabled" };
    if (needs.editable && !editable(el)) return { state: "readonly" };
    if (needs.stable) {
      if (covered === 0) el.scrollIntoViewIfNeeded();
      else el.scrollIntoView({ block: ALIGN[covered % 3], inline: "center", behavior: "instant" });
      if (!(await steady(el))) return { state: "moving" };
      if (!el.isConnected) return { state: "missing" };
    }
    const at = point(el);
    if (needs.events) {
      if (!at) return { state: "outside" };
      const why = cover(el, at.x, at.y);
      if (why) return { state: "covered", why };
    }
    const box = el.getBoundingClientRect();
    return {
      state: "ready", x: at?.x ?? 0, y: at?.y ?? 0,
      left: box.x, top: box.y, width: box.width, height: box.height,
    };
  };

  // ---- Acting on what was found -----------------------------------------------------------------------------------------

  const announce = (el, ...events) => {
    for (const type of events) el.dispatchEvent(new Event(type, { bubbles: true, composed: true }));
  };

  const selectAll = (el) => {
    el.focus();
    if (el.select) return el.select();
    const range = document.createRange();
    range.selectNodeContents(el);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  };

  const setChecked = (el, wanted) => {
    const now = el.localName === "input" ? el.checked : el.getAttribute("aria-checked") === "true";
    return now === wanted ? "done" : "click";
  };

  const setSelected = (el, values, by) => {
    if (el.localName !== "select") return "not a select element";
    const match = (option, wanted) => (by !== "label" && option.value === wanted) ||
      (by !== "value" && squash(option.label) === squash(wanted));
    const options = [...el.options];
    const chosen = values.map((wanted) => options.find((option) => !option.disabled && match(option, wanted)));
    const missing = chosen.findIndex((option) => !option);
    if (missing >= 0) return "no option " + JSON.stringify(shorten(values[missing]));
    if (values.length > 1 && !el.multiple) return "takes one option only";
    el.focus();
    for (const option of options) if (el.multiple || chosen.includes(option)) option.selected = chosen.includes(option);
    announce(el, "input", "change");
    return "done";
  };

  // "done", "click" or "insert" (what the caller still has to do with real input), or why it cannot be done.
  const fill = (wanted) => {
    const el = current;
    const type = el.localName === "input" ? el.type : el.localName;
    const isBool = typeof wanted === "boolean";
    if (type === "checkbox" || type === "radio" || /^(checkbox|radio|switch)$/.test(el.getAttribute("role") || ""))
      return isBool ? setChecked(el, wanted) : "takes true or false";
    if (isBool) return "is no checkbox";
    if (type === "select") return setSelected(el, [wanted], "any");
    secret(el);
    if (/^(color|date|time|datetime-local|month|range|week)$/.test(type)) {
      el.focus();
      el.value = wanted;
      if (el.value !== (type === "color" ? wanted.toLowerCase() : wanted)) return "does not take this value";
      announce(el, "input", "change");
      return "done";
    }
    if (type === "number" && wanted.trim() !== "" && isNaN(Number(wanted))) return "takes numbers only";
    if (!typed(el)) return "is no field that text can be written to";
    selectAll(el);
    return "insert";
  };

  // ---- Reading --------------------------------------------------------------------------------------------------------

  const bounded = (text, chars) => ({ text: text.slice(0, chars), truncated: text.length > chars });
  const subject = (whole) => (whole ? document.body ?? document.documentElement : current);

  const html = (whole, chars) => {
    const original = whole ? document.documentElement : current;
    const copy = original.cloneNode(true);
    const fields = (root) => [root, ...root.querySelectorAll("input[value]")];
    const copies = fields(copy);
    fields(original).forEach((field, at) => secret(field) && copies[at].setAttribute("value", "••••"));
    return bounded(copy.outerHTML, chars);
  };

  const links = (whole, count) => {
    const found = [...subject(whole).querySelectorAll("a[href], area[href]")].filter(shown);
    const items = found.slice(0, count).map((a) => ({ text: shorten(textOf(a)), url: a.href.slice(0, 2048) }));
    return { items, truncated: found.length > count };
  };

  // ---- Markdown -------------------------------------------------------------------------------------------------------

  const UNREAD = new Set(["script", "style", "noscript", "template", "svg", "iframe", "object", "canvas", "select", "textarea"]);
  const kids = (el) => {
    const given = el.localName === "slot" ? el.assignedNodes() : [];
    return given.length ? given : [...(el.shadowRoot ?? el).childNodes];
  };
  const read = (node) => node.nodeType === 3 || (node.nodeType === 1 && !UNREAD.has(node.localName) && shown(node));
  const isBlock = (node) => node.nodeType === 1 && !/^(inline|contents|none|ruby)/.test(getComputedStyle(node).display);
  const escaped = (text) => text.replace(/[\\`*_[\]<]/g, "\\$&");
  const address = (url) => (/^(https?|mailto):/.test(url) ? url.slice(0, 2048).replace(/[()\s]/g, encodeURIComponent) : "");
  const around = (mark, text) => text.replace(/^(\s*)(.*?)(\s*)$/s, (_, before, it, after) => (it ? before + mark + it + mark + after : text));

  const inline = (node) => {
    if (!read(node)) return "";
    if (node.nodeType === 3) return escaped(node.data.replace(/\s+/g, " "));
    const tag = node.localName;
    if (tag === "br") return "\n";
    if (tag === "img") return node.alt && (address(node.src) ? `![${escaped(node.alt)}](${address(node.src)})` : escaped(node.alt));
    if (tag === "code" || tag === "kbd") return around("`", node.textContent.replace(/[`\s]+/g, " "));
    const text = kids(node).map(inline).join("");
    if (tag === "strong" || tag === "b") return around("**", text);
    if (tag === "em" || tag === "i") return around("*", text);
    if (tag === "a" && address(node.href) && text.trim()) return `[${squash(text)}](${address(node.href)})`;
    return isBlock(node) ? ` ${text} ` : text;
  };

  const blocks = (el) => {
    const out = [];
    let run = "";
    const flush = () => {
      const text = run.split("\n").map((line) => squash(line)).join("\n").trim();
      if (text) out.push(text);
      run = "";
    };
    for (const node of kids(el).filter(read)) {
      if (isBlock(node)) {
        flush();
        out.push(...block(node));
      } else {
        run += inline(node);
      }
    }
    flush();
    return out;
  };

  const cells = (row) => `| ${[...row.cells].map((cell) => squash(inline(cell)).replaceAll("|", "\\|")).join(" | ")} |`;
  const block = (el) => {
    const tag = el.localName;
    if (/^h[1-6]$/.test(tag)) return [squash(blocks(el).join(" "))].filter(Boolean).map((text) => `${"#".repeat(tag[1])} ${text}`);
    if (tag === "pre") return ["```\n" + el.innerText.replace(/\n$/, "").replaceAll("```", "` ` `") + "\n```"];
    if (tag === "hr") return ["---"];
    if (tag === "blockquote") return [blocks(el).join("\n\n").replace(/^/gm, "> ")];
    if (tag === "table" && el.rows.length) {
      const [first, ...rows] = [...el.rows].filter(shown);
      return first ? [[cells(first), "|" + " --- |".repeat(first.cells.length), ...rows.map(cells)].join("\n")] : [];
    }
    if (tag === "ul" || tag === "ol") {
      const items = [...el.children].filter(read).map((item, at) => {
        const mark = tag === "ol" ? `${(el.start ?? 1) + at}. ` : "- ";
        return mark + blocks(item).join("\n").replaceAll("\n", "\n" + " ".repeat(mark.length));
      });
      return [items.join("\n")].filter(Boolean);
    }
    return blocks(el);
  };

  const markdown = (whole, chars) => {
    const from = subject(whole);
    return bounded((isBlock(from) ? block(from) : [squash(inline(from))]).join("\n\n"), chars);
  };

  // ---- Files ----------------------------------------------------------------------------------------------------------

  const fileField = (count) => {
    if (current.localName !== "input" || current.type !== "file") return "takes no files";
    return count > 1 && !current.multiple ? "takes one file only" : "done";
  };

  const owner = (el, moving) => {
    holder = el;
    const box = el.getBoundingClientRect();
    return { ref: numbers.get(el) ?? 0, left: box.x + el.clientLeft, top: box.y + el.clientTop, moving };
  };

  globalThis.anchorhold = {
    locate,
    snapshot,
    fill,
    html,
    links,
    markdown,
    fileField,
    current: () => current,
    check: (wanted) => setChecked(current, wanted),
    select: (values, by) => setSelected(current, values, by),
    focus: () => current.focus(),
    checked: () => setChecked(current, true) === "done",
    text: (whole, chars) => bounded(subject(whole).innerText ?? subject(whole).textContent ?? "", chars),
    // After input: lets the page's own handlers and what they put off for a moment run.
    settle: async () => {
      await new Promise((done) => setTimeout(done));
      await new Promise((done) => setTimeout(done));
      return true;
    },
    // Called on the element that holds another frame: where that frame's content begins.
    owner: (el) => owner(el, false),
    // The same, after a look whether it moves: an element in the frame that was scrolled to moves the frame, too.
    steadyOwner: async (el) => owner(el, !(await steady(el))),
    // What covers that element at a point.
    cover: (x, y) => cover(holder, x, y),
  };
})();
