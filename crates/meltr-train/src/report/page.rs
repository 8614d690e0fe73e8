//! The page: sections of blocks, and their rendering through the template.

use minijinja::{Environment, UndefinedBehavior, Value, context};

use super::error::ReportError;
use super::plot::{Size, Stroke};

/// The template; it names no file, font, script or address outside itself.
const TEMPLATE: &str = include_str!("template.html");

/// Its name, whose ending switches the escaping of HTML on.
const TEMPLATE_NAME: &str = "report.html";

/// A section of the page.
#[derive(Debug)]
pub(super) struct Section {
    /// Anchor of the section.
    pub(super) id: &'static str,
    /// Heading of the section.
    pub(super) heading: &'static str,
    /// What the section shows, in order.
    pub(super) blocks: Vec<Block>,
}

/// A part of a section.
#[derive(Debug)]
pub(super) enum Block {
    /// A heading below that of the section.
    Heading(String),
    /// A paragraph.
    Text(String),
    /// A table.
    Table(Table),
    /// Figures with a common legend.
    Figures(FigureGroup),
    /// Tables whose cells are colored by their value.
    Heats(HeatGroup),
    /// Horizontal bars from zero.
    Bars {
        /// What the bars show.
        caption: String,
        /// The bars, from above.
        bars: Vec<Bar>,
    },
    /// Text shown as it is, folded.
    Source {
        /// What the text is.
        title: String,
        /// The text.
        text: String,
    },
}

/// A table; the first column names the rows, the others are numbers.
#[derive(Debug)]
pub(super) struct Table {
    /// What the table shows.
    pub(super) caption: String,
    /// Whether the table is folded when the page opens.
    pub(super) folded: bool,
    /// Column headings.
    pub(super) headers: Vec<String>,
    /// Cells, row by row.
    pub(super) rows: Vec<Vec<String>>,
}

/// Figures with a common legend.
#[derive(Debug)]
pub(super) struct FigureGroup {
    /// What the figures show.
    pub(super) title: String,
    /// Whether the group is unfolded when the page opens.
    pub(super) open: bool,
    /// Labels of the lines.
    pub(super) legend: Vec<(String, Stroke)>,
    /// The figures, in order.
    pub(super) figures: Vec<Figure>,
    /// Sentences below the figures.
    pub(super) notes: Vec<String>,
}

/// One figure.
#[derive(Debug)]
pub(super) struct Figure {
    /// Caption above the figure.
    pub(super) caption: String,
    /// The SVG element.
    pub(super) svg: String,
    /// How large it is shown.
    pub(super) size: Size,
}

/// Square tables whose cells are colored by their value.
#[derive(Debug)]
pub(super) struct HeatGroup {
    /// What the tables show.
    pub(super) title: String,
    /// Whether the group is unfolded when the page opens.
    pub(super) open: bool,
    /// Names of the rows, and of the columns by their number.
    pub(super) labels: Vec<String>,
    /// The tables, in order.
    pub(super) heats: Vec<Heat>,
}

/// One square table of values in `[0, 1]`.
#[derive(Debug)]
pub(super) struct Heat {
    /// What the table shows.
    pub(super) caption: String,
    /// Values, row by row; nothing where there is no finite one.
    pub(super) rows: Vec<Vec<Option<f64>>>,
}

/// One bar.
#[derive(Debug)]
pub(super) struct Bar {
    /// Text to the left.
    pub(super) label: String,
    /// The value with its unit.
    pub(super) value: String,
    /// Length in per cent of the longest bar.
    pub(super) percent: f64,
}

/// Renders the page.
pub(super) fn render(title: &str, sections: &[Section]) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_template(TEMPLATE_NAME, TEMPLATE)?;
    let sections = list(sections.iter().map(Section::to_value));
    let page = context! { title => title, sections => sections };
    Ok(environment.get_template(TEMPLATE_NAME)?.render(page)?)
}

impl Section {
    fn to_value(&self) -> Value {
        let blocks = list(self.blocks.iter().map(Block::to_value));
        context! { id => self.id, heading => self.heading, blocks => blocks }
    }
}

impl Block {
    fn to_value(&self) -> Value {
        match self {
            Self::Heading(text) => context! { kind => "heading", text => text },
            Self::Text(text) => context! { kind => "text", text => text },
            Self::Table(table) => table.to_value(),
            Self::Figures(group) => group.to_value(),
            Self::Heats(group) => group.to_value(),
            Self::Bars { caption, bars } => {
                let bars = list(bars.iter().map(Bar::to_value));
                context! { kind => "bars", caption => caption, bars => bars }
            }
            Self::Source { title, text } => {
                context! { kind => "source", title => title, text => text }
            }
        }
    }
}

impl Table {
    fn to_value(&self) -> Value {
        let headers = texts(&self.headers);
        let rows = list(self.rows.iter().map(|row| texts(row)));
        context! {
            kind => "table",
            caption => &self.caption,
            folded => self.folded,
            headers => headers,
            rows => rows,
        }
    }
}

