//! What a page looks like to somebody who reads: snapshots, their refs, and what changed.

use crate::action::{Format, Target};
use crate::locate::{Frame, Needs, Owner};
use crate::outcome::{Failure, Link, MAX_LINKS, MAX_TEXT_CHARS, Reply, Snapshot};
use crate::run::{Place, Step};
use crate::state::TabId;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// A whole page's snapshot, before the budget of the action is applied. The changes are found in this.
const MAX_SNAPSHOT_CHARS: usize = 1 << 20;
/// Ranges of refs that are remembered; the oldest pages are forgotten first.
const MAX_RANGES: usize = 4096;

/// What the refs of a browser's snapshots mean, and what was seen last.
#[derive(Debug)]
pub(crate) struct View {
    /// Refs are counted through all pages and frames, so that one from an earlier page never means another element.
    next_ref: u32,
    /// First ref of a range → the document it is in.
    ranges: BTreeMap<u32, Place>,
    next_snapshot: u64,
    last: HashMap<TabId, Taken>,
}

#[derive(Debug)]
struct Taken {
    id: u64,
    lines: Vec<String>,
}

/// A document's answer to `snapshot`.
#[derive(Deserialize)]
struct Part {
    text: String,
    frames: Vec<Hole>,
    next: u32,
    truncated: bool,
}

/// A line that stands for a frame.
#[derive(Debug, Deserialize)]
struct Hole {
    line: usize,
    r#ref: u32,
}

impl View {
    pub(crate) fn new() -> Self {
        View { next_ref: 1, ranges: BTreeMap::new(), next_snapshot: 1, last: HashMap::new() }
    }

    /// The document that a ref's element is in.
    pub(crate) fn place(&self, number: u32) -> Option<&Place> {
        let known = number < self.next_ref;
        self.ranges.range(..=number).next_back().map(|(_, place)| place).filter(|_| known)
    }

    fn note(&mut self, place: &Place, next: u32) {
        if next > self.next_ref {
            self.ranges.insert(self.next_ref, place.clone());
            self.next_ref = next;
        }
        if self.ranges.len() > MAX_RANGES {
            self.ranges.pop_first();
        }
    }

    /// Keeps a snapshot and makes of it what the action asked for.
    fn take(&mut self, tab: TabId, lines: Vec<String>, budget_bytes: usize, since: Option<u64>) -> Snapshot {
        let id = self.next_snapshot;
        self.next_snapshot += 1;
        let before = self.last.remove(&tab).filter(|taken| Some(taken.id) == since);
        let (text, truncated) = match before {
            Some(before) => cut(&changes(&before.lines, &lines), budget_bytes),
            None => cut(&lines, budget_bytes),
        };
        self.last.insert(tab, Taken { id, lines });
        Snapshot { id, text, truncated }
    }
}

/// As many whole lines as fit.
fn cut(lines: &[String], budget_bytes: usize) -> (String, bool) {
    let mut text = String::new();
    for line in lines {
        if text.len() + line.len() + 1 > budget_bytes {
            return (text, true);
        }
        text.push_str(line);
        text.push('\n');
    }
    (text, false)
}

/// Lines that are gone, then lines that are new. Lines that only moved are neither.
fn changes(before: &[String], after: &[String]) -> Vec<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for line in before {
        *counts.entry(line.trim_start()).or_default() += 1;
    }
    let mut added = Vec::new();
    for line in after {
        match counts.get_mut(line.trim_start()) {
            Some(count) if *count > 0 => *count -= 1,
            _ => added.push(format!("+ {line}")),
        }
    }
    let mut lines = Vec::new();
    for line in before {
        if let Some(count @ 1..) = counts.get_mut(line.trim_start()) {
            *count -= 1;
            lines.push(format!("- {line}"));
        }
    }
    lines.append(&mut added);
    lines
}

