//! Line plots as SVG, drawn on white with axes, units and colors that most eyes can tell apart.

use std::io;
use std::ops::Range;

use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::{
    ChartBuilder, Color, DashedLineSeries, IntoDrawingArea, LineSeries, Polygon, RGBColor,
    SVGBackend, ShapeStyle, TRANSPARENT, WHITE,
};

use super::error::ReportError;
use super::series::Banded;
use super::svg::described;

/// The palette of Okabe and Ito without its yellow, which is faint on white.
const OKABE_ITO: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Stops of a scale from dark to light that keeps its order in gray (viridis without its yellow).
const SEQUENTIAL: [RGBColor; 4] = [
    RGBColor(68, 1, 84),
    RGBColor(59, 82, 139),
    RGBColor(33, 145, 140),
    RGBColor(94, 201, 98),
];

const GRID: RGBColor = RGBColor(225, 225, 225);
const AXIS: RGBColor = RGBColor(90, 90, 90);
const LINE_WIDTH: u32 = 3;
const MARKER_RADIUS: u32 = 5;
const N_LABELS: usize = 6;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stroke {
    color: RGBColor,
    dash: Dash,
}

/// Whether a line is interrupted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dash {
    Solid,
    Dashed,
}

impl Stroke {
    /// The look of the line with this number among lines of different kinds.
    pub(super) fn of_index(index: usize) -> Self {
        let color = OKABE_ITO
            .get(index % OKABE_ITO.len())
            .copied()
            .unwrap_or(AXIS);
        let dash = if index < OKABE_ITO.len() {
            Dash::Solid
        } else {
            Dash::Dashed
        };
        Self { color, dash }
    }

    /// The look of a line at a position in `[0, 1]` of an ordered set of lines.
    pub(super) fn of_position(position: f64) -> Self {
        let scaled = position.clamp(0.0, 1.0) * (SEQUENTIAL.len() - 1) as f64;
        let index = (scaled.floor() as usize).min(SEQUENTIAL.len() - 2);
        let color = match (SEQUENTIAL.get(index), SEQUENTIAL.get(index + 1)) {
            (Some(from), Some(to)) => blend(*from, *to, scaled - index as f64),
            _ => AXIS,
        };
        Self {
            color,
            dash: Dash::Solid,
        }
    }

    /// The same color in dashes.
    pub(super) fn dashed(self) -> Self {
        Self {
            dash: Dash::Dashed,
            ..self
        }
    }

    /// The color as SVG and CSS write it.
    pub(super) fn color_code(self) -> String {
        let RGBColor(red, green, blue) = self.color;
        format!("#{red:02x}{green:02x}{blue:02x}")
    }

    /// CSS that draws the upper border of a box in this look, for legends.
    pub(super) fn css(self) -> String {
        let style = match self.dash {
            Dash::Solid => "solid",
            Dash::Dashed => "dashed",
        };
        format!("border-top:3px {style} {}", self.color_code())
    }
}

/// Whether the single points of a line are marked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Markers {
    /// The line alone.
    Absent,
    /// A disk at each point.
    Present,
}

/// Points joined by a line, with a band behind it.
#[derive(Debug, Clone)]
pub(super) struct Line {
    label: String,
    points: Vec<(f64, f64)>,
    ranges: Vec<(f64, f64, f64)>,
    stroke: Stroke,
    markers: Markers,
}

impl Line {
    /// A line without a band.
    pub(super) fn plain(label: &str, points: Vec<(f64, f64)>, stroke: Stroke) -> Self {
        Self {
            label: label.to_owned(),
            points,
            ranges: Vec::new(),
            stroke,
            markers: Markers::Absent,
        }
    }

    /// A line of means with a band from the smallest to the largest value.
    pub(super) fn banded(label: &str, banded: Banded, stroke: Stroke) -> Self {
        Self {
            label: label.to_owned(),
            points: banded.means,
            ranges: banded.ranges,
            stroke,
            markers: Markers::Absent,
        }
    }

    /// The same line with a disk at each point.
    pub(super) fn marked(self) -> Self {
        Self {
            markers: Markers::Present,
            ..self
        }
    }

    /// Corners of the band, or nothing if it has no area.
    fn outline(&self) -> Vec<(f64, f64)> {
        if self.ranges.len() < 2 || self.ranges.iter().all(|(_, low, high)| low == high) {
            return Vec::new();
        }
        let upper = self.ranges.iter().map(|(x, _, high)| (*x, *high));
        let lower = self.ranges.iter().rev().map(|(x, low, _)| (*x, *low));
        upper.chain(lower).collect()
    }

