//! The walls of native cells, attacked from inside by what real programs can do and looked at from outside.

use super::{run, session, value};
use crate::Shared;
use anchorhold_tests::{Client, host};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

tests!(
    limits_end_what_exceeds_them,
    nothing_random_is_anothers,
    what_a_cell_writes_to_its_memory_is_nobody_elses,
    the_walls_of_native_cells_stand,
    a_hostile_program_finds_no_way,
);

fn limits_end_what_exceeds_them(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let limits = json!({"memory_bytes": 268_435_456, "processes": 40, "disk_bytes": 16_777_216});
    let session = client.session(&json!({"runtime": "native", "limits": limits}))?;
    let answer = client.execute(&session, "python", "x = bytearray(1 << 30)")?;
    let hit = answer["limit"] == "memory" || answer["error"]["name"] == "MemoryError";
    ensure!(hit, "{answer:#}");
    client.close(&session)?;
    for (language, code) in [
        ("bash", "f() { f | f & }; f; sleep 0.5; echo done"),
        (
            "python",
            "import os, time\ntry:\n    while True: os.fork() or time.sleep(60)\nexcept OSError as error: print(error)",
        ),
    ] {
        let session = client.session(&json!({"runtime": "native", "limits": limits}))?;
        let answer = client.execute(&session, language, code)?;
        let said = answer["stdout"].to_string() + &answer["stderr"].to_string();
        ensure!(said.contains("temporarily unavailable"), "{answer:#}");
        let begun = Instant::now();
        client.close(&session)?;
        // On a machine with nothing else to do it is a tenth of a second.
        ensure!(begun.elapsed() < Duration::from_secs(30), "it took {:?} to end", begun.elapsed());
    }
    let session = client.session(&json!({"runtime": "native", "limits": limits}))?;
    let answer = client.execute(&session, "bash", "head -c 20000000 /dev/zero > big")?;
    ensure!(answer["stderr"].as_str().is_some_and(|text| text.contains("No space left")), "{answer:#}");
    run(&client, &session, "bash", "rm big; echo free > small")?;
    // What it prints beyond four times its limit ends it.
    let output = client.session(&json!({"runtime": "native", "limits": {"output_bytes": 1000}}))?;
    let answer = client.execute(&output, "python", "while True: print('y' * 100)")?;
    assert_eq!(
        (&answer["status"], &answer["limit"]),
        (&json!("limit_exceeded"), &json!("output")),
        "{answer:#}"
    );
    client.close(&session)?;
    client.close(&output)?;
    Ok(())
}

fn nothing_random_is_anothers(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let code = "import random, numpy, uuid, ssl, tempfile, os, secrets\n\
        [random.random(), numpy.random.rand(), numpy.random.default_rng().random(), str(uuid.uuid1()), str(uuid.uuid4()), \
        ssl.RAND_bytes(8).hex(), tempfile.mktemp(), os.urandom(8).hex(), secrets.token_hex(8), id(object()) and 0]";
    let mut seen = Vec::new();
    for _ in 0..3 {
        let session = session(&client)?;
        let answer = run(&client, &session, "python", code)?;
        seen.push(value(&answer).split(',').map(str::to_owned).collect::<Vec<_>>());
        client.close(&session)?;
    }
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        for (a, b) in seen[one].iter().zip(&seen[other]).take(9) {
            ensure!(a != b, "{a} twice");
        }
    }
    Ok(())
}

/// What /proc says of every process of the cells, from outside: of the session's first one, which waited in the pool, and of
/// those that joined it.
/// All Pythons map one file with what their zygote had in memory. What one of them writes there is its own.
fn what_a_cell_writes_to_its_memory_is_nobody_elses(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let [hostile, other] = [session(&client)?, session(&client)?];
    let read = "import string\nstring.punctuation[:4]";
    let before = value(&run(&client, &other, "python", read)?).to_owned();
    let code = r##"
import ctypes, os, string, sys
place = id(string.punctuation) + sys.getsizeof('') - 1
for line in open('/proc/self/maps'):
    range, rights, *_ = words = line.split()
    start, end = (int(text, 16) for text in range.split('-'))
    if start <= place < end:
        print(words[5:], rights)
        break
ctypes.memmove(place, b'evil', 4)
print(string.punctuation[:4])
for flags in (os.O_RDONLY, os.O_RDWR):
    try:
        os.open(f'/proc/self/map_files/{range}', flags)
        print('opened')
    except OSError as error:
        print(type(error).__name__)
print([path for fd in os.listdir('/proc/self/fd') if 'memfd' in (path := os.path.realpath(f'/proc/self/fd/{fd}'))])
"##;
    let said = run(&client, &hostile, "python", code)?;
    let expected = "['/memfd:zygote', '(deleted)'] rw-p\nevil\nPermissionError\nPermissionError\n[]\n";
    assert_eq!(said["stdout"], expected, "{said:#}");
    assert_eq!(value(&run(&client, &other, "python", read)?), before);
    let third = session(&client)?;
    assert_eq!(value(&run(&client, &third, "python", read)?), before);
    for session in [hostile, other, third] {
        client.close(&session)?;
    }
    Ok(())
}

