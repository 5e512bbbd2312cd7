//! Native programs that want more than they may: what they get, and that nobody else notices.

use crate::Shared;
use crate::native::warmed;
use anchorhold_tests::{Client, host};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

tests!(
    limits_of_processes_are_fixed,
    files_descriptors_and_threads_run_out_inside,
    memory_of_every_kind_is_the_sessions,
    priorities_are_not_chosen,
    processors_are_capped,
    equal_sessions_get_equal_shares,
    whoever_stops_itself_is_ended,
    daemons_end_with_their_session,
    code_made_in_memory_gains_nothing,
    results_are_bounded,
    an_interpreter_may_crash_again_and_again,
);

/// A native session with these limits.
fn session(client: &Client, limits: &Value) -> Result<String> {
    let session = client.session(&json!({"runtime": "native", "limits": limits}))?;
    warmed(client, &session)?;
    Ok(session)
}

/// What a program printed as JSON.
fn told(client: &Client, session: &str, code: &str) -> Result<Value> {
    let answer = client.execute(session, "python", code)?;
    ensure!(answer["status"] == "succeeded", "{answer:#}");
    let text = answer["stdout"].as_str().unwrap_or_default();
    serde_json::from_str(text).with_context(|| format!("{answer:#}"))
}

/// security.md 34: read in Python, in a child, and raised.
fn limits_of_processes_are_fixed(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client, &json!({}))?;
    let code = "import json, resource, subprocess\n\
        names = ['CORE', 'NOFILE', 'MSGQUEUE', 'RTPRIO', 'MEMLOCK']\n\
        own = {name: resource.getrlimit(getattr(resource, 'RLIMIT_' + name)) for name in names}\n\
        raised = []\n\
        for name in names:\n\
        \x20   try: resource.setrlimit(getattr(resource, 'RLIMIT_' + name), (10**6, 10**6)); raised.append(name)\n\
        \x20   except (ValueError, PermissionError): pass\n\
        child = subprocess.run(['sh', '-c', 'ulimit -Hc; ulimit -Hn; ulimit -Hl'], capture_output=True, text=True).stdout.split()\n\
        print(json.dumps([own, raised, child]))";
    let expected = json!([
        {"CORE": [0, 0], "NOFILE": [4096, 4096], "MSGQUEUE": [0, 0], "RTPRIO": [0, 0], "MEMLOCK": [0, 0]},
        [],
        ["0", "4096", "0"],
    ]);
    assert_eq!(told(&client, &session, code)?, expected);
    client.close(&session)?;
    Ok(())
}

/// security.md 31, 37.
fn files_descriptors_and_threads_run_out_inside(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let limits = json!({"disk_bytes": 16 << 20, "processes": 64});
    let (session, neighbour) = (session(&client, &limits)?, session(&client, &json!({}))?);
    let code = "import errno, json, os, shutil, socket, threading\n\
        def until(act, most):\n    held = []\n    try:\n        for n in range(most): held.append(act(n))\n\
        \x20   except OSError as error: return [len(held), errno.errorcode[error.errno]], held\n\
        \x20   except RuntimeError: return [len(held), 'EAGAIN'], held\n\
        \x20   return [len(held), None], held\n\
        found = {}\n\
        os.mkdir('many'); found['files'], _ = until(lambda n: os.close(os.open(f'many/{n}', os.O_CREAT)), 10**6)\n\
        shutil.rmtree('many')\n\
        os.mkdir('deep'); os.chdir('deep')\n\
        def deeper(n): os.mkdir('d'); os.chdir('d')\n\
        found['directories'], _ = until(deeper, 10**5)\n\
        os.chdir('/workspace'); os.system('rm -rf deep')\n\
        found['descriptors'], held = until(lambda n: os.open('/dev/null', os.O_RDONLY), 10**5)\n\
        for one in held: os.close(one)\n\
        found['sockets'], held = until(lambda n: socket.socket(), 10**5)\n\
        for one in held: one.close()\n\
        wait = threading.Event()\n\
        def begin(n): one = threading.Thread(target=wait.wait); one.start(); return one\n\
        found['threads'], held = until(begin, 10**4)\n\
        wait.set(); [one.join() for one in held]\n\
        print(json.dumps([found, os.listdir('/workspace')]))";
    let answer = told(&client, &session, code)?;
    let found = &answer[0];
    let count = |what: &str| found[what][0].as_u64().unwrap_or(u64::MAX);
    let why = |what: &str| found[what][1].as_str().unwrap_or("nothing").to_owned();
    assert_eq!((why("files"), why("directories")), ("ENOSPC".into(), "ENOSPC".into()), "{found:#}");
    ensure!(count("files") < 2100 && count("directories") < 2100, "{found:#}");
    assert_eq!((why("descriptors"), why("sockets")), ("EMFILE".into(), "EMFILE".into()), "{found:#}");
    ensure!(count("descriptors") < 4096 && count("sockets") < 4096, "{found:#}");
    assert_eq!(why("threads"), "EAGAIN", "{found:#}");
    ensure!(count("threads") <= 128, "{found:#}");
    assert_eq!(answer[1], json!([]));
    assert_eq!(client.execute(&neighbour, "python", "print(1)")?["stdout"], "1\n");
    let begun = Instant::now();
    client.close(&session)?;
    ensure!(begun.elapsed() < Duration::from_secs(10), "it took {:?} to end", begun.elapsed());
    client.close(&neighbour)?;
    Ok(())
}