impl FigureGroup {
    fn to_value(&self) -> Value {
        let legend = list(self.legend.iter().map(|(label, stroke)| {
            let style = stroke.css();
            context! { label => label, style => style }
        }));
        let figures = list(self.figures.iter().map(Figure::to_value));
        let notes = texts(&self.notes);
        context! {
            kind => "figures",
            title => &self.title,
            open => self.open,
            legend => legend,
            figures => figures,
            notes => notes,
        }
    }
}

impl Figure {
    fn to_value(&self) -> Value {
        let size = match self.size {
            Size::Small => "small",
            Size::Wide => "wide",
        };
        // The drawing library has escaped every text inside the element.
        let svg = Value::from_safe_string(self.svg.clone());
        context! { caption => &self.caption, svg => svg, size => size }
    }
}

impl HeatGroup {
    fn to_value(&self) -> Value {
        let columns: Vec<String> = (1..=self.labels.len())
            .map(|number| number.to_string())
            .collect();
        let heats = list(self.heats.iter().map(|heat| {
            let rows = heat.rows.iter().zip(&self.labels).zip(&columns);
            let rows = list(rows.map(|((cells, label), number)| {
                let label = format!("{number} {label}");
                let cells = list(cells.iter().map(|value| heat_cell(*value)));
                context! { label => label, cells => cells }
            }));
            context! { caption => &heat.caption, rows => rows }
        }));
        let columns = texts(&columns);
        context! {
            kind => "heats",
            title => &self.title,
            open => self.open,
            columns => columns,
            heats => heats,
        }
    }
}

/// The text of a cell, and its color as one of eleven classes.
fn heat_cell(value: Option<f64>) -> Value {
    let (text, level) = match value {
        Some(value) => {
            let level = (10.0 * value.clamp(0.0, 1.0)).round() as usize;
            (format!("{value:.2}"), format!("h{level}"))
        }
        None => ("not finite".to_owned(), "h0".to_owned()),
    };
    context! { text => text, level => level }
}

impl Bar {
    fn to_value(&self) -> Value {
        let percent = format!("{:.1}", self.percent);
        context! { label => &self.label, value => &self.value, percent => percent }
    }
}

fn list(values: impl Iterator<Item = Value>) -> Value {
    values.collect()
}

fn texts(texts: &[String]) -> Value {
    texts.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_block_is_rendered_and_escaped() {
        let blocks = vec![
            Block::Text("a < b".to_owned()),
            Block::Heading("set & set".to_owned()),
            Block::Table(Table {
                caption: "cap".to_owned(),
                folded: true,
                headers: vec!["h&h".to_owned(), "n".to_owned()],
                rows: vec![vec!["<th>".to_owned(), "<td>".to_owned()]],
            }),
            Block::Heats(HeatGroup {
                title: "heats".to_owned(),
                open: false,
                labels: vec!["a<b".to_owned(), "c".to_owned()],
                heats: vec![Heat {
                    caption: "start".to_owned(),
                    rows: vec![vec![Some(0.25), Some(0.75)], vec![Some(1.0), None]],
                }],
            }),
            Block::Figures(FigureGroup {
                title: "group".to_owned(),
                open: true,
                legend: vec![("line <1>".to_owned(), Stroke::of_index(0))],
                figures: vec![Figure {
                    caption: "figure".to_owned(),
                    svg: "<svg></svg>".to_owned(),
                    size: Size::Wide,
                }],
                notes: vec!["a note".to_owned()],
            }),
            Block::Bars {
                caption: "bars".to_owned(),
                bars: vec![Bar {
                    label: "bar".to_owned(),
                    value: "3 s".to_owned(),
                    percent: 50.0,
                }],
            },
            Block::Source {
                title: "source".to_owned(),
                text: "[x]\ny = \"<z>\"".to_owned(),
            },
        ];
        let sections = [Section {
            id: "one",
            heading: "One",
            blocks,
        }];
        let html = render("<title>", &sections).unwrap();
        for expected in [
            "&lt;title&gt;",
            "<h2>One</h2>",
            "a &lt; b",
            "h&amp;h",
            "<h3>set &amp; set</h3>",
            "<summary>cap</summary>",
            "<th scope=\"row\">&lt;th&gt;</th><td>&lt;td&gt;</td>",
            "<th scope=\"row\">1 a&lt;b</th><td class=\"h3\">0.25</td><td class=\"h8\">0.75</td>",
            "<td class=\"h10\">1.00</td><td class=\"h0\">not finite</td>",
            "<details open>",
            "border-top:3px solid #0072b2",
            "line &lt;1&gt;",
            "<svg></svg>",
            "class=\"wide\"",
            "a note",
            "width:50.0%",
            "&lt;z&gt;",
        ] {
            assert!(html.contains(expected), "no `{expected}` in {html}");
        }
    }
}
