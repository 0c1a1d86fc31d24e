//! Prompts of T2I-CompBench taken apart. Most are made from templates (`a green bench and a blue bowl`, `a man next to a clock`,
//! `two boys`); these are read exactly. Of the sentences, what has a number or a known attribute is found, nothing more.

use crate::data::structure::{Object, Structure};

/// Relations, longer ones before those they contain.
const RELATIONS: [&str; 13] = [
    "on the left of",
    "on the right of",
    "on the bottom of",
    "on the top of",
    "on top of",
    "on side of",
    "in front of",
    "hidden by",
    "next to",
    "behind",
    "beside",
    "under",
    "near",
];

#[rustfmt::skip]
const NUMBERS: [(&str, u64); 10] = [
    ("a", 1), ("an", 1), ("one", 1), ("two", 2), ("three", 3), ("four", 4), ("five", 5), ("six", 6), ("seven", 7), ("eight", 8),
];

/// Colours, shapes, materials and sizes.
#[rustfmt::skip]
const ATTRIBUTES: [&str; 77] = [
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray", "grey", "gold", "golden", "silver",
    "beige", "tan", "turquoise", "violet", "bronze",
    "round", "square", "circular", "oval", "oblong", "rectangular", "triangular", "cubic", "cylindrical", "conical", "spherical",
    "pyramidal", "pentagonal", "hexagonal", "octagonal", "teardrop", "diamond", "crescent", "cubical", "heart-shaped", "star-shaped",
    "big", "small", "large", "tall", "short", "long", "tiny", "huge", "little", "wide", "narrow", "thick", "thin",
    "rubber", "plastic", "metallic", "metal", "wooden", "leather", "fabric", "fluffy", "glass", "rough", "smooth", "soft", "hard", "shiny",
    "rusty", "warm", "colorful", "ripe", "fresh", "old", "new", "bright", "dark",
];

/// Words before which a noun phrase of a sentence ends.
#[rustfmt::skip]
const STOPS: [&str; 51] = [
    "a", "an", "the", "and", "or", "but", "with", "of", "in", "on", "at", "to", "from", "by", "for", "over", "under", "near", "next",
    "behind", "beside", "down", "up", "into", "through", "against", "is", "are", "was", "were", "has", "have", "had", "that", "which",
    "while", "as", "his", "her", "its", "their", "it", "they", "he", "she", "sat", "hung", "held", "made", "shone", "lay",
];

/// Words that start a noun phrase of a sentence.
const DETERMINERS: [&str; 6] = ["the", "his", "her", "its", "their", "some"];

fn number(word: &str) -> Option<u64> {
    NUMBERS.iter().find(|(name, _)| *name == word).map(|&(_, n)| n)
}

fn is_attribute(word: &str) -> bool {
    ATTRIBUTES.contains(&word)
}

/// The structure of `prompt`; `None` where nothing in it could be told apart.
pub fn parse(category: &str, prompt: &str) -> Option<Structure> {
    let text = prompt.trim().trim_end_matches('.').to_lowercase();
    let template = match category {
        "spatial" | "3d_spatial" => two_objects(&text),
        "color" | "shape" | "texture" => list_of_objects(&text),
        "numeracy" => return some(counted(&text), None),
        _ => None,
    };
    template.or_else(|| some(mentioned(&text), relation(&text).map(|(at, name)| (at, name).1.to_owned())))
}

fn some(objects: Vec<Object>, relation: Option<String>) -> Option<Structure> {
    (!objects.is_empty()).then(|| Structure { relation: relation.filter(|_| objects.len() >= 2), objects })
}

/// The first relation with its place in the text, as whole words.
fn relation(text: &str) -> Option<(usize, &'static str)> {
    RELATIONS.into_iter().find_map(|name| text.find(&format!(" {name} ")).map(|at| (at, name)))
}

/// `a X on the left of a Y`.
fn two_objects(text: &str) -> Option<Structure> {
    let (at, name) = relation(text)?;
    let (before, after) = (&text[..at], &text[at + name.len() + 2..]);
    Some(Structure { objects: vec![noun_phrase(before)?, noun_phrase(after)?], relation: Some(name.to_owned()) })
}

/// `a green bench and a blue bowl`, also with more than two.
fn list_of_objects(text: &str) -> Option<Structure> {
    let parts = text.split(" and ").flat_map(|part| part.split(", "));
    let objects: Vec<Object> = parts.map(noun_phrase).collect::<Option<_>>()?;
    (objects.len() >= 2 && objects.iter().any(|object| !object.attributes.is_empty())).then_some(Structure { objects, relation: None })
}

/// `a conical traffic cone`: an article or number, attributes, the rest is the name. Of two unknown words the first is the
/// attribute (`a doric column`).
fn noun_phrase(text: &str) -> Option<Object> {
    // A mark that stands alone is no word.
    let mut words: Vec<&str> = text.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).collect();
    let count = words.first().and_then(|word| number(word));
    if count.is_some() || words.first() == Some(&"the") {
        words.remove(0);
    }
    let known = words.iter().take_while(|word| is_attribute(word)).count().min(words.len().saturating_sub(1));
    let attributes = if known == 0 && words.len() == 2 { 1 } else { known };
    // A longer run of words with a verb in it is a sentence, not a phrase.
    if words.is_empty() || words.len() > attributes + 3 || words.iter().any(|word| STOPS.contains(word)) {
        return None;
    }
    let name = words.split_off(attributes).join(" ");
    Some(Object { name, attributes: words.into_iter().map(str::to_owned).collect(), count })
}