    fn marker_radius(&self) -> u32 {
        // A single point has no line to be seen by.
        if self.markers == Markers::Present || self.points.len() == 1 {
            MARKER_RADIUS
        } else {
            0
        }
    }
}

/// What the vertical coordinate of the points means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// The value itself.
    Linear,
    /// Its decimal logarithm.
    Log,
}

/// Whether the value zero is part of the plot and marked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ZeroLine {
    /// The axis holds the data only.
    Absent,
    /// The axis reaches zero, and a line marks it.
    Present,
}

/// How large a plot is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Size {
    /// One of several side by side.
    Small,
    /// Alone on its line.
    Wide,
}

impl Size {
    fn pixels(self) -> (u32, u32) {
        match self {
            Self::Small => (720, 440),
            Self::Wide => (1080, 460),
        }
    }
}

/// A plot of lines.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    /// What the plot shows.
    pub(super) title: String,
    /// Label of the horizontal axis, with its unit.
    pub(super) x_label: String,
    /// Label of the vertical axis, with its unit.
    pub(super) y_label: String,
    /// The lines, the first at the back.
    pub(super) lines: Vec<Line>,
    /// What the vertical coordinate means.
    pub(super) scale: Scale,
    /// Whether zero is marked.
    pub(super) zero_line: ZeroLine,
    /// How large the plot is.
    pub(super) size: Size,
    /// Points that the axes reach though nothing is drawn there.
    pub(super) reaches: Vec<(f64, f64)>,
}

impl Plot {
    /// The plot as an SVG element, or nothing if no line has a point.
    pub(super) fn to_svg(&self) -> Result<Option<String>, ReportError> {
        let Some((x_range, y_range)) = self.ranges() else {
            return Ok(None);
        };
        let mut svg = String::new();
        self.draw(&mut svg, x_range, y_range)
            .map_err(|error| ReportError::Plot {
                plot: self.y_label.clone(),
                message: error.to_string(),
            })?;
        Ok(Some(described(&svg, &self.title, &self.description())))
    }

    /// Lower left and upper right corner of what is drawn; nothing if no line has a point.
    pub(super) fn corners(&self) -> Vec<(f64, f64)> {
        match self.extents() {
            Some(((x_low, x_high), (y_low, y_high))) => vec![(x_low, y_low), (x_high, y_high)],
            None => Vec::new(),
        }
    }

    /// Where each line starts and ends, in words.
    fn description(&self) -> String {
        let value = |y: f64| match self.scale {
            Scale::Linear => brief(y),
            Scale::Log => brief(10.0_f64.powf(y)),
        };
        let lines = self.lines.iter().filter(|line| !line.label.is_empty());
        let courses = lines.filter_map(|line| {
            let ((x_first, first), (x_last, last)) = (line.points.first()?, line.points.last()?);
            Some(format!(
                " {}: {} at {} to {} at {};",
                line.label,
                value(*first),
                brief(*x_first),
                value(*last),
                brief(*x_last)
            ))
        });
        let mut text = format!("{} over {}.", self.y_label, self.x_label);
        text.extend(courses);
        text
    }

