//! What every page of the project shares: safe text, the head with its style, relative addresses.
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

/// Text with pairs of backticks as code.
pub fn with_code(text: &str) -> String {
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
    fn pairs_of_backticks_are_code_and_all_text_stays_text() {
        assert_eq!(with_code("run `a <b>` or `c`"), "run <code>a &lt;b&gt;</code> or <code>c</code>");
        assert_eq!(with_code("one ` only <b>"), "one ` only &lt;b&gt;");
    }

    #[test]
    fn addresses_hold_no_markup() {
        assert_eq!(address("a b\"</x.png"), "a%20b%22%3C/x.png");
    }
}
