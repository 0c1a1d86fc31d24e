//! Cleaning of captions from the web: what is no description of the picture goes (addresses, file names, camera counters, the
//! phrases of picture agencies and shops), what is written oddly is put straight (HTML, control characters, composed letters).

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::entities;

/// Phrases that agencies, shops and web pages put into captions; lower case, words separated by one space.
///
/// Written down from knowledge of how picture agencies label their goods; matched as whole words only.
pub const BOILERPLATE: [&str; 40] = [
    "stock photo",
    "stock photos",
    "stock image",
    "stock images",
    "stock photography",
    "stock picture",
    "stock pictures",
    "stock vector",
    "stock vectors",
    "stock illustration",
    "stock illustrations",
    "stock footage",
    "royalty free",
    "royalty-free",
    "free download",
    "free shipping",
    "free vector",
    "high resolution image",
    "click to enlarge",
    "click to view",
    "click for details",
    "click here",
    "image may contain",
    "image result for",
    "image credit",
    "photo credit",
    "photo courtesy of",
    "picture of the day",
    "getty images",
    "adobe stock",
    "shutterstock",
    "istockphoto",
    "dreamstime",
    "depositphotos",
    "alamy",
    "123rf",
    "buy now",
    "add to cart",
    "for sale online",
    "all rights reserved",
];

/// Endings of the names of picture files.
const FILE_ENDINGS: [&str; 13] = ["jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "svg", "psd", "eps", "heic", "pdf"];

/// Endings of host names that stand in captions without `www.` or `http://`.
const HOST_ENDINGS: [&str; 12] = ["com", "net", "org", "info", "biz", "co.uk", "de", "fr", "ru", "eu", "shop", "blog"];

/// What cameras call their pictures before the counter.
const CAMERA_PREFIXES: [&str; 12] = ["img", "dsc", "dscn", "dscf", "pict", "mvi", "sam", "imgp", "cimg", "wp", "pxl", "p"];

/// Characters that join or split nothing once what stood beside them is gone.
const SEPARATORS: [char; 12] = ['-', '–', '—', '|', '·', '•', ':', ';', ',', '/', '~', '_'];

/// Cleans one caption after another; holds the buffers.
#[derive(Debug, Default)]
pub struct CaptionCleaner {
    text: String,
    next: String,
}

impl CaptionCleaner {
    /// The cleaned caption: NFC, single spaces, trimmed; empty where nothing describes a picture. Cleaning it again changes
    /// nothing.
    pub fn clean(&mut self, caption: &str) -> &str {
        self.text.clear();
        if plain(caption) {
            self.text.push_str(caption);
        } else {
            self.text.push_str(&straightened(caption));
        }
        // Taking something out may bring together what goes next; every round shortens the text.
        loop {
            self.next.clear();
            let removed = describe(&self.text, &mut self.next);
            std::mem::swap(&mut self.text, &mut self.next);
            let plain = plain(&self.text);
            // Collapsed white space matters to HTML only: a bracket may have become short enough for a tag.
            if !removed && (plain || self.text.len() == self.next.len()) {
                break;
            }
            if !plain {
                self.text = straightened(&self.text);
            }
        }
        &self.text
    }
}

/// True where [`straightened`] would change nothing: printable ASCII without HTML.
fn plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'&' && byte != b'<')
}

/// References replaced, tags and control characters turned into spaces, invisible characters removed, letters composed;
/// repeated until none of these changes anything, since each may uncover work for another.
fn straightened(text: &str) -> String {
    let mut text = text.to_owned();
    loop {
        let unescaped = entities::unescape(&text);
        let untagged = without_tags(&unescaped);
        let visible: String = untagged.chars().filter(|&c| !invisible(c)).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let composed: String = match is_nfc_quick(visible.chars()) {
            IsNormalized::Yes => visible,
            _ => visible.nfc().collect(),
        };
        if composed == text {
            return text;
        }
        text = composed;
    }
}

/// Characters without a shape: zero width, direction marks, soft hyphen, byte order mark, not-characters' stand-in.
fn invisible(c: char) -> bool {
    matches!(c, '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2064}' | '\u{FEFF}' | '\u{FFFD}')
}

/// The text with a space for every HTML tag. `<3` and `a < b` stay.
fn without_tags(text: &str) -> Cow<'_, str> {
    /// Longer brackets are not taken for tags: half of a caption could vanish.
    const LONGEST_TAG: usize = 200;
    let mut result = String::new();
    let (mut done, mut from) = (0, 0);
    while let Some(at) = text[from..].find('<').map(|at| at + from) {
        from = at + 1;
        let rest = &text.as_bytes()[from..];
        if !rest.first().is_some_and(|&byte| byte.is_ascii_alphabetic() || byte == b'/') {
            continue;
        }
        let end = rest.iter().take(LONGEST_TAG).position(|&byte| byte == b'>' || byte == b'<');
        if let Some(end) = end.filter(|&end| rest[end] == b'>') {
            result.push_str(&text[done..at]);
            result.push(' ');
            done = from + end + 1;
            from = done;
        }
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    result.push_str(&text[done..]);
    Cow::Owned(result)
}

