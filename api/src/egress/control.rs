//! The conversation with the warden: outlets come in, decisions go out.

use super::{VERSION, watched};
use anchorhold_egress as way_out;
use anchorhold_egress::{Caps, Dialling, Egress, Handle, Home, Meter, Mode, Pattern, Policy, Switch};
use anchorhold_jail::egress::{Decision, FromEgress, Network, OutletId, SharedCounters, ToEgress, Way};
use anchorhold_jail::packet::{Assembler, PacketError, Packets};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Reports that wait for the warden to read; who has one more waits with it.
const REPORTS_MAX: usize = 256;
/// An outlet's decisions are told at this pace at most, after the first ones: the warden has one thread.
const DECISION_PAUSE: Duration = Duration::from_millis(50);
/// As many are told at once.
const DECISIONS_AT_ONCE: u32 = 32;

/// How long the warden may take to hand over sockets, and a program to let somebody in.
const HOME_WAIT: Duration = Duration::from_secs(3);
/// Where a session's program may listen, in the order of the warden's sockets.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A warden that was killed is back at once; one that is not after this time does not come back.
const ALONE_MAX: Duration = Duration::from_secs(60);

/// Why the conversation with one warden is over.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It said that it ends.
    Farewell,
    /// It is gone, or speaks another language.
    Gone,
}

/// Serves one warden after the other; all that one handed over is closed with its connection. Returns when a warden
/// says farewell or does not come back, if it is to end with it.
pub(super) async fn serve(listener: OwnedFd, egress: Egress, with_warden: bool) -> anyhow::Result<()> {
    let listener = watched(listener)?;
    let own = rustix::process::getuid();
    loop {
        let Ok(ready) = timeout(ALONE_MAX, listener.readable()).await else {
            if with_warden {
                tracing::info!("no warden came back");
                return Ok(());
            }
            continue;
        };
        let mut ready = ready?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(listener.get_ref(), flags) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::AGAIN) => {
                ready.clear_ready();
                continue;
            }
            // Whoever it was went away.
            Err(_) => continue,
        };
        let user = sockopt::socket_peercred(&socket)?.uid;
        if !user.is_root() && user != own {
            tracing::warn!(user = user.as_raw(), "refused a connection: not a warden's");
            continue;
        }
        if converse(socket, &egress).await == End::Farewell && with_warden {
            return Ok(());
        }
    }
}

async fn converse(socket: OwnedFd, egress: &Egress) -> End {
    let (reports, mut told) = mpsc::channel(REPORTS_MAX);
    let mut outlets: HashMap<OutletId, Served> = HashMap::new();
    let mut greeted = false;
    let wanted = Arc::new(Wanted::default());
    let end = async {
        let mut link = Link { socket: watched(socket)?, assembler: Assembler::default() };
        loop {
            tokio::select! {
                heard = link.receive() => match heard? {
                    (ToEgress::Hello { version: VERSION }, _) => {
                        greeted = true;
                        link.send(&FromEgress::Welcome { version: VERSION }).await?;
                    }
                    (ToEgress::Attach { outlet, network, spent_bytes, home, .. }, descriptors) if greeted => {
                        // The one before goes first: its listener is the same.
                        outlets.remove(&outlet);
                        match Outlet::new(outlet, network, egress.caps(), spent_bytes, descriptors) {
                            Ok(opened) => {
                                let door = || Door { outlet, wanted: wanted.clone(), warden: reports.clone() };
                                let served = opened.serve(egress, home.then(door), reports.clone());
                                outlets.insert(outlet, served);
                            }
                            Err(why) => link.send(&FromEgress::Refused { outlet, why }).await?,
                        }
                    }
                    (ToEgress::Change { outlet, network }, _) => match (mode(network), outlets.get(&outlet)) {
                        (Ok(mode), Some(served)) => served.switch.change(mode),
                        (Ok(_), None) => {}
                        (Err(why), _) => {
                            outlets.remove(&outlet);
                            link.send(&FromEgress::Refused { outlet, why }).await?;
                        }
                    },
                    (ToEgress::Sockets { tag }, sockets) => wanted.give(tag, sockets),
                    (ToEgress::Detach { outlet }, _) => drop(outlets.remove(&outlet)),
                    (ToEgress::Farewell, _) if greeted => return Ok(End::Farewell),
                    _ => return Err(PacketError::Malformed("no greeting of this version")),
                },
                Some(report) = told.recv() => link.send(&report).await?,
            }
        }
    };
    end.await.unwrap_or_else(|error: PacketError| {
        // Who says nothing only looked whether somebody is here.
        if greeted {
            tracing::info!(%error, "the warden's connection ended");
        }
        End::Gone
    })
}

