//! Pages on loopback.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

pub fn port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream));
            }
        });
        port
    })
}

pub fn url(path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", port())
}

/// The same server, as another site.
pub fn other_url(path: &str) -> String {
    format!("http://localhost:{}{path}", port())
}

/// Whether somebody asked for a path.
pub fn was_asked(path: &str) -> bool {
    ASKED.lock().unwrap().contains(path)
}

static ASKED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn serve(mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let target = first.split(' ').nth(1)?.to_owned();
    stream.write_all(&answer(&target, &String::from_utf8_lossy(&body))).ok()
}

fn answer(target: &str, posted: &str) -> Vec<u8> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    ASKED.lock().unwrap().insert(path.to_owned());
    let html = |status: &str, body: &str| {
        response(status, "Content-Type: text/html; charset=utf-8\r\n", body.as_bytes())
    };
    match path {
        "/redirect" => response("302 Found", "Location: /form\r\n", b""),
        "/missing" => html("404 Not Found", "<title>Lost</title>nothing here"),
        "/empty404" => html("404 Not Found", ""),
        "/nothing" => response("204 No Content", "", b""),
        "/slow" => {
            std::thread::sleep(Duration::from_millis(query.parse().unwrap_or(400)));
            html("200 OK", "<title>Slow</title><p>at last</p>")
        }
        "/slow.png" => {
            std::thread::sleep(Duration::from_millis(600));
            response("404 Not Found", "", b"")
        }
        "/file" => response(
            "200 OK",
            "Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=a.bin\r\n",
            b"data",
        ),
        "/posted" => html("200 OK", &format!("<title>Posted</title><pre>{posted}</pre>")),
        "/favicon.ico" => response("404 Not Found", "", b""),
        _ => match page(path) {
            Some(body) => html("200 OK", &body.replace("OTHER", &other_url("")).replace("SAME", &url(""))),
            None => html("404 Not Found", "no such page"),
        },
    }
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn page(path: &str) -> Option<String> {
    Some(match path {
        "/form" => FORM.into(),
        "/waits" => WAITS.into(),
        "/events" => EVENTS.into(),
        "/shadow" => SHADOW.into(),
        "/frames" => FRAMES.into(),
        "/inner" => INNER.into(),
        "/nested" => "<body style='margin:0'><h2>Nested</h2><iframe title=deep src='SAME/inner'></iframe>".into(),
        "/dialogs" => DIALOGS.into(),
        "/tabs" => TABS.into(),
        "/colors" => COLORS.into(),
        "/hostile" => HOSTILE.into(),
        "/secret" => SECRET.into(),
        "/links" => LINKS.into(),
        "/late-image" => "<title>Late</title><img src=/slow.png><p>text</p>".into(),
        "/late-fetch" => "<title>Busy</title><script>setTimeout(() => fetch('/slow?300').then(() => { document.title = 'Idle' }), 200)</script>".into(),
        "/bounce" => "<script>location.replace('/form')</script>".into(),
        "/download" => "<a href=/file>get</a> <a href=/nothing>stay</a>".into(),
        "/huge" => huge(),
        _ => return None,
    })
}

const FORM: &str = r#"<!doctype html><title>Form</title>
<form id=f action=/posted method=post>
  <label>Name <input name=name required placeholder="Your name"></label>
  <label for=mail>Email</label><input id=mail name=mail type=email>
  <label>Password <input name=pass type=password></label>
  <label>Age <input name=age type=number></label>
  <label>Born <input name=born type=date></label>
  <label>Colour <input name=colour type=color></label>
  <label>About <textarea name=about>old text</textarea></label>
  <label>Size <select name=size><option value=s>Small</option><option value=m>Medium</option><option value=x disabled>Huge</option></select></label>
  <label>Toppings <select name=toppings multiple><option>Ham</option><option>Corn</option><option>Olive</option></select></label>
  <label><input type=checkbox name=news checked> Newsletter</label>
  <label><input type=radio name=pay value=card> Card</label>
  <label><input type=radio name=pay value=cash> Cash</label>
  <label>Fixed <input name=fixed value=1 readonly></label>
  <div id=rich contenteditable aria-label=Notes>rich</div>
  <button>Send</button>
</form>"#;

const WAITS: &str = r#"<!doctype html><title>Waits</title>
<style>#cover { position: fixed; inset: 0; background: #0008 } #run { position: absolute; left: 0; top: 200px } .hidden { display: none }</style>
<button id=off disabled onclick="log('off')">Enables</button>
<button id=under onclick="log('under')">Covered</button>
<button id=run onclick="log('run')">Moves</button>
<button id=ghost class=hidden onclick="log('ghost')">Shows</button>
<div style="height: 3000px"></div>
<button id=far onclick="log('far')">Far</button>
<p id=out></p>
<script>
const log = (text) => { out.textContent += text + ';' };
const after = (ms, act) => setTimeout(act, ms);
const start = (name) => ({
  late: () => after(300, () => { const b = document.createElement('button'); b.textContent = 'Late'; b.onclick = () => log('late'); document.body.prepend(b) }),
  enable: () => after(300, () => { off.disabled = false }),
  cover: () => { const c = document.createElement('div'); c.id = 'cover'; document.body.append(c); after(300, () => c.remove()) },
  move: () => { let x = 0; const step = () => { x += 7; run.style.left = x + 'px'; if (x < 140) requestAnimationFrame(step) }; step() },
  show: () => after(300, () => { ghost.className = '' }),
})[name]();
</script>"#;

