//! The scenarios: what is asked of the server, and which figures come of it.

use crate::attack::{Attack, Crowd, LIFE, Outcome, Phase, Program, Second, Work};
use crate::target::{Target, Tenant};
use anchorhold_tests::host;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

/// Users of a scenario that is to keep the server busy, as in SPECIFICATION.md.
const USERS: usize = 16;
/// Executions at a time that the hostile tenant may have.
const HOSTILE_EXECUTIONS: usize = 12;
/// A ramp rises by so many requests a second, every second.
const SLOPE: u32 = 20;
/// How long a ramp rises at most, in seconds.
const RAMP_SECONDS_MAX: u64 = 60;
/// More than the server lets wait (512 of a tenant), so that a ramp is not slowed down by a lack of users, and fewer
/// than the connections that it takes (1,024).
const RAMP_USERS: usize = 800;
/// Beyond the knee the queue grows, and with it the time of the slowest.
const KNEE_P99_MS: f64 = 100.0;
const MIB: f64 = (1 << 20) as f64;

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// One request is a whole session: 16 users, Python
    RunOnce,
    /// Create, execute, delete: 16 users, Python
    Life,
    /// Executions in contexts that are alive: 8 users, half Python and half JavaScript
    Warm,
    /// Hundreds of idle sessions, and one that works
    Idle,
    /// Python, JavaScript and TypeScript in turn: 16 users
    Mixed,
    /// A tenant at all its caps with loops and memory bombs, and another one beside it
    Neighbour,
    /// The rate rises until the server refuses
    Ramp,
}

/// What a scenario came to.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// What it is.
    pub about: String,
    /// What it says beyond what every scenario says.
    pub facts: Vec<Fact>,
    /// Its attacks, in order.
    pub phases: Vec<Phase>,
}

/// A figure.
#[derive(Debug, Serialize)]
pub struct Fact {
    /// What it is of.
    pub what: &'static str,
    /// The figure.
    pub value: f64,
    /// `ms`, `MiB`, `/s`, or `×` for a proportion.
    pub unit: &'static str,
}

/// What all scenarios are run with.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The server.
    pub target: &'a Target,
    /// How long a phase lasts.
    pub seconds: u64,
    /// How many idle sessions there are, half of them Python's.
    pub idle: usize,
}

fn fact(what: &'static str, value: f64, unit: &'static str) -> Fact {
    Fact { what, value, unit }
}

fn python(lane: &'static str) -> Program {
    Program::new(lane, "python", "print(1 + 1)")
}

fn javascript(lane: &'static str) -> Program {
    Program::new(lane, "javascript", "console.log(1 + 1)")
}

fn typescript(lane: &'static str) -> Program {
    Program::new(lane, "typescript", "const two: number = 1 + 1;\nconsole.log(two);")
}

/// Programs that do what they can to be in the way. Their sessions are small, so that each ends by its own limits.
fn hostile(lane: &'static str) -> Vec<Program> {
    let limits = json!({"memory_bytes": 128 << 20, "output_bytes": 64 << 10});
    let attack = |(language, code): (&str, &str)| Program {
        lane,
        request: json!({"language": language, "code": code, "timeout_seconds": 1, "limits": limits}),
        outcome: Outcome::Any,
    };
    [
        ("python", "while True: pass"),
        ("javascript", "for (;;) {}"),
        ("python", "x = []\nwhile True: x.append(bytearray(1 << 20))"),
        ("javascript", "const x = []; for (;;) x.push(new Uint8Array(1 << 20).fill(1))"),
        ("python", "while True: print('x' * 1000)"),
    ]
    .map(attack)
    .into()
}

impl Scenario {
    /// Its name, as on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn about(self) -> String {
        self.to_possible_value().and_then(|value| Some(value.get_help()?.to_string())).unwrap_or_default()
    }

    /// Makes its attacks.
    pub fn run(self, bench: &Bench<'_>) -> Result<Report> {
        println!("\n{}: {}", self.name(), self.about());
        let (facts, phases) = match self {
            Self::RunOnce => (vec![], vec![bench.run_once()?]),
            Self::Life => (vec![], vec![bench.life()?]),
            Self::Warm => (vec![], vec![bench.warm()?]),
            Self::Idle => bench.idle_sessions()?,
            Self::Mixed => (vec![], vec![bench.mixed()?]),
            Self::Neighbour => bench.neighbour()?,
            Self::Ramp => bench.ramp()?,
        };
        Ok(Report { name: self.name(), about: self.about(), facts, phases })
    }
}

