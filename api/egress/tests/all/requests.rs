//! What a request may look like, and what is left of it on the way.

use crate::world::{World, allow, assert_refused, run};

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// What the only host that got something heard; nothing is left in the list.
async fn heard(world: &World) -> String {
    world.seen_one().await.text()
}

/// security.md 74 and 108: NUL, line ends, users, other forms.
#[test]
fn odd_requests_are_refused_and_send_nothing() {
    run(async |world| {
        let session = world.attach(allow(&["allowed.example", "*.allowed.example"])).await;
        for request in [
            "GET http://evil.example\0.allowed.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT evil.example\0.allowed.example:80 HTTP/1.1\r\n\r\n",
            "CONNECT evil.example%00.allowed.example:80 HTTP/1.1\r\n\r\n",
            "CONNECT evil.example\r\n.allowed.example:80 HTTP/1.1\r\n\r\n",
            "CONNECT evil.example\n.allowed.example:80 HTTP/1.1\r\n\r\n",
            "CONNECT evil.example .allowed.example:80 HTTP/1.1\r\n\r\n",
            "CONNECT evil.example/.allowed.example:80 HTTP/1.1\r\n\r\n",
            "CONNECT evil.example#.allowed.example:80 HTTP/1.1\r\n\r\n",
            "CONNECT evil.example\\.allowed.example:80 HTTP/1.1\r\n\r\n",
            "CONNECT evil.example:80@allowed.example:80 HTTP/1.1\r\n\r\n",
            "CONNECT allowed.example HTTP/1.1\r\n\r\n",
            "CONNECT allowed.example: HTTP/1.1\r\n\r\n",
            "CONNECT allowed.example:+80 HTTP/1.1\r\n\r\n",
            "CONNECT allowed.example:80/ HTTP/1.1\r\n\r\n",
            "CONNECT http://allowed.example:80/ HTTP/1.1\r\n\r\n",
            "CONNECT _x.allowed.example:80 HTTP/1.1\r\n\r\n",
            "CONNECT *.allowed.example:80 HTTP/1.1\r\n\r\n",
            "GET http://user@allowed.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET http://user:word@allowed.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET https://allowed.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET ftp://allowed.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
            "GET allowed.example HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
            "GET //allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
            "GET http://allowed.example/ HTTP/1.1\r\nHost : x\r\n\r\n",
            "GET http://allowed.example/ HTTP/1.1\r\nX: a\0b\r\n\r\n",
            "GET http://allowed.example/ HTTP/1.1\r\nX: a\r\n folded\r\n\r\n",
            "GET http://allowed.example/\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\x16\x03\x01\0\x05hello\r\n\r\n",
            "\x05\x01\0\r\n\r\n",
        ] {
            let answer = session.say(request).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{request:?}: {answer}");
            assert!(answer.matches("HTTP/1.1").count() <= 1, "{request:?}: {answer}");
        }
        let long = format!("GET http://allowed.example/ HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
        assert!(session.say(long).await.starts_with("HTTP/1.1 431 "));
        let many = format!("GET http://allowed.example/ HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
        assert!(session.say(many).await.starts_with("HTTP/1.1 431 "));
        world.assert_quiet("odd");
    });
}

/// security.md 108: what has two lengths is one request with one length, or none.
#[test]
fn nothing_is_smuggled() {
    run(async |world| {
        let session = world.attach(allow(&["allowed.example"])).await;
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: allowed.example\r\n\r\n";
        let head = "POST http://allowed.example/ HTTP/1.1\r\nHost: x\r\n";
        for lengths in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "Content-Length: +5\r\n\r\nhello",
            "Content-Length: 5, 6\r\n\r\nhello",
        ] {
            let answer = session.say(format!("{head}{lengths}{smuggled}")).await;
            assert!(!answer.contains("smuggled"), "{lengths:?}: {answer}");
            for seen in world.seen() {
                let text = seen.text();
                assert!(!text.contains("smuggled"), "{lengths:?}: {text}");
                assert!(!text.to_ascii_lowercase().contains("content-length"), "{lengths:?}: {text}");
                assert_eq!(text.matches(" HTTP/1.1\r\n").count(), 1, "{lengths:?}: {text}");
            }
        }
        // What comes behind a request is a request of its own to us, with a decision of its own.
        let answer = session.say(format!("{head}Content-Length: 2\r\n\r\nok{smuggled}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_refused(&answer[answer.rfind("HTTP/1.1").unwrap()..], 400, "bad_request", "the second");
        let text = heard(&world).await;
        assert!(text.ends_with("\r\n\r\nok") && text.contains("content-length: 2\r\n"), "{text}");
    });
}

#[test]
fn what_goes_out_is_only_for_the_other_end() {
    run(async |world| {
        let session = world.attach(allow(&["allowed.example", "allowed.example:8081"])).await;
        let request = "POST http://Allowed.example./path?a=b%20c HTTP/1.1\r\nHost: other.example\r\n\
            Connection: close, X-Hop\r\nX-Hop: 1\r\nX-End: 1\r\nKeep-Alive: 1\r\nProxy-Connection: keep-alive\r\n\
            Proxy-Authorization: Basic eDp5\r\nTE: trailers\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n\
            Transfer-Encoding: chunked\r\nCookie: a=b\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let answer = session.say(request).await;
        assert!(body(&answer).ends_with("hello from 93.184.216.34:80"), "{answer}");
        let text = heard(&world).await.to_ascii_lowercase();
        assert!(text.starts_with("post /path?a=b%20c http/1.1\r\n"), "{text}");
        assert!(text.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{text}");
        for (header, there) in [
            ("host: allowed.example\r\n", true),
            ("transfer-encoding: chunked\r\n", true),
            ("x-end: 1\r\n", true),
            ("cookie: a=b\r\n", true),
            ("via: 1.1 anchorhold\r\n", true),
            ("x-hop", false),
            ("keep-alive", false),
            ("proxy-", false),
            ("te:", false),
            ("upgrade", false),
            ("expect", false),
            ("content-length", false),
        ] {
            assert_eq!(text.contains(&format!("\r\n{header}")), there, "{header}: {text}");
        }
        assert!(!text.contains("other.example"), "{text}");
        session.get("http://allowed.example:8081/").await;
        assert!(heard(&world).await.contains("host: allowed.example:8081\r\n"));
    });
}

#[test]
fn what_comes_back_is_only_for_this_end() {
    run(async |world| {
        let session = world.attach(allow(&["allowed.example"])).await;
        let answer = session.get("http://allowed.example/hops").await.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200 ") && answer.ends_with("\r\n\r\nok"), "{answer}");
        assert!(answer.contains("x-end: 1\r\n"), "{answer}");
        for header in ["x-hop", "keep-alive", "proxy-authenticate", "upgrade"] {
            assert!(!answer.contains(header), "{header}: {answer}");
        }
        let answer = session.get("http://allowed.example/both-lengths").await.to_ascii_lowercase();
        assert!(
            answer.contains("transfer-encoding: chunked") && !answer.contains("content-length"),
            "{answer}"
        );
        for path in ["two-lengths", "switch", "garbage"] {
            let answer = session.get(&format!("http://allowed.example/{path}")).await;
            assert_refused(&answer, 502, "bad_answer", path);
        }
        let answer = session
            .say("HEAD http://allowed.example/bytes/5 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = answer.await.to_ascii_lowercase();
        assert!(answer.contains("content-length: 5\r\n") && body(&answer).is_empty(), "{answer}");
    });
}

/// One connection to us, as many to outside as there are requests.
#[test]
fn each_request_is_decided_on_by_itself() {
    run(async |world| {
        let session = world.attach(allow(&["allowed.example", "other.example"])).await;
        let get = |host: &str| format!("GET http://{host}/ HTTP/1.1\r\nHost: allowed.example\r\n\r\n");
        let answer =
            session.say(get("allowed.example") + &get("other.example") + &get("inside.example")).await;
        assert!(answer.contains("hello from 93.184.216.34:80HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("hello from 93.184.216.35:80HTTP/1.1 403 "), "{answer}");
        assert_eq!(world.seen().len(), 2);
    });
}
