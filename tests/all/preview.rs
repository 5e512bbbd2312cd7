//! Previews: what listens in a session, for who has the link and nobody else.

use crate::Shared;
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

tests!(
    a_link_shows_what_listens_inside,
    nobody_else_is_let_in,
    what_is_the_visitors_stays_with_the_visitor,
    websockets_are_carried,
    a_closed_port_is_closed,
    who_may_not_open_a_port_does_not,
);

/// Says what it was asked, and what it was told of the visitor; `/socket` is an echo by WebSocket.
const SITE: &str = r#"
const http = require('http'), crypto = require('crypto');
const server = http.createServer((request, response) => {
    let body = '';
    request.on('data', (part) => body += part);
    request.on('end', () => {
        response.setHeader('set-cookie', 'theirs=1; Path=/');
        response.setHeader('strict-transport-security', 'max-age=1000');
        response.setHeader('x-own', 'kept');
        response.end(JSON.stringify({method: request.method, url: request.url, headers: request.headers, body}));
    });
});
server.on('upgrade', (request, socket) => {
    const key = request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
    const accept = crypto.createHash('sha1').update(key).digest('base64');
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
        'Sec-WebSocket-Accept: ' + accept + '\r\n\r\n');
    socket.on('data', (data) => socket.write(data));
});
server.listen(3000, 'localhost');
"#;

/// A server with previews, a session in it, and what listens there.
struct Scene {
    server: Server,
    client: Client,
    session: String,
}

impl Scene {
    fn set() -> Result<Self> {
        let server = Server::start(Options::default().with("preview", "listen", "127.0.0.1:0"))?;
        let client = server.client()?;
        let session = client.session(&json!({"runtime": "native"}))?;
        client.put(&format!("/v1/sessions/{session}/files/site.js"), SITE)?.expect(201);
        let command = json!({"command": ["node", "site.js"], "background": true});
        client.post(&format!("/v1/sessions/{session}/executions"), &command)?.expect(202);
        Ok(Self { server, client, session })
    }

    /// A stop would wait for what runs.
    fn end(self) -> Result<()> {
        self.client.delete(&format!("/v1/sessions/{}", self.session))?;
        self.server.stop()?;
        Ok(())
    }

    fn ports(&self) -> String {
        format!("/v1/sessions/{}/ports", self.session)
    }

    fn open(&self, port: u16) -> Result<Address> {
        Address::of(&self.client.post(&self.ports(), &json!({ "port": port }))?.expect(201))
    }

    /// A port that was opened, and the cookie for it, when somebody listens.
    fn visited(&self) -> Result<(Address, String)> {
        let address = self.open(3000)?;
        let answer = address.get(&address.path, &[])?;
        ensure!(answer.starts_with("HTTP/1.1 303"), "{answer}");
        let cookie =
            answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).context("no cookie")?;
        ensure!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        ensure!(!cookie.to_lowercase().contains("domain"), "{cookie}");
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        let end = Instant::now() + Duration::from_secs(20);
        while !address.get("/", &[("cookie", &cookie)])?.starts_with("HTTP/1.1 200") {
            ensure!(Instant::now() < end, "nobody listens: {}", address.get("/", &[("cookie", &cookie)])?);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok((address, cookie))
    }
}

/// Where a preview is.
struct Address {
    host: String,
    path: String,
}

impl Address {
    fn of(opened: &Value) -> Result<Self> {
        let url = opened["url"].as_str().and_then(|url| url.strip_prefix("http://")).context("a url")?;
        let (host, path) = url.split_once('/').context("a path")?;
        Ok(Self { host: host.to_owned(), path: format!("/{path}") })
    }

