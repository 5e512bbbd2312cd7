//! Two network namespaces and a wire between them: the egress' host, and a world of invented hosts with a resolver.
//!
//! The world is the default route of the egress' host, so that whatever it sends anywhere arrives, and is seen: by a
//! sniffer on all of its interfaces, by the resolver's list of queries, and by the hosts' list of connections.

mod dns;
mod hosts;
mod sniffer;

pub use hosts::Seen;

use anchorhold_egress::{
    Caps, Ceiling, Counters, Decision, Egress, Handle, Listable, Mode, Policy, Public, Settings,
};
use dns::Dns;
use nix::sched::{CloneFlags, unshare};
use sniffer::Sniffer;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Where the resolver listens.
pub const RESOLVER: &str = "10.99.0.2:53";
/// Where an upstream proxy listens.
pub const UPSTREAM: &str = "10.99.0.2:3128";

/// Addresses of invented hosts. Each listens on ports 80, 443 and 8081.
const HOSTS: [&str; 8] = [
    "93.184.216.34/32",
    "93.184.216.35/32",
    "10.1.2.3/32",
    "169.254.169.254/32",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "2606:2800::34/128",
    "fd00:ec2::254/128",
];

/// The host that the egress runs on, connected to a world.
pub struct World {
    dns: Arc<Dns>,
    seen: Arc<Mutex<Vec<Seen>>>,
    sniffer: Sniffer,
    proxies: Mutex<BTreeSet<u16>>,
}

