//! The egress process: what it is given by the warden, what it tells, what survives it, and what it cannot do.
//!
//! The other side of its socket is the warden's own code. Needs root (for namespaces) and iproute2.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod world;

use anchorhold_jail::egress::{Network, Traffic, Way};
use anchorhold_jail::id::SessionId;
use nix::sys::stat::stat;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs;
use std::net::UdpSocket;

use world::{ECHO, assert_closed, echo, run};

/// What an operator says who opens the echo and one name.
const SETTINGS: &str = "hosts = ['127.0.0.1:8081', 'allowed.example:8081']\nallow_private = ['127.0.0.1:8081']\n\
                        public = false\nresolvers = ['127.0.0.1:5353']";

#[test]
fn a_cell_reaches_what_both_allow_and_all_is_told() {
    run(SETTINGS, |mut host| {
        let session = SessionId::random();
        // The last one is beyond what the operator allows anybody: listing it changes nothing.
        let (cell, outlet) = host.cell(session, &[ECHO, "other.example"]);
        let mut tunnel = cell.tunnel(ECHO).unwrap();
        echo(&mut tunnel, 100_000).unwrap();
        let carried = Traffic { sent_bytes: 100_000, received_bytes: 100_000 };
        assert_eq!(host.outlets.traffic(&outlet), carried);
        for (target, rule) in
            [("other.example:443", "host_above_ceiling"), ("127.0.0.1:22", "host_not_listed")]
        {
            let answer = cell.tunnel(target).unwrap_err();
            assert!(answer.contains(&format!("details=\"{rule}\"")), "{answer}");
        }
        host.tend_until("told", |host| host.decisions.len() >= 3);
        assert_eq!(host.verdicts(session), ["-", "host_above_ceiling", "host_not_listed"]);
        let (whose, allowed) = &host.decisions[0];
        assert_eq!((*whose, allowed.way), (session, Some(Way::Tunnel)));
        assert_eq!((allowed.target.as_deref(), allowed.address), (Some(ECHO), Some(ECHO.parse().unwrap())));
        assert_eq!(host.outlets.close(outlet), carried);
    });
}

#[test]
fn names_are_resolved_behind_its_walls() {
    run(SETTINGS, |mut host| {
        let (cell, _outlet) = host.cell(SessionId::random(), &["allowed.example:8081"]);
        let mut tunnel = cell.tunnel("allowed.example:8081").unwrap();
        echo(&mut tunnel, 10).unwrap();
        host.tend_until("told", |host| !host.decisions.is_empty());
        assert_eq!(host.decisions[0].1.address, Some(ECHO.parse().unwrap()));
    });
}

#[test]
fn another_process_goes_on_with_the_counters() {
    run(&format!("{SETTINGS}\nbytes = 3000"), |mut host| {
        let session = SessionId::random();
        let (cell, outlet) = host.cell(session, &[ECHO]);
        let mut tunnel = cell.tunnel(ECHO).unwrap();
        echo(&mut tunnel, 1000).unwrap();
        for _ in 0..2 {
            let process = host.process();
            rustix::process::kill_process(process, Signal::KILL).unwrap();
            assert_closed(&mut tunnel);
            host.tend_until("noticed", |host| host.outlets.connection().is_none());
            host.tend_until("connected", |host| host.outlets.connection().is_some());
            host.tend_until("started again", |host| host.process() != process);
            tunnel = cell.tunnel(ECHO).unwrap();
        }
        assert_eq!(host.outlets.traffic(&outlet).sum_bytes(), 2000);
        echo(&mut tunnel, 600).unwrap();
        assert_eq!(host.outlets.traffic(&outlet).sum_bytes(), 3200);
        // The operator's cap is on all of it.
        assert!(cell.tunnel(ECHO).unwrap_err().contains("details=\"bytes\""));
        // And on the session's next cell.
        host.outlets.close(outlet);
        let (next, _outlet) = host.cell(session, &[ECHO]);
        assert!(next.tunnel(ECHO).unwrap_err().contains("details=\"bytes\""));
        let (other, _outlet) = host.cell(SessionId::random(), &[ECHO]);
        other.tunnel(ECHO).unwrap();
    });
}

#[test]
fn an_outlet_ends_with_its_cell() {
    run(SETTINGS, |mut host| {
        let (mut cell, outlet) = host.cell(SessionId::random(), &[ECHO]);
        let (beside, _outlet) = host.cell(SessionId::random(), &[ECHO]);
        let mut tunnel = cell.tunnel(ECHO).unwrap();
        let mut tunnel_beside = beside.tunnel(ECHO).unwrap();
        echo(&mut tunnel, 10).unwrap();
        // The warden has not said anything: the pidfd did.
        cell.end();
        assert_closed(&mut tunnel);
        echo(&mut tunnel_beside, 10).unwrap();
        assert_eq!(host.outlets.close(outlet).sum_bytes(), 20);
        // Nobody is left at its socket.
        cell.tunnel(ECHO).unwrap_err();
    });
}

