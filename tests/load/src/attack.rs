//! One attack: crowds of users that work for a while, watched second by second.
//!
//! [goose] launches the users, sends their requests and stops them. Its figures are left off and kept in [`crate::tally`]
//! instead: goose adds the times of refusals to those of answers, knows no problem codes and shows nobody its seconds
//! while it runs; its report loads a script from the network. Its throttle is one rate for a whole run, so that the ramp
//! paces itself, too.

use crate::probe::{Probe, Reading};
use crate::tally::{Lane, Pulse, Tally};
use anyhow::{Context, Result, ensure};
use goose::client::GooseClientBuilder;
use goose::config::GooseConfiguration;
use goose::goose::{GooseRequest, GooseUser, Scenario, Transaction};
use goose::{GooseAttack, is_killswitch_triggered, reset_killswitch, trigger_killswitch};
use reqwest::{Method, redirect};
use serde::Serialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// So fast that a thousand users are there within a tenth of a second.
const USERS_PER_SECOND: &str = "10000";
/// How long a user pauses when the server cannot be reached, in place of asking in a loop.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);
/// The code of a request that got no answer, or none that is JSON.
const TRANSPORT: &str = "transport";
/// Every second is shown.
const SECOND: Duration = Duration::from_secs(1);

/// A program to be executed.
#[derive(Debug, Clone)]
pub struct Program {
    /// The lane that its executions count in.
    pub lane: &'static str,
    /// The request, as it is sent.
    pub request: Value,
    /// What it must come to for its execution to count as answered.
    pub outcome: Outcome,
}

/// What an execution must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The program must succeed.
    Success,
    /// Any end will do: the program is one that limits end.
    Any,
}

impl Program {
    /// A program that must succeed.
    pub fn new(lane: &'static str, language: &str, code: &str) -> Self {
        Self { lane, request: json!({"language": language, "code": code}), outcome: Outcome::Success }
    }
}

/// What a user does over and over.
#[derive(Debug)]
pub enum Work {
    /// Runs the programs in turn, each in a session of its own, with one request.
    Run(Vec<Program>),
    /// Creates a session, executes the program in it and deletes it; lanes [`LIFE`], and that of the program.
    Life(Program),
    /// Executes in a session that is there already: each user has the one of its number.
    Warm(Vec<(String, Program)>),
    /// Runs the program as in `Run`, but at a rate that rises evenly from nothing, by so much every second. Times count
    /// from when a request was due, so that a late one hides nothing.
    Ramp(Program, u32),
}

/// The lanes of a session's life, besides that of its execution.
pub const LIFE: [&str; 3] = ["create, execute, delete", "create", "delete"];

/// Users who do the same.
#[derive(Debug)]
pub struct Crowd {
    /// How many.
    pub users: usize,
    /// The key that they use.
    pub key: String,
    /// What they do.
    pub work: Work,
}

/// An attack to be made.
#[derive(Debug)]
pub struct Attack<'a> {
    /// What is shown while it runs.
    pub name: &'static str,
    /// Where the server is.
    pub base: &'a str,
    /// What it costs.
    pub probe: &'a Probe,
    /// What is counted; the first lane is shown while it runs.
    pub lanes: Vec<&'static str>,
    /// How long it lasts, unless `until` ends it.
    pub seconds: u64,
    /// Ends the attack when it holds of the seconds so far.
    pub until: fn(&[Second]) -> bool,
}

/// What an attack came to.
#[derive(Debug, Serialize)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// How long it lasted.
    pub seconds: f64,
    /// What was counted.
    pub lanes: Vec<Lane>,
    /// Processor time of the server a second, in processors.
    pub cpu_cores: f64,
    /// The most memory that the server had.
    pub memory_bytes: u64,
    /// Each second of it.
    pub timeline: Vec<Second>,
}

/// A second of an attack.
#[derive(Debug, Serialize)]
pub struct Second {
    /// When it ended, in seconds since the attack began.
    pub at: f64,
    /// What each lane did.
    pub lanes: Vec<Pulse>,
    /// Processor time of the server, in processors.
    pub cpu_cores: f64,
    /// Memory of the server, unless it had too many processes to ask.
    pub memory_bytes: Option<u64>,
}

/// What the users of a crowd share.
#[derive(Debug)]
struct Shared {
    work: Work,
    key: String,
    base: String,
    http: reqwest::Client,
    tally: Arc<Tally>,
    /// The next request of a ramp.
    next: AtomicU64,
    /// When the ramp began: with the first user who was there.
    begun: OnceLock<Instant>,
}

