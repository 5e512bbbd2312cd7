//! Configuration: raw as written, then resolved once.
//!
//! One TOML file, over which `ANCHORHOLD_SECTION_KEY` from the environment goes, over which the command line goes.
//! A name that nobody knows is refused. The sections `[pool]`, `[warden]`, `[egress]` and `[walls]` belong to other
//! programs that read the same file; they are passed over here.

use crate::price::Plan;
use crate::words::Runtime;
use anchorhold_sandbox::Limits;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PREFIX: &str = "ANCHORHOLD_";
const MICROS: f64 = 1e6;
/// No time span in a configuration is longer: a year.
const SPAN_SECONDS_MAX: f64 = 366.0 * 86_400.0;
/// No tenant has more MCP sessions: each costs memory while its client says nothing.
const MCP_SESSIONS_MAX: usize = 1_000_000;
/// No rate is higher: once in a microsecond.
pub const RATE_MAX: u64 = 1_000_000;
/// How fast the programs of a tenant may write: at least so that nothing stands still, …
const OUTPUT_RATE_MIN: u64 = 64 << 10;
/// … and at most what no machine can do, in bytes per second.
const OUTPUT_RATE_MAX: u64 = 1 << 40;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML, or has a wrong type or an unknown name.
    #[error("{0}")]
    Parse(#[from] toml::de::Error),
    /// It cannot be written as TOML (only by a mistake in this program).
    #[error("{0}")]
    Write(#[from] toml::ser::Error),
    /// An environment variable has no usable value.
    #[error("{name}: {why}")]
    Variable {
        /// Which variable.
        name: String,
        /// Why.
        why: String,
    },
    /// A setting has a value that makes no sense.
    #[error("[{section}] {key}: {why}")]
    Setting {
        /// Which section.
        section: &'static str,
        /// Which key.
        key: &'static str,
        /// Why.
        why: String,
    },
}

/// The file as it is written, with every default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The HTTP door.
    pub api: RawApi,
    /// The operator's door.
    pub admin: RawAdmin,
    /// The door for agents.
    pub mcp: RawMcp,
    /// Where people see what listens in a session.
    pub preview: RawPreview,
    /// Where things are kept.
    pub data: RawData,
    /// Where images are.
    pub image: RawImage,
    /// How the ledger writes.
    pub ledger: RawLedger,
    /// How much of the audit log is kept.
    pub audit: RawAudit,
    /// Where spans go.
    pub traces: RawTraces,
    /// What sessions may be.
    pub session: RawSession,
    /// How often clients may ask.
    pub rate: RawRate,
    /// Limits of a session that asks for none.
    pub limits: RawLimits,
    /// The most that a session may ask for.
    pub ceiling: RawLimits,
    /// What use costs.
    pub prices: Plan,
    /// The warden's.
    pub pool: toml::Table,
    /// The warden's.
    pub warden: toml::Table,
    /// The egress process's.
    pub egress: toml::Table,
    /// The warden's.
    pub walls: toml::Table,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            api: RawApi::default(),
            admin: RawAdmin::default(),
            mcp: RawMcp::default(),
            preview: RawPreview::default(),
            data: RawData::default(),
            image: RawImage::default(),
            ledger: RawLedger::default(),
            audit: RawAudit::default(),
            traces: RawTraces::default(),
            session: RawSession::default(),
            rate: RawRate::default(),
            limits: RawLimits::DEFAULT,
            ceiling: RawLimits::CEILING,
            prices: Plan::default(),
            pool: toml::Table::new(),
            warden: toml::Table::new(),
            egress: toml::Table::new(),
            walls: toml::Table::new(),
        }
    }
}

/// `[api]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawApi {
    listen: String,
    insecure: bool,
    uid: u32,
    key: String,
    connections: usize,
    drain_seconds: f64,
}

impl Default for RawApi {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            insecure: false,
            uid: 59_000,
            key: String::new(),
            connections: 1024,
            drain_seconds: 30.0,
        }
    }
}

