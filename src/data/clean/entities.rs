//! Character references of HTML in captions from the web: `&amp;`, `&#233;`, `&#x2019;`.

use std::borrow::Cow;

/// The names that occur in captions: those of HTML 2 and 3.2, and the punctuation of HTML 4.
const NAMED: [(&str, &str); 75] = [
    ("amp", "&"),
    ("lt", "<"),
    ("gt", ">"),
    ("quot", "\""),
    ("apos", "'"),
    ("nbsp", " "),
    ("ensp", " "),
    ("emsp", " "),
    ("thinsp", " "),
    ("copy", "©"),
    ("reg", "®"),
    ("trade", "™"),
    ("hellip", "…"),
    ("mdash", "—"),
    ("ndash", "–"),
    ("lsquo", "‘"),
    ("rsquo", "’"),
    ("sbquo", "‚"),
    ("ldquo", "“"),
    ("rdquo", "”"),
    ("bdquo", "„"),
    ("laquo", "«"),
    ("raquo", "»"),
    ("lsaquo", "‹"),
    ("rsaquo", "›"),
    ("bull", "•"),
    ("middot", "·"),
    ("deg", "°"),
    ("plusmn", "±"),
    ("times", "×"),
    ("frac12", "½"),
    ("frac14", "¼"),
    ("frac34", "¾"),
    ("sup2", "²"),
    ("sup3", "³"),
    ("acute", "´"),
    ("prime", "′"),
    ("Prime", "″"),
    ("euro", "€"),
    ("pound", "£"),
    ("yen", "¥"),
    ("cent", "¢"),
    ("sect", "§"),
    ("iexcl", "¡"),
    ("iquest", "¿"),
    ("szlig", "ß"),
    ("agrave", "à"),
    ("aacute", "á"),
    ("acirc", "â"),
    ("atilde", "ã"),
    ("auml", "ä"),
    ("aring", "å"),
    ("aelig", "æ"),
    ("ccedil", "ç"),
    ("egrave", "è"),
    ("eacute", "é"),
    ("ecirc", "ê"),
    ("euml", "ë"),
    ("iacute", "í"),
    ("icirc", "î"),
    ("iuml", "ï"),
    ("ntilde", "ñ"),
    ("oacute", "ó"),
    ("ocirc", "ô"),
    ("otilde", "õ"),
    ("ouml", "ö"),
    ("oslash", "ø"),
    ("oelig", "œ"),
    ("uacute", "ú"),
    ("ugrave", "ù"),
    ("ucirc", "û"),
    ("uuml", "ü"),
    ("Eacute", "É"),
    ("Ouml", "Ö"),
    ("Uuml", "Ü"),
];

/// What the numbers 128 to 159 mean in HTML: the letters of Windows-1252, since the control characters at these places are
/// never meant (WHATWG HTML, numeric character reference end state). Places without a letter are 0.
const WINDOWS_1252: [u16; 32] = [
    0x20AC, 0, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0, 0x017D, 0, 0, 0x2018, 0x2019,
    0x201C, 0x201D, 0x2022, 0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0, 0x017E, 0x0178,
];

/// Letters and digits between `&` and `;` at most: `&thetasym;` is the longest of HTML 4, `&#x10FFFF;` the longest number.
const LONGEST: usize = 10;

/// The text with its character references replaced, those that appear by replacing (`&amp;lt;`) included. What is no known
/// reference stays as it is.
pub fn unescape(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    // Every round shortens the text, so the loop ends.
    while let Some(next) = replaced(&text) {
        text = Cow::Owned(next);
    }
    text
}

/// One round; `None` where nothing was replaced.
fn replaced(text: &str) -> Option<String> {
    let mut result = String::new();
    let mut done = 0;
    let mut from = 0;
    while let Some(at) = text[from..].find('&').map(|at| at + from) {
        from = at + 1;
        let window = &text.as_bytes()[from..text.len().min(from + LONGEST + 1)];
        let Some(length) = window.iter().position(|&byte| byte == b';') else { continue };
        let Some(reference) = text.get(from..from + length) else { continue };
        result.push_str(&text[done..at]);
        if push_decoded(&mut result, reference) {
            done = from + length + 1;
            from = done;
        } else {
            result.truncate(result.len() - (at - done));
        }
    }
    if done == 0 {
        return None;
    }
    result.push_str(&text[done..]);
    Some(result)
}

/// Appends what `&reference;` stands for; false, and nothing appended, where it stands for nothing.
fn push_decoded(result: &mut String, reference: &str) -> bool {
    if let Some(number) = reference.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => u32::from_str_radix(digits, 16),
            None if number.bytes().all(|byte| byte.is_ascii_digit()) => number.parse(),
            _ => return false,
        };
        let Ok(code) = code else { return false };
        let code = match code {
            0x80..=0x9F => u32::from(WINDOWS_1252[code as usize - 0x80]),
            code => code,
        };
        let Some(letter) = char::from_u32(code).filter(|&letter| letter != '\0') else { return false };
        result.push(letter);
        return true;
    }
    match NAMED.iter().find(|(name, _)| *name == reference) {
        Some((_, letter)) => {
            result.push_str(letter);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_other_ampersands_stay() {
        struct Case {
            text: &'static str,
            expected: &'static str,
        }
        let cases = [
            Case { text: "salt &amp; pepper", expected: "salt & pepper" },
            Case { text: "caf&eacute; &#233; &#xE9;", expected: "café é é" },
            Case { text: "&quot;a&quot; &#39;b&#39; don&#146;t", expected: "\"a\" 'b' don’t" },
            // Escaped twice.
            Case { text: "R&amp;amp;B &amp;lt;3", expected: "R&B <3" },
            Case { text: "&amp;#39;", expected: "'" },
            // No references.
            Case {
                text: "R&B, AT&T; &; &#; &#x; &#xZZ; &#1114112; &#55296; &#0; &#129; &unknown; &",
                expected: "R&B, AT&T; &; &#; &#x; &#xZZ; &#1114112; &#55296; &#0; &#129; &unknown; &",
            },
            Case { text: "&é; &&amp;", expected: "&é; &&" },
            Case { text: "&#99999999999999;", expected: "&#99999999999999;" },
        ];
        for case in cases {
            assert_eq!(unescape(case.text), case.expected, "{}", case.text);
        }
    }

    #[test]
    fn every_name_stands_for_one_letter_and_occurs_once() {
        for (i, (name, letter)) in NAMED.iter().enumerate() {
            assert_eq!(letter.chars().count(), 1, "{name}");
            assert!(name.len() <= LONGEST && NAMED[..i].iter().all(|(other, _)| other != name), "{name}");
            // So that every round of replacing shortens the text.
            assert!(letter.len() < name.len() + 2, "{name}");
        }
    }

    #[test]
    fn text_without_references_is_not_copied() {
        assert!(matches!(unescape("R&B and a red car"), Cow::Borrowed(_)));
    }
}