impl Bench<'_> {
    fn attack(&self, name: &'static str, lanes: &[&'static str]) -> Attack<'_> {
        Attack {
            name,
            base: self.target.base(),
            probe: self.target.probe(),
            lanes: lanes.to_vec(),
            seconds: self.seconds,
            until: |_| false,
        }
    }

    /// One crowd of a tenant of its own.
    fn simple(&self, name: &'static str, lanes: &[&'static str], users: usize, work: Work) -> Result<Phase> {
        let tenant = self.target.tenant(name, &json!({}))?;
        let phase = self.attack(name, lanes).run(vec![Crowd { users, key: tenant.key.clone(), work }])?;
        self.target.retire(&tenant)?;
        Ok(phase)
    }

    fn run_once(&self) -> Result<Phase> {
        self.simple("run-once", &["run"], USERS, Work::Run(vec![python("run")]))
    }

    fn life(&self) -> Result<Phase> {
        let [whole, create, delete] = LIFE;
        self.simple("life", &[whole, create, "execute", delete], USERS, Work::Life(python("execute")))
    }

    fn mixed(&self) -> Result<Phase> {
        let programs = vec![python("python"), javascript("javascript"), typescript("typescript")];
        self.simple("mixed", &["python", "javascript", "typescript"], USERS, Work::Run(programs))
    }

    fn warm(&self) -> Result<Phase> {
        let tenant = self.target.tenant("warm", &json!({}))?;
        let programs = [python("python"), javascript("javascript")];
        let sessions = programs.iter().cycle().take(USERS / 2);
        let sessions = sessions.map(|program| alive(&tenant, program)).collect::<Result<Vec<_>>>()?;
        let crowd = Crowd { users: sessions.len(), key: tenant.key.clone(), work: Work::Warm(sessions) };
        let phase = self.attack("warm", &["python", "javascript"]).run(vec![crowd])?;
        self.target.retire(&tenant)?;
        Ok(phase)
    }

    fn idle_sessions(&self) -> Result<(Vec<Fact>, Vec<Phase>)> {
        let quotas = json!({"sessions": self.idle + 1});
        let tenant = self.target.tenant("idle", &quotas)?;
        let active = alive(&tenant, &python("active session"))?;
        let attack = |name| {
            let crowd = Crowd { users: 1, key: tenant.key.clone(), work: Work::Warm(vec![active.clone()]) };
            self.attack(name, &["active session"]).run(vec![crowd])
        };
        let alone = attack("alone")?;
        let free = host::memory("MemAvailable");
        let of_python = self.fill(&tenant, &python("idle"), self.idle.div_ceil(2))?;
        let of_javascript = self.fill(&tenant, &javascript("idle"), self.idle / 2)?;
        let taken = free.saturating_sub(host::memory("MemAvailable"));
        let beside = attack("beside idle sessions")?;
        let facts = vec![
            fact("idle sessions", self.idle as f64, ""),
            fact("memory per idle Python session (PSS)", of_python, "MiB"),
            fact("memory per idle JavaScript session (PSS)", of_javascript, "MiB"),
            fact(
                "memory per idle session, as the machine misses it",
                taken as f64 / MIB / self.idle as f64,
                "MiB",
            ),
            fact("p99 of the active session alone", alone.lanes[0].p99_ms, "ms"),
            fact("p99 of the active session beside the idle ones", beside.lanes[0].p99_ms, "ms"),
        ];
        self.target.retire(&tenant)?;
        Ok((facts, vec![alone, beside]))
    }

    /// Makes sessions, each with a context that is alive; returns by how many MiB of memory each made the server grow.
    fn fill(&self, tenant: &Tenant, program: &Program, count: usize) -> Result<f64> {
        self.target.rest();
        let before = self.target.probe().memory_bytes();
        for n in 1..=count {
            alive(tenant, program)?;
            if goose::is_killswitch_triggered() {
                bail!("interrupted");
            }
            if n % 50 == 0 {
                println!(
                    "  {n} idle sessions of {}",
                    program.request["language"].as_str().unwrap_or_default()
                );
            }
        }
        self.target.rest();
        let grown = self.target.probe().memory_bytes().saturating_sub(before);
        Ok(grown as f64 / MIB / count as f64)
    }

    fn neighbour(&self) -> Result<(Vec<Fact>, Vec<Phase>)> {
        let quotas = json!({"sessions": HOSTILE_EXECUTIONS, "concurrent_executions": HOSTILE_EXECUTIONS});
        let attacker = self.target.tenant("hostile", &quotas)?;
        let victim = self.target.tenant("victim", &json!({}))?;
        let victims = || {
            let work = Work::Run(vec![python("neighbour"), javascript("neighbour")]);
            Crowd { users: 2, key: victim.key.clone(), work }
        };
        let attackers =
            Crowd { users: USERS, key: attacker.key.clone(), work: Work::Run(hostile("hostile tenant")) };
        let alone = self.attack("alone", &["neighbour"]).run(vec![victims()])?;
        let beside = self.attack("beside a hostile tenant", &["neighbour", "hostile tenant"]);
        let beside = beside.run(vec![victims(), attackers])?;
        let p99 = |phase: &Phase| phase.lanes[0].p99_ms;
        let facts = vec![
            fact("p99 of the neighbour alone", p99(&alone), "ms"),
            fact("p99 of the neighbour beside a hostile tenant", p99(&beside), "ms"),
            fact("so many times as long", p99(&beside) / p99(&alone), "×"),
        ];
        self.target.retire(&attacker)?;
        self.target.retire(&victim)?;
        Ok((facts, vec![alone, beside]))
    }

    fn ramp(&self) -> Result<(Vec<Fact>, Vec<Phase>)> {
        let tenant = self.target.tenant("ramp", &json!({}))?;
        let attack = Attack {
            seconds: RAMP_SECONDS_MAX,
            until: |seconds| matches!(seconds, [.., a, b] if refuses(a) && refuses(b)),
            ..self.attack("ramp", &["run"])
        };
        let work = Work::Ramp(python("run"), SLOPE);
        let phase = attack.run(vec![Crowd { users: RAMP_USERS, key: tenant.key.clone(), work }])?;
        self.target.retire(&tenant)?;
        Ok((knee(&phase.timeline), vec![phase]))
    }
}

