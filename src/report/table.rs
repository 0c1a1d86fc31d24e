//! HTML text and tables: everything that is not markup of ours goes through [`escape`].

use std::fmt::Write as _;

use super::significance::Tested;
pub use crate::run::html::escape;
use crate::run::results::SummaryRow;
use crate::stats::comparison::Outcome;

/// The buttons below every table.
const COPY: &str = "<p class=\"copy\">Copy as <button type=\"button\" data-copy=\"csv\">CSV</button> \
    <button type=\"button\" data-copy=\"markdown\">Markdown</button> <button type=\"button\" data-copy=\"latex\">LaTeX</button> \
    <span role=\"status\"></span></p>";

/// One table with a caption, sortable by every column, copyable as CSV, Markdown and LaTeX.
#[derive(Debug, Clone, Default)]
pub struct Table {
    caption: String,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug, Clone)]
struct Column {
    title: String,
    note: Option<usize>,
}

/// One cell: what is shown, what is sorted and copied.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Markup.
    shown: String,
    /// Number or text for sorting and CSV.
    plain: String,
    class: &'static str,
}

impl Cell {
    /// Text.
    pub fn text(text: &str) -> Self {
        Self { shown: escape(text), plain: text.into(), class: "" }
    }

    /// A number shown as `shown`.
    pub fn number(value: f64, shown: &str) -> Self {
        Self { shown: escape(shown), plain: plain_number(value), class: "number" }
    }

    /// No value, and why where that is known.
    pub fn absent(why: &str) -> Self {
        Self { shown: format!("<span class=\"absent\" title=\"{}\">–</span>", escape(why)), plain: String::new(), class: "number" }
    }

    /// A reported value with interval and n.
    pub fn value(row: Option<&SummaryRow>) -> Self {
        let Some(row) = row else { return Self::absent("not measured") };
        let shown = format_value(&row.metric, row.value);
        Self { shown: with_interval(&shown, row), ..Self::number(row.value, "") }
    }

    /// The same cell with its share of the teacher's value below.
    pub fn with_share(mut self, percent: Option<f64>) -> Self {
        if let Some(percent) = percent.filter(|percent| percent.is_finite()) {
            let _ = write!(self.shown, "<br><small class=\"share\">{percent:.1} %</small>");
        }
        self
    }

    /// Text that stays on one line.
    pub fn line(text: &str) -> Self {
        Self { class: "number", ..Self::text(text) }
    }

    /// A command, in the letters of a terminal.
    pub fn command(text: &str) -> Self {
        Self { shown: format!("<code>{}</code>", escape(text)), plain: text.into(), class: "" }
    }

    /// Commands to be run one after the other; lines break between them.
    pub fn commands(commands: &[String]) -> Self {
        let shown: Vec<String> = commands.iter().map(|command| format!("<code>{}</code>", escape(command))).collect();
        Self { shown: shown.join(" <code>&amp;&amp;</code> "), plain: commands.join(" && "), class: "" }
    }

    /// A reported difference without a word on it: sign and interval.
    pub fn untested_difference(row: Option<&SummaryRow>) -> Self {
        let Some(row) = row else { return Self::absent("no pairs") };
        let shown = signed(&row.metric, row.value);
        Self { shown: with_interval(&shown, row), ..Self::number(row.value, "") }
    }

    /// A reported difference: sign, interval, and in words what its test allows to say.
    pub fn difference(row: Option<&SummaryRow>, tested: &Tested) -> Self {
        let Some(row) = row else { return Self::absent("no pairs") };
        let outcome = tested.outcome(row);
        let (class, glyph) = match outcome {
            Outcome::Better | Outcome::BetterWithinMargin => ("number better", "▲"),
            Outcome::Worse | Outcome::WorseWithinMargin => ("number worse", "▼"),
            Outcome::Equivalent => ("number equivalent", "="),
            Outcome::Undecided => ("number undecided", "?"),
        };
        let word = outcome.words();
        let shown = format!(
            "<span aria-hidden=\"true\">{glyph}</span> {} <small class=\"outcome\">{word}</small><br>{}",
            escape(&signed(&row.metric, row.value)),
            interval_and_n(row)
        );
        Self { shown, plain: plain_number(row.value), class }
    }
}

impl Table {
    /// A table whose caption is markup-free text.
    pub fn new(caption: &str) -> Self {
        Self { caption: caption.into(), ..Self::default() }
    }

    /// Adds a column; `note` is the number of a footnote.
    pub fn column(mut self, title: &str, note: Option<usize>) -> Self {
        self.columns.push(Column { title: title.into(), note });
        self
    }