fn the_walls_of_native_cells_stand(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    client.close(&session(&client)?)?;
    let session = client.session(&json!({"runtime": "native"}))?;
    run(&client, &session, "python", "import subprocess\nchild = subprocess.Popen(['sleep', '60'])")?;
    run(&client, &session, "javascript", "1")?;
    run(&client, &session, "bash", "sleep 60 &")?;
    let other = json!({"language": "python", "context": "other", "code": "1"});
    assert_eq!(client.execute_with(&session, &other)?["status"], "succeeded");
    let processes = host::cell_processes(session.trim_start_matches("ses_"));
    ensure!(processes.len() >= 10, "{processes:?}");
    for &process in &processes {
        let status = |field: &str| host::status(process, field).unwrap_or_default();
        assert_eq!((&*status("NoNewPrivs"), &*status("Seccomp")), ("1", "2"), "process {process}");
        let uid: u32 = status("Uid").split_whitespace().next().context("a uid")?.parse()?;
        ensure!(uid >= 1_000_000_000, "user {uid} of the host");
        for kind in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
            ensure!(
                host::namespace(process, kind) != host::namespace(std::process::id(), kind),
                "the host's {kind}"
            );
        }
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(set), "0000000000000000", "{set} of process {process}");
        }
    }
    let shown = client.get(&format!("/v1/sessions/{session}"))?.expect(200);
    for wall in ["root", "landlock", "seccomp", "capabilities", "user_namespace", "network_namespace"] {
        assert_eq!(shown["isolation"][wall], "standing", "{wall}");
    }
    client.close(&session)?;
    let left: Vec<_> = processes
        .iter()
        .filter(|process| std::path::Path::new(&format!("/proc/{process}")).exists())
        .collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// What is in a native cell's `/dev`.
const DEVICES: &str = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero";

/// Attacks, in Python: every call of the kernel. Says what became of them and what there is to see.
const ATTACKS: &str = r#"
import ctypes, errno, os, socket, json
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    answer = libc.syscall(number, *arguments)
    return errno.errorcode.get(ctypes.get_errno(), 'done') if answer == -1 else 'done'
def opened(path, flags=os.O_RDONLY):
    try:
        os.close(os.open(path, flags)); return 'done'
    except OSError as error:
        return errno.errorcode[error.errno]
def made(family, kind=socket.SOCK_STREAM, protocol=0):
    try:
        socket.socket(family, kind, protocol).close(); return 'done'
    except OSError as error:
        return errno.errorcode[error.errno]