/// `[admin]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAdmin {
    /// Empty: there is none.
    listen: String,
}

impl RawAdmin {
    fn resolve(&self) -> Result<Option<SocketAddr>, ConfigError> {
        if self.listen.is_empty() {
            return Ok(None);
        }
        let address: Option<SocketAddr> = self.listen.parse().ok();
        match address.filter(|address| address.ip().is_loopback()) {
            Some(address) => Ok(Some(address)),
            // It asks for no key.
            None => Err(setting(
                "admin",
                "listen",
                "must be an address of loopback and a port, as 127.0.0.1:9090",
            )),
        }
    }
}

/// `[mcp]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMcp {
    /// Names, with or without a port, that `/mcp` answers to, beside the address it listens on.
    hosts: Vec<String>,
    /// Web pages that may call `/mcp`, as `https://app.example.org:443`.
    origins: Vec<String>,
    /// The most MCP sessions of a tenant.
    sessions: usize,
    /// One in which nothing is asked for as long ends.
    idle_seconds: f64,
}

impl Default for RawMcp {
    fn default() -> Self {
        Self {
            hosts: vec!["localhost".into(), "127.0.0.1".into(), "::1".into()],
            origins: Vec::new(),
            sessions: 1024,
            idle_seconds: 1800.0,
        }
    }
}

impl RawMcp {
    fn resolve(mut self, listen: SocketAddr) -> Result<McpPolicy, ConfigError> {
        if !(1..=MCP_SESSIONS_MAX).contains(&self.sessions) {
            return Err(setting("mcp", "sessions", format!("must be from 1 to {MCP_SESSIONS_MAX}")));
        }
        self.hosts.push(listen.ip().to_string());
        Ok(McpPolicy {
            hosts: self.hosts,
            origins: self.origins,
            sessions_max: self.sessions,
            idle: Duration::from_micros(span_us("mcp", "idle_seconds", self.idle_seconds)?),
        })
    }
}

/// `[preview]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPreview {
    /// Empty: there are no previews.
    listen: String,
    /// Names below this one lead there: `{port}-{session}.{domain}`. Browsers take those of `localhost` for this machine.
    domain: String,
}

impl Default for RawPreview {
    fn default() -> Self {
        Self { listen: String::new(), domain: "localhost".into() }
    }
}

impl RawPreview {
    fn resolve(&self, insecure: bool) -> Result<Option<PreviewPolicy>, ConfigError> {
        if self.listen.is_empty() {
            return Ok(None);
        }
        let wrong = |key, why| setting("preview", key, why);
        let listen: SocketAddr = self
            .listen
            .parse()
            .map_err(|_| wrong("listen", "must be an address and a port, as 127.0.0.1:8081"))?;
        if !listen.ip().is_loopback() && !insecure {
            return Err(wrong("listen", "listening beyond loopback without TLS needs --insecure"));
        }
        let label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !label.is_empty() && label.len() <= 63 && label.bytes().all(inner)
        };
        if self.domain.len() > 200 || !self.domain.split('.').all(label) {
            return Err(wrong("domain", "must be a name in small letters, as preview.example.org"));
        }
        Ok(Some(PreviewPolicy { listen, domain: self.domain.clone() }))
    }
}

/// Where people see what listens in a session.
#[derive(Debug, Clone)]
pub struct PreviewPolicy {
    /// Where the listener is.
    pub listen: SocketAddr,
    /// What its names end with.
    pub domain: String,
}

/// From where the door for agents may be reached (what a name server or a web page can forge is refused), and how much
/// is remembered of who comes.
#[derive(Debug, Clone)]
pub struct McpPolicy {
    /// What `Host` may be; one without a port stands for all of its ports.
    pub hosts: Vec<String>,
    /// What `Origin` may be, where a request has one.
    pub origins: Vec<String>,
    /// The most MCP sessions of a tenant.
    pub sessions_max: usize,
    /// An MCP session in which nothing is asked for as long is over, with every session made in it.
    pub idle: Duration,
}