    fn connect(&self) -> Result<TcpStream> {
        let (_, port) = self.host.rsplit_once(':').context("a port")?;
        let stream = TcpStream::connect(("127.0.0.1", port.parse()?))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<String> {
        self.ask(&format!("GET {path}"), headers, "")
    }

    fn ask(&self, what: &str, headers: &[(&str, &str)], body: &str) -> Result<String> {
        let host = headers.iter().find(|(name, _)| *name == "host").map_or(&*self.host, |(_, host)| host);
        let mut stream = self.connect()?;
        write!(stream, "{what} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n")?;
        for (name, value) in headers.iter().filter(|(name, _)| *name != "host") {
            write!(stream, "{name}: {value}\r\n")?;
        }
        write!(stream, "content-length: {}\r\n\r\n{body}", body.len())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn told(answer: &str) -> Result<Value> {
    let (_, body) = answer.split_once("\r\n\r\n").with_context(|| answer.to_owned())?;
    let json = body.get(body.find('{').context("no JSON")?..=body.rfind('}').context("no JSON")?);
    Ok(serde_json::from_str(json.unwrap_or_default())?)
}

fn a_link_shows_what_listens_inside(_: &Shared) -> Result<()> {
    let scene = Scene::set()?;
    let address = scene.open(3000)?;
    ensure!(address.host.starts_with("3000-") && address.host.contains(".localhost:"), "{}", address.host);
    ensure!(format!("http://{}", address.host) != scene.server.base(), "an origin of its own");
    let (address, cookie) = scene.visited()?;
    let answer = address.ask("POST /a/b?c=d", &[("cookie", &cookie)], "body")?;
    let seen = told(&answer)?;
    assert_eq!(
        (&seen["method"], &seen["url"], &seen["body"], &seen["headers"]["host"]),
        (&json!("POST"), &json!("/a/b?c=d"), &json!("body"), &json!("localhost:3000")),
        "{seen:#}"
    );
    ensure!(answer.contains("x-own: kept"), "{answer}");
    let listed = scene.client.get(&scene.ports())?.expect(200);
    assert_eq!(
        (&listed["items"][0]["port"], listed["items"].as_array().map(Vec::len)),
        (&json!(3000), Some(1))
    );
    ensure!(!listed.to_string().contains("prv_"), "the list tells no secrets");
    // Behind a proxy that speaks TLS the cookie is for that alone.
    let address = scene.open(3000)?;
    let welcome = address.get(&address.path, &[("x-forwarded-proto", "https")])?;
    ensure!(welcome.contains("SameSite=Lax; Secure"), "{welcome}");
    scene.end()
}

fn nobody_else_is_let_in(_: &Shared) -> Result<()> {
    let scene = Scene::set()?;
    let (address, cookie) = scene.visited()?;
    let expect = |status: &str, path: &str, headers: &[(&str, &str)]| -> Result<()> {
        let answer = address.get(path, headers)?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {headers:?}: {answer}");
        ensure!(!answer.contains("\"method\""), "it reached the program: {answer}");
        Ok(())
    };
    expect("401", "/", &[])?;
    expect("401", "/", &[("cookie", "anchorhold_preview=vis_x")])?;
    // A key of the API is none here, and a link is no cookie.
    let key = std::fs::read_to_string(scene.server.data_dir().join("admin.key"))?;
    expect("401", "/", &[("authorization", &format!("Bearer {}", key.trim()))])?;
    let secret = address.path.split('=').nth(1).unwrap_or_default();
    expect("401", "/", &[("cookie", &format!("anchorhold_preview={secret}"))])?;
    expect("403", "/?anchorhold_preview=prv_x", &[])?;
    // Another port, another session, another name.
    let other = scene.client.session(&json!({"runtime": "native"}))?;
    let (_, port) = address.host.rsplit_once(':').context("a port")?;
    for (status, host) in [
        ("401", address.host.replace("3000-", "3001-")),
        ("401", format!("3000-{}.localhost:{port}", other.trim_start_matches("ses_"))),
        ("404", format!("localhost:{port}")),
        ("404", "evil.example".into()),
        ("404", address.host.replace("3000-", "03000-")),
    ] {
        expect(status, "/", &[("host", &host), ("cookie", &cookie)])?;
    }
    // A page of somebody else's, in a browser that has the cookie.
    expect("403", "/", &[("cookie", &cookie), ("origin", "http://evil.example")])?;
    expect(
        "403",
        "/",
        &[("cookie", &cookie), ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")],
    )?;
    // What is not open is not reached, though it listens; and nothing but HTTP gets an answer.
    let opened = scene.open(3001)?;
    let welcome = opened.get(&opened.path, &[])?;
    let cookie = welcome.lines().find_map(|line| line.strip_prefix("set-cookie: ")).context("no cookie")?;
    let nothing = opened.get("/", &[("cookie", cookie.split(';').next().unwrap_or_default())])?;
    ensure!(
        nothing.starts_with("HTTP/1.1 502") && nothing.contains("nothing listens at port 3001"),
        "{nothing}"
    );
    scene.end()
}

fn what_is_the_visitors_stays_with_the_visitor(_: &Shared) -> Result<()> {
    let scene = Scene::set()?;
    let (address, cookie) = scene.visited()?;
    let cookies = format!("own=1; {cookie}; other=2");
    let own = format!("http://{}", address.host);
    let answer = address.get(
        "/",
        &[
            ("cookie", &cookies),
            ("authorization", "Bearer secret"),
            ("proxy-authorization", "secret"),
            ("x-amz-security-token", "secret"),
            ("x-forwarded-for", "203.0.113.9"),
            ("forwarded", "for=203.0.113.9"),
            ("origin", &own),
            ("x-other", "passed"),
        ],
    )?;
    let seen = told(&answer)?;
    let headers = seen["headers"].as_object().context("headers")?;
    for name in [
        "cookie",
        "authorization",
        "proxy-authorization",
        "x-amz-security-token",
        "x-forwarded-for",
        "forwarded",
    ] {
        ensure!(!headers.contains_key(name), "{name}: {headers:?}");
    }
    assert_eq!(
        (&headers["x-other"], &headers["origin"]),
        (&json!("passed"), &json!("http://localhost:3000"))
    );
    for kept_back in ["set-cookie", "strict-transport-security"] {
        ensure!(!answer.to_lowercase().contains(kept_back), "{answer}");
    }
    scene.end()
}

fn websockets_are_carried(_: &Shared) -> Result<()> {
    let scene = Scene::set()?;
    let (address, cookie) = scene.visited()?;
    let mut stream = address.connect()?;
    write!(
        stream,
        "GET /socket HTTP/1.1\r\nhost: {}\r\ncookie: {cookie}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        address.host
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?.to_lowercase();
    ensure!(head.starts_with("http/1.1 101") && head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    for said in ["one", "two"] {
        stream.write_all(said.as_bytes())?;
        let mut heard = [0; 3];
        stream.read_exact(&mut heard)?;
        assert_eq!(heard, said.as_bytes());
    }
    // It ends with the port.
    scene.client.delete(&format!("{}/3000", scene.ports()))?.expect(204);
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    scene.end()
}

fn a_closed_port_is_closed(_: &Shared) -> Result<()> {
    let scene = Scene::set()?;
    let (address, cookie) = scene.visited()?;
    let short = scene.client.post(&scene.ports(), &json!({"port": 3002, "ttl_seconds": 0.001}))?.expect(201);
    std::thread::sleep(Duration::from_millis(5));
    let short = Address::of(&short)?;
    ensure!(short.get(&short.path, &[])?.starts_with("HTTP/1.1 403"), "its time is over");
    scene.client.delete(&format!("{}/3000", scene.ports()))?.expect(204);
    scene.client.delete(&format!("{}/3000", scene.ports()))?.expect(204);
    ensure!(address.get("/", &[("cookie", &cookie)])?.starts_with("HTTP/1.1 401"), "it is closed");
    ensure!(address.get(&address.path, &[])?.starts_with("HTTP/1.1 403"), "its link, too");
    // As it is with its session.
    let (address, cookie) = scene.visited()?;
    scene.client.close(&scene.session)?;
    ensure!(address.get("/", &[("cookie", &cookie)])?.starts_with("HTTP/1.1 401"), "its session is over");
    scene.client.post(&scene.ports(), &json!({"port": 3000}))?.expect(410);
    scene.end()
}

fn who_may_not_open_a_port_does_not(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let ports = format!("/v1/sessions/{session}/ports");
    for (body, field) in [
        (json!({}), "port"),
        (json!({"port": 0}), "port"),
        (json!({"port": 65536}), "port"),
        (json!({"port": "80"}), "port"),
        (json!({"port": 80, "ttl_seconds": 1e9}), "ttl_seconds"),
        (json!({"port": 80, "public": true}), "public"),
    ] {
        let answer = client.post(&ports, &body)?.expect(422);
        assert_eq!(answer["errors"][0]["field"], field, "{body}: {answer:#}");
    }
    // Where the operator has none.
    let answer = client.post(&ports, &json!({"port": 80}))?.expect(409);
    ensure!(answer.to_string().contains("--preview-listen"), "{answer:#}");
    let tenant = client.post("/v1/tenants", &json!({"name": "neighbour"}))?.expect(201);
    let key = client.post(
        &format!("/v1/tenants/{}/keys", tenant["id"].as_str().unwrap_or_default()),
        &json!({"name": "its"}),
    )?;
    let neighbour = client.with_key(key.expect(201)["key"].as_str());
    neighbour.get(&ports)?.expect(404);
    for wrong in ["x", "0", "65536", "-1"] {
        client.delete(&format!("{ports}/{wrong}"))?.expect(404);
    }
    client.close(&session)?;
    Ok(())
}