#[test]
fn what_the_session_may_do_can_change() {
    run(SETTINGS, |mut host| {
        let session = SessionId::random();
        let (cell, outlet) = host.cell(session, &[ECHO, "allowed.example:8081"]);
        let allow = |hosts: &[&str]| Network::Allow(hosts.iter().map(|&host| host.into()).collect());
        let mut tunnel = cell.tunnel(ECHO).unwrap();
        let mut other = cell.tunnel("allowed.example:8081").unwrap();
        echo(&mut other, 10).unwrap();
        // What is still allowed goes on.
        host.outlets.change(session, &allow(&[ECHO]));
        assert_closed(&mut other);
        echo(&mut tunnel, 10).unwrap();
        assert!(cell.tunnel("allowed.example:8081").unwrap_err().contains("details=\"host_not_listed\""));
        // Without a network nobody is there, not even to refuse: egress does not know the cell any more.
        host.outlets.change(session, &Network::None);
        assert_closed(&mut tunnel);
        assert!(cell.tunnel(ECHO).unwrap_err().contains("refused"));
        host.outlets.change(session, &allow(&[ECHO]));
        let mut tunnel = cell.tunnel(ECHO).unwrap();
        echo(&mut tunnel, 10).unwrap();
        // Also for a process that was started meanwhile.
        rustix::process::kill_process(host.process(), Signal::KILL).unwrap();
        host.tend_until("noticed", |host| host.outlets.connection().is_none());
        host.outlets.change(session, &allow(&["other.example"]));
        host.tend_until("connected", |host| host.outlets.connection().is_some());
        assert!(cell.tunnel(ECHO).unwrap_err().contains("details=\"host_not_listed\""));
        assert_eq!(host.outlets.traffic(&outlet).sum_bytes(), 60);
    });
}

/// A session without a network has an outlet that nobody serves, so that it can get one.
#[test]
fn a_cell_without_a_network_can_get_one() {
    run(SETTINGS, |mut host| {
        let session = SessionId::random();
        let (cell, outlet) = host.cell_with(session, Network::None);
        assert!(cell.tunnel(ECHO).unwrap_err().contains("refused"));
        host.outlets.change(session, &Network::Allow(vec![ECHO.into()]));
        host.tend_until("connected", |host| host.outlets.connection().is_some());
        echo(&mut cell.tunnel(ECHO).unwrap(), 10).unwrap();
        assert_eq!(host.outlets.close(outlet).sum_bytes(), 20);
    });
}

#[test]
fn what_is_no_outlet_is_refused_and_hurts_nobody() {
    run(SETTINGS, |mut host| {
        let (cell, _outlet) = host.cell(SessionId::random(), &[ECHO]);
        let process = host.process();
        let own = || rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
        let allow = |text: &str| Network::Allow(vec![text.into()]);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(ECHO).unwrap();
        let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let session = SessionId::random();
        for (descriptor, network) in [
            (udp.into(), allow(ECHO)),
            (connected.into(), allow(ECHO)),
            (fs::File::open("/dev/null").unwrap().into(), allow(ECHO)),
            (listening.into(), allow("http://not a host/")),
        ] {
            host.outlets.open(session, network, descriptor, own(), false).unwrap();
        }
        host.tend_until("sent", |host| host.outlets.connection().is_some());
        let mut tunnel = cell.tunnel(ECHO).unwrap();
        echo(&mut tunnel, 10).unwrap();
        assert_eq!(host.process(), process);
        let long = Network::Allow(vec!["a.example".into(); 1000]);
        host.outlets.open(session, long, own(), own(), false).unwrap_err();
    });
}

#[test]
fn it_has_no_right_that_it_does_not_need() {
    run(SETTINGS, |mut host| {
        // It serves, so it has given up everything.
        let (cell, _outlet) = host.cell(SessionId::random(), &[ECHO]);
        cell.tunnel(ECHO).unwrap();
        let process = Pid::as_raw_nonzero(host.process());
        let mut threads = 0;
        for thread in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>()
            };
            assert_eq!((field("Uid"), field("Gid")), (vec!["59002"; 4], vec!["59002"; 4]));
            assert_eq!((field("Groups"), field("NoNewPrivs")), (vec![], vec!["1"]));
            assert_eq!(field("Seccomp"), ["2"]);
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(field(set), ["0000000000000000"], "{set}");
            }
            threads += 1;
        }
        assert_eq!(threads, 3, "the main one and those of `threads`");
        let mode = stat(&host.socket).unwrap();
        assert_eq!((mode.st_mode & 0o777, mode.st_uid), (0o600, 0));
    });
}

#[test]
fn it_ends_with_its_warden_or_its_keeper() {
    run(SETTINGS, |mut host| {
        let (_cell, _outlet) = host.cell(SessionId::random(), &[ECHO]);
        host.outlets.farewell();
        assert!(host.keeper.wait().unwrap().success());
        assert!(!host.socket.exists());
    });
    run(SETTINGS, |mut host| {
        let (_cell, _outlet) = host.cell(SessionId::random(), &[ECHO]);
        let process = host.process();
        host.keeper.kill().unwrap();
        host.keeper.wait().unwrap();
        let ended = || rustix::process::test_kill_process(process).is_err();
        host.tend_until("ended", |_| ended());
    });
}