impl McpPolicy {
    /// As it is where nothing is said, for a server at these names.
    #[cfg(test)]
    pub(crate) fn at(hosts: &[&str]) -> Self {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        Self { hosts, origins: Vec::new(), sessions_max: 1024, idle: Duration::from_secs(1800) }
    }
}

/// `[data]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawData {
    dir: PathBuf,
}

impl Default for RawData {
    fn default() -> Self {
        Self { dir: "/var/lib/anchorhold".into() }
    }
}

/// `[image]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawImage {
    dir: PathBuf,
}

impl Default for RawImage {
    fn default() -> Self {
        Self { dir: "/usr/lib/anchorhold/images".into() }
    }
}

/// `[ledger]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLedger {
    sync: LedgerSync,
}

/// `[audit]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAudit {
    file_bytes: u64,
    files: u32,
}

impl Default for RawAudit {
    fn default() -> Self {
        Self { file_bytes: 64 << 20, files: 8 }
    }
}

impl RawAudit {
    fn resolve(&self) -> Result<AuditPolicy, ConfigError> {
        if self.file_bytes < 1 << 16 {
            return Err(setting("audit", "file_bytes", "must be at least 65536"));
        }
        if !(2..=1000).contains(&self.files) {
            return Err(setting("audit", "files", "must be from 2 to 1000"));
        }
        Ok(AuditPolicy { file_bytes: self.file_bytes, files: self.files })
    }
}

/// How much of the audit log is kept.
#[derive(Debug, Clone, Copy)]
pub struct AuditPolicy {
    /// A file that would grow beyond this is put aside.
    pub file_bytes: u64,
    /// So many files are kept, the newest included.
    pub files: u32,
}

/// `[traces]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTraces {
    /// Empty: nowhere.
    otlp: String,
}

impl RawTraces {
    fn resolve(self) -> Result<Option<String>, ConfigError> {
        match &*self.otlp {
            "" => Ok(None),
            address if address.starts_with("http://") => Ok(Some(self.otlp)),
            _ => {
                Err(setting("traces", "otlp", "must be the address of a collector, as http://127.0.0.1:4318"))
            }
        }
    }
}

/// What the ledger survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LedgerSync {
    /// The sudden death of any of our processes.
    #[default]
    Process,
    /// Also that of the machine.
    Power,
}

/// `[session]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSession {
    default_runtime: Runtime,
    ttl_seconds: f64,
    ttl_seconds_max: f64,
    live: u64,
    keep_days: f64,
    keep_output_hours: f64,
    /// Of long outputs of a tenant, in bytes as they are stored; the oldest go first.
    keep_output_bytes: u64,
    /// A browser that nobody has used for as long is frozen; 0: never.
    browser_standby_seconds: f64,
}

impl Default for RawSession {
    fn default() -> Self {
        Self {
            default_runtime: Runtime::Native,
            ttl_seconds: 900.0,
            ttl_seconds_max: 8.0 * 3600.0,
            live: 1000,
            keep_days: 30.0,
            keep_output_hours: 24.0,
            keep_output_bytes: 1 << 30,
            browser_standby_seconds: 30.0,
        }
    }
}

/// `[rate]`: each lets through as much at once as it does in a second.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRate {
    requests_per_second: u64,
    executions_per_second: u64,
    output_bytes_per_second: u64,
}

impl Default for RawRate {
    /// Beyond what one client has a use for, and below what one can do to a server.
    fn default() -> Self {
        Self { requests_per_second: 10_000, executions_per_second: 5_000, output_bytes_per_second: 16 << 20 }
    }
}

/// `[limits]` and `[ceiling]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLimits {
    cpu_cores: f64,
    memory_bytes: u64,
    disk_bytes: u64,
    processes: u32,
    output_bytes: u64,
    execution_seconds: f64,
    cpu_seconds: f64,
}

