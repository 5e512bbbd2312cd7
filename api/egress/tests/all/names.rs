//! Which hosts and addresses are reached, and what is sent for those that are not: nothing.

use crate::world::{RESOLVER, UPSTREAM, World, allow, assert_refused, ceiling, run};
use anchorhold_egress::{Caps, Ceiling, Egress, Listable, Mode, Public, Rule, Settings, Way};
use std::collections::BTreeSet;

/// Only the resolver heard of it.
fn assert_only_asked(world: &World, about: &str) {
    let to_resolver = BTreeSet::from([format!("udp {RESOLVER}")]);
    assert_eq!(world.packets(), to_resolver, "{about}");
    assert!(world.seen().is_empty(), "{about}");
}

/// security.md 69 and 74: what is not listed is not even resolved.
#[test]
fn what_the_policy_refuses_sends_nothing() {
    run(async |world| {
        let none = world.attach(Mode::None).await;
        let listed = world.attach(allow(&["allowed.example", "*.allowed.example:8081"])).await;
        let public = world.attach(Mode::Public).await;
        let narrow = Ceiling {
            hosts: Listable::Only(vec!["other.example".parse().unwrap()]),
            public: Public::Refused,
            ..ceiling()
        };
        let narrow = world.egress(narrow);
        let above = world.attach_with(&narrow, allow(&["allowed.example"]), Caps::DEFAULT).await;
        let no_public = world.attach_with(&narrow, Mode::Public, Caps::DEFAULT).await;
        for (session, target, rule) in [
            (&none, "allowed.example:80", "network_none"),
            (&listed, "other.example:80", "host_not_listed"),
            (&listed, "notallowed.example:80", "host_not_listed"),
            (&listed, "allowed.example.evil.example:80", "host_not_listed"),
            (&listed, "sub.allowed.example:80", "host_not_listed"),
            (&listed, "allowed.example:8081", "host_not_listed"),
            (&listed, "93.184.216.34:80", "host_not_listed"),
            (&public, "allowed.example:8081", "port_not_public"),
            (&public, "allowed.example:25", "port_not_public"),
            (&above, "allowed.example:80", "host_above_ceiling"),
            (&no_public, "other.example:80", "public_refused"),
        ] {
            let answer = session.get(&format!("http://{target}/")).await;
            assert_refused(&answer, 403, rule, target);
            let answer = session.tunnel(target).await.expect_err(target);
            assert_refused(&answer, 403, rule, target);
        }
        world.assert_quiet("nothing was allowed");

        let answer = listed.get("http://ALLOWED.example./").await;
        assert!(answer.ends_with("hello from 93.184.216.34:80"), "{answer}");
        let answer = listed.get("http://sub.allowed.example:8081/").await;
        assert!(answer.ends_with("hello from 93.184.216.35:8081"), "{answer}");
        let expected =
            [format!("udp {RESOLVER}"), "tcp 93.184.216.34:80".into(), "tcp 93.184.216.35:8081".into()];
        assert_eq!(world.packets(), BTreeSet::from(expected));
    });
}

/// security.md 70 and 71, in every spelling that anything might take for an address.
#[test]
fn the_inside_is_closed_in_every_spelling() {
    run(async |world| {
        let session = world.attach(Mode::Public).await;
        for (host, status, rule) in [
            ("169.254.169.254", 403, "address_not_global"),
            ("[::ffff:169.254.169.254]", 403, "address_not_global"),
            ("[::ffff:a9fe:a9fe]", 403, "address_not_global"),
            ("[64:ff9b::a9fe:a9fe]", 403, "address_not_global"),
            ("[64:ff9b:1::a9fe:a9fe]", 403, "address_not_global"),
            ("[2002:a9fe:a9fe::]", 403, "address_not_global"),
            ("[2001::5601:5601]", 403, "address_not_global"),
            ("[fd00:ec2::254]", 403, "address_not_global"),
            ("100.100.100.200", 403, "address_not_global"),
            ("168.63.129.16", 403, "address_not_global"),
            ("127.0.0.1", 403, "address_not_global"),
            ("0.0.0.0", 403, "address_not_global"),
            ("[::]", 403, "address_not_global"),
            ("[::1]", 403, "address_not_global"),
            ("10.1.2.3", 403, "address_not_global"),
            ("10.99.0.2", 403, "address_not_global"),
            ("224.0.0.1", 403, "address_not_global"),
            ("255.255.255.255", 403, "address_not_global"),
            // Global, but of the host that egress runs on: no firewall stands before those.
            ("5.9.9.9", 403, "address_not_global"),
            ("localhost", 403, "address_not_global"),
            ("2852039166", 400, "bad_request"),
            ("0xa9fea9fe", 400, "bad_request"),
            ("0251.0376.0251.0376", 400, "bad_request"),
            ("169.254.43518", 400, "bad_request"),
            ("169.254.169.254.", 400, "bad_request"),
        ] {
            let answer = session.get(&format!("http://{host}/latest/meta-data/")).await;
            assert_refused(&answer, status, rule, host);
            let answer = session.tunnel(&format!("{host}:443")).await.expect_err(host);
            assert_refused(&answer, status, rule, host);
        }
        world.assert_quiet("all of that is closed");
        for host in ["93.184.216.34", "[2606:2800::34]"] {
            let answer = session.get(&format!("http://{host}/")).await;
            assert!(answer.ends_with(&format!("hello from {host}:80")), "{answer}");
        }
    });
}

