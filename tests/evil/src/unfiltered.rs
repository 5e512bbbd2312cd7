//! A browser cell whose driver filters nothing: an order is a call of Chromium's protocol, sent as it is.
//!
//! An order is a method and its parameters, `Page.navigate url=file:///etc/passwd`; a value of `true`, `false` or digits is
//! one. Calls go to the first page; those of the browser itself (`Browser`, `Target`, `SystemInfo`, `Tethering`) to that.

use anchorhold_cell::browser::chromium;
use anchorhold_jail::fault;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};

/// What the fault is called by which tests ask for this.
const WANTED: &str = "unfiltered";
/// As much of an answer as is of use.
const ANSWER_CHARS: usize = 4_000;
const OF_THE_BROWSER: [&str; 4] = ["Browser.", "Target.", "SystemInfo.", "Tethering."];

/// Whether the tests want this one.
pub fn is_wanted() -> bool {
    std::env::var(fault::VARIABLE).is_ok_and(|step| step == WANTED)
}

/// A Chromium, started as the real driver starts it.
pub struct Chromium {
    orders: File,
    answers: BufReader<File>,
    calls: u64,
    page: Value,
}

impl Chromium {
    pub fn start(require_landlock: bool) -> Result<Self, String> {
        let pipes = chromium::start(require_landlock)?;
        let (orders, answers) = (pipes.to.into(), BufReader::new(pipes.from.into()));
        let mut chromium = Self { orders, answers, calls: 0, page: Value::Null };
        chromium.meet().map_err(|e| format!("chromium: {e}"))?;
        Ok(chromium)
    }

    fn meet(&mut self) -> io::Result<()> {
        let made = self.call("Target.createTarget", json!({"url": "about:blank"}))?;
        let page = &made["result"]["targetId"];
        let attached = self.call("Target.attachToTarget", json!({"targetId": page, "flatten": true}))?;
        self.page = attached["result"]["sessionId"].clone();
        self.call("Page.enable", json!({})).map(drop)
    }

    /// What Chromium answers.
    pub fn order(&mut self, order: &str) -> io::Result<String> {
        let mut words = order.split(' ');
        let method = words.next().unwrap_or_default();
        let params: Map<String, Value> = words.filter_map(parameter).collect();
        let answer = self.call(method, params.into())?;
        Ok(answer.to_string().chars().take(ANSWER_CHARS).collect())
    }

    fn call(&mut self, method: &str, params: Value) -> io::Result<Value> {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": params});
        if !OF_THE_BROWSER.iter().any(|of| method.starts_with(of)) {
            call["sessionId"] = self.page.clone();
        }
        self.orders.write_all(call.to_string().as_bytes())?;
        self.orders.write_all(&[0])?;
        loop {
            let mut said = Vec::new();
            self.answers.read_until(0, &mut said)?;
            if said.pop() != Some(0) {
                // As the real driver: with its browser the cell has nothing more to do.
                crate::end(0);
            }
            let said: Value = serde_json::from_slice(&said)?;
            if said["id"] == self.calls {
                return Ok(said);
            }
        }
    }
}

/// `name=value`; lists are `name=[value]`. `+` is a space, `'` a quotation mark.
fn parameter(word: &str) -> Option<(String, Value)> {
    let (name, value) = word.split_once('=')?;
    let list = value.strip_prefix('[').and_then(|value| value.strip_suffix(']'));
    let one = |value: &str| {
        let plain =
            serde_json::from_str(value).ok().filter(|value: &Value| value.is_boolean() || value.is_u64());
        plain.unwrap_or_else(|| value.replace('+', " ").into())
    };
    Some((name.to_owned(), list.map_or_else(|| one(value), |value| json!([one(value)]))))
}
