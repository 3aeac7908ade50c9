//! The table: for people, in a terminal or a page.

use std::fmt::Write as _;

use crate::rows::{Spread, Summary};

const COLUMNS: usize = 9;

/// The rule that the others' p99 is divided by.
const MARK: &str = "omniscient";

/// What the columns are called.
pub(crate) const HEAD: [&str; COLUMNS] = [
    "policy",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "p99.9 ms",
    "p99 / omniscient's",
    "errors %",
    "load mean / max",
    "probes per call",
];

/// One line of it; `all` are the lines of the same scenario.
pub(crate) fn cells(summary: &Summary, all: &[Summary]) -> [String; COLUMNS] {
    let name = match summary.phase {
        Some(load) => format!("  at {load}"),
        None if summary.rule.sees_all() => format!("{} (sees all)", summary.rule.name),
        None => summary.rule.name.to_owned(),
    };
    let mut marks = all.iter().filter(|other| other.rule.name == MARK);
    let mark = marks.find(|mark| mark.phase == summary.phase);
    let gap = mark.map_or(String::new(), |mark| {
        number(summary.p99.median / mark.p99.median)
    });
    let (mut load, mut probes) = (String::new(), String::new());
    if let Some(loads) = &summary.load {
        load = format!("{:.2} / {:.2}", loads.mean.median, loads.max.median);
        if loads.probes_per_call.median > 0.0 {
            probes = format!("{:.2}", loads.probes_per_call.median);
        }
    }
    let errors = Spread {
        least: summary.errors.least * 100.0,
        median: summary.errors.median * 100.0,
        most: summary.errors.most * 100.0,
    };
    let errors = if errors.most == 0.0 {
        "0".to_owned()
    } else {
        spread(errors)
    };
    [
        name,
        spread(summary.p50),
        spread(summary.p90),
        spread(summary.p99),
        spread(summary.p999),
        gap,
        errors,
        load,
        probes,
    ]
}

/// What is said under the table of a scenario: where calls went while servers were at fault.
pub(crate) fn remark(summaries: &[Summary]) -> Option<String> {
    let mut remark = String::new();
    for summary in summaries {
        let share = summary.load.as_ref().and_then(|load| load.faulty_share);
        if let Some(share) = share {
            let comma = if remark.is_empty() { "" } else { ", " };
            let name = summary.rule.name;
            let _ = write!(remark, "{comma}{name} {:.2} %", share.median * 100.0);
        }
    }
    (!remark.is_empty()).then(|| format!("attempts sent to servers at fault: {remark}"))
}

/// The table as text.
pub(crate) fn text(summaries: &[Summary]) -> String {
    let head = HEAD.map(str::to_owned);
    let lines: Vec<[String; COLUMNS]> = std::iter::once(head)
        .chain(summaries.iter().map(|summary| cells(summary, summaries)))
        .collect();
    let width = |column: usize| {
        let of = |line: &[String; COLUMNS]| line[column].chars().count();
        lines.iter().map(of).max().unwrap_or(0)
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let _ = if column == 0 {
                write!(row, "{cell:<width$}")
            } else {
                write!(row, "{gap}{cell:>width$}")
            };
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// The median, and the range where there is one.
fn spread(spread: Spread) -> String {
    let (least, median, most) = (
        number(spread.least),
        number(spread.median),
        number(spread.most),
    );
    if least == most {
        median
    } else {
        format!("{median} ({least}–{most})")
    }
}

/// Three digits, or all before the point.
fn number(number: f64) -> String {
    match number {
        0.0 => "0".to_owned(),
        n if n < 0.001 => format!("{n:.0e}"),
        n if n < 1.0 => format!("{n:.3}"),
        n if n < 10.0 => format!("{n:.2}"),
        n if n < 100.0 => format!("{n:.1}"),
        n => format!("{n:.0}"),
    }
}