    /// Smallest and largest coordinate of either axis, without margins.
    fn extents(&self) -> Option<((f64, f64), (f64, f64))> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let bands = || self.lines.iter().flat_map(|line| &line.ranges);
        points().next()?;
        let zero = (self.zero_line == ZeroLine::Present).then_some(0.0);
        let x = extent(points().chain(&self.reaches).map(|(x, _)| *x))?;
        let y = extent(
            points()
                .chain(&self.reaches)
                .map(|(_, y)| *y)
                .chain(bands().flat_map(|(_, low, high)| [*low, *high]))
                .chain(zero),
        )?;
        Some((x, y))
    }

    /// Ranges of the two axes, margins included.
    fn ranges(&self) -> Option<(Range<f64>, Range<f64>)> {
        let ((x_low, x_high), (y_low, y_high)) = self.extents()?;
        let x_margin = if x_low == x_high { 1.0 } else { 0.0 };
        // A decade at least on a logarithmic axis; elsewhere a span that rounding cannot swallow.
        let least_span = match self.scale {
            Scale::Log => 1.0,
            Scale::Linear if y_low == y_high && y_low == 0.0 => 2.0,
            Scale::Linear if y_low == y_high => 0.2 * y_low.abs(),
            Scale::Linear => 1e-6 * y_low.abs().max(y_high.abs()),
        };
        let y_span = y_high - y_low;
        let y_margin = (0.05 * y_span).max(0.5 * (least_span - y_span));
        Some((
            x_low - x_margin..x_high + x_margin,
            y_low - y_margin..y_high + y_margin,
        ))
    }

    fn draw(
        &self,
        svg: &mut String,
        x_range: Range<f64>,
        y_range: Range<f64>,
    ) -> Result<(), DrawingAreaErrorKind<io::Error>> {
        let root = SVGBackend::with_string(svg, self.size.pixels()).into_drawing_area();
        root.fill(&WHITE)?;
        let (x_low, x_high) = (x_range.start, x_range.end);
        let x_span = x_high - x_low;
        let y_span = y_range.end - y_range.start;
        let mut chart = ChartBuilder::on(&root)
            .margin_top(16)
            .margin_right(32)
            .margin_bottom(8)
            .margin_left(8)
            .x_label_area_size(80)
            .y_label_area_size(116)
            .build_cartesian_2d(x_range, y_range)?;

        let format_x = |value: &f64| -> String { tick_label(*value, x_span) };
        let format_y = |value: &f64| -> String {
            match self.scale {
                Scale::Linear => tick_label(*value, y_span),
                Scale::Log => log_tick_label(*value),
            }
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .max_light_lines(1)
            .set_all_tick_mark_size(6)
            .x_labels(N_LABELS)
            .y_labels(N_LABELS)
            .x_label_formatter(&format_x)
            .y_label_formatter(&format_y)
            .label_style(("sans-serif", 24))
            .axis_desc_style(("sans-serif", 26))
            .x_desc(self.x_label.as_str())
            .y_desc(self.y_label.as_str())
            .draw()?;

        if self.zero_line == ZeroLine::Present {
            chart.draw_series(LineSeries::new(
                [(x_low, 0.0), (x_high, 0.0)],
                solid(AXIS, 2),
            ))?;
        }
        for line in &self.lines {
            let outline = line.outline();
            if !outline.is_empty() {
                let band: Polygon<(f64, f64)> = Polygon::new(outline, line.stroke.color.mix(0.2));
                chart.draw_series(std::iter::once(band))?;
            }
        }
        for line in &self.lines {
            let style = solid(line.stroke.color, LINE_WIDTH);
            let radius = line.marker_radius();
            match line.stroke.dash {
                Dash::Dashed if radius == 0 => {
                    chart.draw_series(DashedLineSeries::new(line.points.clone(), 12, 8, style))?;
                }
                Dash::Solid | Dash::Dashed => {
                    let series = LineSeries::new(line.points.iter().copied(), style);
                    chart.draw_series(series.point_size(radius))?;
                }
            }
        }
        root.present()
    }
}

fn solid(color: RGBColor, stroke_width: u32) -> ShapeStyle {
    ShapeStyle {
        color: color.to_rgba(),
        filled: true,
        stroke_width,
    }
}

fn blend(from: RGBColor, to: RGBColor, share: f64) -> RGBColor {
    let channel = |from: u8, to: u8| -> u8 {
        (f64::from(from) + (f64::from(to) - f64::from(from)) * share).round() as u8
    };
    RGBColor(
        channel(from.0, to.0),
        channel(from.1, to.1),
        channel(from.2, to.2),
    )
}

/// Smallest and largest of some values.
pub(super) fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |extent, value| match extent {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    })
}

/// A value in a sentence.
fn brief(value: f64) -> String {
    if value == 0.0 || (1e-3..1e6).contains(&value.abs()) {
        let label = format!("{value:.3}");
        label.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.1e}")
    }
}

/// A value on an axis of the given length, with no more decimals than the ticks need.
pub(super) fn tick_label(value: f64, span: f64) -> String {
    let magnitude = value.abs();
    if magnitude < 1e-6 * span {
        "0".to_owned()
    } else if !(1e-3..1e6).contains(&magnitude) {
        format!("{value:.1e}").replace(".0e", "e")
    } else {
        let decimals = (1.0 - (span / 2.0).log10().floor()).clamp(0.0, 6.0) as usize;
        let label = format!("{value:.decimals$}");
        if label.contains('.') {
            label.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            label
        }
    }
}

