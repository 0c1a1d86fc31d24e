//! The data card: one HTML file without scripts or anything from elsewhere, with what was built from what, under which
//! licence, what was removed, what the audit found, and how that differs from the paper and from the released files.

use std::fmt::{Display, Write};

use super::divergence::{self, grouped};
use super::summary::{SourceSummary, Summary, TableSummary};
use crate::data::leak::LeakPolicy;
use crate::data::sources::RawPrompt;
use crate::error::Result;
use crate::run::html::{document, escape, with_code};
use crate::run::rng;

const STYLE: &str = include_str!("card.css");
/// Sample prompts shown of each category.
const SAMPLES: usize = 4;
/// Bars of a histogram.
const BARS: usize = 30;

/// Text as HTML shows it.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&escape(self.0))
    }
}

/// A cell: text to the left, numbers to the right.
enum Cell {
    Text(String),
    Number(String),
}

fn text(value: impl Into<String>) -> Cell {
    Cell::Text(value.into())
}

fn number(value: usize) -> Cell {
    Cell::Number(grouped(value))
}

/// A page that is written from top to bottom.
struct Page(String);

impl Page {
    fn line(&mut self, html: std::fmt::Arguments) {
        writeln!(self.0, "{html}").expect("writing to a string cannot fail");
    }

    fn section(&mut self, title: &str, note: &str) {
        self.line(format_args!("<h2>{}</h2>", Escaped(title)));
        if !note.is_empty() {
            self.line(format_args!("<p>{}</p>", Escaped(note)));
        }
    }

    fn table(&mut self, heads: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) {
        let heads: String = heads.iter().map(|head| format!("<th scope=\"col\">{}</th>", Escaped(head))).collect();
        self.line(format_args!(
            "<div class=\"table\" tabindex=\"0\" role=\"group\" aria-label=\"Table\"><table><thead><tr>{heads}</tr></thead><tbody>"
        ));
        for row in rows {
            let cell = |cell: &Cell| match cell {
                Cell::Text(text) => format!("<td>{}</td>", Escaped(text)),
                Cell::Number(text) => format!("<td class=\"n\">{}</td>", Escaped(text)),
            };
            self.line(format_args!("<tr>{}</tr>", row.iter().map(cell).collect::<String>()));
        }
        self.line(format_args!("</tbody></table></div>"));
    }
}

/// The card of a pipeline's prompts.
pub fn html(pipeline: &str, summary: &Summary, prompts: &[RawPrompt]) -> Result<String> {
    let title = format!("Prompts of {pipeline}");
    let mut page = Page(String::new());
    page.line(format_args!("<main>"));
    page.line(format_args!("<h1>{}</h1>", Escaped(&title)));
    let all = summary.tables.iter().map(|table| table.prompts as usize).sum();
    page.line(format_args!("<p>{} prompts of {} sources.</p>", grouped(all), summary.sources.len()));
    let lists = [
        ("missing", "Not built, because these were missing:", &summary.missing),
        ("", "Left out, because these are optional and were not there:", &summary.left_out),
    ];
    for (class, note, sources) in lists.into_iter().filter(|list| !list.2.is_empty()) {
        page.line(format_args!("<p class=\"{class}\">{note}</p><ul>"));
        for source in sources {
            page.line(format_args!("<li>{}</li>", with_code(source)));
        }
        page.line(format_args!("</ul>"));
    }
    counts(&mut page, summary);
    sources(&mut page, summary);
    filters(&mut page, summary);
    audit(&mut page, summary);
    page.section(
        "Paper, release, this build",
        "What the paper says of its prompts, what the released files hold, and what was built here.",
    );
    let rows = divergence::rows(summary, prompts)?;
    let cells = |row: divergence::Row| vec![text(row.what), text(row.paper), text(row.released), text(row.built)];
    page.table(&["", "paper", "released", "built"], rows.into_iter().map(cells));
    histograms(&mut page, summary, prompts);
    samples(&mut page, summary, prompts);
    page.line(format_args!("</main>"));
    Ok(document(&title, STYLE, &page.0))
}

