//! The plots, as SVG text.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::rows::Summary;

/// Width and height.
const SIZE: (u32, u32) = (860, 420);

const QUANTILES: [&str; 4] = ["p50", "p90", "p99", "p99.9"];

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Latency quantiles, one line for each policy.
pub(crate) fn latencies(title: &str, summaries: &[&Summary]) -> Result<String, String> {
    draw(|area| {
        let lines: Vec<[f64; 4]> = summaries
            .iter()
            .map(|s| [s.p50, s.p90, s.p99, s.p999].map(|spread| spread.median))
            .collect();
        let values = || lines.iter().flatten().copied();
        let least = values().fold(f64::INFINITY, f64::min).max(1e-3);
        let most = values().fold(least, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(format!("{title}: latency"), ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(28)
            .y_label_area_size(64)
            .build_cartesian_2d(-0.1..4.6, (least * 0.8..most * 1.25).log_scale())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(6)
            .x_label_formatter(&|x: &f64| {
                let whole = (x.round() - x).abs() < 1e-6;
                let name = QUANTILES.get(x.round() as usize).filter(|_| whole);
                name.map_or(String::new(), |name| (*name).to_owned())
            })
            .y_labels(20)
            .y_label_formatter(&|ms: &f64| format!("{}", (ms * 1e3).round() / 1e3))
            .y_desc("ms")
            .draw()?;
        for (number, (summary, line)) in summaries.iter().zip(&lines).enumerate() {
            let color = color(number);
            let points = || {
                line.iter()
                    .enumerate()
                    .map(|(x, &y)| (x as f64, y.max(1e-3)))
            };
            chart
                .draw_series(LineSeries::new(points(), color.stroke_width(2)))?
                .label(summary.rule.name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 4), (x + 12, y + 4)], color.filled())
                });
            chart.draw_series(points().map(|point| Circle::new(point, 3, color.filled())))?;
        }
        legend(&mut chart)
    })
}

/// The load of the most loaded server in each second, one line for each policy, and the mean.
pub(crate) fn loads(title: &str, summaries: &[&Summary]) -> Result<String, String> {
    draw(|area| {
        let samples = || summaries.iter().flat_map(|s| &s.load_by_second);
        let most = samples().map(|sample| sample.max).fold(0.1, f64::max);
        let lengths = summaries.iter().map(|s| s.load_by_second.len());
        let seconds = lengths.max().unwrap_or(0).max(1) as f64;
        let mut chart = ChartBuilder::on(area)
            .caption(
                format!("{title}: load of the most loaded server (grey: mean of all)"),
                ("sans-serif", 18),
            )
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..seconds * 1.3, 0.0..most * 1.05)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("seconds, warm-up included")
            .y_desc("CPU used / allotment")
            .draw()?;
        for (number, summary) in summaries.iter().enumerate() {
            let color = color(number);
            let second = |(x, y): (usize, f64)| ((x + 1) as f64, y);
            let max = summary.load_by_second.iter().map(|s| s.max).enumerate();
            let mean = summary.load_by_second.iter().map(|s| s.mean).enumerate();
            chart.draw_series(LineSeries::new(mean.map(second), BLACK.mix(0.2)))?;
            chart
                .draw_series(LineSeries::new(max.map(second), color.stroke_width(1)))?
                .label(summary.rule.name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 4), (x + 12, y + 4)], color.filled())
                });
        }
        legend(&mut chart)
    })
}

fn draw(
    paint: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Drawn,
) -> Result<String, String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)
            .map_err(Into::into)
            .and_then(|()| paint(&area))
            .and_then(|()| Ok(area.present()?))
            .map_err(|error| format!("a plot could not be drawn: {error}"))?;
    }
    Ok(svg)
}

fn legend<'a, X, Y>(chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>) -> Drawn
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

fn color(number: usize) -> RGBColor {
    // Wong's palette, told apart by the colour-blind too, and then darker ones.
    const COLORS: [(u8, u8, u8); 12] = [
        (0, 114, 178),
        (230, 159, 0),
        (0, 158, 115),
        (213, 94, 0),
        (204, 121, 167),
        (86, 180, 233),
        (60, 60, 60),
        (150, 130, 20),
        (120, 60, 160),
        (150, 20, 30),
        (20, 90, 60),
        (130, 130, 130),
    ];
    let (r, g, b) = COLORS[number % COLORS.len()];
    RGBColor(r, g, b)
}