/// Appends the words of `text` that describe a picture to `result`, separated by single spaces. True if any was left out.
fn describe(text: &str, result: &mut String) -> bool {
    let mut removed = false;
    let mut rest = text;
    while let Some(word) = next_word(&mut rest) {
        if let Some(phrase_end) = boilerplate(word, rest) {
            rest = phrase_end;
            removed = true;
        } else if is_address(word) || is_file_name(word) || is_camera_name(word) || joins_nothing(word, result) {
            removed = true;
        } else {
            if !result.is_empty() {
                result.push(' ');
            }
            result.push_str(word);
        }
    }
    while let Some(word) = last_word(result).filter(|word| is_separator(word)) {
        result.truncate(result.len() - word.len());
        result.truncate(result.trim_end().len());
        removed = true;
    }
    removed
}

/// Takes the next word off the text.
fn next_word<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let bytes = rest.as_bytes();
    // ASCII space is nearly always the separator; other white space ends a word, too.
    let start = bytes.iter().position(|&byte| byte != b' ')?;
    let text = &rest[start..];
    let end = text.bytes().position(|byte| !(b'!'..0x80).contains(&byte)).unwrap_or(text.len());
    let end = match text.as_bytes().get(end) {
        None | Some(b' ') => end,
        Some(_) => text.find(char::is_whitespace).unwrap_or(text.len()),
    };
    if end == 0 {
        // White space other than the ASCII space.
        let width = text.chars().next().map_or(0, char::len_utf8);
        *rest = &text[width..];
        return next_word(rest);
    }
    *rest = &text[end..];
    Some(&text[..end])
}

fn last_word(text: &str) -> Option<&str> {
    text.rsplit(' ').next().filter(|word| !word.is_empty())
}

/// A separator at the start or after another one.
fn joins_nothing(word: &str, before: &str) -> bool {
    is_separator(word) && last_word(before).is_none_or(is_separator)
}

fn is_separator(word: &str) -> bool {
    word.chars().all(|c| SEPARATORS.contains(&c))
}

/// The word without punctuation around it.
fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| c.is_ascii_punctuation())
}

/// What follows a boilerplate phrase that starts with `word`.
fn boilerplate<'a>(word: &str, rest: &'a str) -> Option<&'a str> {
    /// Bit of a first letter: most words start with none of these and are through.
    const FIRST: u32 = {
        let (mut bits, mut i) = (0, 0);
        while i < BOILERPLATE.len() {
            bits |= 1 << (BOILERPLATE[i].as_bytes()[0] & 31);
            i += 1;
        }
        bits
    };
    let first = word.bytes().find(u8::is_ascii_alphanumeric)?;
    if FIRST & (1 << (first.to_ascii_lowercase() & 31)) == 0 {
        return None;
    }
    let head = bare(word);
    // Longest first: `stock photos` before `stock photo` does not matter, whole words are compared.
    BOILERPLATE.iter().find_map(|phrase| {
        let mut wanted = phrase.split(' ');
        if !wanted.next()?.eq_ignore_ascii_case(head) {
            return None;
        }
        let mut after = rest;
        for word in wanted {
            if !bare(next_word(&mut after)?).eq_ignore_ascii_case(word) {
                return None;
            }
        }
        Some(after)
    })
}

/// `http://…`, `www.…`, `name.com`, `name.com/path`; an e-mail address is none (it is personal and gets a flag).
fn is_address(word: &str) -> bool {
    if !word.bytes().any(|byte| byte == b'.' || byte == b':') {
        return false;
    }
    let word = bare(word);
    let starts = |prefix: &str| word.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if starts("http://") || starts("https://") || starts("www.") || word.contains("://") {
        return true;
    }
    let host = word.split(['/', '?', '#']).next().unwrap_or(word);
    let ending = |ending: &&str| {
        let split = host.len().checked_sub(ending.len() + 1)?;
        let (name, tail) = (host.get(..split)?, host.get(split..)?);
        let fits = tail.as_bytes()[0] == b'.' && tail[1..].eq_ignore_ascii_case(ending);
        let named = name.len() > 1 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
        (fits && named).then_some(())
    };
    HOST_ENDINGS.iter().any(|name| ending(name).is_some())
}

