//! Charts of one value per row: a dot at the mean, its interval, a small dot for every run.

use super::interval::mean_and_half_width;
use super::plot::{Stroke, extent, tick_label};
use super::series::can_be_drawn;
use super::svg::{described, escaped};

const WIDTH: f64 = 1080.0;
const ROW_HEIGHT: f64 = 34.0;
const ABOVE: f64 = 14.0;
const BELOW: f64 = 78.0;
/// Room for the values in words, right of the axis.
const RIGHT: f64 = 300.0;
const FONT_SIZE: f64 = 20.0;
/// About the width of a character of that size.
const CHARACTER: f64 = 11.0;
const MAX_LABEL_CHARS: usize = 32;

/// Rows of dots over one axis.
#[derive(Debug, Clone)]
pub(super) struct DotChart {
    /// What the chart shows.
    pub(super) title: String,
    /// Label of the axis, with its unit.
    pub(super) label: String,
    /// The rows, from above.
    pub(super) rows: Vec<DotRow>,
    /// Values that are marked across all rows.
    pub(super) marks: Vec<(f64, Stroke)>,
}

/// One row of dots.
#[derive(Debug, Clone)]
pub(super) struct DotRow {
    /// Text to the left.
    pub(super) label: String,
    /// The values whose mean is drawn.
    pub(super) values: Vec<f64>,
    /// The mean in words.
    pub(super) text: String,
}

impl DotRow {
    /// Mean, and interval if there is one; nothing if it cannot be drawn.
    fn mean(&self) -> Option<(f64, Option<(f64, f64)>)> {
        let (mean, half) = mean_and_half_width(&self.values);
        let interval = half
            .map(|half| (mean - half, mean + half))
            .filter(|(low, high)| can_be_drawn(*low) && can_be_drawn(*high));
        can_be_drawn(mean).then_some((mean, interval))
    }
}

/// The horizontal axis.
struct Axis {
    low: f64,
    high: f64,
    left: f64,
}

impl Axis {
    fn x(&self, value: f64) -> f64 {
        let width = WIDTH - RIGHT - self.left;
        self.left + width * (value - self.low) / (self.high - self.low)
    }

    /// Round values on the axis, seven at most.
    fn ticks(&self) -> Vec<f64> {
        let least = (self.high - self.low) / 6.0;
        let decade = 10.0_f64.powf(least.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * decade)
            .find(|step| *step >= least)
            .unwrap_or(10.0 * decade);
        let first = (self.low / step).ceil();
        (0..7)
            .map(|index| (first + f64::from(index)) * step)
            .filter(|value| *value <= self.high)
            .collect()
    }
}

impl DotChart {
    /// The chart as an SVG element, or nothing if no row has a dot.
    pub(super) fn to_svg(&self) -> Option<String> {
        let axis = self.axis()?;
        let foot = ABOVE + ROW_HEIGHT * self.rows.len() as f64;
        let height = foot + BELOW;
        let mut svg = format!(
            "<svg width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
             xmlns=\"http://www.w3.org/2000/svg\" font-size=\"{FONT_SIZE}\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        for tick in axis.ticks() {
            let x = axis.x(tick);
            svg.push_str(&vertical(x, foot, "stroke=\"#e1e1e1\""));
            let label = tick_label(tick, axis.high - axis.low);
            svg.push_str(&text(x, foot + 20.0, "middle", &label));
        }
        let middle = 0.5 * (axis.left + WIDTH - RIGHT);
        svg.push_str(&text(middle, foot + 56.0, "middle", &self.label));
        for (value, stroke) in self.marks.iter().filter(|(value, _)| can_be_drawn(*value)) {
            let color = stroke.color_code();
            let style = format!("stroke=\"{color}\" stroke-width=\"3\" stroke-dasharray=\"12 8\"");
            svg.push_str(&vertical(axis.x(*value), foot, &style));
        }
        for (index, row) in self.rows.iter().enumerate() {
            let y = ABOVE + ROW_HEIGHT * (index as f64 + 0.5);
            svg.push_str(&text(axis.left - 14.0, y, "end", &shortened(&row.label)));
            svg.push_str(&text(WIDTH - RIGHT + 16.0, y, "start", &row.text));
            svg.push_str(&dots(row, &axis, y));
        }
        svg.push_str("</svg>\n");
        Some(described(&svg, &self.title, &self.description()))
    }

    fn description(&self) -> String {
        let rows = self
            .rows
            .iter()
            .map(|row| format!(" {}: {};", row.label, row.text));
        let mut text = format!("{}.", self.label);
        text.extend(rows);
        text
    }

    fn axis(&self) -> Option<Axis> {
        let means: Vec<_> = self.rows.iter().filter_map(DotRow::mean).collect();
        if means.is_empty() {
            return None;
        }
        let of_means = means.iter().flat_map(|(mean, interval)| {
            let (low, high) = interval.unwrap_or((*mean, *mean));
            [*mean, low, high]
        });
        let of_runs = self.rows.iter().flat_map(|row| row.values.iter().copied());
        let of_marks = self.marks.iter().map(|(value, _)| *value);
        let (low, high) = extent(
            of_means
                .chain(of_runs)
                .chain(of_marks)
                .filter(|value| can_be_drawn(*value)),
        )?;
        // A span that rounding cannot swallow, and some air at both ends.
        let least_span = if low == high && low == 0.0 {
            2.0
        } else {
            1e-6 * low.abs().max(high.abs())
        };
        let margin = (0.04 * (high - low)).max(least_span);
        let n_chars = self
            .rows
            .iter()
            .map(|row| row.label.chars().count().min(MAX_LABEL_CHARS))
            .max()
            .unwrap_or(0);
        Some(Axis {
            low: low - margin,
            high: high + margin,
            left: (CHARACTER * n_chars as f64 + 28.0).max(120.0),
        })
    }
}