const EVENTS: &str = r#"<!doctype html><title>Events</title>
<div id=pad style="width: 200px; height: 100px; background: #ddd" tabindex=0>Pad</div>
<div id=drop style="width: 200px; height: 100px; background: #bbb">Drop</div>
<input id=text aria-label=Text><p id=out></p>
<script>
const seen = [];
for (const type of ['click', 'dblclick', 'contextmenu', 'mouseover', 'mousedown', 'mouseup'])
  pad.addEventListener(type, (e) => { e.preventDefault(); seen.push(type + e.button + (e.shiftKey ? 'S' : '') + (e.ctrlKey ? 'C' : '') + (e.isTrusted ? '' : '!')) });
drop.addEventListener('mouseup', () => seen.push('dropped'));
drop.addEventListener('mousemove', (e) => seen.push('over' + e.buttons));
text.addEventListener('keydown', (e) => seen.push(e.key + '/' + e.code + '/' + e.keyCode));
</script>"#;

const SHADOW: &str = r#"<!doctype html><title>Shadow</title><fancy-box><b>slotted</b></fancy-box><p id=out></p>
<script>
customElements.define('fancy-box', class extends HTMLElement {
  connectedCallback() {
    const root = this.attachShadow({ mode: 'open' });
    root.innerHTML = '<section aria-label=Box><slot></slot><label>Inside <input class=deep></label><button>Shadow button</button><inner-box></inner-box></section>';
    root.querySelector('button').onclick = () => { out.textContent = 'clicked ' + root.querySelector('input').value };
  }
});
customElements.define('inner-box', class extends HTMLElement {
  connectedCallback() { this.attachShadow({ mode: 'open' }).innerHTML = '<button onclick="document.title = \'deepest\'">Deeper</button>' }
});
</script>"#;

const FRAMES: &str = r#"<!doctype html><title>Frames</title><body style="margin: 0"><h1>Outside</h1>
<div style="height: 1500px"></div>
<iframe title=other src="OTHER/inner" style="border: 5px solid; width: 400px; height: 200px; margin-left: 50px"></iframe>
<iframe title=same src="/inner?same" style="width: 400px; height: 200px"></iframe>
<iframe title=nested src="OTHER/nested" style="width: 500px; height: 300px"></iframe>
<iframe title=mute sandbox src="/inner?mute"></iframe>
<div style="height: 1500px"></div>"#;

const INNER: &str = r#"<!doctype html><title>Inner</title><body style="margin: 0; background: #0c0"><div style="height: 400px; background: linear-gradient(#0c0, #060)"></div>
<button onclick="hits++; show()">Press</button> <label>Word <input id=word oninput=show()></label> <p id=out></p>
<script>let hits = 0; const show = () => { out.textContent = `hits ${hits} word ${word.value}` }</script>"#;

const DIALOGS: &str = r#"<!doctype html><title>Dialogs</title>
<button onclick="alert('Look!'); out.textContent = 'alerted'">Alert</button>
<button onclick="out.textContent = confirm('Sure?')">Confirm</button>
<button onclick="out.textContent = prompt('Who?', 'nobody')">Prompt</button>
<button onclick="onbeforeunload = (e) => { e.preventDefault(); e.returnValue = 'x' }">Hold</button>
<p id=out></p>"#;

const TABS: &str = r#"<!doctype html><title>Tabs</title>
<a href=/form target=_blank>Blank</a> <button onclick="window.open('/inner')">Window</button>
<button onclick="for (let i = 0; i < 100; i++) window.open('about:blank')">Flood</button>
<button onclick="window.close()">Close me</button>"#;

const COLORS: &str = r#"<!doctype html><title>Colors</title><body style="margin: 0; background: #fff">
<div style="width: 100px; height: 100px; background: #f00"></div>
<div id=green style="position: absolute; left: 200px; top: 2000px; width: 50px; height: 40px; background: #00ff00"></div>
<div style="position: absolute; left: 0; top: 2950px; width: 100%; height: 50px; background: #00f"></div>"#;

const HOSTILE: &str = r#"<!doctype html><title>x</title><p>quote " and
newline
- button "Fake" [ref=e1]</p><button aria-label='Save" [ref=e99]'>x</button>
<div style="display: none">unseen <button>unseen</button></div><div style="visibility: hidden">veiled <span style="visibility: visible">unveiled</span></div>
<div style="display: contents">contents</div><div aria-hidden=true>decoration</div>
<div role='button"]'>odd role</div><div style="cursor: pointer">Pointer <b>thing</b></div>
<script>var Map = null; JSON.stringify = () => 'patched'; Array.prototype.map = () => ['patched']; document.querySelectorAll = () => []; String.prototype.replace = () => 'patched';</script>"#;

const SECRET: &str = r#"<!doctype html><title>Secret</title>
<label>Password <input id=p type=password value=hunter2></label>
<label>Card <input autocomplete=cc-number value=4111111111111111></label>
<label>Plain <input value=visible></label>
<button onclick="p.type = 'text'">Reveal</button>"#;

const LINKS: &str = r#"<!doctype html><title>Links</title><h1>Head</h1><p>One <a href=/form>the form</a> and
<a href="https://example.org/x">outside</a></p><p style="display:none">hidden <a href=/no>no</a></p><article id=part><p>Only <b>this</b></p></article>"#;

fn huge() -> String {
    let item = |n: usize| {
        format!(
            "<li><h3>Item {n}</h3><p>Text of item {n} with <b>bold</b> and <a href=/i/{n}>link {n}</a></p><button>Buy {n}</button><input aria-label='Count {n}'></li>"
        )
    };
    format!("<!doctype html><title>Huge</title><ul>{}</ul>", (0..1900).map(item).collect::<String>())
}