/// security.md 29, 30, 32: the program that takes it is ended, or refused, and the session's memory is what it may be.
fn memory_of_every_kind_is_the_sessions(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let limits = json!({"memory_bytes": 256 << 20, "disk_bytes": 32 << 20});
    for (what, code) in [
        ("anonymous", "x = bytearray(1 << 30)"),
        (
            "a file in memory",
            "import os\nfd = os.memfd_create('x')\nwhile True: os.write(fd, bytes(1 << 20))",
        ),
        ("shared", "import mmap\nx = mmap.mmap(-1, 1 << 30)\nfor at in range(0, 1 << 30, 4096): x[at] = 1"),
        (
            "unread sockets",
            "import socket\nheld = []\nwhile True:\n    one, other = socket.socketpair(); held.append((one, other))\n\
             \x20   one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20); one.setblocking(False)\n\
             \x20   try:\n        while True: one.send(bytes(1 << 16))\n    except BlockingIOError: pass",
        ),
    ] {
        let session = session(&client, &limits)?;
        let request = json!({"language": "python", "code": code, "timeout_seconds": 20});
        let answer = client.execute_with(&session, &request)?;
        let error = answer["error"]["name"].as_str().unwrap_or_default();
        let ended = answer["limit"] == "memory" || ["MemoryError", "OSError"].contains(&error);
        ensure!(ended, "{what}: {answer:#}");
        let peak = answer["usage"]["memory_peak_bytes"].as_u64().context("a peak")?;
        ensure!(peak <= (256 + 32 + 8) << 20, "{what}: {peak} bytes: {answer:#}");
        // A child that takes it is ended, and the interpreter is told.
        if what == "anonymous" {
            client.execute(&session, "python", "kept = 41")?;
            let child = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', \
                'x = bytearray(200 << 20); y = bytearray(200 << 20); y[:] = bytes(len(y)); x[:] = y']).returncode < 0 or kept";
            let answer = client.execute(&session, "python", child)?;
            ensure!(answer["status"] == "succeeded" || answer["limit"] == "memory", "{answer:#}");
        }
        client.close(&session)?;
    }
    Ok(())
}

/// security.md 38.
fn priorities_are_not_chosen(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client, &json!({}))?;
    let code = "import ctypes, json, os\nlibc = ctypes.CDLL(None, use_errno=True)\n\
        def tried(act):\n    try: act(); return 'done'\n    except OSError as error: return 'refused'\n\
        print(json.dumps([tried(lambda: os.nice(-5)), tried(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),\n\
        \x20   libc.syscall(251, 1, 0, (1 << 13) | 0), os.getpriority(os.PRIO_PROCESS, 0) >= 0]))";
    let found = told(&client, &session, code)?;
    // The class of real time for input and output, too.
    assert_eq!(found, json!(["refused", "refused", -1, true]));
    client.close(&session)?;
    Ok(())
}