fn counts(page: &mut Page, summary: &Summary) {
    page.section("Prompts", "Lengths in characters.");
    let row = |t: &TableSummary| {
        let lengths = [t.shortest_characters, t.median_characters, t.longest_characters].map(|n| number(n as usize));
        let mut row = vec![text(&t.dataset), text(&t.split), text(&t.category), number(t.prompts as usize)];
        row.extend(lengths);
        row
    };
    page.table(&["set", "split", "category", "prompts", "shortest", "median", "longest"], summary.tables.iter().map(row));
    if !summary.mixtures.is_empty() {
        page.section("Mixtures", "What each student trains on.");
        page.table(&["student", "mixture"], summary.mixtures.iter().map(|(name, told)| vec![text(name), text(told)]));
    }
}

fn sources(page: &mut Page, summary: &Summary) {
    page.section("Sources and licences", "");
    let rows = summary.sources.iter().map(|source| vec![text(&source.name), text(&source.licence), number(source.prompts)]);
    page.table(&["source", "licence", "prompts read"], rows);
}

fn filters(page: &mut Page, summary: &Summary) {
    page.section(
        "Filters",
        "In their order. Lines of a benchmark and prompts made to measure are kept as they are; only found texts are cleaned.",
    );
    let own = |source: &SourceSummary| {
        source.removed.iter().map(|removed| vec![text(&removed.filter), number(removed.rows as usize)]).collect::<Vec<_>>()
    };
    for source in summary.sources.iter().filter(|source| !source.removed.is_empty()) {
        page.line(format_args!("<p>While reading {}:</p>", Escaped(&source.name)));
        page.table(&["filter", "rows left out"], own(source));
    }
    let mut sets: Vec<&str> = summary.filters.iter().map(|filter| filter.dataset.as_str()).collect();
    sets.sort_unstable();
    sets.dedup();
    let mut names: Vec<&str> = summary.filters.iter().map(|filter| filter.filter.as_str()).collect();
    names.dedup();
    let row = |name: &str| {
        let removed = |set: &&str| {
            let found = summary.filters.iter().find(|filter| filter.filter == name && filter.dataset == *set);
            found.map_or_else(|| text("no prompts"), |filter| number(filter.removed))
        };
        [text(name)].into_iter().chain(sets.iter().map(removed)).collect::<Vec<_>>()
    };
    page.line(format_args!("<p>Prompts removed while building, by set:</p>"));
    page.table(&[&["filter"][..], &sets].concat(), names.iter().map(|name| row(name)));
}

fn audit(page: &mut Page, summary: &Summary) {
    let fate = match summary.leaks.policy {
        LeakPolicy::Drop => "those among found texts were removed before",
        LeakPolicy::Keep => "they were kept",
    };
    let note = format!(
        "Training prompts that are validation prompts up to case and punctuation: {}; {fate}. Below, of each validation set, the \
         prompts that a training set gives away: letter by letter, up to case and punctuation, by their target text, by eight words \
         in a row, by their words and pairs of neighbours (MinHash, Jaccard similarity of at least 0.8).",
        summary.leaks.normalised
    );
    page.section("Leak audit", &note);
    let rows = summary.audit.iter().map(|pair| {
        let target = match pair.target_seen_percent() {
            Some(percent) => Cell::Number(format!("{} ({percent:.1} %)", grouped(pair.target_seen))),
            None => text("no target texts"),
        };
        vec![
            text(&pair.train),
            text(&pair.val),
            number(pair.val_prompts),
            number(pair.exact),
            number(pair.normalised),
            target,
            number(pair.quoted),
            number(pair.near),
        ]
    });
    let heads = ["training set", "validation set", "its prompts", "exact", "normalised", "target text", "eight words", "near"];
    page.table(&heads, rows);
    let c = &summary.combinations;
    if c.val > 0 {
        page.line(format_args!(
            "<p>Noun and colour combinations of the miniature world: {} in training, {} in validation, {} of these never in training.</p>",
            c.train, c.val, c.val_only
        ));
    }
}