impl Attack<'_> {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// When it cannot be made at all, or was interrupted. What the server refuses is counted, not an error.
    pub fn run(&self, crowds: Vec<Crowd>) -> Result<Phase> {
        println!("  {}", self.name);
        let users: usize = crowds.iter().map(|crowd| crowd.users).sum();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        // Neither a proxy nor a redirect may lead the load away from this machine.
        let http = reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none()).build()?;
        let tally = Arc::new(Tally::new(&self.lanes));
        let mut attack = GooseAttack::initialize_with_config(self.configuration(users)?)?
            // Else goose makes a client for each user, and each of those reads all certificates.
            .set_client_builder_without_cookies(GooseClientBuilder::new().without_cookies())?;
        for crowd in crowds {
            attack = attack.register_scenario(self.scenario(crowd, &http, &tally)?);
        }
        let (stop, stopped) = mpsc::channel();
        let (timeline, cost) = std::thread::scope(|scope| {
            let counted = &tally;
            let watch = scope.spawn(move || self.watch(counted, stopped));
            let outcome = runtime.block_on(attack.execute());
            drop(stop);
            let watched = watch.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?;
            outcome.context("goose")?;
            watched
        })?;
        reset_killswitch();
        let seconds = tally.started().elapsed().as_secs_f64();
        let most = timeline.iter().filter_map(|second| second.memory_bytes).max();
        Ok(Phase {
            name: self.name,
            seconds,
            lanes: tally.sums(),
            cpu_cores: cost.as_secs_f64() / seconds,
            memory_bytes: most.unwrap_or_else(|| self.probe.memory_bytes()),
            timeline,
        })
    }

    fn configuration(&self, users: usize) -> Result<GooseConfiguration> {
        let (users, time) = (users.to_string(), self.seconds.to_string());
        let words = [
            ["--host", self.base],
            ["--users", &users],
            ["--increase-rate", USERS_PER_SECOND],
            ["--run-time", &time],
            ["--quiet", "--no-metrics"],
            ["--no-telnet", "--no-print-metrics"],
        ];
        Ok(GooseConfiguration::parse_args_default(words.as_flattened())?)
    }

    fn scenario(&self, crowd: Crowd, http: &reqwest::Client, tally: &Arc<Tally>) -> Result<Scenario> {
        // Weights are shares of the users, so that each crowd has as many as it should.
        let scenario = Scenario::new(self.name).set_weight(crowd.users)?;
        let shared = Arc::new(Shared {
            work: crowd.work,
            key: crowd.key,
            base: self.base.to_owned(),
            http: http.clone(),
            tally: tally.clone(),
            next: AtomicU64::new(0),
            begun: OnceLock::new(),
        });
        Ok(scenario.register_transaction(Transaction::new(Arc::new(move |user| {
            let shared = shared.clone();
            Box::pin(async move {
                shared.turn(user).await;
                Ok(())
            })
        }))))
    }

    /// Reads what there is every second until goose has ended, says it, and ends the attack when that is due. Returns the
    /// processor time of the server, too.
    fn watch(&self, tally: &Tally, stopped: Receiver<Infallible>) -> Result<(Vec<Second>, Duration)> {
        let first = self.probe.read();
        let (mut before, mut at, mut timeline) = (first, Instant::now(), Vec::new());
        let (mut running, mut ended_here) = (true, false);
        while running {
            let told = stopped.recv_timeout(SECOND.saturating_sub(at.elapsed()));
            running = told == Err(RecvTimeoutError::Timeout);
            let span = at.elapsed();
            at += span;
            let now = self.probe.read();
            // What remains after the last whole second may be too short to say anything.
            if running || span > SECOND / 2 {
                let second = second(tally, span, before, now);
                self.tell(&second);
                timeline.push(second);
            }
            before = now;
            if running && !ended_here && (self.until)(&timeline) {
                ended_here = true;
                trigger_killswitch("it is over");
            }
        }
        ensure!(ended_here || !is_killswitch_triggered(), "interrupted");
        Ok((timeline, before.cpu.saturating_sub(first.cpu)))
    }

    fn tell(&self, second: &Second) {
        let lane = &second.lanes[0];
        let time = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}"));
        let memory =
            second.memory_bytes.map_or_else(String::new, |bytes| format!("  {:>5} MiB", bytes >> 20));
        println!(
            "  {:>4.0} s  {:>7.0}/s  p50 {:>8} ms  p99 {:>8} ms  refused {:>6.0}/s  cpu {:.2}{memory}",
            second.at,
            lane.answered,
            time(lane.p50_ms),
            time(lane.p99_ms),
            second.lanes.iter().map(|lane| lane.refused).sum::<f64>(),
            second.cpu_cores,
        );
    }
}

fn second(tally: &Tally, span: Duration, before: Reading, now: Reading) -> Second {
    Second {
        at: tally.started().elapsed().as_secs_f64(),
        lanes: tally.pulse(span),
        cpu_cores: now.cpu.saturating_sub(before.cpu).as_secs_f64() / span.as_secs_f64(),
        memory_bytes: now.memory_bytes,
    }
}

impl Shared {
    /// One round of a user's work.
    async fn turn(&self, user: &mut GooseUser) {
        user.client.clone_from(&self.http);
        match &self.work {
            Work::Run(programs) => {
                let turn = user.weighted_users_index + user.get_iterations();
                self.run(user, &programs[turn % programs.len()], Instant::now()).await;
            }
            Work::Ramp(program, slope) => {
                let begun = *self.begun.get_or_init(Instant::now);
                let due = begun + ramp(self.next.fetch_add(1, Ordering::Relaxed), *slope);
                tokio::time::sleep_until(due.into()).await;
                self.run(user, program, due).await;
            }
            Work::Life(program) => self.life(user, program).await,
            Work::Warm(sessions) => {
                let (session, program) = &sessions[user.weighted_users_index % sessions.len()];
                self.execute(user, session, program).await;
            }
        }
    }