/// security.md 33, by the kernel's own count.
fn processors_are_capped(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client, &json!({"cpu_cores": 0.5}))?;
    let code = "import os, time\nend = time.monotonic() + 4\n\
        for _ in range(7):\n    if os.fork() == 0: break\n\
        while time.monotonic() < end: pass";
    let answer = client.execute(&session, "python", code)?;
    let us = |name: &str| answer["usage"][name].as_u64().unwrap_or(0);
    let used = us("cpu_us") as f64 / us("wall_us") as f64;
    // A tenth of a second of it may be borrowed from the period before.
    ensure!((0.2..=0.56).contains(&used), "{used} processors: {answer:#}");
    client.close(&session)?;
    Ok(())
}

/// security.md 33: two sessions of one tenant that want all processors get the same of them, within a tenth.
fn equal_sessions_get_equal_shares(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let all = std::thread::available_parallelism()?.get();
    let sessions =
        [session(&client, &json!({"cpu_cores": all}))?, session(&client, &json!({"cpu_cores": all}))?];
    for session in &sessions {
        client.execute(session, "python", "1")?;
    }
    let code = format!(
        "import os, time\nend = time.monotonic() + 10\n\
        for _ in range({all} - 1):\n    if os.fork() == 0: break\nwhile time.monotonic() < end: pass"
    );
    let used = std::thread::scope(|scope| {
        let running =
            sessions.each_ref().map(|session| scope.spawn(|| client.execute(session, "python", &code)));
        let ended = running.map(|run| run.join().map_err(|_| anyhow::anyhow!("panicked"))?);
        let us = ended.map(|answer| answer?["usage"]["cpu_us"].as_f64().context("cpu_us"));
        us.into_iter().collect::<Result<Vec<_>>>()
    })?;
    let (less, more) = (used[0].min(used[1]), used[0].max(used[1]));
    println!("of {all} processors: {} and {} s", used[0] / 1e6, used[1] / 1e6);
    ensure!(less > 0.9 * more, "{used:?}");
    for session in sessions {
        client.close(&session)?;
    }
    Ok(())
}

/// security.md 47, 53.
fn whoever_stops_itself_is_ended(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client, &json!({}))?;
    for code in [
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "import os, signal\ntry: os.kill(1, signal.SIGSTOP)\nexcept PermissionError: os.killpg(0, signal.SIGSTOP)",
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.vfork() or libc.pause()",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
    ] {
        let begun = Instant::now();
        let request = json!({"language": "python", "code": code, "timeout_seconds": 0.5});
        let answer = client.execute_with(&session, &request)?;
        assert_eq!(answer["status"], "timed_out", "{code}: {answer:#}");
        ensure!(begun.elapsed() < Duration::from_secs(5), "{code}: {:?}", begun.elapsed());
        assert_eq!(client.execute(&session, "python", "print(2)")?["stdout"], "2\n", "{code}");
    }
    client.close(&session)?;
    Ok(())
}

/// security.md 48.
fn daemons_end_with_their_session(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client, &json!({}))?;
    let code = "import os, signal, sys\n\
        if os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n\
        \x20   for n in range(1, 65):\n        try: signal.signal(n, signal.SIG_IGN)\n        except (OSError, ValueError): pass\n\
        \x20   [os.close(n) for n in range(3)]\n    while True: signal.pause()\n";
    client.execute(&session, "python", code)?;
    client.execute(&session, "bash", "nohup setsid sleep 1000 >/dev/null 2>&1 & disown")?;
    let name = session.trim_start_matches("ses_");
    let all = host::cell_processes(name);
    ensure!(all.len() >= 5, "{all:?}");
    let begun = Instant::now();
    client.close(&session)?;
    ensure!(host::cell_processes(name).is_empty() && host::cgroups(name).is_empty(), "left behind");
    ensure!(all.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
    ensure!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    Ok(())
}