/// Every number with the word behind it: `four birds`, `a chicken`. An adjective there is kept as an attribute.
fn counted(text: &str) -> Vec<Object> {
    let words: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '\'')).filter(|word| !word.is_empty()).collect();
    let mut objects = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let Some(count) = number(word) else { continue };
        let rest = &words[i + 1..];
        let known = rest.iter().take_while(|word| is_attribute(word)).count();
        if let Some(name) = rest.get(known).filter(|word| !STOPS.contains(word)) {
            let attributes = rest[..known].iter().map(|&word| word.to_owned()).collect();
            objects.push(Object { name: (*name).to_owned(), attributes, count: Some(count) });
        }
    }
    objects
}

/// Noun phrases of a sentence that have an attribute we know: an article, attributes, words up to the next small word.
fn mentioned(text: &str) -> Vec<Object> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let bare = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
    let mut objects = Vec::new();
    let mut i = 0;
    while i < words.len() {
        let first = bare(words[i]);
        let count = number(&first);
        let starts = count.is_some() || DETERMINERS.contains(&first.as_str());
        let from = i + usize::from(starts);
        let known = words[from..].iter().take_while(|word| is_attribute(&bare(word))).count();
        if known == 0 {
            i += 1;
            continue;
        }
        let attributes: Vec<String> = words[from..from + known].iter().map(|word| bare(word)).collect();
        let mut name = Vec::new();
        i = from + known;
        // A name has at most two words and ends with a mark, a small word or a verb in -ed and -ing.
        while i < words.len() && name.len() < 2 {
            let word = bare(words[i]);
            let verb = !name.is_empty() && (word.ends_with("ed") || word.ends_with("ing"));
            if STOPS.contains(&word.as_str()) || is_attribute(&word) || verb {
                break;
            }
            let ends = words[i].ends_with([',', ';', '.']);
            // A mark that stands alone is no word.
            name.extend(Some(word).filter(|word| !word.is_empty()));
            i += 1;
            if ends {
                break;
            }
        }
        if !name.is_empty() {
            objects.push(Object { name: name.join(" "), attributes, count });
        }
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count attribute+attribute name` of every object, and the relation.
    fn short(category: &str, prompt: &str) -> String {
        let Some(structure) = parse(category, prompt) else { return "nothing".into() };
        let object = |o: &Object| {
            let count = o.count.map_or_else(|| "-".to_owned(), |n| n.to_string());
            let attributes = o.attributes.join("+");
            [count, attributes, o.name.clone()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
        };
        let objects = structure.objects.iter().map(object).collect::<Vec<_>>().join(", ");
        structure.relation.map_or(objects.clone(), |relation| format!("{objects} [{relation}]"))
    }

    #[test]
    fn templates_are_taken_apart() {
        let cases = [
            ("color", "a violet piano and a beige towel", "1 violet piano, 1 beige towel"),
            ("color", "a orange fox and black grapes", "1 orange fox, - black grapes"),
            ("color", "a green pear, a red door and a white sink", "1 green pear, 1 red door, 1 white sink"),
            ("shape", "a conical street lamp and a pentagonal road sign", "1 conical street lamp, 1 pentagonal road sign"),
            ("shape", "a tall elm tree and a short fence", "1 tall elm tree, 1 short fence"),
            ("shape", "a small square tray and a doric column", "1 small+square tray, 1 doric column"),
            ("texture", "a rubber duck and a metallic spoon", "1 rubber duck, 1 metallic spoon"),
            ("spatial", "a heron on the left of a piano", "1 heron, 1 piano [on the left of]"),
            ("spatial", "a goat on the top of a shed", "1 goat, 1 shed [on the top of]"),
            ("spatial", "a nurse near a tractor", "1 nurse, 1 tractor [near]"),
            ("3d_spatial", "a sofa in front of a goat", "1 sofa, 1 goat [in front of]"),
            ("3d_spatial", "a kettle hidden by a book", "1 kettle, 1 book [hidden by]"),
            ("numeracy", "three otters", "3 otters"),
            ("numeracy", "six plums and one ladder", "6 plums, 1 ladder"),
            ("numeracy", "a goose, four drums and an owl", "1 goose, 4 drums, 1 owl"),
        ];
        for (category, prompt, expected) in cases {
            assert_eq!(short(category, prompt), expected, "{prompt}");
        }
    }

    #[test]
    fn of_sentences_only_what_is_named_with_an_attribute_or_a_number_is_kept() {
        let cases = [
            ("color", "The red kettle was on top of the green stove.", "- red kettle, - green stove [on top of]"),
            (
                "shape",
                "The oval wall clock with its circular face hung in the square hall.",
                "- oval wall clock, - circular face, - square hall",
            ),
            ("texture", "The smooth, shiny surface reflected the wooden beams.", "- smooth+shiny surface, - wooden beams"),
            ("numeracy", "a goat, two cows, and three pigs slept in the barn", "1 goat, 2 cows, 3 pigs"),
            ("complex", "The warm yellow lamp shone on a colorful rug.", "- warm+yellow lamp, 1 colorful rug"),
            ("non_spatial", "A nurse is reading to the children.", "nothing"),
            ("color", "", "nothing"),
            ("color", "red , and more", "nothing"),
        ];
        for (category, prompt, expected) in cases {
            assert_eq!(short(category, prompt), expected, "{prompt}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in ".{0,80}", words in proptest::collection::vec("(a|two|red|and|,|on top of|near|cat|[.] ?)", 0..12)) {
            for category in ["color", "spatial", "numeracy", "complex"] {
                let _ = parse(category, &text);
                if let Some(structure) = parse(category, &words.join(" ")) {
                    proptest::prop_assert!(!structure.objects.is_empty());
                    proptest::prop_assert!(structure.objects.iter().all(|object| !object.name.is_empty()));
                }
            }
        }
    }
}
