//! The wasm worker with the real images, where they were built (`make images`).

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panicking what is wrong")]

mod support;

use anchorhold_jail::hatch::{FromCell, How, ToCell};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::{Cell, MEMORY};

/// The same program in every language of ours.
struct Language {
    image: &'static str,
    hello: &'static str,
    remember: &'static str,
    recall: &'static str,
    endless: &'static str,
    sleep: Option<&'static str>,
    stubborn: &'static str,
    recurse: &'static str,
    hoard: &'static str,
    flood: &'static str,
    many_lines: &'static str,
    random: &'static str,
    stdin: Option<&'static str>,
    fail: &'static str,
}

const PYTHON: Language = Language {
    image: "python-wasm",
    hello: "print(1 + 1)",
    remember: "kept = 42",
    recall: "print(kept)",
    endless: "while True: pass",
    sleep: Some("import time; time.sleep(1000)"),
    stubborn: "while True:\n  try:\n    sum(range(10**12))\n  except BaseException: pass",
    recurse: "def f(): return f() + 1\nf()",
    hoard: "kept_list = []\nwhile True: kept_list.append(bytearray(1 << 20))",
    flood: "while True: print('x' * 1000)",
    many_lines: "for n in range(100000): print('line', n)",
    random: "import random, os, uuid; print(random.random(), os.urandom(8).hex(), uuid.uuid4())",
    stdin: Some("import sys; print(len(sys.stdin.read()))"),
    fail: "raise ValueError('no')",
};

const JAVASCRIPT: Language = Language {
    image: "javascript-wasm",
    hello: "console.log(1 + 1)",
    remember: "var kept = 42",
    recall: "console.log(kept)",
    endless: "while (true) {}",
    sleep: Some("await new Promise(done => setTimeout(done, 1000000))"),
    stubborn: "while (true) { try { while (true) {} } catch {} }",
    recurse: "function f() { return f() + 1 }\nf()",
    hoard: "var list = []; while (true) list.push(new Uint8Array(1 << 20).fill(1))",
    flood: "while (true) console.log('x'.repeat(1000))",
    many_lines: "for (let n = 0; n < 100000; n++) console.log('line', n)",
    random: "console.log(Math.random(), Math.random())",
    stdin: None,
    fail: "throw new Error('no')",
};

/// The compiled module of an image; `None` (said aloud) when it was not built.
fn image(name: &str) -> Option<String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let store = cache.join("anchorhold/images");
    let Ok(manifest) = std::fs::read(store.join(format!("{name}.json"))) else {
        eprintln!("skipped: no image {name} in {}", store.display());
        return None;
    };
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let digest = manifest["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    Some(store.join(format!("blobs/{digest}.cwasm")).to_str().unwrap().to_owned())
}

fn each(test: impl Fn(&Language, &dyn Fn() -> Cell)) {
    for language in [PYTHON, JAVASCRIPT] {
        if let Some(image) = image(language.image) {
            eprintln!("{}", language.image);
            test(&language, &|| Cell::ready(&["wasm", &image], MEMORY));
        }
    }
}

#[test]
fn state_lives_between_programs_and_errors_are_told() {
    each(|language, cell| {
        let cell = cell();
        assert_eq!(cell.run(language.hello).text(), "2\n");
        assert_eq!(cell.run(language.remember).ended.how, How::Succeeded);
        let failed = cell.run(language.fail);
        assert_eq!((failed.ended.how, failed.ended.state_lost), (How::Failed, false));
        let error: serde_json::Value = serde_json::from_slice(&failed.ended.error.unwrap()).unwrap();
        assert_eq!(error["message"], "no");
        assert_eq!(cell.run(language.recall).text(), "42\n");
    });
}

#[test]
fn what_takes_too_long_is_interrupted_and_keeps_its_state() {
    each(|language, cell| {
        let cell = cell();
        cell.run(language.remember);
        for code in [Some(language.endless), language.sleep].into_iter().flatten() {
            let began = Instant::now();
            let late = cell.run_with(code, |job| job.timeout_us = 200_000);
            assert_eq!((late.ended.how, late.ended.state_lost), (How::TimedOut, false), "{code}");
            assert!(began.elapsed() < Duration::from_millis(450), "{:?}", began.elapsed());
            let id = cell.begin(code, |_| {});
            std::thread::sleep(Duration::from_millis(50));
            cell.send(&ToCell::Cancel { execution: id }, &[]);
            let cancelled = cell.outcome(id);
            assert_eq!((cancelled.ended.how, cancelled.ended.state_lost), (How::Cancelled, false), "{code}");
        }
        assert_eq!(cell.run(language.recall).text(), "42\n");
    });
}

