//! Starting Chromium and meeting it.

use anchorhold_browser::Browser;
use anchorhold_jail::control::{Class, Window};
use anchorhold_jail::loopback::PROXY;
use anchorhold_jail::program::{Confinement, Pipes, Program};
use anchorhold_jail::zygote::PROGRAM_DESCRIPTORS_MAX;
use std::ffi::CString;
use std::time::{Duration, Instant};
use tokio::net::unix::pipe;

/// In the image.
const PROGRAM: &std::ffi::CStr = c"/usr/lib/chromium/chromium-headless-shell";

/// What is the same for every session. Playwright's list, as far as it serves a browser that is driven; never
/// `--no-sandbox`. Without `--site-per-process` headless Chromium puts many sites into one renderer; with
/// `<-loopback>` not even the session's own addresses are reached past the proxy.
const FLAGS: &[&str] = &[
    "--headless",
    "--remote-debugging-pipe",
    "--site-per-process",
    "--proxy-bypass-list=<-loopback>",
    "--user-data-dir=/tmp/.browser",
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
    "--disable-hang-monitor",
    "--disable-prompt-on-repost",
    "--disable-popup-blocking",
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--mute-audio",
    "--export-tagged-pdf",
    "--disable-features=HttpsUpgrades,PaintHolding,ThirdPartyStoragePartitioning,Translate,MediaRouter,OptimizationHints,BlockOriginHeaderModificationOnRedirect",
];

/// Nothing of the session's: its environment is for its programs, and may hold what no page should see.
const ENVIRONMENT: &[&str] = &[
    "PATH=/usr/bin:/bin",
    "HOME=/tmp",
    "TMPDIR=/tmp",
    "XDG_CONFIG_HOME=/tmp/.config",
    "XDG_CACHE_HOME=/tmp/.cache",
    "LANG=C.UTF-8",
    "TZ=UTC",
];

/// Starts it, with a window of the usual size and nothing open yet.
///
/// # Errors
/// A step of its confinement, and the kernel's answer.
pub fn start(require_landlock: bool) -> Result<Pipes, String> {
    let proxy = format!("--proxy-server=http://{PROXY}");
    let Window { width, height } = Window::default();
    let window = format!("--window-size={width},{height}");
    let name = PROGRAM.to_string_lossy();
    let arguments = [&*name].into_iter().chain(FLAGS.iter().copied()).chain([&*proxy, &*window]);
    let text = |text: &str| CString::new(text).map_err(|e| format!("{text}: {e}"));
    let program = Program {
        path: PROGRAM.to_owned(),
        arguments: arguments.map(text).collect::<Result<_, _>>()?,
        at_terminal: false,
        environment: ENVIRONMENT.iter().copied().map(text).collect::<Result<_, _>>()?,
    };
    let confinement =
        Confinement { class: Class::Browser, descriptors: PROGRAM_DESCRIPTORS_MAX, require_landlock };
    program.start(confinement).map_err(|e| e.to_string())
}

/// Waits until a page can be driven.
pub(super) async fn meet(pipes: Pipes, wait: Duration) -> Result<Browser, String> {
    let said = pipe::Receiver::from_owned_fd(pipes.from).map_err(|e| format!("chromium's pipe: {e}"))?;
    let told = pipe::Sender::from_owned_fd(pipes.to).map_err(|e| format!("chromium's pipe: {e}"))?;
    Browser::connect(said, told, Instant::now() + wait)
        .await
        .map_err(|e| format!("chromium does not start: {e}"))
}
