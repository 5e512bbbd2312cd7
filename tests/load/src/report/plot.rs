//! A plot over time, as SVG that takes its colours from the page.

use maud::{Markup, html};
use std::fmt::Write as _;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 470.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 166.0;
/// So many lines across a plot at most.
const TICKS_MAX: f64 = 4.0;

/// How values become heights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From nothing.
    Linear,
    /// From the power of ten below the least: for times, of which a tenth and tenfold matter alike.
    Logarithmic,
}

/// A line.
#[derive(Debug)]
pub struct Series {
    /// Its name.
    pub name: &'static str,
    /// The page's class that gives it its colour.
    pub class: &'static str,
    /// When, in seconds, and what; a gap where there is nothing.
    pub points: Vec<(f64, Option<f64>)>,
}

/// A plot.
#[derive(Debug)]
pub struct Plot {
    /// What it shows.
    pub title: &'static str,
    /// What the heights are in.
    pub unit: &'static str,
    /// How they grow.
    pub scale: Scale,
    /// What is drawn; all at the same times.
    pub series: Vec<Series>,
    /// When what begins.
    pub marks: Vec<(f64, &'static str)>,
}

/// Where things are.
struct Frame {
    scale: Scale,
    seconds: f64,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Frame {
    fn of(plot: &Plot) -> Self {
        let values = || plot.series.iter().flat_map(|series| &series.points).filter_map(|(_, value)| *value);
        let most = values().fold(0.0, f64::max);
        let times = plot.series.iter().flat_map(|series| &series.points).map(|(at, _)| *at);
        let seconds = times.fold(1.0, f64::max);
        let (low, high, ticks) = match plot.scale {
            Scale::Linear => linear(most),
            Scale::Logarithmic => {
                logarithmic(values().filter(|value| *value > 0.0).fold(f64::MAX, f64::min), most)
            }
        };
        Self { scale: plot.scale, seconds, low, high, ticks }
    }

    fn x(&self, at: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * at / self.seconds
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic => (value.max(self.low) / self.low).log10() / (self.high / self.low).log10(),
        };
        BOTTOM - (BOTTOM - TOP) * share
    }
}

fn linear(most: f64) -> (f64, f64, Vec<f64>) {
    // Less than one is close to nothing in everything that is drawn so.
    let most = most.max(1.0);
    let step = nice(most / TICKS_MAX);
    let count = (most / step).ceil().max(1.0);
    (0.0, count * step, steps(count).map(|n| n * step).collect())
}

/// The least of 1, 2 and 5 with any number of zeros that is not below this.
fn nice(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0].map(|n| n * power).into_iter().find(|step| *step >= value).unwrap_or(10.0 * power)
}

fn logarithmic(least: f64, most: f64) -> (f64, f64, Vec<f64>) {
    // Without any value there is still a frame.
    let (least, most) = if most > 0.0 { (least, most) } else { (1.0, 1.0) };
    let (from, to) = (least.log10().floor(), most.log10().ceil());
    let to = to.max(from + 1.0);
    (10f64.powf(from), 10f64.powf(to), steps(to - from).map(|n| 10f64.powf(from + n)).collect())
}

/// 0, 1, … up to a whole number that is small.
fn steps(last: f64) -> impl Iterator<Item = f64> {
    (0u32..).map(f64::from).take_while(move |n| *n <= last)
}

impl Plot {
    /// Draws it.
    pub fn draw(&self) -> Markup {
        let frame = Frame::of(self);
        html! {
            figure {
                figcaption {
                    (self.title) span.unit { (self.unit) }
                    @if self.series.len() > 1 { @for series in &self.series {
                        span class={ "key " (series.class) } { (series.name) }
                    } }
                }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ (self.title) ", " (self.unit) } {
                    (axes(&frame))
                    @for (at, name) in &self.marks {
                        @let x = round(frame.x(*at));
                        @if *at > 0.0 { line.mark x1=(x) x2=(x) y1="4" y2=(BOTTOM) {} }
                        text x=(x + 4.0) y="11" { (name) }
                    }
                    @for series in &self.series { (line(series, &frame)) }
                    (self.hits(&frame))
                }
            }
        }
    }

    /// Whoever points at a second is told its values.
    fn hits(&self, frame: &Frame) -> Markup {
        let times: Vec<f64> =
            self.series.first().into_iter().flat_map(|series| &series.points).map(|(at, _)| *at).collect();
        let wide = (RIGHT - LEFT) / frame.seconds;
        html! {
            @for (n, at) in times.iter().enumerate() {
                rect.hit x=(round(frame.x(*at) - wide / 2.0)) y=(TOP) width=(round(wide)) height=(BOTTOM - TOP) {
                    title { (self.told(n, *at)) }
                }
            }
        }
    }

    fn told(&self, n: usize, at: f64) -> String {
        let mut text = format!("{at:.0} s");
        for series in &self.series {
            let value = series.points.get(n).and_then(|(_, value)| *value);
            let value = value.map_or_else(|| "–".to_owned(), label);
            // String's formatter never fails.
            let _ = write!(text, "\n{} {value} {}", series.name, self.unit);
        }
        text
    }
}