fn refuses(second: &Second) -> bool {
    second.lanes[0].refused > 0.0
}

/// The most that was answered in a second while the queue stayed short, and what was asked when the first was refused.
fn knee(timeline: &[Second]) -> Vec<Fact> {
    let short =
        |second: &&Second| !refuses(second) && second.lanes[0].p99_ms.is_some_and(|ms| ms <= KNEE_P99_MS);
    let most = timeline.iter().filter(short).map(|second| second.lanes[0].answered).fold(0.0, f64::max);
    let mut facts = vec![fact("knee: most answered in a second with p99 of 100 ms or less", most, "/s")];
    if let Some(first) = timeline.iter().find(|second| refuses(second)) {
        facts.push(fact("asked for when the first was refused", first.at * f64::from(SLOPE), "/s"));
    }
    facts
}

/// A new session in which the program has run once, so that its context is alive.
fn alive(tenant: &Tenant, program: &Program) -> Result<(String, Program)> {
    let session = tenant.client.session(&json!({}))?;
    let answer = tenant.client.execute_with(&session, &program.request)?;
    (answer["status"] == "succeeded")
        .then_some((session, program.clone()))
        .context("the program must succeed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Pulse;

    fn second(at: f64, answered: f64, refused: f64, p99_ms: f64) -> Second {
        let lanes = vec![Pulse { answered, refused, p50_ms: Some(1.0), p99_ms: Some(p99_ms) }];
        Second { at, lanes, cpu_cores: 1.0, memory_bytes: None }
    }

    #[test]
    fn the_knee_is_before_the_queue_grows() {
        let timeline = [
            second(1.0, 10.0, 0.0, 3.0),
            second(2.0, 30.0, 0.0, 50.0),
            second(3.0, 40.0, 0.0, 900.0),
            second(4.0, 35.0, 7.0, 90.0),
        ];
        let figures: Vec<f64> = knee(&timeline).iter().map(|fact| fact.value).collect();
        assert_eq!(figures, [30.0, 80.0]);
        assert_eq!(knee(&timeline[..3]).len(), 1, "nothing was refused");
    }

    #[test]
    fn every_scenario_says_what_it_is() {
        for scenario in Scenario::value_variants() {
            assert!(!scenario.name().is_empty() && !scenario.about().is_empty(), "{scenario:?}");
        }
    }
}
