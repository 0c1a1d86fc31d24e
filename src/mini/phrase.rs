//! Noun phrases as questions: what "a red car" or "three red cars" asks about a picture, and the law of exact counts.

use super::words::{Finish, LARGEST_COUNT, Noun, Shape, number_word};
use crate::error::{Error, Result};

/// A noun phrase of the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phrase {
    /// None for "a", "an", "the" and a bare noun: at least one.
    pub count: Option<usize>,
    pub finish: Option<Finish>,
    pub shape: Option<Shape>,
    pub noun: Noun,
}

impl Phrase {
    /// Reads `[a|an|the|one|…|five] [colour|texture] [shape] noun`, the noun in the singular or plural; case does not matter.
    pub fn parse(phrase: &str) -> Result<Self> {
        let unknown = |what: &str| Error::Invalid(format!("the mini reader cannot answer `{phrase}`: {what}"));
        let lower = phrase.trim().trim_end_matches(['?', '.']).to_lowercase();
        let mut words: Vec<&str> = lower.split_whitespace().collect();
        let last = words.pop().ok_or_else(|| unknown("it is empty"))?;
        let noun = Noun::all().find(|noun| noun.name() == last || noun.plural() == last);
        let noun = noun.ok_or_else(|| unknown(&format!("`{last}` is no noun of the miniature world")))?;
        let shape = words.last().and_then(|word| Shape::named(word));
        if shape.is_some() {
            words.pop();
        }
        let finish = words.last().and_then(|word| Finish::named(word));
        if finish.is_some() {
            words.pop();
        }
        let count = match words[..] {
            [] | ["a" | "an" | "the"] => None,
            [word] => Some((1..=LARGEST_COUNT).find(|&n| number_word(n) == Some(word)).ok_or_else(|| unknown(word))?),
            _ => return Err(unknown(&words.join(" "))),
        };
        Ok(Self { count, finish, shape, noun })
    }
}

/// Probability that exactly `count` of independent events with the given probabilities happen.
pub fn exactly(count: usize, probabilities: &[f64]) -> f64 {
    let mut distribution = vec![0.0; probabilities.len() + 1];
    distribution[0] = 1.0;
    for (n, p) in probabilities.iter().enumerate() {
        for k in (0..=n + 1).rev() {
            let before = if k > 0 { distribution[k - 1] } else { 0.0 };
            distribution[k] = distribution[k] * (1.0 - p) + before * p;
        }
    }
    distribution.get(count).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mini::scene::{Scene, Split};
    use crate::run::rng;

    #[test]
    fn phrases_of_the_grammar_are_read() {
        let (car, red) = (Noun::named("car").unwrap(), Finish::named("red").unwrap());
        let parse = |text| Phrase::parse(text).unwrap();
        let phrase = Phrase { count: None, finish: Some(red), shape: None, noun: car };
        assert_eq!(parse("a red car?"), phrase);
        assert_eq!(parse("A car"), Phrase { finish: None, ..phrase });
        assert_eq!(parse("three red cars"), Phrase { count: Some(3), ..phrase });
        let (shape, noun) = (Shape::named("oval"), Noun::named("box").unwrap());
        assert_eq!(parse("an oval box"), Phrase { count: None, finish: None, shape, noun });
        assert_eq!(parse("one red oval box"), Phrase { count: Some(1), finish: Some(red), shape, noun });
        for (text, reason) in [("a red sofa", "sofa"), ("", "empty"), ("a shiny car", "shiny"), ("nine cars", "nine")] {
            assert!(Phrase::parse(text).unwrap_err().to_string().contains(reason), "{text}");
        }
    }

    #[test]
    fn every_phrase_of_a_scene_can_be_asked() {
        for item in 0..200 {
            let key = rng::Key { seed: 1, purpose: "test", item, draw: 0 };
            let scene = Scene::sample(&mut rng::stream(key), Split::Val);
            assert!(scene.phrases().iter().all(|phrase| Phrase::parse(phrase).is_ok()));
        }
    }

    #[test]
    fn exact_counts_follow_the_poisson_binomial_law() {
        let p = [0.5, 0.2];
        for (count, expected) in [(0, 0.4), (1, 0.5), (2, 0.1), (3, 0.0)] {
            assert!((exactly(count, &p) - expected).abs() < 1e-12);
        }
        assert_eq!(exactly(2, &[1.0, 1.0, 0.0]), 1.0);
    }
}
