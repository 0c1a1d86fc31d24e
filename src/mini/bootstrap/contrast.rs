//! Prompts that are wrong in one word: hard negatives for the contrastive training and a test of what it has learnt.

use rand::Rng;

use crate::mini::words::{Background, Colour, Noun, Relation, number_word, seen_sign_words};
use crate::run::rng::{below, pick};

/// A class of words that may be exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    Noun,
    Colour,
    Background,
    Count,
    Relation,
    SignWord,
}

impl Aspect {
    pub const ALL: [Self; 6] = [Self::Noun, Self::Colour, Self::Background, Self::Count, Self::Relation, Self::SignWord];

    /// As tables write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Noun => "noun",
            Self::Colour => "colour",
            Self::Background => "background",
            Self::Count => "count",
            Self::Relation => "relation",
            Self::SignWord => "sign word",
        }
    }

    /// The groups within which words may stand for one another.
    fn groups(self) -> Vec<Vec<&'static str>> {
        match self {
            Self::Noun => vec![Noun::all().map(Noun::name).collect(), Noun::all().map(Noun::plural).collect()],
            Self::Colour => vec![Colour::all().map(Colour::name).collect()],
            Self::Background => vec![Background::all().map(Background::name).collect()],
            Self::Count => vec![(2..=4).filter_map(number_word).collect()],
            Self::Relation => vec![Relation::ALL.map(Relation::phrase).to_vec()],
            Self::SignWord => vec![seen_sign_words().to_vec()],
        }
    }

    /// `prompt` with one word of this class exchanged for another; `None` where the prompt has none.
    ///
    /// Sign words are the quoted ones only, whether or not they are among the seen ones.
    pub fn exchange(self, prompt: &str, rng: &mut impl Rng) -> Option<String> {
        if self == Self::SignWord {
            let (before, rest) = prompt.split_once('\'')?;
            let (word, after) = rest.split_once('\'')?;
            let words: Vec<&str> = seen_sign_words().iter().copied().filter(|other| *other != word).collect();
            return Some(format!("{before}'{}'{after}", pick(rng, &words)));
        }
        let unquoted = prompt.find('\'').unwrap_or(prompt.len());
        let mut places = Vec::new();
        for group in self.groups() {
            for &word in &group {
                for (start, found) in prompt.match_indices(word) {
                    let end = start + found.len();
                    let quoted = start > unquoted && prompt[end..].contains('\'');
                    let whole = !prompt[..start].ends_with(char::is_alphanumeric) && !prompt[end..].starts_with(char::is_alphanumeric);
                    // "white" and "pink" are backgrounds, but only where the background is named.
                    if whole && !quoted {
                        places.push((start, end, group.clone()));
                    }
                }
            }
        }
        if places.is_empty() {
            return None;
        }
        let (start, end, group) = &places[below(rng, places.len())];
        let others: Vec<&str> = group.iter().copied().filter(|word| *word != &prompt[*start..*end]).collect();
        Some(format!("{}{}{}", &prompt[..*start], pick(rng, &others), &prompt[*end..]))
    }
}

/// `prompt` wrong in one word of a random class, each class it has being equally likely.
pub fn one_word_wrong(prompt: &str, rng: &mut impl Rng) -> Option<String> {
    let wrong: Vec<String> = Aspect::ALL.into_iter().filter_map(|aspect| aspect.exchange(prompt, rng)).collect();
    if wrong.is_empty() { None } else { Some(wrong[below(rng, wrong.len())].clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng::{Key, stream};

    #[test]
    fn exactly_the_words_of_the_class_change() {
        let rng = &mut stream(Key { seed: 1, purpose: "test", item: 0, draw: 0 });
        let prompt = "A red cat holding a sign reading 'car' on a pink background.";
        let case = |aspect: Aspect, rng: &mut _| aspect.exchange(prompt, rng).unwrap();
        let (noun, sign) = (case(Aspect::Noun, rng), case(Aspect::SignWord, rng));
        assert!(noun.contains("'car'") && !noun.contains(" cat "), "{noun}");
        assert!(!sign.contains("'car'") && sign.contains(" cat "), "{sign}");
        assert!(!case(Aspect::Colour, rng).contains("red") && !case(Aspect::Background, rng).contains("pink"));
        assert_eq!(Aspect::Count.exchange(prompt, rng), None);
        assert_eq!(Aspect::Relation.exchange("a red cat", rng), None);
    }

    #[test]
    fn every_exchange_gives_another_prompt() {
        for item in 0..200 {
            let key = Key { seed: 1, purpose: "test", item, draw: 0 };
            let (prompt, _) = crate::mini::grammar::sample_any(crate::mini::scene::Split::Train, key);
            let wrong = one_word_wrong(&prompt, &mut stream(key)).unwrap();
            assert_ne!(prompt, wrong);
        }
    }
}