fn histograms(page: &mut Page, summary: &Summary, prompts: &[RawPrompt]) {
    page.section("Words per prompt", "");
    let mut tables: Vec<(&str, &str)> = summary.tables.iter().map(|t| (t.dataset.as_str(), t.split.as_str())).collect();
    tables.dedup();
    page.line(format_args!("<div class=\"plots\">"));
    for (dataset, split) in tables {
        let of_table = prompts.iter().filter(|p| p.dataset == dataset && p.split.as_deref() == Some(split));
        let words: Vec<usize> = of_table.map(|p| p.prompt.split(' ').count()).collect();
        page.line(format_args!("{}", histogram(&format!("{dataset}, {split}"), &words)));
    }
    page.line(format_args!("</div>"));
}

/// Counts of `values` as bars; values beyond the last bar are added to it.
fn histogram(title: &str, values: &[usize]) -> String {
    let longest = values.iter().copied().max().unwrap_or(0);
    let width = (longest + 1).div_ceil(BARS).max(1);
    let mut bars = [0usize; BARS];
    for value in values {
        bars[(value / width).min(BARS - 1)] += 1;
    }
    let highest = bars.iter().copied().max().unwrap_or(0).max(1);
    let label = format!("{title}: words per prompt, {} prompts, longest {longest}", grouped(values.len()));
    let mut svg = format!("<figure><svg viewBox=\"0 0 310 120\" role=\"img\" aria-label=\"{}\">", Escaped(&label));
    for (i, &n) in bars.iter().enumerate() {
        let height = 90.0 * n as f64 / highest as f64;
        let (x, y, from) = (5 + 10 * i, 100.0 - height, i * width);
        let span = if width == 1 { format!("{from} words") } else { format!("{from} to {} words", from + width - 1) };
        let tip = format!("<title>{span}: {}</title>", grouped(n));
        write!(svg, "<rect x=\"{x}\" y=\"{y:.1}\" width=\"9\" height=\"{height:.1}\">{tip}</rect>")
            .expect("writing to a string cannot fail");
    }
    let last = BARS * width;
    write!(svg, "<text x=\"5\" y=\"115\">0</text><text x=\"305\" y=\"115\" text-anchor=\"end\">{last}</text></svg>")
        .expect("writing to a string cannot fail");
    format!("{svg}<figcaption>{}, longest {longest} words</figcaption></figure>", Escaped(title))
}

fn samples(page: &mut Page, summary: &Summary, prompts: &[RawPrompt]) {
    page.section("Samples", "Of each category, the prompts whose hash comes first.");
    let rows = summary.tables.iter().flat_map(|t| {
        let of_table =
            prompts.iter().filter(|p| p.dataset == t.dataset && p.split.as_deref() == Some(t.split.as_str()) && p.category == t.category);
        let row = move |p: &RawPrompt| vec![text(&t.dataset), text(&t.split), text(&t.category), text(&p.prompt)];
        // In the order of hashes: neighbours in the alphabet look alike.
        let mut ranked: Vec<(u64, &RawPrompt)> = of_table.map(|p| (rng::text_id(&p.prompt), p)).collect();
        ranked.sort_unstable_by_key(|&(rank, _)| rank);
        ranked.into_iter().take(SAMPLES).map(|(_, p)| row(p)).collect::<Vec<_>>()
    });
    page.table(&["set", "split", "category", "prompt"], rows);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::build::summary::table_summaries;
    use crate::data::schema::{COMPBENCH, VAL};

    #[test]
    fn every_text_is_escaped() {
        let prompts = [RawPrompt::example(COMPBENCH, VAL, "<script>alert('x')</script> & \"y\"")];
        let summary = Summary { tables: table_summaries(&prompts).unwrap(), missing: vec!["<b>.txt".into()], ..Summary::default() };
        let page = html("<i>", &summary, &prompts).unwrap();
        assert!(!page.contains("<script") && !page.contains("<b>") && !page.contains("<i>"));
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;y&quot;"));
        assert!(!page.contains("http"));
    }

    #[test]
    fn a_histogram_counts_every_value_once() {
        let svg = histogram("t", &[0, 1, 1, 29, 30, 59]);
        assert_eq!(svg.matches("<rect").count(), BARS);
        assert!(svg.contains("0 to 1 words: 3") && svg.contains("28 to 29 words: 1") && svg.contains("58 to 59 words: 1"), "{svg}");
    }
}