fn axes(frame: &Frame) -> Markup {
    let step = nice(frame.seconds / 8.0).max(1.0);
    html! {
        @for (n, tick) in frame.ticks.iter().enumerate() {
            @let y = round(frame.y(*tick));
            line.grid.base[n == 0] x1=(LEFT) x2=(RIGHT) y1=(y) y2=(y) {}
            text x=(LEFT - 6.0) y=(y + 4.0) text-anchor="end" { (label(*tick)) }
        }
        @for at in steps((frame.seconds / step).floor()).map(|n| n * step) {
            text x=(round(frame.x(at))) y=(BOTTOM + 17.0) text-anchor="middle" { (at) @if at == 0.0 { " s" } }
        }
    }
}

fn line(series: &Series, frame: &Frame) -> Markup {
    let mut path = String::new();
    let mut pen = 'M';
    let mut alone = Vec::new();
    for (n, (at, value)) in series.points.iter().enumerate() {
        let Some(value) = value else {
            pen = 'M';
            continue;
        };
        let (x, y) = (round(frame.x(*at)), round(frame.y(*value)));
        // String's formatter never fails.
        let _ = write!(path, "{pen}{x} {y}");
        let next = series.points.get(n + 1).is_some_and(|(_, value)| value.is_some());
        // A point with neighbours on no side would be no line.
        if pen == 'M' && !next {
            alone.push((x, y));
        }
        pen = 'L';
    }
    html! {
        path class={ "line " (series.class) } d=(path) {}
        @for (x, y) in alone { circle class={ "dot " (series.class) } cx=(x) cy=(y) r="3" {} }
    }
}

/// A tenth of a pixel is exact enough.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// As few digits as say it.
fn label(value: f64) -> String {
    let text = if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    match text.split_once('.') {
        Some((whole, digits)) if digits.trim_end_matches('0').is_empty() => whole.to_owned(),
        Some((whole, digits)) => format!("{whole}.{}", digits.trim_end_matches('0')),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_every_value() {
        for most in [0.0, 0.03, 1.0, 1.9, 7.3, 99.0, 373.0, 1024.0] {
            let (low, high, ticks) = linear(most);
            assert!(low <= most && most <= high && (2..=6).contains(&ticks.len()), "{most}: {ticks:?}");
        }
        assert_eq!(linear(373.0).2, [0.0, 100.0, 200.0, 300.0, 400.0]);
        assert_eq!(logarithmic(0.4, 38.0).2, [0.1, 1.0, 10.0, 100.0]);
        assert_eq!(logarithmic(f64::MAX, 0.0).2, [1.0, 10.0]);
    }

    #[test]
    fn a_gap_is_a_gap() {
        let points = vec![(1.0, Some(1.0)), (2.0, Some(2.0)), (3.0, None), (4.0, Some(1.0))];
        let series = Series { name: "a", class: "main", points };
        let plot = Plot { title: "t", unit: "u", scale: Scale::Linear, series: vec![series], marks: vec![] };
        let drawn = plot.draw().into_string();
        assert_eq!(drawn.matches('M').count(), 2, "{drawn}");
        assert_eq!(drawn.matches("<circle").count(), 1, "{drawn}");
        assert!(drawn.contains("3 s\na – u"), "{drawn}");
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([0.1, 1.0, 2.5, 0.25, 38.4, 1000.0].map(label), ["0.1", "1", "2.5", "0.25", "38", "1000"]);
    }
}