    async fn run(&self, user: &mut GooseUser, program: &Program, since: Instant) -> bool {
        let answer = self.call(user, Method::POST, "/v1/run", Some(&program.request)).await;
        self.note(program.lane, since, ended(answer, program.outcome))
    }

    async fn execute(&self, user: &mut GooseUser, session: &str, program: &Program) -> bool {
        let begun = Instant::now();
        let path = format!("/v1/sessions/{session}/executions");
        let answer = self.call(user, Method::POST, &path, Some(&program.request)).await;
        self.note(program.lane, begun, ended(answer, program.outcome))
    }

    /// The whole counts only when every part of it did.
    async fn life(&self, user: &mut GooseUser, program: &Program) {
        let [whole, create, delete] = LIFE;
        let born = Instant::now();
        let created = self.call(user, Method::POST, "/v1/sessions", Some(&json!({}))).await;
        let session = created.and_then(|session| Ok(session["id"].as_str().ok_or("no id")?.to_owned()));
        let id = session.as_ref().ok().cloned();
        self.note(create, born, session);
        let Some(id) = id else { return };
        let executed = self.execute(user, &id, program).await;
        let begun = Instant::now();
        let deleted = self.call(user, Method::DELETE, &format!("/v1/sessions/{id}"), None).await;
        if self.note(delete, begun, deleted) && executed {
            self.tally.answered(whole, born.elapsed());
        }
    }

    /// Counts an answer, or why there was none; returns whether there was one.
    fn note<T>(&self, lane: &str, since: Instant, answer: Result<T, String>) -> bool {
        match &answer {
            Ok(_) => self.tally.answered(lane, since.elapsed()),
            Err(code) => self.tally.refused(lane, code),
        }
        answer.is_ok()
    }

    /// Sends a request and reads its answer whole. An error is the code of what went wrong.
    async fn call(
        &self,
        user: &mut GooseUser,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, String> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        let request = GooseRequest::builder().set_request_builder(request).build();
        let sent = user.request(request).await.map_err(|error| error.to_string())?;
        let answer = match sent.response {
            Ok(answer) => (answer.status(), answer.json::<Value>().await),
            Err(_) => {
                tokio::time::sleep(UNREACHABLE_PAUSE).await;
                return Err(TRANSPORT.to_owned());
            }
        };
        match answer {
            (status, Ok(body)) if status.is_success() => Ok(body),
            (status, Ok(problem)) => {
                Err(problem["code"].as_str().map_or_else(|| status.as_u16().to_string(), str::to_owned))
            }
            (_, Err(_)) => Err(TRANSPORT.to_owned()),
        }
    }
}

/// What an execution came to, where it did not come to what it must: its status, and the name of its error.
fn ended(answer: Result<Value, String>, outcome: Outcome) -> Result<(), String> {
    let answer = answer?;
    let status = answer["status"].as_str().unwrap_or("no status");
    if status == "succeeded" || (outcome == Outcome::Any && status != "lost") {
        return Ok(());
    }
    Err(match answer["error"]["name"].as_str() {
        Some(name) => format!("{status} {name}"),
        None => status.to_owned(),
    })
}

/// When a request of a ramp is due: a rate of `slope × t` makes `slope × t² / 2` requests until `t`.
fn ramp(number: u64, slope: u32) -> Duration {
    Duration::from_secs_f64((2.0 * number as f64 / f64::from(slope)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_rises_evenly() {
        let sent_until =
            |seconds: f64| (0..).take_while(|n| ramp(*n, 20).as_secs_f64() < seconds).count() as i64;
        let in_second = |n: u32| sent_until(f64::from(n + 1)) - sent_until(f64::from(n));
        assert_eq!(ramp(0, 20), Duration::ZERO);
        for second in 0..20 {
            // In its middle the rate is 20 × (second + ½).
            assert!((in_second(second) - i64::from(20 * second + 10)).abs() <= 1, "second {second}");
        }
    }

    #[test]
    fn an_end_is_what_it_must_be_or_says_what_it_was() {
        let status = |status: &str| Ok(json!({"status": status}));
        assert_eq!(ended(status("succeeded"), Outcome::Success), Ok(()));
        assert_eq!(ended(status("timed_out"), Outcome::Success), Err("timed_out".to_owned()));
        assert_eq!(ended(status("timed_out"), Outcome::Any), Ok(()));
        let died = json!({"status": "failed", "error": {"name": "INTERPRETER_DIED"}});
        assert_eq!(ended(Ok(died), Outcome::Success), Err("failed INTERPRETER_DIED".to_owned()));
        assert_eq!(ended(status("lost"), Outcome::Any), Err("lost".to_owned()));
        assert_eq!(ended(Err("capacity".to_owned()), Outcome::Any), Err("capacity".to_owned()));
    }
}
