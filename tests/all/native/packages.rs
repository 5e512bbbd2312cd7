//! Packages of Python and Node, which native cells install from where their session may reach.

use super::{run, value};
use crate::Shared;
use anchorhold_tests::{Client, Options, Server, host};
use anyhow::{Result, ensure};
use serde_json::json;

tests!(
    packages_come_by_the_sessions_list,
    node_asks_by_the_way_out,
    npm_installs_packages_and_runs_scripts,
    a_hostile_install_script_stays_in_its_session,
);

/// A server whose operator allows a host of this machine, and a session that lists it.
fn reaching(host: &str) -> Result<(Server, Client, String)> {
    let server = Server::start(Options::default().with("egress", "allow_private", &format!("[\"{host}\"]")))?;
    let client = server.client()?;
    let network = json!({"mode": "allow", "hosts": [host]});
    let session = client.session(&json!({"runtime": "native", "network": network}))?;
    Ok((server, client, session))
}

/// A package index on this machine: `pip install` reaches it through the way out, and only when the session lists it.
fn packages_come_by_the_sessions_list(_: &Shared) -> Result<()> {
    let directory = tempfile::tempdir()?;
    wheel(directory.path())?;
    let name = "anchorhold_greeting-1.0-py3-none-any.whl";
    let content = std::fs::read(directory.path().join(name))?;
    let index = Index::serve(move |request| match request.contains(".whl") {
        true => ("application/octet-stream", content.clone()),
        false => ("text/html", format!("<a href=\"/{name}\">{name}</a>").into_bytes()),
    })?;
    let host = format!("127.0.0.1:{}", index.port);
    let (server, client, session) = reaching(&host)?;
    // This index is at an address that is also the cell's own, so the way out has to be named.
    let install = format!(
        "%pip install -q --proxy http://127.0.0.1:3128 --index-url http://{host}/simple --trusted-host 127.0.0.1 \
        anchorhold-greeting\nimport anchorhold_greeting\nanchorhold_greeting.WORD"
    );
    let answer = client.execute(&session, "python", &install)?;
    assert_eq!(value(&answer), "'hello'", "{answer:#}");
    let curl = format!(
        "curl -s -o /dev/null -w '%{{http_code}}' --noproxy '' -x http://127.0.0.1:3128 http://{host}/simple/"
    );
    assert_eq!(run(&client, &session, "bash", &curl)?["stdout"], "200");
    let node = format!(
        "process.env.NO_PROXY = ''; const http = require('http'); await new Promise((done) => http.get({{host: '127.0.0.1', port: 3128, path: 'http://{host}/simple/'}}, (answer) => done(answer.statusCode)))"
    );
    assert_eq!(value(&run(&client, &session, "javascript", &node)?), "200");
    let before = index.asked.load(std::sync::atomic::Ordering::SeqCst);
    ensure!(before > 0, "nobody asked");
    let closed = client.session(&json!({"runtime": "native"}))?;
    let answer = client.execute(&closed, "bash", &curl)?;
    ensure!(answer["stdout"] != "200", "{answer:#}");
    assert_eq!(index.asked.load(std::sync::atomic::Ordering::SeqCst), before);
    client.close(&session)?;
    client.close(&closed)?;
    server.stop()?;
    Ok(())
}

/// What Node has for the network goes by the way out without being told, in whatever kind of program. The address is also
/// the cell's own, where nobody answers.
fn node_asks_by_the_way_out(_: &Shared) -> Result<()> {
    let index = Index::serve_at("127.0.0.2", |request| {
        let path = request.split_ascii_whitespace().nth(1).unwrap_or_default();
        ("text/plain", path.as_bytes().to_vec())
    })?;
    let asked = || index.asked.load(std::sync::atomic::Ordering::SeqCst);
    let host = format!("127.0.0.2:{}", index.port);
    let (server, client, session) = reaching(&host)?;
    let fetch = |path: &str| format!("fetch('http://{host}/{path}').then((answer) => answer.text())");
    let get = |path: &str| {
        format!(
            "new Promise((done) => http.get('http://{host}/{path}', (answer) => answer.on('data', (it) => done(String(it)))))"
        )
    };
    for (path, code) in [
        ("fetched", format!("await {}", fetch("fetched"))),
        ("got", format!("const http = require('http'); await {}", get("got"))),
        ("imported", format!("import http from 'node:http'\nawait {}", get("imported"))),
    ] {
        assert_eq!(value(&run(&client, &session, "javascript", &code)?), format!("'/{path}'"), "{code}");
    }
    // Programs of their own, and a thread of one.
    let log = |promise: String| format!("{promise}.then(console.log)");
    let worker =
        format!("new (require('worker_threads').Worker)({}, {{ eval: true }})", json!(log(fetch("worker"))));
    for (path, kind, code) in [
        ("module", "module", format!("import http from 'http'; {}", log(get("module")))),
        (
            "builtin",
            "commonjs",
            format!("const http = process.getBuiltinModule('http'); {}", log(get("builtin"))),
        ),
        ("worker", "commonjs", worker),
    ] {
        let node = json!({"command": ["node", format!("--input-type={kind}"), "-e", code]});
        let answer = client.execute_with(&session, &node)?;
        assert_eq!(answer["stdout"], format!("/{path}\n"), "{code}: {answer:#}");
    }
    let before = asked();
    let secure = format!(
        "const https = require('https'); await new Promise((done) => https.get('https://{host}/').on('error', (e) => done(e.code)))"
    );
    run(&client, &session, "javascript", &secure)?;
    ensure!(asked() > before, "https does not go that way");
    let before = asked();
    let closed = client.session(&json!({"runtime": "native"}))?;
    let code = format!("await {}.catch(() => 'refused')", fetch("closed"));
    assert_ne!(value(&run(&client, &closed, "javascript", &code)?), "'/closed'");
    assert_eq!(asked(), before);
    client.close(&session)?;
    client.close(&closed)?;
    server.stop()?;
    Ok(())
}

