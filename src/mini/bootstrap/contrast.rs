//! Prompts that are wrong in one word: hard negatives for the contrastive training and a test of what it has learnt.

use rand::Rng;

use crate::mini::words::{Background, Finish, LARGEST_COUNT, Noun, Relation, Shape, number_word, seen_sign_words};
use crate::run::rng::{below, pick};

/// A class of words that may be exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    Noun,
    Colour,
    Texture,
    Shape,
    Background,
    Count,
    Relation,
    Depth,
    SignWord,
}

impl Aspect {
    pub const ALL: [Self; 9] =
        [Self::Noun, Self::Colour, Self::Texture, Self::Shape, Self::Background, Self::Count, Self::Relation, Self::Depth, Self::SignWord];

    /// As tables write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Noun => "noun",
            Self::Colour => "colour",
            Self::Texture => "texture",
            Self::Shape => "shape",
            Self::Background => "background",
            Self::Count => "count",
            Self::Relation => "relation",
            Self::Depth => "depth",
            Self::SignWord => "sign word",
        }
    }

    /// The groups within which words may stand for one another.
    fn groups(self) -> Vec<Vec<&'static str>> {
        match self {
            Self::Noun => vec![Noun::all().map(Noun::name).collect(), Noun::all().map(Noun::plural).collect()],
            Self::Colour => vec![Finish::colours().map(Finish::name).collect()],
            Self::Texture => vec![Finish::textures().map(Finish::name).collect()],
            Self::Shape => vec![Shape::all().map(Shape::name).collect()],
            Self::Background => vec![Background::all().map(Background::name).collect()],
            // Of one, the noun stands in the singular.
            Self::Count => vec![(2..=LARGEST_COUNT).filter_map(number_word).collect()],
            // "next to" and its like are drawn as "on the left of": they would not be wrong.
            Self::Relation => vec![[Relation::Left, Relation::Right, Relation::Top, Relation::Bottom].map(Relation::phrase).to_vec()],
            Self::Depth => vec![
                [Relation::InFrontOf, Relation::Behind].map(Relation::phrase).to_vec(),
                [Relation::InFrontOf, Relation::HiddenBy].map(Relation::phrase).to_vec(),
            ],
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

/// `prompt` wrong in one word. Half of the time it is a word of the classes that are hardest to see (relation, sign word)
/// where the prompt has one, else one of a random class.
pub fn one_word_wrong(prompt: &str, rng: &mut impl Rng) -> Option<String> {
    const HARD: [Aspect; 3] = [Aspect::Relation, Aspect::Depth, Aspect::SignWord];
    let mut wrong = |aspects: &[Aspect]| -> Vec<String> { aspects.iter().filter_map(|aspect| aspect.exchange(prompt, rng)).collect() };
    let (hard, all) = (wrong(&HARD), wrong(&Aspect::ALL));
    let among = if !hard.is_empty() && below(rng, 2) == 0 { hard } else { all };
    if among.is_empty() { None } else { Some(among[below(rng, among.len())].clone()) }
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