impl Step<'_> {
    pub(crate) async fn snapshot(
        &mut self,
        budget_bytes: usize,
        since: Option<u64>,
    ) -> Result<Reply, Failure> {
        let frames = self.frames().await?;
        let mut parts = Vec::with_capacity(frames.len());
        for (index, frame) in frames.iter().enumerate() {
            parts.push(match self.part(&frame.place).await {
                Ok(part) => Some(part),
                // A frame that forbids scripts, or has just gone, leaves a hole.
                Err(_) if index > 0 => None,
                Err(failure) => return Err(failure),
            });
        }
        let holders = self.holders(&frames).await;
        let mut lines = Vec::new();
        let mut whole = true;
        assemble(&mut lines, &mut whole, &mut parts, &holders, (0, 0));
        let tab = self.link.state().current.ok_or(crate::run::NO_TAB)?;
        self.view.last.retain(|id, _| self.link.state().tab(*id).is_some());
        let mut snapshot = self.view.take(tab, lines, budget_bytes, since);
        snapshot.truncated |= !whole;
        Ok(Reply::Snapshot(snapshot))
    }

    async fn part(&mut self, place: &Place) -> Result<Part, Failure> {
        let call = format!("anchorhold.snapshot({}, {MAX_SNAPSHOT_CHARS})", self.view.next_ref);
        let part: Part = self.ask(place, &call).await?;
        self.view.note(place, part.next);
        Ok(part)
    }

    /// For each frame that stands in another: `(parent, ref of the element that holds it)` → the frame.
    async fn holders(&mut self, frames: &[Frame]) -> HashMap<(usize, u32), usize> {
        let mut holders = HashMap::new();
        for (index, frame) in frames.iter().enumerate() {
            let Some(parent) = frame.parent else { continue };
            if let Ok(Owner { r#ref: number @ 1.., .. }) =
                self.owner(&frames[parent].place, &frame.place.frame, "owner").await
            {
                holders.insert((parent, number), index);
            }
        }
        holders
    }

    pub(crate) async fn extract(
        &mut self,
        format: Format,
        target: Option<&Target>,
    ) -> Result<Reply, Failure> {
        let place = match target {
            Some(target) => self.locate(target, Needs::PRESENT).await?.place,
            None => self.page()?,
        };
        let whole = target.is_none();
        #[derive(Deserialize)]
        struct Text {
            text: String,
            truncated: bool,
        }
        #[derive(Deserialize)]
        struct Links {
            items: Vec<Link>,
            truncated: bool,
        }
        let function = match format {
            Format::Text => "text",
            Format::Markdown => "markdown",
            Format::Html => "html",
            Format::Links => {
                let call = format!("anchorhold.links({whole}, {MAX_LINKS})");
                let Links { items, truncated } = self.ask(&place, &call).await?;
                return Ok(Reply::Links { items, truncated });
            }
        };
        let call = format!("anchorhold.{function}({whole}, {MAX_TEXT_CHARS})");
        let Text { text, truncated } = self.ask(&place, &call).await?;
        Ok(Reply::Text { text, truncated })
    }
}

/// Puts the lines of frames where they stand. Every part is used once, so that it ends whatever a page answers.
fn assemble(
    lines: &mut Vec<String>,
    whole: &mut bool,
    parts: &mut [Option<Part>],
    holders: &HashMap<(usize, u32), usize>,
    (index, depth): (usize, usize),
) {
    let Some(Part { text, frames, truncated, .. }) = parts.get_mut(index).and_then(Option::take) else {
        return;
    };
    *whole &= !truncated;
    let mut holes = frames.into_iter().peekable();
    for (number, line) in text.lines().enumerate() {
        lines.push(format!("{:1$}{line}", "", depth * 2));
        while let Some(hole) = holes.next_if(|hole| hole.line <= number) {
            if let Some(frame) = holders.get(&(index, hole.r#ref)) {
                let deeper = (line.len() - line.trim_start().len()) / 2 + 1;
                assemble(lines, whole, parts, holders, (*frame, depth + deeper));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_snapshot_since_the_last_says_what_changed() {
        let mut view = View::new();
        let first = view.take(TabId(1), lines("- a\n- b\n- b\n- c"), 100, None);
        assert_eq!(first.text, "- a\n- b\n- b\n- c\n");
        let second = view.take(TabId(1), lines("- c\n  - b\n- d"), 100, Some(first.id));
        assert_eq!(second.text, "- - a\n- - b\n+ - d\n");
        let unchanged = view.take(TabId(1), lines("- c\n  - b\n- d"), 100, Some(second.id));
        assert_eq!((unchanged.text.as_str(), unchanged.truncated), ("", false));
        let of_another = view.take(TabId(1), lines("- c"), 100, Some(first.id));
        assert_eq!(of_another.text, "- c\n");
    }

    #[test]
    fn the_budget_cuts_between_lines() {
        assert_eq!(cut(&lines("- aa\n- bb"), 10), ("- aa\n- bb\n".into(), false));
        assert_eq!(cut(&lines("- aa\n- bb"), 9), ("- aa\n".into(), true));
    }

    #[test]
    fn a_ref_belongs_to_the_document_that_gave_it() {
        let place = |frame: &str| Place { session: "S".to_owned().into(), frame: frame.to_owned().into() };
        let mut view = View::new();
        view.note(&place("A"), 4);
        view.note(&place("B"), 4);
        view.note(&place("C"), 6);
        assert_eq!(view.place(3), Some(&place("A")));
        assert_eq!(view.place(4), Some(&place("C")));
        assert_eq!((view.place(0), view.place(6)), (None, None));
    }

    #[test]
    fn frames_stand_where_their_elements_are() {
        let part = |text: &str, frames| Some(Part { text: text.into(), frames, next: 1, truncated: false });
        let mut parts = vec![
            part("- x\n  - iframe [ref=e1]\n- y", vec![Hole { line: 1, r#ref: 1 }]),
            part("- iframe [ref=e2]", vec![Hole { line: 0, r#ref: 2 }]),
            part("- deep", vec![]),
        ];
        // A page that claims to hold itself is written once.
        let holders = HashMap::from([((0, 1), 1), ((1, 2), 2), ((2, 1), 0)]);
        let mut out = Vec::new();
        assemble(&mut out, &mut true, &mut parts, &holders, (0, 0));
        assert_eq!(out.join("\n"), "- x\n  - iframe [ref=e1]\n    - iframe [ref=e2]\n      - deep\n- y");
    }
}
