//! The page: one file, without scripts and without anything from elsewhere.

use super::plot::{Plot, Scale, Series};
use super::{Book, title};
use crate::attack::Second;
use crate::scenarios::Report;
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("page.css");

impl Book {
    /// The page.
    pub fn html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { "anchorhold under load" }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    header {
                        h1 { "anchorhold under load" }
                        p { (self.target) ", " (self.at) br; (self.machine) }
                    }
                    main {
                        section { h2 { "All figures" } (self.figures()) (self.refusals()) }
                        @for report in &self.scenarios { (section(report)) }
                    }
                    footer {
                        "Times are of answers only, in milliseconds, seen by a client on the same machine. "
                        "CPU is user and system time of all processes of the server, in processors. "
                        "Memory is the proportional set size of all of them, the most that it was."
                    }
                }
            }
        };
        page.into_string()
    }

    fn figures(&self) -> Markup {
        let numbers = ["answered", "rate/s", "p50", "p90", "p99", "max", "refused", "CPU", "MiB"];
        html! {
            div.scroll { table {
                thead { tr { th { "" } @for name in numbers { th { (name) } } } }
                tbody { @for (report, phase) in self.phases() {
                    @for (n, lane) in phase.lanes.iter().enumerate() {
                        tr.first[n == 0] {
                            th { (title(report, phase, lane)) }
                            td { (lane.answered) }
                            td { (number(lane.rate)) }
                            td { (number(lane.p50_ms)) }
                            td { (number(lane.p90_ms)) }
                            td { (number(lane.p99_ms)) }
                            td { (number(lane.max_ms)) }
                            td { (lane.refusals()) }
                            td { @if n == 0 { (number(phase.cpu_cores)) } }
                            td { @if n == 0 { (phase.memory_bytes >> 20) } }
                        }
                    }
                } }
            } }
        }
    }

    fn refusals(&self) -> Markup {
        let refused = self.refused();
        html! {
            @if !refused.is_empty() {
                p.quiet {
                    "Refused or failed: "
                    @for (n, (code, count)) in refused.iter().enumerate() {
                        @if n > 0 { ", " }
                        code { (code) } " × " (count)
                    }
                    "."
                }
            }
        }
    }
}

fn section(report: &Report) -> Markup {
    html! {
        section {
            h2 { (report.name) }
            p.quiet { (report.about) }
            @if !report.facts.is_empty() {
                dl { @for fact in &report.facts {
                    div {
                        dt { (fact.what) }
                        dd { (number(fact.value)) @if !fact.unit.is_empty() { " " span.unit { (fact.unit) } } }
                    }
                } }
            }
            div.plots { @for plot in plots(report) { (plot.draw()) } }
        }
    }
}

/// Three digits are what a figure is worth.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// The phases of a scenario, one behind the other.
fn plots(report: &Report) -> [Plot; 4] {
    let mut begun = 0.0;
    let mut marks = Vec::new();
    let mut seconds: Vec<(f64, &Second)> = Vec::new();
    for phase in &report.phases {
        marks.push((begun, phase.name));
        seconds.extend(phase.timeline.iter().map(|second| (begun + second.at, second)));
        begun = seconds.last().map_or(begun, |(at, _)| *at);
    }
    // One phase needs no name.
    if let [_] = marks[..] {
        marks.clear();
    }
    let series = |name, class, value: fn(&Second) -> Option<f64>| Series {
        name,
        class,
        points: seconds.iter().map(|(at, second)| (*at, value(second))).collect(),
    };
    // A line of nothing but zeros says no more than the table does.
    let refused = series("refused", "bad", |second| Some(second.lanes[0].refused));
    let refused = refused.points.iter().any(|(_, value)| *value > Some(0.0)).then_some(refused);
    let answered = series("answered", "main", |second| Some(second.lanes[0].answered));
    let requests = std::iter::once(answered).chain(refused).collect();
    let plot = |title, unit, scale, series| Plot { title, unit, scale, series, marks: marks.clone() };
    [
        plot("requests", "/s", Scale::Linear, requests),
        plot(
            "time of an answer",
            "ms",
            Scale::Logarithmic,
            vec![
                series("p99", "main", |second| second.lanes[0].p99_ms),
                series("p50", "second", |second| second.lanes[0].p50_ms),
            ],
        ),
        plot(
            "CPU of the server",
            "processors",
            Scale::Linear,
            vec![series("CPU", "main", |second| Some(second.cpu_cores))],
        ),
        plot(
            "memory of the server",
            "MiB",
            Scale::Linear,
            vec![series("memory", "main", |second| second.memory_bytes.map(|bytes| (bytes >> 20) as f64))],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::book;

    #[test]
    fn the_page_stands_alone_and_escapes_what_it_shows() {
        let page = book("<capacity>").html();
        assert!(page.contains("<code>&lt;capacity&gt;</code> × 2"), "{page}");
        assert!(page.contains("&lt;until&gt; it refuses") && !page.contains("<until>"));
        assert_eq!(page.matches("<svg").count(), 4);
        for foreign in ["http:", "https:", "<script", "<link", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