/// Runs a test in a world of its own.
pub fn run(test: impl AsyncFnOnce(World) + Send + 'static) {
    // A namespace belongs to a thread, and to all that it opens: the runtime must not leave it.
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root: they make network namespaces");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (world, end) = World::begin();
        runtime.block_on(test(world));
        drop(end);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` for each line.
fn ip(lines: &[String]) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("these tests need iproute2");
    child.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{lines:?}");
}

/// Waits until the kernel has noticed that both ends of the wire are up; packets are dropped before.
fn wait_for_wire(end: &str) {
    let begun = Instant::now();
    loop {
        let output = Command::new("ip").args(["-o", "link", "show", "dev", end]).output().unwrap();
        if String::from_utf8_lossy(&output.stdout).contains("state UP") {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "the wire stays down: {output:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

impl World {
    /// Makes the wire and what is at its other end; that lives until the returned sender is dropped.
    fn begin() -> (Self, mpsc::Sender<()>) {
        let (dns, seen) = (Arc::new(Dns::default()), Arc::new(Mutex::new(Vec::new())));
        let (thread_id, world_thread) = mpsc::channel();
        let (connected, wait_connected) = mpsc::channel::<()>();
        let (ready, wait_ready) = mpsc::channel();
        let (end, wait_end) = mpsc::channel::<()>();
        let (their_dns, their_seen) = (dns.clone(), seen.clone());
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            thread_id.send(nix::unistd::gettid()).unwrap();
            wait_connected.recv().unwrap();
            let hosts = HOSTS.iter().map(|host| {
                // Without a wait until it is known that nobody else has it.
                let at_once = if host.contains(':') { "nodad" } else { "" };
                format!("addr add {host} dev lo {at_once}")
            });
            let wire = "link set lo up
                addr add 10.99.0.2/24 dev in
                addr add fd99::2/64 dev in nodad
                link set in up";
            ip(&lines(wire).into_iter().chain(hosts).collect::<Vec<_>>());
            wait_for_wire("in");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                dns::serve(their_dns).await;
                hosts::serve(their_seen).await;
                ready.send(()).unwrap();
                // The servers are tasks of this runtime; they end with it.
                while let Err(mpsc::TryRecvError::Empty) = wait_end.try_recv() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        });
        let world = world_thread.recv().unwrap();
        ip(&lines(&format!(
            "link set lo up
            link add out type veth peer name in netns {world}
            addr add 10.99.0.1/24 dev out
            addr add fd99::1/64 dev out nodad
            addr add 5.9.9.9/32 dev lo
            link set out up"
        )));
        connected.send(()).unwrap();
        wait_for_wire("out");
        wait_ready.recv().unwrap();
        ip(&lines("route add default via 10.99.0.2\nroute add ::/0 via fd99::2"));
        let sniffer = Sniffer::start();
        (Self { dns, seen, sniffer, proxies: Mutex::default() }, end)
    }

    /// Attaches a session.
    pub async fn attach(&self, mode: Mode) -> Session {
        self.attach_with(&self.egress(ceiling()), mode, Caps::DEFAULT).await
    }

    /// A way out under this ceiling.
    pub fn egress(&self, ceiling: Ceiling) -> Egress {
        let resolvers = vec![RESOLVER.parse().unwrap()];
        Egress::new(Settings { ceiling, resolvers, upstream: None }).unwrap()
    }

    /// Attaches a session to a way out.
    pub async fn attach_with(&self, egress: &Egress, mode: Mode, caps: Caps) -> Session {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        self.proxies.lock().unwrap().insert(proxy.port());
        let counters = Arc::new(Counters::default());
        let handle = egress.attach(listener, Policy { mode, caps }, counters.clone(), None);
        Session { proxy, counters, handle }
    }

    /// Every datagram and every beginning of a TCP connection of the egress' host since the last call, but for those to and from its proxies and its
    /// own addresses on the wire: `udp 10.99.0.2:53`.
    pub fn packets(&self) -> BTreeSet<String> {
        self.sniffer.take(&self.proxies.lock().unwrap())
    }

    /// Every name that the resolver was asked for since the last call.
    pub fn queries(&self) -> Vec<String> {
        self.dns.take_queries()
    }

    /// Every connection that a host got since the last call, with what was said on it.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// The only connection that a host got. Who dialled it may know of it before the host does.
    pub async fn seen_one(&self) -> Seen {
        let begun = Instant::now();
        while self.seen.lock().unwrap().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(5), "no host was dialled");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }

    /// Nothing was asked, sent or connected.
    pub fn assert_quiet(&self, about: &str) {
        assert_eq!(self.queries(), Vec::<String>::new(), "{about}");
        assert_eq!(self.packets(), BTreeSet::new(), "{about}");
        assert!(self.seen().is_empty(), "{about}");
    }
}

/// A session that is attached, and what is inside of it.
pub struct Session {
    pub proxy: SocketAddr,
    pub counters: Arc<Counters>,
    pub handle: Handle,
}

impl Session {
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.proxy).await.unwrap()
    }

    /// Says something to the proxy and reads the answer: to its end, or until there is nothing more for a while.
    pub async fn say(&self, text: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // What comes behind a refusal may find the connection closed.
        let _refused = stream.write_all(text.as_ref()).await;
        hear(&mut stream).await
    }

    /// Asks for a page, on a connection of its own.
    pub async fn get(&self, url: &str) -> String {
        self.say(format!("GET {url} HTTP/1.1\r\nHost: ignored.example\r\nConnection: close\r\n\r\n")).await
    }

    /// Asks for a tunnel; its stream, or the refusal.
    pub async fn tunnel(&self, target: &str) -> Result<TcpStream, String> {
        let mut stream = self.connect().await;
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let byte = timeout(Duration::from_secs(20), stream.read_u8()).await.expect("an answer");
            answer.push(byte.unwrap());
        }
        if answer.starts_with(b"HTTP/1.1 200") {
            return Ok(stream);
        }
        Err(String::from_utf8_lossy(&answer).into_owned() + &hear(&mut stream).await)
    }

    /// The next decision.
    pub async fn decision(&mut self) -> Decision {
        timeout(Duration::from_secs(5), self.handle.decision()).await.expect("a decision").unwrap()
    }
}

/// Reads to the end, or until there is nothing more for a while. What comes first may take its time: names are
/// resolved and hosts dialled.
pub async fn hear(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    let mut patience = Duration::from_secs(15);
    while let Ok(Ok(1..)) = timeout(patience, stream.read_buf(&mut heard)).await {
        patience = Duration::from_secs(1);
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// Whether the other side has ended the connection, within two seconds.
pub async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    timeout(Duration::from_secs(2), stream.read_to_end(&mut rest)).await.is_ok()
}

/// An operator who allows what can be allowed, and nothing of the inside.
pub fn ceiling() -> Ceiling {
    Ceiling { hosts: Listable::Any, public: Public::Granted, allow_private: Vec::new(), caps: Caps::DEFAULT }
}

pub fn allow(hosts: &[&str]) -> Mode {
    Mode::Allow(hosts.iter().map(|host| host.parse().unwrap()).collect())
}

/// Asserts that an answer is a refusal by this rule, and tells no address.
pub fn assert_refused(answer: &str, status: u16, rule: &str, about: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{about}: {answer}");
    assert!(answer.contains(&format!("details=\"{rule}\"")), "{about}: {answer}");
    assert!(answer.contains(&format!("the rule {rule}: ")), "{about}: {answer}");
    for address in HOSTS {
        let address = address.split('/').next().unwrap();
        assert!(!answer.contains(address), "{about}: {answer}");
    }
}