/// security.md 118: as calls by the C library, so by machine code that the program wrote.
fn code_made_in_memory_gains_nothing(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client, &json!({}))?;
    let code = "import ctypes, json, mmap, struct\n\
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n\
        at = ctypes.addressof(ctypes.c_char.from_buffer(page))\n\
        def call(number):\n\
        \x20   # mov eax, number; xor edi, edi; xor esi, esi; xor edx, edx; syscall; ret\n\
        \x20   page.seek(0); page.write(b'\\xb8' + struct.pack('<I', number) + b'\\x31\\xff\\x31\\xf6\\x31\\xd2\\x0f\\x05\\xc3')\n\
        \x20   return ctypes.CFUNCTYPE(ctypes.c_long)(at)()\n\
        # getpid works; mount, ptrace, bpf, keyctl, setns, init_module, kexec, userfaultfd, io_uring_setup, a call of x32.\n\
        print(json.dumps([call(39) > 0, *[call(n) for n in (165, 101, 321, 250, 308, 175, 246, 323, 425, 0x40000000 + 39)]]))";
    let found = told(&client, &session, code)?;
    let answers = found.as_array().context("answers")?;
    assert_eq!(answers[0], true);
    // EPERM each.
    ensure!(answers[1..].iter().all(|answer| *answer == -1), "{found}");
    // The 32-bit entry ends the program.
    let old = "import ctypes, mmap\n\
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n\
        page.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')\n\
        print(ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())";
    let answer = client.execute(&session, "python", old)?;
    let refused = answer["error"]["name"] == "INTERPRETER_DIED" || answer["stdout"] == "-1\n";
    ensure!(refused, "{answer:#}");
    client.close(&session)?;
    Ok(())
}

/// security.md 57, 61.
fn results_are_bounded(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client, &json!({}))?;
    for code in [
        "'x' * 100_000_000",
        "class A:\n    def _repr_png_(self): return bytes(50_000_000)\nA()",
        "class B:\n    def _repr_html_(self): return '<p>' * 20_000_000\nB()",
        "class C:\n    def __repr__(self):\n        raise SystemExit\nC()",
        "class D:\n    def _repr_mimebundle_(self, **_): return {f'x/{n}': 'y' * 1000 for n in range(100_000)}\nD()",
        "import numpy\nnumpy.zeros((20_000, 20_000))",
        "x = []\nfor _ in range(100_000): x = [x]\nx",
    ] {
        let request = json!({"language": "python", "code": code, "timeout_seconds": 30});
        let answer = client.execute_with(&session, &request)?;
        let length = answer.to_string().len();
        ensure!(length < 8 << 20, "{code}: an answer of {length} bytes");
        ensure!(
            ["succeeded", "failed"].contains(&answer["status"].as_str().unwrap_or("")),
            "{code}: {answer:#}"
        );
        assert_eq!(client.execute(&session, "python", "print(3)")?["stdout"], "3\n", "{code}");
    }
    client.close(&session)?;
    Ok(())
}

/// security.md 58, 68, 122: each is told, the next begins anew, and no core is written.
fn an_interpreter_may_crash_again_and_again(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client, &json!({}))?;
    for turn in 0..40 {
        let code = [
            "import ctypes\nctypes.string_at(0)",
            "import os\nos.abort()",
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        ][turn % 3];
        let answer = client.execute(&session, "python", code)?;
        assert_eq!(answer["error"]["name"], "INTERPRETER_DIED", "{turn}: {answer:#}");
        assert_eq!(answer["state_lost"], true, "{turn}: {answer:#}");
    }
    let answer = client.execute(&session, "bash", "ls -a")?;
    ensure!(!answer["stdout"].to_string().contains("core"), "{answer:#}");
    assert_eq!(client.execute(&session, "python", "print(4)")?["stdout"], "4\n");
    client.close(&session)?;
    Ok(())
}