/// security.md 70: names that lead inside, by themselves, beside others, and by aliases.
#[test]
fn names_do_not_lead_inside() {
    run(async |world| {
        for mode in [Mode::Public, allow(&["*.google.internal", "*.x.example"])] {
            let mut session = world.attach(mode.clone()).await;
            if let Mode::Allow(_) = mode {
                let answer = session.get("http://metadata.google.internal/").await;
                assert_refused(&answer, 403, "address_not_global", "listed");
                assert_only_asked(&world, "listed");
                continue;
            }
            for name in [
                "inside.example",
                "metadata.google.internal",
                "mixed.example",
                "mixed6.example",
                "mapped.example",
                "nat64.example",
                "alias.example",
                "alias-of-alias.example",
                "self.example",
            ] {
                let answer = session.get(&format!("http://{name}/")).await;
                assert_refused(&answer, 403, "address_not_global", name);
                let answer = session.tunnel(&format!("{name}:443")).await.expect_err(name);
                assert_refused(&answer, 403, "address_not_global", name);
                assert_only_asked(&world, name);
                for _ in 0..2 {
                    let decision = session.decision().await;
                    assert_eq!(decision.verdict, Err(Rule::AddressNotGlobal), "{name}");
                }
            }
            let answer = session.get("http://good-alias.example/").await;
            assert!(answer.ends_with("hello from 93.184.216.34:80"), "{answer}");
            let answer = session.get("http://unknown.example/").await;
            assert_refused(&answer, 502, "name_unknown", "unknown");
            world.packets();
            world.seen();
        }
    });
}

/// An answer that does not fit is asked for again over TCP, and read to its end.
#[test]
fn long_answers_are_read_to_their_end() {
    run(async |world| {
        let session = world.attach(Mode::Public).await;
        assert_refused(&session.get("http://long.example/").await, 403, "address_not_global", "long");
        let asked = [format!("tcp {RESOLVER}"), format!("udp {RESOLVER}")];
        assert_eq!(world.packets(), BTreeSet::from(asked));
    });
}

/// What was checked is dialled, and each connection is checked anew.
#[test]
fn a_name_that_changes_gains_nothing() {
    run(async |world| {
        let session = world.attach(Mode::Public).await;
        let answer = session.get("http://rebinding.example/").await;
        assert!(answer.ends_with("hello from 93.184.216.34:80"), "{answer}");
        let queries = world.queries();
        assert_eq!(queries.len(), 2, "one lookup for one connection: {queries:?}");
        world.packets();
        world.seen();
        assert_refused(&session.get("http://rebinding.example/").await, 403, "address_not_global", "rebound");
        assert_only_asked(&world, "rebound");
    });
}

/// security.md 72.
#[test]
fn a_redirect_is_a_new_decision() {
    run(async |world| {
        let session = world.attach(allow(&["allowed.example"])).await;
        for to in [
            "http://169.254.169.254/latest",
            "http://inside.example/",
            "http://other.example/",
            "file:///etc/passwd",
        ] {
            let answer = session.get(&format!("http://allowed.example/redirect?{to}")).await;
            assert!(answer.starts_with("HTTP/1.1 302 "), "{answer}");
            assert!(answer.to_ascii_lowercase().contains(&format!("location: {to}")), "{answer}");
            world.queries();
            world.packets();
            world.seen();
            // The client in the session follows it, with no more rights than before.
            let answer = session.get(to).await;
            assert!(answer.starts_with("HTTP/1.1 403 ") || answer.starts_with("HTTP/1.1 400 "), "{answer}");
            world.assert_quiet(to);
        }
    });
}

/// What the operator opens of the inside is open by address, by name, on that port, and not to public mode.
#[test]
fn the_operator_opens_parts_of_the_inside() {
    run(async |world| {
        let allow_private = vec!["10.1.2.3:8081".parse().unwrap()];
        let egress = world.egress(Ceiling { allow_private, ..ceiling() });
        let hosts = allow(&["10.1.2.3:8081", "10.1.2.3", "inside.example:8081", "inside.example"]);
        let session = world.attach_with(&egress, hosts, Caps::DEFAULT).await;
        for url in ["http://10.1.2.3:8081/", "http://inside.example:8081/"] {
            let answer = session.get(url).await;
            assert!(answer.ends_with("hello from 10.1.2.3:8081"), "{answer}");
        }
        let public = world.attach_with(&egress, Mode::Public, Caps::DEFAULT).await;
        world.packets();
        world.seen();
        for (session, url, rule) in [
            (&session, "http://10.1.2.3/", "address_not_global"),
            (&session, "http://inside.example/", "address_not_global"),
            (&session, "http://[::ffff:10.1.2.3]:8081/", "host_not_listed"),
            (&public, "http://10.1.2.3:8081/", "port_not_public"),
        ] {
            assert_refused(&session.get(url).await, 403, rule, url);
        }
        assert_only_asked(&world, "closed");
    });
}