/// The same for Node, with a registry on this machine; and the scripts of a package.
fn npm_installs_packages_and_runs_scripts(_: &Shared) -> Result<()> {
    let directory = tempfile::tempdir()?;
    std::fs::create_dir(directory.path().join("package"))?;
    let about = json!({"name": "anchorhold-greeting", "version": "1.0.0", "main": "index.js"});
    std::fs::write(directory.path().join("package/package.json"), about.to_string())?;
    std::fs::write(directory.path().join("package/index.js"), "module.exports = 'hello from npm'")?;
    let packed = std::process::Command::new("tar")
        .args(["czf", "package.tgz", "package"])
        .current_dir(&directory)
        .status()?;
    ensure!(packed.success(), "tar");
    let content = std::fs::read(directory.path().join("package.tgz"))?;
    let index = Index::serve(move |request| {
        if request.contains(".tgz") {
            return ("application/octet-stream", content.clone());
        }
        let host =
            request.lines().find_map(|line| line.to_lowercase().strip_prefix("host: ").map(str::to_owned));
        let tarball = format!("http://{}/package.tgz", host.unwrap_or_default().trim());
        let version =
            json!({"name": "anchorhold-greeting", "version": "1.0.0", "dist": {"tarball": tarball}});
        let all = json!({"name": "anchorhold-greeting", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}});
        ("application/json", all.to_string().into_bytes())
    })?;
    let host = format!("127.0.0.1:{}", index.port);
    let (server, client, session) = reaching(&host)?;
    let project = json!({"name": "project", "scripts": {"hello": "node -e \"console.log(require('anchorhold-greeting'))\""}});
    client.put(&format!("/v1/sessions/{session}/files/package.json"), project.to_string())?.expect(201);
    // This registry is at an address that is also the cell's own, so the way out has to be named.
    let install = format!(
        "export NO_PROXY= no_proxy= npm_config_noproxy=; npm install --silent --no-audit --no-fund \
        --registry http://{host}/ --proxy http://127.0.0.1:3128 anchorhold-greeting && npm run --silent hello"
    );
    assert_eq!(run(&client, &session, "bash", &install)?["stdout"], "hello from npm\n");
    assert_eq!(
        value(&run(&client, &session, "javascript", "require('anchorhold-greeting')")?),
        "'hello from npm'"
    );
    let global = install
        .replace("npm install", "npm install -g")
        .replace("npm run --silent hello", "ls ~/.local/lib/node_modules");
    assert_eq!(run(&client, &session, "bash", &global)?["stdout"], "anchorhold-greeting\n");
    let closed = client.session(&json!({"runtime": "native"}))?;
    let before = index.asked.load(std::sync::atomic::Ordering::SeqCst);
    let refused = install.replace("npm install", "npm install --fetch-retries 0");
    assert_eq!(client.execute(&closed, "bash", &refused)?["status"], "failed");
    assert_eq!(index.asked.load(std::sync::atomic::Ordering::SeqCst), before);
    client.close(&session)?;
    client.close(&closed)?;
    server.stop()?;
    Ok(())
}

/// What a package does while it is installed. It writes down what it was able to do.
const INSTALLED: &str = r##"
import os, socket, subprocess, sys
home = os.path.expanduser("~")
able = []
for directory in ("/", "/bin", "/etc", "/lib", "/opt", "/usr/bin", "/usr/local/bin"):
    try:
        with open(directory + "/left-by-a-package", "w"): able.append("wrote to " + directory)
    except OSError: pass
try:
    with open(home + "/filler", "wb") as file:
        for _ in range(64): file.write(bytes(1 << 20))
    able.append("filled the disk")
except OSError: pass
os.remove(home + "/filler")
children = []
try:
    nothing = subprocess.DEVNULL
    for _ in range(200):
        child = subprocess.Popen(["sleep", "1000"], stdout=nothing, stderr=nothing, start_new_session=True)
        children.append(child)
    able.append("started 200 processes")