/// The power of ten whose exponent is `exponent`.
fn log_tick_label(exponent: f64) -> String {
    let rounded = exponent.round();
    if (exponent - rounded).abs() < 1e-6 {
        format!("1e{rounded:.0}").replace("1e-0", "1e0")
    } else {
        format!("{:.1e}", 10.0_f64.powf(exponent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        Plot {
            title: "a <plot>".to_owned(),
            x_label: "iteration".to_owned(),
            y_label: "loss (nats) <x>".to_owned(),
            lines: vec![Line::plain("a & b", points, Stroke::of_index(0))],
            scale: Scale::Linear,
            zero_line: ZeroLine::Absent,
            size: Size::Small,
            reaches: Vec::new(),
        }
    }

    #[test]
    fn a_plot_is_a_closed_svg_element_with_escaped_labels() {
        let svg = plot(vec![(0.0, 1.0), (10.0, 2.0)])
            .to_svg()
            .unwrap()
            .unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("<polyline") && svg.contains("#0072B2"));
        assert!(svg.contains("loss (nats) &lt;x&gt;"));
        assert!(svg.contains("role=\"img\"><title>a &lt;plot&gt;</title><desc>"));
        assert!(
            svg.contains(" a &amp; b: 1 at 0 to 2 at 10;</desc>"),
            "{svg}"
        );
    }

    #[test]
    fn the_values_of_a_logarithmic_plot_are_described_and_not_their_logarithms() {
        let mut plot = plot(vec![(0.0, -1.0), (1.0, -5.0)]);
        plot.scale = Scale::Log;
        assert!(
            plot.description().ends_with(": 0.1 at 0 to 1.0e-5 at 1;"),
            "{}",
            plot.description()
        );
    }

    #[test]
    fn the_axes_reach_as_far_as_asked() {
        let mut plot = plot(vec![(0.0, 1.0), (1.0, 2.0)]);
        plot.reaches = vec![(-1.0, 0.0), (4.0, 1.5)];
        assert_eq!(plot.corners(), [(-1.0, 0.0), (4.0, 2.0)]);
        plot.lines.clear();
        assert!(plot.corners().is_empty() && plot.to_svg().unwrap().is_none());
    }

    #[test]
    fn a_plot_without_points_is_absent() {
        assert!(plot(Vec::new()).to_svg().unwrap().is_none());
    }

    #[test]
    fn degenerate_ranges_are_widened() {
        for points in [
            vec![(3.0, 0.0)],
            vec![(3.0, 5.0), (4.0, 5.0)],
            vec![(0.0, 1e30), (1.0, -1e30)],
            vec![(0.0, 1.0), (1.0, 1.0 + 1e-15)],
        ] {
            let plot = plot(points);
            let (x, y) = plot.ranges().unwrap();
            assert!(x.start < x.end && y.start < y.end, "{x:?} {y:?}");
            assert!(plot.to_svg().unwrap().is_some());
        }
    }

    #[test]
    fn a_single_point_is_a_disk() {
        let svg = plot(vec![(3.0, 2.0)]).to_svg().unwrap().unwrap();
        assert!(svg.contains("<circle"));
    }

    #[test]
    fn the_zero_line_widens_the_axis_to_zero() {
        let mut plot = plot(vec![(0.0, 1.0), (1.0, 2.0)]);
        plot.zero_line = ZeroLine::Present;
        let (_, y) = plot.ranges().unwrap();
        assert!(y.start < 0.0 && y.end > 2.0);
    }

    #[test]
    fn a_band_is_drawn_where_runs_differ() {
        let banded = Banded {
            means: vec![(0.0, 1.0), (1.0, 2.0)],
            ranges: vec![(0.0, 0.5, 1.5), (1.0, 2.0, 2.0)],
        };
        let mut plot = plot(Vec::new());
        plot.lines = vec![Line::banded("sum", banded, Stroke::of_index(9))];
        assert!(plot.to_svg().unwrap().unwrap().contains("<polygon"));
    }

    #[test]
    fn tick_labels_are_short() {
        assert_eq!(tick_label(1e-17, 1.0), "0");
        assert_eq!(tick_label(0.5, 1.0), "0.5");
        assert_eq!(tick_label(250.0, 1000.0), "250");
        assert_eq!(tick_label(-2e-4, 1e-3), "-2e-4");
        assert_eq!(log_tick_label(-3.0), "1e-3");
        assert_eq!(log_tick_label(0.0), "1e0");
        assert_eq!(log_tick_label(0.5), "3.2e0");
    }

    #[test]
    fn strokes_beyond_the_palette_are_dashed() {
        assert_eq!(Stroke::of_index(0).css(), "border-top:3px solid #0072b2");
        assert_eq!(Stroke::of_index(7).css(), "border-top:3px dashed #0072b2");
        assert_eq!(
            Stroke::of_index(1).dashed().css(),
            "border-top:3px dashed #e69f00"
        );
        assert_eq!(
            Stroke::of_position(1.0).css(),
            "border-top:3px solid #5ec962"
        );
    }
}