/// `red_car-01.JPG`.
fn is_file_name(word: &str) -> bool {
    if !word.contains('.') {
        return false;
    }
    let word = bare(word);
    word.rsplit_once('.')
        .is_some_and(|(name, ending)| !name.is_empty() && FILE_ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending)))
}

/// `IMG_2034`, `DSC01234`, `P1010123`: a camera's prefix and four digits or more.
fn is_camera_name(word: &str) -> bool {
    if !word.as_bytes().last().is_some_and(|byte| byte.is_ascii_digit() || byte.is_ascii_punctuation()) {
        return false;
    }
    let word = bare(word);
    let digits = word.bytes().rev().take_while(|byte| byte.is_ascii_digit() || *byte == b'_' || *byte == b'-').count();
    let prefix = &word[..word.len() - digits];
    let counted = word[word.len() - digits..].bytes().filter(u8::is_ascii_digit).count();
    let long_enough = if prefix.len() == 1 { counted >= 7 } else { counted >= 4 };
    long_enough && CAMERA_PREFIXES.iter().any(|known| known.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clean(text: &str) -> String {
        CaptionCleaner::default().clean(text).to_owned()
    }

    #[test]
    fn what_is_no_description_goes() {
        struct Case {
            text: &'static str,
            expected: &'static str,
        }
        let cases = [
            Case { text: "Caf&eacute; &amp; bar &lt;b&gt;at night&lt;/b&gt;", expected: "Café & bar at night" },
            Case { text: "a <3 b < c", expected: "a <3 b < c" },
            Case { text: "Red car - http://example.com/a?b=1", expected: "Red car" },
            Case { text: "Red car | www.Example.org | sale", expected: "Red car | sale" },
            Case { text: "visit example.com/cars for more, or see St.Moritz", expected: "visit for more, or see St.Moritz" },
            Case { text: "write to jo@example.com", expected: "write to jo@example.com" },
            Case { text: "red_car_01.JPG", expected: "" },
            Case { text: "Sunset over Rome IMG_2034 (DSC01234.jpg)", expected: "Sunset over Rome" },
            Case { text: "P1010123 - a lake, U2 1984, Apollo 11", expected: "a lake, U2 1984, Apollo 11" },
            Case { text: "Old bridge, Stock Photo - Shutterstock", expected: "Old bridge," },
            Case { text: "Royalty-Free vector of a stock market", expected: "vector of a stock market" },
            Case { text: "stock http://a.b photo of a hen", expected: "of a hen" },
            Case { text: "e\u{301}te\u{301} a\u{300}\u{200B}\u{0}\u{7}Paris\u{AD}", expected: "été à Paris" },
            Case { text: " a\u{A0}\u{2003}b\tc\r\nd ", expected: "a b c d" },
            Case { text: "&#60;br /&#62;&amp;amp;", expected: "&" },
            Case { text: "- | -", expected: "" },
        ];
        for case in cases {
            assert_eq!(clean(case.text), case.expected, "{}", case.text);
        }
    }

    #[test]
    fn boilerplate_is_listed_as_it_is_compared() {
        for (i, phrase) in BOILERPLATE.iter().enumerate() {
            assert_eq!(phrase.to_lowercase(), *phrase);
            assert!(!BOILERPLATE[..i].contains(phrase), "{phrase}");
            assert_eq!(clean(&format!("a hen {phrase}")), "a hen", "{phrase}");
        }
    }

    /// Pieces that meet every rule, put together at random.
    fn caption() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[a-zA-Z0-9 .,:;/_&<>#-]{0,12}",
            "\\PC{0,6}",
            any::<char>().prop_map(|c| c.to_string()),
            proptest::sample::select(vec![
                "&amp;", "&", "amp;", "lt;", "#60;", "<b>", "stock", " photo ", "www.", "a.com", ".jpg", "IMG_", "1234", " - ", "|",
                "e\u{301}", "\u{200B}", "\u{A0}", "http://",
            ])
            .prop_map(str::to_owned),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn cleaning_twice_is_cleaning_once(text in caption()) {
            let once = clean(&text);
            prop_assert_eq!(clean(&once), once);
        }

        #[test]
        fn a_clean_caption_has_single_spaces_and_no_control_character(text in caption()) {
            let text = clean(&text);
            prop_assert_eq!(super::super::collapse(&text), text.clone());
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert!(unicode_normalization::is_nfc(&text));
        }

        #[test]
        fn words_are_kept(words in proptest::collection::vec("[jkqwxyz][a-z]{1,8}", 1..9)) {
            // No boilerplate phrase starts with these letters.
            let text = words.join(" ");
            prop_assert_eq!(clean(&text), text);
        }
    }
}