except OSError: pass
for child in children[1:]:
    child.kill()
    child.wait()
for port in map(int, sys.argv[1:]):
    try:
        socket.create_connection(("127.0.0.1", port), 2)
        able.append("reached the host")
    except OSError: pass
for name in (".bashrc", ".npmrc", ".left-by-a-package"):
    with open(f"{home}/{name}", "a") as file: file.write("# left\n")
with open(home + "/able", "w") as file: file.write("; ".join(able))
"##;

/// A package's back end in Python: all of it runs when pip builds the package.
const BACK_END: &str = r#"
import os, runpy, sys, zipfile
def build_wheel(directory, *_):
    sys.argv = ["installed", PORT]
    runpy.run_path("installed.py")
    name = "hostile-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.writestr("hostile-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
        wheel.writestr("hostile-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("hostile-1.0.dist-info/RECORD", "")
    return name
"#;

/// security.md 123: what a package does while it is installed, the session may do; and what it leaves is the session's.
fn a_hostile_install_script_stays_in_its_session(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let listener = Index::serve(|_| ("text/plain", b"reached".to_vec()))?;
    let limits = json!({"disk_bytes": 32 << 20, "processes": 48});
    let package = json!({"name": "hostile", "version": "1.0.0",
        "scripts": {"postinstall": format!("python3 installed.py {}", listener.port)}});
    let project = "[build-system]\nrequires = []\nbuild-backend = \"back\"\nbackend-path = [\".\"]\n\
        [project]\nname = \"hostile\"\nversion = \"1.0\"\n";
    let installs = [
        "npm pack --silent ./hostile && npm install --silent --offline --foreground-scripts ./hostile-1.0.0.tgz",
        "pip install --quiet --no-index ./hostile",
    ];
    for install in installs {
        let session = client.session(&json!({"runtime": "native", "limits": limits}))?;
        let files = [
            ("package.json", package.to_string()),
            ("pyproject.toml", project.to_owned()),
            ("back.py", BACK_END.replace("PORT", &format!("\"{}\"", listener.port))),
            ("installed.py", INSTALLED.to_owned()),
        ];
        for (name, content) in files {
            client.put(&format!("/v1/sessions/{session}/files/hostile/{name}"), content)?.expect(201);
        }
        run(&client, &session, "bash", install)?;
        assert_eq!(run(&client, &session, "bash", "cat able")?["stdout"], "", "{install}");
        run(&client, &session, "bash", "test -e ~/.left-by-a-package && pgrep sleep")?;
        let cells = host::cell_processes(session.trim_start_matches("ses_"));
        ensure!(!cells.is_empty(), "{install}: no process of the session is seen");
        client.close(&session)?;
        ensure!(
            host::cell_processes(session.trim_start_matches("ses_")).is_empty(),
            "{install}: something runs on"
        );
    }
    assert_eq!(listener.asked.load(std::sync::atomic::Ordering::SeqCst), 0);
    let other = client.session(&json!({"runtime": "native"}))?;
    let left = run(
        &client,
        &other,
        "bash",
        "ls -A ~; find / -xdev -name left-by-a-package 2>/dev/null; pgrep sleep || true",
    )?;
    assert_eq!(left["stdout"], "");
    client.close(&other)?;
    Ok(())
}

/// A pure package, as a wheel.
fn wheel(directory: &std::path::Path) -> Result<()> {
    let code = "import sys, zipfile\nname = 'anchorhold_greeting-1.0-py3-none-any.whl'\n\
        with zipfile.ZipFile(sys.argv[1] + '/' + name, 'w') as wheel:\n\
        \x20   info = 'anchorhold_greeting-1.0.dist-info/'\n\
        \x20   wheel.writestr('anchorhold_greeting.py', 'WORD = \"hello\"\\n')\n\
        \x20   wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: anchorhold-greeting\\nVersion: 1.0\\n')\n\
        \x20   wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
        \x20   wheel.writestr(info + 'RECORD', '')\n";
    let made = std::process::Command::new("/usr/bin/python3").args(["-c", code]).arg(directory).status()?;
    ensure!(made.success(), "the wheel");
    Ok(())
}

/// Serves packages, on this machine.
struct Index {
    port: u16,
    asked: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Index {
    /// `answer`: the type and the bytes for a request's head.
    fn serve(answer: impl Fn(&str) -> (&'static str, Vec<u8>) + Send + 'static) -> Result<Self> {
        Self::serve_at("127.0.0.1", answer)
    }

    fn serve_at(
        address: &str,
        answer: impl Fn(&str) -> (&'static str, Vec<u8>) + Send + 'static,
    ) -> Result<Self> {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind((address, 0))?;
        let port = listener.local_addr()?.port();
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = asked.clone();
        std::thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let mut request = vec![0; 8192];
                let length = connection.read(&mut request).unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let (kind, body) = answer(&request);
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _gone = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(&body));
            }
        });
        Ok(Self { port, asked })
    }
}
