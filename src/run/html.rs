//! What every page of the project shares: safe text, the head with its style, relative addresses, and Markdown as a page.
//! Whatever is not markup of ours goes through [`escape`].

use std::fmt::Write as _;

const STYLE: &str = include_str!("assets/page.css");

/// Text made safe for element content and double-quoted attributes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(character),
        }
    }
    safe
}

/// JSON that may stand inside a `<script>` element: no `<`, so that no text can end or nest it.
pub fn json_for_script(json: &str) -> String {
    // Outside of strings JSON has no `<`, so this changes the spelling of strings only.
    json.replace('<', "\\u003c")
}

/// A whole page. `title` is text; `style`, beyond the shared one, and `body` are markup.
pub fn document(title: &str, style: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n{STYLE}{style}</style>\n\
         </head>\n<body>\n{body}</body>\n</html>\n",
        escape(title)
    )
}

/// A relative path as an address; its slashes stay.
pub fn address(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Markdown as HTML: headings, paragraphs, lists, tables and `code`; everything else stays the text it is.
pub fn markdown(text: &str) -> String {
    let mut html = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let level = line.bytes().take_while(|&byte| byte == b'#').count();
        if (1..=4).contains(&level) && line[level..].starts_with(' ') {
            let _ = writeln!(html, "<h{level}>{}</h{level}>", inline(&line[level + 1..]));
        } else if line.starts_with('|') {
            let mut rows = vec![line];
            while let Some(row) = lines.next_if(|next| next.starts_with('|')) {
                rows.push(row);
            }
            html.push_str(&table(&rows));
        } else if let Some(item) = list_item(line) {
            let _ = write!(html, "<ul>\n<li>{}</li>\n", inline(item));
            while let Some(item) = lines.next_if(|next| list_item(next).is_some()).and_then(list_item) {
                let _ = writeln!(html, "<li>{}</li>", inline(item));
            }
            html.push_str("</ul>\n");
        } else if !line.trim().is_empty() {
            let mut paragraph = inline(line);
            while let Some(next) =
                lines.next_if(|next| !next.trim().is_empty() && !next.starts_with(['#', '|']) && list_item(next).is_none())
            {
                paragraph.push('\n');
                paragraph.push_str(&inline(next));
            }
            let _ = writeln!(html, "<p>{paragraph}</p>");
        }
    }
    html
}

fn list_item(line: &str) -> Option<&str> {
    line.strip_prefix("* ").or_else(|| line.strip_prefix("- "))
}

/// A table whose second line, of dashes, makes the first one its head.
fn table(rows: &[&str]) -> String {
    let cells = |row: &str| -> Vec<String> {
        let inner = row.trim().trim_start_matches('|');
        inner.strip_suffix('|').unwrap_or(inner).split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let is_rule = |row: &str| row.chars().all(|c| matches!(c, '|' | '-' | ':' | ' '));
    let has_head = rows.get(1).is_some_and(|row| is_rule(row));
    let mut html = String::from("<div class=\"table\" tabindex=\"0\" role=\"group\" aria-label=\"Table\"><table>\n");
    if let (true, Some(head)) = (has_head, rows.first()) {
        let head: String = cells(head).iter().map(|cell| format!("<th scope=\"col\">{}</th>", inline(cell))).collect();
        let _ = writeln!(html, "<thead><tr>{head}</tr></thead>");
    }
    html.push_str("<tbody>\n");
    for row in rows.iter().skip(if has_head { 2 } else { 0 }) {
        let row: String = cells(row).iter().map(|cell| format!("<td>{}</td>", inline(cell))).collect();
        let _ = writeln!(html, "<tr>{row}</tr>");
    }
    html.push_str("</tbody></table></div>\n");
    html
}

/// Text with pairs of backticks as code.
fn inline(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    let paired = parts.len() % 2 == 1;
    let mut html = String::new();
    for (i, part) in parts.iter().enumerate() {
        match (i % 2, paired) {
            (1, true) => {
                let _ = write!(html, "<code>{}</code>", escape(part));
            }
            (_, true) => html.push_str(&escape(part)),
            (_, false) => html.push_str(&escape(&if i == 0 { (*part).to_owned() } else { format!("`{part}") })),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "<script>alert(1)</script> \"a\" & 'b' مرحبا 🐢";

    #[test]
    fn markup_in_text_is_neutral_and_letters_stay() {
        assert_eq!(escape(HOSTILE), "&lt;script&gt;alert(1)&lt;/script&gt; &quot;a&quot; &amp; &#39;b&#39; مرحبا 🐢");
    }

    #[test]
    fn json_cannot_end_its_script_and_reads_the_same() {
        let json = serde_json::to_string(&[HOSTILE, "</script>", "<!--"]).unwrap();
        let safe = json_for_script(&json);
        assert!(!safe.contains('<'));
        assert_eq!(serde_json::from_str::<Vec<String>>(&safe).unwrap(), [HOSTILE, "</script>", "<!--"]);
    }

    #[test]
    fn markdown_keeps_structure_and_neutralises_text() {
        let text = format!("# Card `x`\n\n| a | b |\n|---|---|\n| 1 | {HOSTILE} |\n\n* one `two`\n* {HOSTILE}\n\nlast `line\ngoes on\n");
        let html = markdown(&text);
        assert!(html.starts_with("<h1>Card <code>x</code></h1>\n"), "{html}");
        assert!(html.contains("<thead><tr><th scope=\"col\">a</th><th scope=\"col\">b</th></tr></thead>"));
        assert!(html.contains("<li>one <code>two</code></li>") && html.contains("<p>last `line\ngoes on</p>"));
        assert!(!html.contains("<script") && html.matches("&lt;script&gt;").count() == 2 && html.contains("مرحبا 🐢"));
        assert_eq!(html.matches("<td>").count(), 2);
    }

    #[test]
    fn addresses_hold_no_markup() {
        assert_eq!(address("a b\"</x.png"), "a%20b%22%3C/x.png");
    }
}