impl RawLimits {
    const DEFAULT: Self = Self {
        cpu_cores: 1.0,
        memory_bytes: 1 << 30,
        disk_bytes: 512 << 20,
        processes: 128,
        output_bytes: 16 << 20,
        execution_seconds: 60.0,
        cpu_seconds: 3600.0,
    };
    const CEILING: Self = Self {
        cpu_cores: 4.0,
        memory_bytes: 4 << 30,
        disk_bytes: 4 << 30,
        processes: 4096,
        output_bytes: 32 << 20,
        execution_seconds: 3600.0,
        cpu_seconds: 4.0 * 3600.0,
    };
}

/// What the command line says; it goes over everything else.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`
    pub file: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--image-dir`
    pub image_dir: Option<PathBuf>,
    /// `--preview-listen`
    pub preview_listen: Option<String>,
    /// `--insecure`
    pub insecure: bool,
}

/// The resolved configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the HTTP door is.
    pub listen: SocketAddr,
    /// Where the operator's door is, if there is one: loopback only, without keys.
    pub admin_listen: Option<SocketAddr>,
    /// How the door for agents may be used.
    pub mcp: McpPolicy,
    /// Where previews are, if there are any.
    pub preview: Option<PreviewPolicy>,
    /// Whether it may be open to the network without TLS.
    pub insecure: bool,
    /// Who the service becomes when it starts as root.
    pub uid: u32,
    /// A key for development, beside the one in the file.
    pub key: Option<Secret>,
    /// The most connections at a time.
    pub connections_max: usize,
    /// How long a stop waits for running executions.
    pub drain: Duration,
    /// Where the key, the ledger and the warden's memory are.
    pub data_dir: PathBuf,
    /// Where images are.
    pub image_dir: PathBuf,
    /// The file that this came from; the warden reads its own part of it.
    pub file: Option<PathBuf>,
    /// What the ledger survives.
    pub ledger_sync: LedgerSync,
    /// How much of the audit log is kept.
    pub audit: AuditPolicy,
    /// The OpenTelemetry collector that gets spans, if one does.
    pub traces: Option<String>,
    /// What sessions may be.
    pub session: SessionPolicy,
    /// What tenants may have whose quotas do not say otherwise.
    pub tenants: TenantPolicy,
    /// What use costs.
    pub prices: Plan,
}

/// What tenants may have whose quotas do not say otherwise.
#[derive(Debug, Clone, Copy)]
pub struct TenantPolicy {
    /// The most live sessions.
    pub sessions: u64,
    /// Of one key.
    pub requests_per_second: u64,
    /// Of all keys of a tenant.
    pub executions_per_second: u64,
    /// What programs of a tenant print and return, and twice as much at once.
    pub output_bytes_per_second: u64,
}

/// What sessions may be.
#[derive(Debug, Clone)]
pub struct SessionPolicy {
    /// Of a session that names none.
    pub default_runtime: Runtime,
    /// Life of a session that asks for none.
    pub ttl_us: u64,
    /// The longest life that one may ask for.
    pub ttl_us_max: u64,
    /// How long sessions and records are kept after the end.
    pub keep_us: u64,
    /// How long the output of an execution is kept.
    pub keep_output_us: u64,
    /// How many bytes of long outputs are kept for a tenant.
    pub keep_output_bytes: u64,
    /// After how long without use a browser is frozen.
    pub standby_after: Option<Duration>,
    /// Limits of a session that asks for none.
    pub limits: Limits,
    /// The most that a session may ask for.
    pub ceiling: Limits,
}

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Raw {
    /// Reads the file (none is an empty one) and lays the environment and the command line over it.
    pub fn load(
        flags: &Flags,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = match &flags.file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.clone(), source })?,
        };
        let mut table = toml::Table::try_from(Self::default())?;
        for (name, section) in toml::from_str::<toml::Table>(&text)? {
            lay_over(&mut table, name, section);
        }
        overlay(&mut table, environment)?;
        let mut raw: Self = table.try_into()?;
        if let Some(listen) = &flags.listen {
            raw.api.listen.clone_from(listen);
        }
        if let Some(listen) = &flags.preview_listen {
            raw.preview.listen.clone_from(listen);
        }
        if let Some(dir) = &flags.data_dir {
            raw.data.dir.clone_from(dir);
        }
        if let Some(dir) = &flags.image_dir {
            raw.image.dir.clone_from(dir);
        }
        raw.api.insecure |= flags.insecure;
        Ok(raw)
    }

    /// As TOML for people, with every default, without secrets.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let mut shown = self.clone();
        if !shown.api.key.is_empty() {
            shown.api.key = "(set, not shown)".into();
        }
        Ok(toml::to_string_pretty(&shown)?)
    }

    /// Checks everything and gives it the types that the service uses.
    pub fn resolve(self, file: Option<PathBuf>) -> Result<Config, ConfigError> {
        let listen: SocketAddr = self
            .api
            .listen
            .parse()
            .map_err(|_| setting("api", "listen", "must be an address and a port, as 127.0.0.1:8080"))?;
        if !listen.ip().is_loopback() && !self.api.insecure {
            let why = "listening beyond loopback without TLS needs --insecure";
            return Err(setting("api", "listen", why));
        }
        if self.api.uid == 0 {
            return Err(setting("api", "uid", "must not be root"));
        }
        if self.api.connections == 0 {
            return Err(setting("api", "connections", "must be at least 1"));
        }
        if !self.api.key.is_empty() && self.api.key.len() < 16 {
            return Err(setting("api", "key", "must have at least 16 characters"));
        }
        Ok(Config {
            listen,
            admin_listen: self.admin.resolve()?,
            mcp: self.mcp.resolve(listen)?,
            preview: self.preview.resolve(self.api.insecure)?,
            insecure: self.api.insecure,
            uid: self.api.uid,
            key: (!self.api.key.is_empty()).then(|| self.api.key.into()),
            connections_max: self.api.connections,
            drain: Duration::from_micros(span_us("api", "drain_seconds", self.api.drain_seconds)?),
            data_dir: absolute(&self.data.dir)?,
            image_dir: absolute(&self.image.dir)?,
            file: file.map(|path| absolute(&path)).transpose()?,
            ledger_sync: self.ledger.sync,
            audit: self.audit.resolve()?,
            traces: self.traces.resolve()?,
            tenants: self.rate.resolve(self.session.live)?,
            session: self.session.resolve(&self.limits, &self.ceiling)?,
            prices: checked_plan(self.prices)?,
        })
    }
}

impl RawSession {
    fn resolve(self, limits: &RawLimits, ceiling: &RawLimits) -> Result<SessionPolicy, ConfigError> {
        let (limits, ceiling) = (limits.resolve("limits")?, ceiling.resolve("ceiling")?);
        let standby = (self.browser_standby_seconds != 0.0).then(|| {
            let span = span_us("session", "browser_standby_seconds", self.browser_standby_seconds);
            span.map(Duration::from_micros)
        });
        let policy = SessionPolicy {
            default_runtime: self.default_runtime,
            ttl_us: span_us("session", "ttl_seconds", self.ttl_seconds)?,
            ttl_us_max: span_us("session", "ttl_seconds_max", self.ttl_seconds_max)?,
            keep_us: span_us("session", "keep_days", self.keep_days * 86_400.0)?,
            keep_output_us: span_us("session", "keep_output_hours", self.keep_output_hours * 3600.0)?,
            keep_output_bytes: self.keep_output_bytes,
            standby_after: standby.transpose()?,
            limits,
            ceiling,
        };
        if policy.ttl_us > policy.ttl_us_max {
            return Err(setting("session", "ttl_seconds", "is above ttl_seconds_max"));
        }
        Ok(policy)
    }
}

impl RawRate {
    fn resolve(&self, sessions: u64) -> Result<TenantPolicy, ConfigError> {
        let rates = [
            ("requests_per_second", self.requests_per_second),
            ("executions_per_second", self.executions_per_second),
        ];
        if let Some((key, _)) = rates.into_iter().find(|(_, rate)| !(1..=RATE_MAX).contains(rate)) {
            return Err(setting("rate", key, format!("must be from 1 to {RATE_MAX}")));
        }
        if !(OUTPUT_RATE_MIN..=OUTPUT_RATE_MAX).contains(&self.output_bytes_per_second) {
            let range = format!("must be from {OUTPUT_RATE_MIN} to {OUTPUT_RATE_MAX}");
            return Err(setting("rate", "output_bytes_per_second", range));
        }
        Ok(TenantPolicy {
            sessions,
            requests_per_second: self.requests_per_second,
            executions_per_second: self.executions_per_second,
            output_bytes_per_second: self.output_bytes_per_second,
        })
    }
}

impl RawLimits {
    fn resolve(&self, section: &'static str) -> Result<Limits, ConfigError> {
        Ok(Limits {
            cpu_millicores: thousandths(self.cpu_cores)
                .ok_or_else(|| setting(section, "cpu_cores", "must be from 0.001 to 1024"))?,
            memory_bytes: self.memory_bytes,
            disk_bytes: self.disk_bytes,
            processes: self.processes,
            output_bytes: self.output_bytes,
            execution_us: span_us(section, "execution_seconds", self.execution_seconds)?,
            cpu_us: span_us(section, "cpu_seconds", self.cpu_seconds)?,
        })
    }
}

fn checked_plan(plan: Plan) -> Result<Plan, ConfigError> {
    if plan.version.is_empty() || plan.version.len() > 64 {
        return Err(setting("prices", "version", "must have 1 to 64 characters"));
    }
    Ok(plan)
}

fn setting(section: &'static str, key: &'static str, why: impl Into<String>) -> ConfigError {
    ConfigError::Setting { section, key, why: why.into() }
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// Seconds as whole microseconds; positive and at most a year.
fn span_us(section: &'static str, key: &'static str, seconds: f64) -> Result<u64, ConfigError> {
    micros(seconds).ok_or_else(|| setting(section, key, "must be more than 0 and at most a year"))
}

/// Seconds as whole microseconds, at least one; `None` when that is no span of time that makes sense.
pub fn micros(seconds: f64) -> Option<u64> {
    (1.0 / MICROS..=SPAN_SECONDS_MAX).contains(&seconds).then(|| whole(seconds * MICROS))
}

/// A number from 0.001 to 1024 in whole thousandths.
pub fn thousandths(value: f64) -> Option<u32> {
    (0.001..=1024.0).contains(&value).then(|| u32::try_from(whole(value * 1000.0)).ok()).flatten()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "callers checked the range")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// Lays one section of a file over the defaults, key by key; what is unknown is found when it gets its types.
fn lay_over(table: &mut toml::Table, name: String, section: toml::Value) {
    match (table.get_mut(&name), section) {
        (Some(toml::Value::Table(known)), toml::Value::Table(section)) => known.extend(section),
        (_, section) => {
            table.insert(name, section);
        }
    }
}

/// Lays `ANCHORHOLD_SECTION_KEY` over the sections and keys that there are; each value has the type of what it
/// replaces.
fn overlay(
    table: &mut toml::Table,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    for (name, text) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let lower = rest.to_ascii_lowercase();
        let Some((section, key)) = lower.split_once('_') else { continue };
        let Some(slot) = table.get_mut(section).and_then(|section| section.get_mut(key)) else { continue };
        match typed(slot, &text) {
            Some(value) => *slot = value,
            None => return Err(ConfigError::Variable { why: expected(slot), name }),
        }
    }
    Ok(())
}

/// The text as a value of the default's type.
fn typed(default: &toml::Value, text: &str) -> Option<toml::Value> {
    Some(match default {
        toml::Value::Integer(_) => toml::Value::Integer(text.parse().ok()?),
        toml::Value::Float(_) => toml::Value::Float(text.parse().ok()?),
        toml::Value::Boolean(_) => toml::Value::Boolean(text.parse().ok()?),
        toml::Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            toml::Value::Array(items.map(toml::Value::from).collect())
        }
        _ => toml::Value::String(text.to_owned()),
    })
}

fn expected(default: &toml::Value) -> String {
    format!("must be of type {}, as {default}", default.type_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<Vec<_>>()
            .into_iter()
    }

    fn load(text: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        let flags = Flags { file: Some(file.path().to_owned()), ..flags };
        Raw::load(&flags, variables(environment))?.resolve(flags.file)
    }

    #[test]
    fn defaults_resolve() {
        let config = Raw::load(&Flags::default(), variables(&[])).unwrap().resolve(None).unwrap();
        assert_eq!(config.listen, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(config.session.ttl_us, 900_000_000);
        assert_eq!(config.session.limits.cpu_millicores, 1000);
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file() {
        let file = "[api]\nlisten = '127.0.0.1:1'\nconnections = 7\ndrain_seconds = 1.5\n";
        let environment = [("ANCHORHOLD_API_LISTEN", "127.0.0.1:2"), ("ANCHORHOLD_API_CONNECTIONS", "8")];
        let flags = Flags { listen: Some("127.0.0.1:3".into()), ..Flags::default() };
        let config = load(file, &environment, flags).unwrap();
        assert_eq!((config.listen.port(), config.connections_max), (3, 8));
        assert_eq!(config.drain, Duration::from_millis(1500));
    }

    #[test]
    fn other_programs_settings_pass() {
        let file = "[pool]\nwasm = 8\n[egress]\nallow_private = ['127.0.0.1:8081']\n";
        load(file, &[("ANCHORHOLD_POOL_WASM", "9"), ("ANCHORHOLD_HOME", "/x")], Flags::default()).unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for file in [
            "[api]\nlisten = '8080'",
            "[api]\nlisten = '0.0.0.0:80'",
            "[api]\nuid = 0",
            "[api]\nkey = 'short'",
            "[api]\ncolour = 1",
            "[wat]\nx = 1",
            "[session]\nttl_seconds = -1.0",
            "[session]\nttl_seconds = 99999.0",
            "[session]\nttl_seconds = nan",
            "[limits]\ncpu_cores = 0.0",
            "[ledger]\nsync = 'maybe'",
            "[preview]\nlisten = '0.0.0.0:81'",
            "[preview]\nlisten = '127.0.0.1:81'\ndomain = 'Preview.example'",
            "[preview]\nlisten = '127.0.0.1:81'\ndomain = '.example'",
            "[admin]\nlisten = '0.0.0.0:9090'",
            "[admin]\nlisten = '9090'",
            "[mcp]\nsessions = 0",
            "[mcp]\nidle_seconds = 0.0",
            "[audit]\nfile_bytes = 100",
            "[audit]\nfiles = 1",
            "[traces]\notlp = '127.0.0.1:4318'",
            "[rate]\nrequests_per_second = 0",
            "[rate]\noutput_bytes_per_second = 1000",
            "[rate]\nexecutions_per_second = 1000001",
            "not toml",
        ] {
            assert!(load(file, &[], Flags::default()).is_err(), "{file}");
        }
        assert!(load("", &[("ANCHORHOLD_API_CONNECTIONS", "many")], Flags::default()).is_err());
        assert!(load("", &[("ANCHORHOLD_API_INSECURE", "1")], Flags::default()).is_err());
    }

    #[test]
    fn what_is_shown_has_no_secret_and_is_a_configuration() {
        let raw =
            Raw::load(&Flags::default(), variables(&[("ANCHORHOLD_API_KEY", "0123456789abcdef")])).unwrap();
        let shown = raw.to_toml().unwrap();
        assert!(!shown.contains("0123456789abcdef"));
        toml::from_str::<Raw>(&shown).unwrap();
        assert!(!format!("{:?}", raw.resolve(None).unwrap()).contains("0123456789abcdef"));
    }
}