/// The warden's connection.
struct Link {
    socket: AsyncFd<OwnedFd>,
    assembler: Assembler,
}

impl Link {
    /// The next message. Nothing is lost when the future is dropped.
    async fn receive(&mut self) -> Result<(ToEgress, Vec<OwnedFd>), PacketError> {
        loop {
            let mut ready = self.socket.readable().await?;
            match self.assembler.receive_next(self.socket.get_ref().as_fd()) {
                Ok(None) => {}
                Ok(Some(message)) => return Ok(message),
                Err(error) if error.would_block() => ready.clear_ready(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the warden has room for it; the warden never waits for us.
    async fn send(&self, message: &FromEgress) -> Result<(), PacketError> {
        let mut packets = Packets::new(message)?;
        while !packets.done() {
            let mut ready = self.socket.writable().await?;
            match packets.send_next(self.socket.get_ref().as_fd(), &[]) {
                Ok(()) => {}
                Err(error) if error.would_block() => ready.clear_ready(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A cell's way out that is open, until this is dropped.
struct Served {
    switch: Switch,
    _serving: AbortOnDropHandle<()>,
}

/// A cell's way out.
struct Outlet {
    id: OutletId,
    policy: Policy,
    listener: TcpListener,
    ended: AsyncFd<OwnedFd>,
    counters: Arc<Counted>,
}

impl Outlet {
    /// Believes the warden, but for what a cell could have to do with: the list's words and the kind of socket.
    fn new(
        id: OutletId,
        network: Network,
        caps: Caps,
        spent_bytes: u64,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, String> {
        let [listener, pidfd, counters]: [OwnedFd; 3] =
            descriptors.try_into().map_err(|_| "three descriptors belong to an outlet".to_owned())?;
        let said = |error: io::Error| error.to_string();
        let shared = SharedCounters::open(counters).map_err(said)?;
        Ok(Self {
            id,
            policy: Policy { mode: mode(network)?, caps },
            listener: listening(listener).map_err(said)?,
            ended: watched(pidfd).map_err(said)?,
            counters: Arc::new(Counted { shared, spent_bytes }),
        })
    }

    /// Until the cell ends, or nobody wants it any more.
    fn serve(self, egress: &Egress, door: Option<Door>, reports: mpsc::Sender<FromEgress>) -> Served {
        let Self { id: outlet, policy, listener, ended, counters } = self;
        let mut handle =
            egress.attach(listener, policy, counters, door.map(|door| Box::new(door) as Box<dyn Home>));
        let switch = handle.switch();
        let serving = tokio::spawn(async move {
            tokio::select! {
                _ended = ended.readable() => {}
                () = tell(outlet, &mut handle, &reports) => {}
            }
            drop(handle);
            // Nobody listens when the warden is gone.
            let _unheard = reports.send(FromEgress::Closed { outlet }).await;
        });
        Served { switch, _serving: AbortOnDropHandle::new(serving) }
    }
}

/// Who waits for sockets of the warden's.
#[derive(Debug, Default)]
struct Wanted {
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Vec<OwnedFd>>>>,
}

impl Wanted {
    fn give(&self, tag: u64, sockets: Vec<OwnedFd>) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&tag);
        // Who does not wait any more needs none.
        let _unclaimed = waiting.map(|waiting| waiting.send(sockets));
    }
}

/// The way to a session's own programs, which the warden opens.
#[derive(Debug)]
struct Door {
    outlet: OutletId,
    wanted: Arc<Wanted>,
    warden: mpsc::Sender<FromEgress>,
}

impl Door {
    async fn sockets(&self) -> Option<Vec<OwnedFd>> {
        let tag = self.wanted.last.fetch_add(1, Ordering::Relaxed);
        let (sender, sockets) = oneshot::channel();
        self.wanted.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(tag, sender);
        let asked = self.warden.send(FromEgress::Reach { outlet: self.outlet, tag }).await;
        let sockets = match asked {
            Ok(()) => timeout(HOME_WAIT, sockets).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        self.wanted.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&tag);
        sockets
    }

    async fn connect(&self, port: u16) -> Option<TcpStream> {
        for (socket, address) in self.sockets().await?.into_iter().zip(LOOPBACK) {
            let socket = TcpSocket::from_std_stream(socket.into());
            // Otherwise it is refused, or whoever listens lets nobody in.
            if let Ok(Ok(stream)) = timeout(HOME_WAIT, socket.connect((address, port).into())).await {
                return Some(stream);
            }
        }
        None
    }
}

impl Home for Door {
    fn dial(&self, port: u16) -> Dialling<'_> {
        Box::pin(self.connect(port))
    }
}

/// Tells of decisions, at a bounded pace; what comes faster is only counted.
async fn tell(outlet: OutletId, handle: &mut Handle, reports: &mpsc::Sender<FromEgress>) {
    let mut at_once = DECISIONS_AT_ONCE;
    let mut refill = tokio::time::interval(DECISION_PAUSE);
    refill.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = refill.tick(), if at_once < DECISIONS_AT_ONCE => at_once += 1,
            Some(decision) = handle.decision(), if at_once > 0 => {
                at_once -= 1;
                let decision = in_words(decision);
                if reports.send(FromEgress::Decided { outlet, decision }).await.is_err() {
                    return;
                }
            }
            else => return,
        }
    }
}

fn in_words(decision: way_out::Decision) -> Decision {
    let way_out::Decision { way, target, address, verdict, missed } = decision;
    let way = way.map(|way| match way {
        way_out::Way::Tunnel => Way::Tunnel,
        way_out::Way::Http => Way::Http,
    });
    let rule = verdict.err().map(|rule| rule.code().to_owned());
    Decision { way, target, address, rule, missed }
}

fn mode(network: Network) -> Result<Mode, String> {
    Ok(match network {
        Network::None => Mode::None,
        Network::Public => Mode::Public,
        Network::Allow(hosts) => {
            let pattern =
                |host: &String| host.parse::<Pattern>().map_err(|error| format!("{host:?}: {error}"));
            Mode::Allow(hosts.iter().map(pattern).collect::<Result<_, _>>()?)
        }
    })
}

/// A TCP socket that listens; anything else that a cell might send is not waited on.
fn listening(socket: OwnedFd) -> io::Result<TcpListener> {
    let right = sockopt::socket_acceptconn(&socket)?
        && sockopt::socket_type(&socket)? == SocketType::STREAM
        && sockopt::socket_domain(&socket)? == AddressFamily::INET;
    if !right {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a TCP socket that listens"));
    }
    rustix::io::ioctl_fionbio(&socket, true)?;
    TcpListener::from_std(socket.into())
}

/// The warden's counters, and what the session's other cells used.
#[derive(Debug)]
struct Counted {
    shared: SharedCounters,
    spent_bytes: u64,
}

impl Meter for Counted {
    fn sent(&self) -> &AtomicU64 {
        self.shared.sent()
    }

    fn received(&self) -> &AtomicU64 {
        self.shared.received()
    }

    fn spent_bytes(&self) -> u64 {
        self.spent_bytes
    }
}