def connected(address):
    try:
        socket.create_connection(address, timeout=2).close(); return 'done'
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
found = {
    'mount': call(165, b'none', b'/tmp', b'tmpfs', 0, None), 'umount': call(166, b'/workspace', 2),
    'pivot_root': call(155, b'/', b'/'), 'chroot': call(161, b'/tmp'), 'unshare user': call(272, 0x10000000),
    'unshare net': call(272, 0x40000000), 'setns': call(308, 0, 0), 'ptrace': call(101, 16, 1, 0, 0),
    'clone user': call(56, 0x10000000 | 17, 0, 0, 0, 0), 'clone3': call(435, 0, 0), 'bpf': call(321, 0, 0, 0),
    'keyctl': call(250, 0, -3), 'io_uring': call(425, 8, 0), 'userfaultfd': call(323, 0), 'perf': call(298, 0, 0, -1, -1, 0),
    'open_by_handle': call(304, 0, 0, 0), 'process_vm_readv': call(310, 1, 0, 0, 0, 0, 0), 'kexec': call(246, 0, 0, 0, 0),
    'reboot': call(169, 0xfee1dead, 672274793, 0x1234567, 0), 'swapon': call(167, b'/tmp/x', 0), 'sethostname': call(170, b'x', 1),
    'settimeofday': call(164, 0, 0), 'init_module': call(175, 0, 0, 0), 'add_key': call(248, 0, 0, 0, 0, 0),
    'mknod': call(133, b'/tmp/disk', 0o60600, 0x800), 'fsopen': call(430, b'tmpfs', 0), 'open_tree': call(428, -100, b'/', 1),
    'move_mount': call(429, 0, 0, 0, 0, 0), 'setuid 0': call(105, 0), 'write pid 1': opened('/proc/1/mem', os.O_RDWR),
    'environment of pid 1': opened('/proc/1/environ'), 'root of pid 1': opened('/proc/1/root/etc/passwd'),
    'image': opened('/usr/bin/python3', os.O_WRONLY), 'etc': opened('/etc/new', os.O_CREAT | os.O_WRONLY),
    'dev': opened('/dev/new', os.O_CREAT | os.O_WRONLY), 'sysrq': opened('/proc/sysrq-trigger', os.O_WRONLY),
    'core_pattern': opened('/proc/sys/kernel/core_pattern', os.O_WRONLY), 'kcore': opened('/proc/kcore'),
    'netlink': made(socket.AF_NETLINK, socket.SOCK_RAW, 4), 'packet': made(17, socket.SOCK_RAW), 'vsock': made(40), 'alg': made(38, socket.SOCK_SEQPACKET),
    'raw': made(socket.AF_INET, socket.SOCK_RAW, 1), 'proxy': connected(('127.0.0.1', 3128)), 'metadata': connected(('169.254.169.254', 80)),
    'world': connected(('192.0.2.1', 443)),
}
try:
    socket.getaddrinfo('example.org', 80); found['dns'] = 'done'
except OSError as error:
    found['dns'] = 'failed'
found['kill pid 1'] = call(62, 1, 9) and 'survived'
pids = [int(name) for name in os.listdir('/proc') if name.isdigit()]
print(json.dumps({'found': found, 'pids': pids, 'proc': sorted(n for n in os.listdir('/proc') if not n.isdigit()),
    'uid': os.getuid(), 'root': sorted(os.listdir('/')), 'devices': sorted(os.listdir('/dev')), 'hostname': os.uname().nodename,
    'descriptors': sorted(int(fd) for fd in os.listdir('/proc/self/fd'))}))
"#;

/// Attacks from inside, with the means that a native program has.
fn a_hostile_program_finds_no_way(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    // In a Python that is made for its session, and in one that waited in the pool.
    attack(&client, session(&client)?, ("python", ATTACKS))?;
    attack(&client, client.session(&json!({"runtime": "native"}))?, ("python", ATTACKS))
}

/// The same as a child of the session's Node.
pub fn attack_from_node(client: &Client, session: String) -> Result<()> {
    let code = format!(
        "console.log(require('child_process').execFileSync('python3', ['-c', {}]).toString())",
        json!(ATTACKS)
    );
    attack(client, session, ("javascript", &code))
}

fn attack(client: &Client, session: String, (language, code): (&str, &str)) -> Result<()> {
    let answer = run(client, &session, language, code)?;
    let seen: Value = serde_json::from_str(answer["stdout"].as_str().unwrap_or_default())?;
    for (what, became) in seen["found"].as_object().context("found")? {
        ensure!(became != "done", "{what} worked: {seen:#}");
    }
    assert_eq!(seen["found"]["clone3"], "ENOSYS");
    ensure!(seen["pids"].as_array().is_some_and(|pids| pids.len() <= 3), "{seen:#}");
    assert_eq!((&seen["uid"], &seen["hostname"]), (&json!(1000), &json!("cell")));
    assert_eq!(seen["proc"], json!(["self", "thread-self"]));
    let devices = seen["devices"].as_array().context("devices")?.iter().filter_map(Value::as_str);
    assert_eq!(devices.collect::<Vec<_>>(), DEVICES.split(' ').collect::<Vec<_>>());
    let descriptors = seen["descriptors"].as_array().context("descriptors")?;
    ensure!(descriptors.len() <= 6, "{descriptors:?}");
    // And it is unharmed by all that.
    run(client, &session, "python", "1")?;
    client.close(&session)?;
    Ok(())
}
