//! What stands around the reports: the list of all of them and the data card as a page, in the same style.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::run::context::RunContext;
use crate::run::files;
use crate::run::html::{address, document, escape};

/// The data card: `build-data` leaves it beside its tables, and the report takes it to its side.
pub const CARD_PAGE: &str = "data-card.html";
/// The way back from a page beside a report.
const BACK: &str = "<nav aria-label=\"Pages\"><a href=\"index.html\">Report</a><a href=\"../index.html\">All reports</a></nav>\n";

/// Writes the data card beside the report; `None` where `build-data` left none.
pub fn write_card(context: &RunContext) -> Result<Option<PathBuf>> {
    let source = context.built.join(CARD_PAGE);
    if !source.is_file() {
        return Ok(None);
    }
    let bytes = files::read_bytes(&source, "the data card", "run `scaledown build-data` again")?;
    let text = String::from_utf8(bytes).map_err(|error| Error::format("data card", &source, error))?;
    let page = context.reports.join(CARD_PAGE);
    files::write_bytes(&page, text.replacen("<body>\n", &format!("<body>\n{BACK}"), 1).as_bytes())?;
    Ok(Some(page))
}

/// Writes the list of all reports below `folder`; returns its path.
pub fn write_index(folder: &Path) -> Result<PathBuf> {
    let mut items = String::new();
    for report in reports_below(folder)? {
        let name = report.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let links: String = pages_of(&report)?
            .into_iter()
            .map(|(file, title)| format!(" · <a href=\"{}\">{}</a>", address(&format!("{name}/{file}")), escape(&title)))
            .collect();
        items.push_str(&format!("<li><a href=\"{}\">{}</a>{links}</li>\n", address(&format!("{name}/index.html")), escape(&name)));
    }
    let page = folder.join("index.html");
    let body = format!("<header><h1>Reports</h1></header>\n<main><ul class=\"reports\">\n{items}</ul></main>\n");
    files::write_bytes(&page, document("Reports", "", &body).as_bytes())?;
    Ok(page)
}

/// Folders that hold a report, by name.
fn reports_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = entries(folder)?;
    found.retain(|path| path.join("index.html").is_file());
    Ok(found)
}

/// Pages beside a report with their titles.
fn pages_of(report: &Path) -> Result<Vec<(String, String)>> {
    let mut pages = Vec::new();
    for path in entries(report)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let title = match name.strip_suffix(".html") {
            Some("data-card") => "data card".to_owned(),
            Some(stem) => match stem.strip_prefix(super::preference::PREFIX) {
                Some(pair) => format!("preference {pair}"),
                None => continue,
            },
            None => continue,
        };
        pages.push((name, title));
    }
    Ok(pages)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(folder).map_err(Error::io("list", folder))?;
    let mut found: Vec<PathBuf> =
        list.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>().map_err(Error::io("list", folder))?;
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_links_reports_and_their_pages_whatever_their_name() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["a b\"<c/index.html", "a b\"<c/data-card.html", "a b\"<c/preference-x-y.html", "a b\"<c/other.html", "empty/x"] {
            files::write_bytes(&folder.path().join(file), b"x").unwrap();
        }
        let html = std::fs::read_to_string(write_index(folder.path()).unwrap()).unwrap();
        assert!(html.contains("href=\"a%20b%22%3Cc/index.html\"") && html.contains(">a b&quot;&lt;c</a>"), "{html}");
        assert!(html.contains("a%20b%22%3Cc/data-card.html") && html.contains("preference x-y") && !html.contains("other.html"));
        assert!(!html.contains("empty"));
    }

    #[test]
    fn the_data_card_stands_beside_the_report_with_a_way_back() {
        let folder = tempfile::tempdir().unwrap();
        let context = RunContext::below(folder.path(), "x", folder.path().into(), 1);
        assert_eq!(write_card(&context).unwrap(), None);
        let card = document("Prompts", "", "<main>🐢</main>\n");
        files::write_bytes(&context.built.join(CARD_PAGE), card.as_bytes()).unwrap();
        let html = std::fs::read_to_string(write_card(&context).unwrap().unwrap()).unwrap();
        assert!(html.contains("All reports</a></nav>\n<main>🐢</main>"), "{html}");
    }
}
