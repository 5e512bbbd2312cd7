//! A server of the programs beside this one, in a directory of its own.

use crate::Client;
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to come up or to go away.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a server says when it serves; the address follows.
const READY: &str = "anchorhold is ready on ";

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Settings as environment variables.
    pub settings: Vec<(String, String)>,
    /// Another image store than the machine's.
    pub images: Option<PathBuf>,
}

impl Options {
    /// With `[section] key = value` (the value as TOML).
    #[must_use]
    pub fn with(mut self, section: &str, key: &str, value: &str) -> Self {
        let name = format!("ANCHORHOLD_{}_{}", section.to_uppercase(), key.to_uppercase());
        self.settings.push((name, value.to_owned()));
        self
    }

    /// With cells of the hostile program instead of the real one.
    #[must_use]
    pub fn evil(self) -> Self {
        let program = program("anchorhold-evil");
        self.with("warden", "cell_program", &format!("{:?}", program.display().to_string()))
    }

    /// With a step that fails.
    #[must_use]
    pub fn fault(mut self, step: &str) -> Self {
        self.settings.push(("ANCHORHOLD_FAULT".to_owned(), step.to_owned()));
        self
    }
}

/// A program that was built together with this one.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    // Tests are one folder below the programs.
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| name.into())
}

/// The image store of this machine.
pub fn image_dir() -> PathBuf {
    if let Some(path) = std::env::var_os("ANCHORHOLD_IMAGE_DIR") {
        return path.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    cache
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"))
        .join("anchorhold/images")
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    directory: tempfile::TempDir,
    options: Options,
    child: Option<Child>,
    base: String,
    log: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl Server {
    /// Starts one and waits until it serves.
    pub fn start(options: Options) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("anchorhold-test-").tempdir()?;
        // The service's user must be able to reach what is its own in there.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        let mut server =
            Self { directory, options, child: None, base: String::new(), log: std::sync::Arc::default() };
        server.launch()?;
        Ok(server)
    }

    /// Starts the API again in the same directory, after it was killed.
    pub fn launch(&mut self) -> Result<()> {
        let listen =
            if self.base.is_empty() { "127.0.0.1:0".to_owned() } else { self.base.replace("http://", "") };
        let mut command = Command::new(program("anchorhold"));
        command.arg("serve").args(["--listen", &listen]);
        command.arg("--data-dir").arg(self.data_dir()).arg("--image-dir");
        command.arg(self.options.images.clone().unwrap_or_else(image_dir));
        // Most tests need no native cells, and are about the guests of the wasm runtime.
        command
            .env("ANCHORHOLD_POOL_NATIVE", "0")
            .env("ANCHORHOLD_POOL_NODE", "0")
            .env("ANCHORHOLD_POOL_BROWSER", "0")
            .env("ANCHORHOLD_SESSION_DEFAULT_RUNTIME", "wasm");
        command.envs(self.options.settings.iter().map(|(k, v)| (k, v)));
        // A group of its own, so that an interrupt at the terminal reaches this program first.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
        let (sender, receiver) = std::sync::mpsc::channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().context("stdout")?),
            Box::new(child.stderr.take().context("stderr")?),
        ];
        for stream in streams {
            let (sender, log) = (sender.clone(), self.log.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if let Some(at) = line.find(READY) {
                        let address = line[at + READY.len()..].split_whitespace().next().unwrap_or_default();
                        // The other side stops listening once it knows the address.
                        let _heard = sender.send(address.to_owned());
                    }
                    if let Ok(mut log) = log.lock() {
                        log.push(line);
                    }
                }
            });
        }
        drop(sender);
        self.child = Some(child);
        match receiver.recv_timeout(PATIENCE) {
            Ok(address) => self.base = address,
            Err(_) => bail!("the server does not come up:\n{}", self.log()),
        }
        Ok(())
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        self.log.lock().map(|log| log.join("\n")).unwrap_or_default()
    }

    /// Where its state is.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The name of its control group in every hierarchy.
    pub fn cgroup(&self) -> String {
        let data_dir = self.data_dir().join("warden");
        format!("anchorhold-{}", anchorhold_jail::warden::instance_name(&data_dir))
    }

    /// Its address: `http://127.0.0.1:40000`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A client with the admin key.
    pub fn client(&self) -> Result<Client> {
        let key = std::fs::read_to_string(self.data_dir().join("admin.key")).context("admin.key")?;
        Client::new(&self.base, Some(key.trim()))
    }

    /// The process id of the API.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// The process ids of the warden: its keeper and itself.
    pub fn warden_pids(&self) -> Vec<u32> {
        let needle = self.directory.path().display().to_string();
        crate::host::processes("anchorhold-warden")
            .into_iter()
            .filter(|p| p.arguments.contains(&needle))
            .map(|p| p.pid)
            .collect()
    }

    /// The process id of the warden itself: the child of its keeper.
    pub fn warden_pid(&self) -> Option<u32> {
        let pids = self.warden_pids();
        let parent = |pid: u32| crate::host::status(pid, "PPid").and_then(|p| p.parse().ok());
        pids.iter().copied().find(|pid| parent(*pid).is_some_and(|parent: u32| pids.contains(&parent)))
    }

    /// The process id of egress itself: the child of its keeper.
    pub fn egress_pid(&self) -> Option<u32> {
        let needle = self.directory.path().display().to_string();
        let all = crate::host::processes("anchorhold-egress");
        let keeper = all.iter().find(|process| {
            process.arguments.contains(&needle)
                && process.arguments.contains("--with-warden")
                && !process.arguments.contains("--kept-by")
        })?;
        let is_kept = |pid: u32| crate::host::status(pid, "PPid").as_deref() == Some(&keeper.pid.to_string());
        all.iter().map(|process| process.pid).find(|&pid| is_kept(pid))
    }

    /// Whether the API has ended.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.as_mut().map(Child::try_wait).transpose()?.flatten().is_some())
    }

    /// Kills the API like a crash would.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops it in order; returns what it wrote.
    pub fn stop(mut self) -> Result<String> {
        self.terminate()?;
        ensure!(self.warden_pids().is_empty(), "the warden outlived its server:\n{}", self.log());
        Ok(self.log())
    }

    fn terminate(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "the server ended with {status}:\n{}", self.log());
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill()?;
        bail!("the server does not stop:\n{}", self.log())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed leaves in any state; whatever is left is ended here, by id.
        let _failed_already = self.terminate();
        for pid in self.warden_pids() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let end = Instant::now() + Duration::from_secs(10);
        while !self.warden_pids().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