    /// Adds a row; its first cell heads it.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// True where no row was added.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as HTML; empty where it has no rows.
    pub fn html(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let mut html = format!("<div class=\"table\"><div class=\"scroll\"><table><caption>{}</caption><thead><tr>", escape(&self.caption));
        for column in &self.columns {
            let note = column.note.map(|n| format!("<sup><a href=\"#note-{n}\">{n}</a></sup>")).unwrap_or_default();
            let _ = write!(html, "<th scope=\"col\"><button type=\"button\" class=\"sort\">{}</button>{note}</th>", escape(&column.title));
        }
        html.push_str("</tr></thead><tbody>");
        for row in &self.rows {
            html.push_str("<tr>");
            for (i, cell) in row.iter().enumerate() {
                let (tag, scope) = if i == 0 { ("th", " scope=\"row\"") } else { ("td", "") };
                let _ =
                    write!(html, "<{tag}{scope} class=\"{}\" data-value=\"{}\">{}</{tag}>", cell.class, escape(&cell.plain), cell.shown);
            }
            html.push_str("</tr>");
        }
        html.push_str("</tbody></table></div>");
        html.push_str(COPY);
        html.push_str("</div>\n");
        html
    }
}

/// A value with interval and n below.
fn with_interval(value: &str, row: &SummaryRow) -> String {
    format!("{}<br>{}", escape(value), interval_and_n(row))
}

/// The second line of a reported number, as markup.
fn interval_and_n(row: &SummaryRow) -> String {
    format!("<small class=\"interval\">{}</small> <small class=\"n\">n {}</small>", escape(&interval(row)), row.n)
}

fn plain_number(value: f64) -> String {
    if value.is_finite() { format!("{value}") } else { String::new() }
}

/// A value with as many decimals as its metric deserves.
pub fn format_value(metric: &str, value: f64) -> String {
    let metric = metric.strip_prefix("retention_").map_or(metric, |_| "retention");
    match metric {
        "parameters" | "parameters_encoder" => format_count(value),
        "bytes_f32" | "bytes_bf16" | "pipeline_bytes" | "pipeline_offload_bytes" => format!("{:.2} MB", value / 1e6),
        "frechet" | "mean_cosine" => format!("{value:.3}"),
        "nearest_teacher_distance" | "nearest_own_distance" | "clip_score" | "encode_ms" | "pipeline_s" | "pipeline_offload_s" => {
            format!("{value:.2}")
        }
        _ => format!("{value:.1}"),
    }
}

/// A value with its sign; a minus is the typographic one.
pub fn signed(metric: &str, value: f64) -> String {
    let digits = format_value(metric, value.abs());
    if value < 0.0 { format!("−{digits}") } else { format!("+{digits}") }
}

/// A number of weights in words a reader compares: 1.23 M.
pub fn format_count(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} B", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e3 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

/// The interval of a number in brackets; says so where there is none.
pub fn interval(row: &SummaryRow) -> String {
    if row.ci_low == row.ci_high && row.n == 1 {
        return "exact".into();
    }
    if !row.ci_low.is_finite() || !row.ci_high.is_finite() {
        return "no interval".into();
    }
    let show =
        |value: f64| if value < 0.0 { format!("−{}", format_value(&row.metric, -value)) } else { format_value(&row.metric, value) };
    format!("[{}, {}]", show(row.ci_low), show(row.ci_high))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(metric: &str, [value, ci_low, ci_high]: [f64; 3], direction: &str) -> SummaryRow {
        SummaryRow {
            encoder: "base".into(),
            metric: metric.into(),
            scope: "all".into(),
            versus: Some("teacher".into()),
            value,
            ci_low,
            ci_high,
            n: 40,
            unit: "%".into(),
            direction: direction.into(),
            protocol: "p".into(),
        }
    }

    #[test]
    fn markup_in_text_is_neutral() {
        assert_eq!(escape(r#"<script>"a" & 'b'"#), "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;");
        let mut table = Table::new("<b>").column("<i>", None);
        table.row(vec![Cell::text("\"><script>")]);
        let html = table.html();
        assert!(!html.contains("<script>") && !html.contains("<b>") && !html.contains("<i>"), "{html}");
    }

    #[test]
    fn nothing_is_called_better_or_worse_without_a_test() {
        let clear = row("compbench", [20.0, 15.0, 25.0], "higher");
        let shown = Cell::difference(Some(&clear), &Tested::default()).shown;
        assert!(shown.contains("undecided") && !shown.contains("better"), "{shown}");
    }

    #[test]
    fn numbers_have_signs_intervals_and_units() {
        let difference = row("compbench", [-12.345, -20.0, -4.0], "higher");
        assert_eq!(signed("compbench", difference.value), "−12.3");
        assert_eq!(interval(&difference), "[−20.0, −4.0]");
        assert_eq!(interval(&row("effective_rank", [3.0, f64::NEG_INFINITY, f64::INFINITY], "none")), "no interval");
        assert_eq!(format_count(4_762_310_656.0), "4.76 B");
    }
}
