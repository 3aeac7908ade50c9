//! What the rounds say: the table, and JSON.

use std::time::Duration;

use evenkeel::BoxError;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::arms::{Arm, BASE};
use crate::cell::Cell;
use crate::options::name_of;
use crate::scenario::Scenario;

const HEAD: [&str; 8] = [
    "balancer",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "p99 answered",
    "failed %",
    "at first %",
    "p99 / balance_list (range)",
];

/// The rounds of one scenario.
pub(crate) struct Results {
    scenario: Scenario,
    /// Each arm's cells; a round that could not be run is `None`.
    rows: Vec<(Arm, Vec<Option<Cell>>)>,
}

/// One arm over all rounds.
struct Row {
    arm: Arm,
    all: Cell,
    rounds: usize,
    ratio: Option<Ratio>,
}

/// A geometric mean, and the least and the most of what it is of.
struct Ratio {
    mean: f64,
    least: f64,
    most: f64,
}

impl Results {
    pub(crate) fn new(scenario: Scenario, arms: &[Arm]) -> Self {
        let rows = arms.iter().map(|&arm| (arm, Vec::new())).collect();
        Self { scenario, rows }
    }

    /// Rounds must be added in their order, to each arm.
    pub(crate) fn add(&mut self, arm: Arm, cell: Option<Cell>) {
        let row = self.rows.iter_mut().find(|(of, _)| *of == arm);
        if let Some((_, cells)) = row {
            cells.push(cell);
        }
    }

    fn rows(&self) -> Result<Vec<Row>, BoxError> {
        let base = self.rows.iter().find(|(arm, _)| *arm == BASE);
        let mut rows = Vec::new();
        for (arm, cells) in &self.rows {
            let ran: Vec<&Cell> = cells.iter().flatten().collect();
            let mut all = Cell::new(Duration::ZERO);
            for cell in &ran {
                all.add(cell)?;
            }
            let ratio = base.filter(|_| *arm != BASE).and_then(|(_, base)| {
                let pairs = cells.iter().zip(base);
                let pairs = pairs.filter_map(|(one, base)| Some((one.as_ref()?, base.as_ref()?)));
                Ratio::of(pairs.map(|(one, base)| p99(&one.latency) / p99(&base.latency)))
            });
            rows.push(Row {
                arm: *arm,
                all,
                rounds: ran.len(),
                ratio,
            });
        }
        Ok(rows)
    }

    /// The table, as Markdown has it.
    pub(crate) fn table(&self) -> Result<String, BoxError> {
        let mut lines = vec![HEAD.map(str::to_owned)];
        let mut late = 0.0_f64;
        for row in self.rows()? {
            late = late.max(p99(&row.all.late));
            lines.push(row.cells());
        }
        let widths: [usize; 8] = std::array::from_fn(|column| {
            let widths = lines.iter().map(|line| line[column].chars().count());
            widths.max().unwrap_or_default()
        });
        let mut text = format!("{}\n\n", self.scenario.text());
        for (number, line) in lines.iter().enumerate() {
            for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
                text += &match column {
                    0 => format!("| {cell:<width$} |"),
                    _ => format!(" {cell:>width$} |"),
                };
            }
            text.push('\n');
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(*width);
                    text += &match column {
                        0 => format!("|-{dashes}-|"),
                        _ => format!("-{dashes}:|"),
                    };
                }
                text.push('\n');
            }
        }
        let rate = self.scenario.rate();
        text += &format!("\n{rate:.0} calls/s; 99 % of them were sent within {late:.1} ms\n");
        Ok(text)
    }

    /// An object for each arm, a line each.
    pub(crate) fn json(&self) -> Result<String, BoxError> {
        let rows = self.rows()?;
        let lines = rows
            .iter()
            .map(|row| format!("{}\n", row.json(self.scenario)));
        Ok(lines.collect())
    }
}

impl Row {
    fn cells(&self) -> [String; 8] {
        let Cell {
            latency, answered, ..
        } = &self.all;
        let ratio = self.ratio.as_ref().map(|ratio| {
            let Ratio { mean, least, most } = ratio;
            format!("{mean:.3} ({least:.3}–{most:.3})")
        });
        [
            self.arm.title(),
            millis(latency, 0.5),
            millis(latency, 0.9),
            millis(latency, 0.99),
            millis(answered, 0.99),
            percent(self.all.counts.failed_share()),
            percent(self.all.first.failed_share()),
            ratio.unwrap_or_default(),
        ]
    }

    fn json(&self, scenario: Scenario) -> Value {
        let all = &self.all;
        let ratio = self.ratio.as_ref().map(|ratio| {
            json!({
                "geometric_mean": rounded(ratio.mean),
                "least": rounded(ratio.least),
                "most": rounded(ratio.most),
            })
        });
        json!({
            "scenario": name_of(&scenario),
            "arm": name_of(&self.arm),
            "rounds": self.rounds,
            "calls": all.counts.calls,
            "failed": all.counts.failed,
            "timed_out": all.counts.timed_out,
            "failed_share": all.counts.failed_share().map(rounded),
            "p50_ms": quantile(&all.latency, 0.5).map(rounded),
            "p90_ms": quantile(&all.latency, 0.9).map(rounded),
            "p99_ms": quantile(&all.latency, 0.99).map(rounded),
            "answered_p99_ms": quantile(&all.answered, 0.99).map(rounded),
            "p99_to_balance_list": ratio,
            "first_calls": all.first.calls,
            "first_failed": all.first.failed,
            "sent_late_p99_ms": quantile(&all.late, 0.99).map(rounded),
        })
    }
}

impl Ratio {
    /// None of no ratios.
    fn of(ratios: impl Iterator<Item = f64>) -> Option<Self> {
        let ratios: Vec<f64> = ratios.collect();
        if ratios.is_empty() {
            return None;
        }
        let logs: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
        Some(Self {
            mean: (logs / ratios.len() as f64).exp(),
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            most: ratios.iter().copied().fold(0.0, f64::max),
        })
    }
}

/// In milliseconds; nothing of nothing.
fn quantile(histogram: &Histogram<u64>, quantile: f64) -> Option<f64> {
    let micros = histogram.median_equivalent(histogram.value_at_quantile(quantile));
    (!histogram.is_empty()).then_some(micros as f64 / 1e3)
}

fn p99(histogram: &Histogram<u64>) -> f64 {
    quantile(histogram, 0.99).unwrap_or_default()
}

fn millis(histogram: &Histogram<u64>, of: f64) -> String {
    match quantile(histogram, of) {
        None => "-".to_owned(),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.2}", share * 100.0))
}

/// To four digits after the point.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_a_geometric_mean_with_its_range() {
        let ratio = Ratio::of([0.5, 2.0, 1.0].into_iter()).expect("of three");
        assert!((ratio.mean - 1.0).abs() < 1e-12, "half and double are even");
        assert_eq!((ratio.least, ratio.most), (0.5, 2.0), "the range");
        assert!(
            Ratio::of(std::iter::empty()).is_none(),
            "no rounds, no ratio"
        );
    }
}