/// Of a name with several addresses the next one is tried, and nothing else.
#[test]
fn the_next_checked_address_is_tried() {
    run(async |world| {
        let session = world.attach(allow(&["dual.example", "allowed.example:9"])).await;
        assert!(session.get("http://dual.example/").await.ends_with("hello from 93.184.216.34:80"));
        assert_refused(&session.get("http://allowed.example:9/").await, 502, "unreachable", "nobody listens");
        let expected =
            [format!("udp {RESOLVER}"), "tcp 93.184.216.34:80".into(), "tcp 93.184.216.34:9".into()];
        assert_eq!(world.packets(), BTreeSet::from(expected));
    });
}

/// An upstream proxy is asked for addresses that were checked, and sees no name.
#[test]
fn an_upstream_proxy_gets_checked_addresses() {
    run(async |world| {
        let egress = Egress::new(Settings {
            ceiling: ceiling(),
            resolvers: vec![RESOLVER.parse().unwrap()],
            upstream: Some(UPSTREAM.parse().unwrap()),
        });
        let hosts = allow(&["allowed.example", "allowed.example:8081", "inside.example"]);
        let mut session = world.attach_with(&egress.unwrap(), hosts, Caps::DEFAULT).await;
        let mut tunnel = session.tunnel("allowed.example:8081").await.unwrap();
        // What came in one piece with the upstream's answer is not lost.
        assert_eq!(crate::world::hear(&mut tunnel).await, "EARLY");
        let decision = session.decision().await;
        assert_eq!(decision.address, Some("93.184.216.34:8081".parse().unwrap()));
        assert_eq!((decision.way, decision.verdict), (Some(Way::Tunnel), Ok(())));
        let seen = world.seen();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].at, UPSTREAM.parse().unwrap());
        assert!(seen[0].text().starts_with("CONNECT 93.184.216.34:8081 HTTP/1.1\r\n"), "{}", seen[0].text());
        assert!(!seen[0].text().contains("allowed"), "{}", seen[0].text());
        world.packets();
        assert_refused(&session.get("http://inside.example/").await, 403, "address_not_global", "inside");
        assert_only_asked(&world, "inside");
    });
}

/// security.md 76: who is who is decided by the socket.
#[test]
fn sessions_are_apart() {
    run(async |world| {
        let egress = world.egress(ceiling());
        let one = world.attach_with(&egress, allow(&["allowed.example"]), Caps::DEFAULT).await;
        let other = world.attach_with(&egress, allow(&["other.example"]), Caps::DEFAULT).await;
        for (session, can, cannot) in
            [(&one, "allowed.example", "other.example"), (&other, "other.example", "allowed.example")]
        {
            assert!(session.get(&format!("http://{can}/")).await.starts_with("HTTP/1.1 200 "), "{can}");
            assert_refused(&session.get(&format!("http://{cannot}/")).await, 403, "host_not_listed", cannot);
        }
        // Not even through each other: loopback is of the inside.
        let chain = format!("http://{}/", other.proxy);
        assert_refused(&one.get(&chain).await, 403, "host_not_listed", "chain");
    });
}

/// Each decision is told, with what the person in the session is not told.
#[test]
fn decisions_are_told() {
    run(async |world| {
        let mut session = world.attach(allow(&["allowed.example", "inside.example"])).await;
        session.get("http://Allowed.example/").await;
        session.get("http://inside.example/").await;
        session.tunnel("other.example:443").await.unwrap_err();
        session.get("http://user@allowed.example/").await;
        session.say("\0\0\r\n\r\n").await;
        let mut told = Vec::new();
        for _ in 0..5 {
            let decision = session.decision().await;
            assert_eq!(decision.missed, 0);
            told.push((
                decision.way,
                decision.target,
                decision.address.map(|a| a.to_string()),
                decision.verdict,
            ));
        }
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            told,
            [
                (Some(Way::Http), text("allowed.example:80"), text("93.184.216.34:80"), Ok(())),
                (Some(Way::Http), text("inside.example:80"), None, Err(Rule::AddressNotGlobal)),
                (Some(Way::Tunnel), text("other.example:443"), None, Err(Rule::HostNotListed)),
                (None, None, None, Err(Rule::BadRequest)),
                (None, None, None, Err(Rule::BadRequest)),
            ]
        );
    });
}