#[test]
fn what_does_not_listen_is_stopped_in_time() {
    each(|language, cell| {
        let cell = cell();
        let began = Instant::now();
        let stopped = cell.run_with(language.stubborn, |job| job.timeout_us = 200_000);
        assert_eq!(stopped.ended.how, How::TimedOut);
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        if stopped.ended.state_lost {
            assert!(cell.ends());
        }
    });
}

#[test]
fn a_program_cancelled_before_it_began_is_cancelled() {
    each(|language, cell| {
        let cell = cell();
        for _ in 0..20 {
            let id = cell.begin(language.endless, |_| {});
            cell.send(&ToCell::Cancel { execution: id }, &[]);
            let outcome = cell.outcome(id);
            assert_eq!((outcome.ended.how, outcome.ended.state_lost), (How::Cancelled, false));
            cell.send(&ToCell::Acknowledge { execution: id }, &[]);
        }
    });
}

#[test]
fn memory_and_recursion_end_in_errors_of_the_language_or_in_a_crash_that_is_told() {
    each(|language, cell| {
        let recursed = cell().run(language.recurse);
        assert!(matches!(recursed.ended.how, How::Failed | How::Crashed), "{recursed:?}");
        let error: serde_json::Value = serde_json::from_slice(&recursed.ended.error.unwrap()).unwrap();
        eprintln!("recursion: lost {} {}", recursed.ended.state_lost, error["name"]);
        let hoarder = cell().run_with(language.hoard, |job| job.timeout_us = 60_000_000);
        assert!(hoarder.ended.memory_refused, "{hoarder:?}");
        assert!(matches!(hoarder.ended.how, How::Failed | How::Crashed));
        eprintln!("memory: lost {}", hoarder.ended.state_lost);
    });
}

#[test]
fn output_is_gathered_capped_and_ended() {
    each(|language, cell| {
        let cell = cell();
        let lines = cell.run_with(language.many_lines, |job| job.output_bytes = 1 << 30);
        let expected: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
        assert_eq!(lines.text(), expected);
        assert!(lines.packets < 3000, "{}", lines.packets);
        let flood = cell.run_with(language.flood, |job| job.output_bytes = 50_000);
        assert_eq!((flood.ended.how, flood.stdout.len()), (How::OutputExceeded, 50_000));
        assert!(flood.ended.stdout_bytes > 200_000);
        // The guest is asked first, and stopped hard when it prints on through its grace: on a busy machine it may.
        if !flood.ended.state_lost {
            assert_eq!(cell.run(language.hello).text(), "2\n");
        }
    });
}

#[test]
fn a_new_listener_hears_everything_again_also_of_what_runs() {
    each(|language, cell| {
        let cell = cell();
        let first = cell.begin(language.hello, |_| {});
        let outcome = cell.outcome(first);
        let second = cell.begin(language.many_lines, |job| job.output_bytes = 1 << 30);
        // Nobody reads: the guest is held up in the middle of its output.
        std::thread::sleep(Duration::from_millis(500));
        cell.send(&ToCell::Attach { generation: 7 }, &[]);
        loop {
            match cell.receive() {
                FromCell::Attached { generation: 7, executions } => {
                    break assert_eq!(executions, [first, second]);
                }
                FromCell::Output { execution, .. } => assert_eq!(execution, second),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(cell.outcome(first).stdout, outcome.stdout);
        assert_eq!(cell.outcome(second).stdout.iter().filter(|byte| **byte == b'\n').count(), 100_000);
        cell.send(&ToCell::Acknowledge { execution: first }, &[]);
        cell.send(&ToCell::Acknowledge { execution: second }, &[]);
        cell.send(&ToCell::Attach { generation: 8 }, &[]);
        assert!(
            matches!(cell.receive(), FromCell::Attached { generation: 8, executions } if executions.is_empty())
        );
    });
}

#[test]
fn no_two_sessions_draw_the_same_numbers() {
    each(|language, cell| {
        let (one, other) = (cell().run(language.random).text(), cell().run(language.random).text());
        assert!(one.len() > 10);
        one.split_whitespace().zip(other.split_whitespace()).for_each(|(a, b)| assert_ne!(a, b));
    });
}

#[test]
fn standard_input_is_all_there_and_never_waits() {
    each(|language, cell| {
        let Some(code) = language.stdin else { return };
        let cell = cell();
        assert_eq!(cell.run_with(code, |job| job.stdin = vec![b'x'; 300_000]).text(), "300000\n");
        assert_eq!(cell.run(code).text(), "0\n");
    });
}

#[test]
fn the_cell_ends_with_its_hatch_in_the_middle_of_a_program() {
    each(|language, cell| {
        let mut cell = cell();
        cell.begin(language.endless, |_| {});
        let (ours, _) = anchorhold_jail::packet::pair().unwrap();
        drop(std::mem::replace(&mut cell.hatch, ours));
        assert!(cell.ends());
    });
}
