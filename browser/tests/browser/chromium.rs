//! A Chromium for one test, and short words for what tests do with it.

use anchorhold_browser::{Action, Browser, Failure, Outcome, Reply};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

const PROGRAM: &str = "/mnt/usr/lib/chromium/chromium-headless-shell";
/// Of the image, in place of this machine's.
const LIBRARIES: &str =
    "/mnt/usr/lib/x86_64-linux-gnu:/mnt/lib/x86_64-linux-gnu:/mnt/usr/lib/x86_64-linux-gnu/pulseaudio";
/// No account has this number.
const USER: u32 = 58_900;

const FLAGS: &[&str] = &[
    "--headless",
    "--remote-debugging-pipe",
    "--site-per-process",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-field-trial-config",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-client-side-phishing-detection",
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--metrics-recording-only",
    "--disable-dev-shm-usage",
    "--disable-back-forward-cache",
    "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-ipc-flooding-protection",
    "--disable-popup-blocking",
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--mute-audio",
    "--disable-features=HttpsUpgrades,PaintHolding,Translate,MediaRouter,OptimizationHints",
    "--window-size=1280,720",
];

/// A browser, its process and its profile.
pub struct Chromium {
    browser: Option<Browser>,
    pub process: Process,
}

/// The tree of the image in the store.
fn image() -> Option<std::path::PathBuf> {
    let store = std::env::var_os("ANCHORHOLD_IMAGE_DIR").map(std::path::PathBuf::from).or_else(|| {
        Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(".cache/anchorhold/images"))
    })?;
    let manifest: Value = serde_json::from_slice(&std::fs::read(store.join("chromium.json")).ok()?).ok()?;
    Some(store.join("trees").join(manifest["digest"].as_str()?.strip_prefix("sha256:")?))
}

/// Chromium's own process and what hangs on it.
pub struct Process {
    child: Child,
    profile: tempfile::TempDir,
}

pub fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

impl Chromium {
    pub async fn start() -> Chromium {
        let profile = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(profile.path(), Some(USER), Some(USER)).unwrap();
        let image = image().expect("the image chromium: make images");
        // The image is where an unprivileged user can read it, in a mount namespace of its own.
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", "mount --bind \"$0\" /mnt && exec \"$@\""])
            .arg(image)
            .args(["setpriv", &format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"])
            // The pipe is expected on descriptors 3 and 4; a shell can put it there.
            .args(["sh", "-c", "exec \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null", "sh", PROGRAM])
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env_clear()
            .env("HOME", profile.path())
            .env("LD_LIBRARY_PATH", LIBRARIES)
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (reader, writer) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let browser = Browser::connect(reader, writer, within(30)).await.expect("Chromium starts");
        Chromium { browser: Some(browser), process: Process { child, profile } }
    }

    pub fn browser(&mut self) -> &mut Browser {
        self.browser.as_mut().unwrap()
    }

    /// To let something happen to the process while actions run.
    pub fn parts(&mut self) -> (&Process, &mut Browser) {
        (&self.process, self.browser.as_mut().unwrap())
    }

    /// Runs actions, written as clients write them.
    pub async fn run(&mut self, seconds: f64, actions: Value) -> Vec<Outcome> {
        let actions: Vec<Action> = serde_json::from_value(actions).expect("actions");
        let deadline = Instant::now() + Duration::from_secs_f64(seconds);
        self.browser().run(&actions, deadline).await
    }

    /// Runs actions that must all be done.
    pub async fn done(&mut self, actions: Value) -> Vec<Reply> {
        let outcomes = self.run(20.0, actions).await;
        let reply = |outcome| match outcome {
            Outcome::Done(reply) => reply,
            other => panic!("{other:?}"),
        };
        outcomes.into_iter().map(reply).collect()
    }

    pub async fn one(&mut self, action: Value) -> Reply {
        self.done(json!([action])).await.remove(0)
    }

    /// Runs an action that must fail without effect.
    pub async fn failed(&mut self, seconds: f64, action: Value) -> Failure {
        match self.run(seconds, json!([action])).await.remove(0) {
            Outcome::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    pub async fn open(&mut self, path: &str) {
        let url = crate::site::url(path);
        self.one(json!({"type": "navigate", "url": url})).await;
    }

    pub async fn js(&mut self, expression: &str) -> Value {
        match self.one(json!({"type": "evaluate", "expression": expression})).await {
            Reply::Value(value) => value,
            other => panic!("{other:?}"),
        }
    }

    pub async fn snapshot(&mut self) -> String {
        match self.one(json!({"type": "snapshot", "budget_bytes": 1 << 20})).await {
            Reply::Snapshot(snapshot) => snapshot.text,
            other => panic!("{other:?}"),
        }
    }

    /// Ends the conversation; nothing of the browser may be left.
    pub async fn end(mut self) {
        drop(self.browser.take());
        let ended = tokio::time::timeout(Duration::from_secs(10), self.process.child.wait()).await;
        ended.expect("Chromium ends with its pipe").unwrap();
        let deadline = within(5);
        while let Some(left) = self.process.left() {
            assert!(Instant::now() < deadline, "left behind: {left}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Process {
    /// Kills the processes of a Chromium kind (`renderer`, …) that this browser has started.
    pub fn kill(&self, kind: &str) {
        let mut ours = vec![self.child.id().unwrap()];
        let processes = processes();
        for _ in 0..4 {
            let children = processes.iter().filter(|process| ours.contains(&process.parent));
            let found: Vec<u32> =
                children.map(|process| process.id).filter(|id| !ours.contains(id)).collect();
            ours.extend(found);
        }
        let kind = format!("--type={kind}");
        let victims =
            processes.iter().filter(|process| ours.contains(&process.id) && process.command.contains(&kind));
        let ids: Vec<String> = victims.map(|process| process.id.to_string()).collect();
        assert!(!ids.is_empty(), "no {kind}");
        // One of them may have ended by itself.
        std::process::Command::new("kill").arg("-9").args(ids).status().unwrap();
    }

    pub fn kill_browser(&mut self) {
        self.child.start_kill().unwrap();
    }

    fn left(&self) -> Option<String> {
        let profile = self.profile.path().to_str().unwrap();
        processes().into_iter().map(|process| process.command).find(|command| command.contains(profile))
    }
}

struct Entry {
    id: u32,
    parent: u32,
    command: String,
}

fn processes() -> Vec<Entry> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| process(&entry.path())).collect()
}

fn process(folder: &Path) -> Option<Entry> {
    let id = folder.file_name()?.to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
    let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
    let command = std::fs::read(folder.join("cmdline")).ok()?;
    Some(Entry { id, parent, command: String::from_utf8_lossy(&command).replace('\0', " ") })
}
