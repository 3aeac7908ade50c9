//! The report: the plots as files, and one page with everything in it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::plots;
use crate::rows::Summary;
use crate::scenario::Scenario;
use crate::table;

/// Makes the folder if it is missing: before the runs, which take long.
pub(crate) fn prepare(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| failed(folder, &error))
}

/// Writes plots and page into `folder`. Returns where the page is.
pub(crate) fn write(
    folder: &Path,
    seeds: &[u64],
    parts: &[(&Scenario, Vec<Summary>)],
) -> Result<PathBuf, String> {
    let save = |file: &Path, text: &str| fs::write(file, text).map_err(|e| failed(folder, &e));
    let mut body = String::new();
    for (scenario, summaries) in parts {
        let whole: Vec<&Summary> = summaries.iter().filter(|s| s.phase.is_none()).collect();
        let latencies = plots::latencies(&scenario.name, &whole)?;
        let loads = plots::loads(&scenario.name, &whole)?;
        for (kind, svg) in [("latency", &latencies), ("load", &loads)] {
            let file = folder.join(format!("{}-{kind}.svg", scenario.name));
            save(&file, svg)?;
        }
        section(&mut body, scenario, summaries, &latencies, &loads);
    }
    let page = folder.join("report.html");
    save(&page, &html(seeds, parts, &body))?;
    Ok(page)
}

fn failed(folder: &Path, error: &std::io::Error) -> String {
    format!("--out {}: {error}", folder.display())
}

fn section(
    body: &mut String,
    scenario: &Scenario,
    summaries: &[Summary],
    latencies: &str,
    loads: &str,
) {
    let name = escape(&scenario.name);
    let about = escape(&scenario.about);
    let _ = write!(body, "<section id=\"{name}\"><h2>{name}</h2><p>{about}</p>");
    body.push_str("<div class=\"wide\"><table><thead><tr>");
    for head in table::HEAD {
        let _ = write!(body, "<th>{head}</th>");
    }
    body.push_str("</tr></thead><tbody>");
    for summary in summaries {
        body.push_str("<tr>");
        for cell in table::cells(summary, summaries) {
            let _ = write!(body, "<td>{}</td>", escape(&cell));
        }
        body.push_str("</tr>");
    }
    body.push_str("</tbody></table></div>");
    if let Some(remark) = table::remark(summaries) {
        let _ = write!(body, "<p>{}</p>", escape(&remark));
    }
    let _ = write!(
        body,
        "<figure>{latencies}</figure><figure>{loads}</figure></section>"
    );
}

fn html(seeds: &[u64], parts: &[(&Scenario, Vec<Summary>)], body: &str) -> String {
    let mut contents = String::new();
    for (scenario, _) in parts {
        let name = escape(&scenario.name);
        let _ = write!(contents, "<a href=\"#{name}\">{name}</a> ");
    }
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>evenkeel: policies compared</title><style>{STYLE}</style></head><body>\
         <h1>Policies compared</h1><p>Simulated calls, balanced by the crate's own code. Medians over \
         the seeds {}, with ranges; a call that failed counts as one that took the timeout. Load is CPU \
         used over CPU allotted.</p><nav>{contents}</nav>{body}</body></html>\n",
        seeds.join(", "),
    )
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;\
     padding:0 1em;color:#222;background:#fff}nav a{margin-right:.8em;white-space:nowrap}\
     .wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
     th,td{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:right;white-space:pre}\
     th:first-child,td:first-child{text-align:left}figure{margin:1em 0}svg{max-width:100%;height:auto}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