/// The dots and the interval of a row.
fn dots(row: &DotRow, axis: &Axis, y: f64) -> String {
    let Some((mean, interval)) = row.mean() else {
        return String::new();
    };
    let color = Stroke::of_index(0).color_code();
    let mut svg = String::new();
    // A single run is its own mean.
    if row.values.len() > 1 {
        for value in row.values.iter().filter(|value| can_be_drawn(**value)) {
            let style = "r=\"4\" fill=\"#1b1b1b\" opacity=\"0.4\"";
            svg.push_str(&disk(axis.x(*value), y, style));
        }
    }
    if let Some((low, high)) = interval {
        let (low, high) = (axis.x(low), axis.x(high));
        let (up, down) = (y - 7.0, y + 7.0);
        svg.push_str(&format!(
            "<path d=\"M{low:.1} {up}V{down}M{low:.1} {y}H{high:.1}M{high:.1} {up}V{down}\" \
             fill=\"none\" stroke=\"{color}\" stroke-width=\"3\"/>\n"
        ));
    }
    let style = format!("r=\"7\" fill=\"{color}\"");
    svg.push_str(&disk(axis.x(mean), y, &style));
    svg
}

fn disk(x: f64, y: f64, style: &str) -> String {
    format!("<circle cx=\"{x:.1}\" cy=\"{y}\" {style}/>\n")
}

fn vertical(x: f64, foot: f64, style: &str) -> String {
    format!("<path d=\"M{x:.1} {ABOVE}V{foot}\" fill=\"none\" {style}/>\n")
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!(
        "<text x=\"{x:.1}\" y=\"{y}\" dy=\"0.35em\" text-anchor=\"{anchor}\" fill=\"#1b1b1b\">\
         {}</text>\n",
        escaped(text)
    )
}

/// A label that fits left of the axis.
fn shortened(label: &str) -> String {
    if label.chars().count() <= MAX_LABEL_CHARS {
        return label.to_owned();
    }
    let start: String = label.chars().take(MAX_LABEL_CHARS - 1).collect();
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, values: &[f64]) -> DotRow {
        DotRow {
            label: label.to_owned(),
            values: values.to_vec(),
            text: "in words".to_owned(),
        }
    }

    fn chart(rows: Vec<DotRow>) -> DotChart {
        DotChart {
            title: "a chart".to_owned(),
            label: "R@1 (%)".to_owned(),
            rows,
            marks: Vec::new(),
        }
    }

    #[test]
    fn a_row_has_its_mean_its_interval_and_its_runs() {
        let svg = chart(vec![row("a < b", &[1.0, 2.0, 3.0])])
            .to_svg()
            .unwrap();
        assert_eq!(svg.matches("<circle").count(), 4);
        assert_eq!(svg.matches("stroke=\"#0072b2\"").count(), 1);
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b"));
        assert!(svg.contains("in words</text>"));
    }

    #[test]
    fn a_single_run_is_one_dot_without_an_interval() {
        let svg = chart(vec![row("sum", &[2.0])]).to_svg().unwrap();
        assert_eq!(svg.matches("<circle").count(), 1);
        assert_eq!(svg.matches("stroke=\"#0072b2\"").count(), 0);
    }

    #[test]
    fn what_cannot_be_drawn_leaves_its_row_empty() {
        let svg = chart(vec![
            row("sum", &[f64::NAN, 2.0]),
            row("meltr", &[2.0, 3.0]),
        ])
        .to_svg()
        .unwrap();
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let all = chart(vec![row("sum", &[f64::NAN]), row("meltr", &[])]);
        assert!(all.to_svg().is_none());
    }

    #[test]
    fn a_mark_is_dashed_and_the_axis_reaches_it() {
        let mut chart = chart(vec![row("sum", &[2.0, 3.0])]);
        chart.marks = vec![(90.0, Stroke::of_index(1).dashed())];
        let axis = chart.axis().unwrap();
        assert!(axis.high > 90.0 && axis.low < 2.0);
        let svg = chart.to_svg().unwrap();
        assert_eq!(svg.matches("stroke-dasharray").count(), 1);
    }

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let axis = |low: f64, high: f64| Axis {
            low,
            high,
            left: 100.0,
        };
        assert_eq!(axis(18.0, 41.5).ticks(), [20.0, 25.0, 30.0, 35.0, 40.0]);
        for (low, high) in [
            (0.0, 6.0),
            (-3.3e-4, 1.2e-4),
            (5.0000005, 5.0000105),
            (-1e29, 1e30),
        ] {
            let axis = axis(low, high);
            let ticks = axis.ticks();
            assert!((2..=7).contains(&ticks.len()), "{ticks:?}");
            assert!(
                ticks.iter().all(|tick| (low..=high).contains(tick)),
                "{ticks:?}"
            );
        }
    }

    #[test]
    fn equal_values_still_have_an_axis() {
        for value in [0.0, 25.0, -1e29] {
            let svg = chart(vec![row("sum", &[value, value])]).to_svg().unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn a_long_label_is_cut() {
        let svg = chart(vec![row(&"x".repeat(50), &[1.0])]).to_svg().unwrap();
        assert!(svg.contains(&format!("{}…</text>", "x".repeat(31))));
    }
}
