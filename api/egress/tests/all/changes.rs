//! What a session may reach is changed while it is under way.

use crate::world::{allow, assert_refused, ceiling, hear, is_closed, run};
use anchorhold_egress::{Caps, Mode, Rule, Way};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn echo(tunnel: &mut TcpStream) -> std::io::Result<()> {
    tunnel.write_all(&[0xff; 100]).await?;
    tunnel.read_exact(&mut [0; 100]).await.map(drop)
}

#[test]
fn what_is_not_allowed_any_more_is_cut_and_the_rest_goes_on() {
    run(async |world| {
        let mut session = world.attach(allow(&["allowed.example:8081", "other.example:8081"])).await;
        let switch = session.handle.switch();
        let mut kept = session.tunnel("allowed.example:8081").await.unwrap();
        let mut cut = session.tunnel("other.example:8081").await.unwrap();
        echo(&mut kept).await.unwrap();
        echo(&mut cut).await.unwrap();
        switch.change(allow(&["allowed.example:8081", "allowed.example"]));
        assert!(is_closed(&mut cut).await);
        echo(&mut kept).await.unwrap();
        let refused = session.tunnel("other.example:8081").await.unwrap_err();
        assert_refused(&refused, 403, "host_not_listed", "a new connection");
        assert!(session.get("http://allowed.example/").await.starts_with("HTTP/1.1 200 "));
        echo(&mut kept).await.unwrap();
        // It is told what was cut, and by which rule.
        let told = [session.decision().await, session.decision().await, session.decision().await];
        assert_eq!(told.each_ref().map(|told| told.verdict), [Ok(()), Ok(()), Err(Rule::HostNotListed)]);
        assert_eq!((told[2].way, told[2].target.as_deref()), (Some(Way::Tunnel), Some("other.example:8081")));
        switch.change(Mode::None);
        assert!(is_closed(&mut kept).await);
        assert_refused(
            &session.get("http://allowed.example/").await,
            403,
            "network_none",
            "without a network",
        );
        world.seen();
        world.packets();
        world.queries();
        session.get("http://allowed.example/").await;
        world.assert_quiet("without a network");
    });
}

/// An address that was open by the operator's leave is no public one: the same target under another mode.
#[test]
fn an_open_connection_is_judged_by_its_address_too() {
    run(async |world| {
        let inside =
            anchorhold_egress::Ceiling { allow_private: vec!["10.1.2.3".parse().unwrap()], ..ceiling() };
        let session =
            world.attach_with(&world.egress(inside), allow(&["inside.example"]), Caps::DEFAULT).await;
        let mut waiting = session.connect().await;
        let head = "GET http://inside.example/silent HTTP/1.1\r\nHost: inside.example\r\n\r\n";
        waiting.write_all(head.as_bytes()).await.unwrap();
        world.seen_one().await;
        session.handle.switch().change(Mode::Public);
        assert!(is_closed(&mut waiting).await);
        assert_refused(&session.get("http://inside.example/").await, 403, "address_not_global", "a new one");
    });
}

/// A request whose name is looked up, or whose host is dialled, while its permission is taken away.
#[test]
fn what_is_under_way_when_the_mode_changes_gets_nowhere() {
    run(async |world| {
        let session = world.attach(allow(&["allowed.example"])).await;
        let switch = session.handle.switch();
        for _ in 0..40 {
            let mut stream = session.connect().await;
            let head = "CONNECT allowed.example:80 HTTP/1.1\r\nHost: x\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
            switch.change(Mode::None);
            // Whatever it was answered, it carries nothing.
            let _cut = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            let heard = hear(&mut stream).await;
            assert!(!heard.contains("hello from"), "{heard}");
            switch.change(allow(&["allowed.example"]));
        }
    });
}
