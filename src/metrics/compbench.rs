//! T2I-CompBench rules for attribute binding, relations in the plane and in depth, numeracy and complex prompts (Huang et al.
//! 2023; rules of T2I-CompBench@1b70949) over any yes/no answerer and any detector.
//!
//! Differences from the published scripts, all part of [`PROTOCOL`]: labels match exactly, boxes are not widened by one
//! pixel, and answers are not rounded to four decimals. Lengths are scaled: the published rule measures 150 px in a
//! 479-px frame. Which of two objects is nearer is asked of the detector, not of a depth map. A complex prompt is scored as those
//! of the published list that name a relation: the mean of attributes, asked phrase by phrase, and relation.

mod relations;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::mini::scene::Scene;
use crate::models::{Detection, Detector, Vqa};

use relations::split_at_locality;
pub use relations::{Locality, depth_score, locality_score, spatial_score, without_duplicates};

/// Names the variant of the rules in every result.
pub const PROTOCOL: &str = "T2I-CompBench rules, exact labels, 150/479 of the side as near";

/// Phrases asked per prompt at most.
const PHRASES: usize = 8;

/// What a prompt asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// Noun phrases with their colours, shapes or textures.
    Attributes(Vec<String>),
    /// The first object stands in `locality` to the second.
    Spatial { first: String, locality: Locality, second: String },
    /// The same in depth.
    Depth { first: String, locality: Locality, second: String },
    /// Noun phrases with attributes, the first of which stands in `locality` to the second.
    Complex { phrases: Vec<String>, first: String, locality: Locality, second: String },
    /// Nouns in the singular with their numbers.
    Numeracy(Vec<(String, u64)>),
}

/// A score in [0, 1] with what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scored {
    pub score: f64,
    pub evidence: Evidence,
}

/// What the experts said about one image.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Evidence {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<Vec<Answer>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation: Option<RelationEvidence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<CountEvidence>,
}

/// What was asked of two objects, and the boxes found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RelationEvidence {
    pub first: String,
    pub locality: Locality,
    pub second: String,
    pub boxes: Vec<Detection>,
}

/// The numbers, and the boxes counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CountEvidence {
    pub counts: Vec<Count>,
    pub boxes: Vec<Detection>,
}

/// One yes/no answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    pub phrase: String,
    /// Probability of "yes".
    pub yes: f64,
}

/// One counted noun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    pub noun: String,
    pub expected: u64,
    pub found: u64,
}

impl Task {
    /// Whether the category has a rule here.
    pub fn has_rule(category: &str) -> bool {
        matches!(category, "color" | "shape" | "texture" | "spatial" | "3d_spatial" | "numeracy" | "complex")
    }

    /// The task of a miniature-world prompt, from its ground truth.
    pub fn from_scene(category: &str, scene: &Scene) -> Result<Self> {
        let noun = |i: usize| scene.objects.get(i).map(|object| object.noun.name().to_owned());
        match category {
            "color" | "texture" if !scene.objects.is_empty() => Ok(Self::Attributes(scene.phrases())),
            "shape" if !scene.objects.is_empty() => {
                let phrases = scene.objects.iter().filter_map(|object| object.look().shape_phrase()).collect();
                Ok(Self::Attributes(phrases))
            }
            "spatial" | "3d_spatial" | "complex" => match (noun(0), scene.relation, noun(1)) {
                (Some(first), Some(relation), Some(second)) => {
                    let locality = relation.into();
                    Ok(match category {
                        "spatial" => Self::Spatial { first, locality, second },
                        "3d_spatial" => Self::Depth { first, locality, second },
                        _ => Self::Complex { phrases: scene.phrases(), first, locality, second },
                    })
                }
                _ => Err(Error::Invalid("a spatial scene needs two objects and a relation".into())),
            },
            "numeracy" => match noun(0) {
                Some(noun) => Ok(Self::Numeracy(vec![(noun, scene.count() as u64)])),
                None => Err(Error::Invalid("a numeracy scene needs an object".into())),
            },
            _ => Err(unknown(category)),
        }
    }

    /// The task of a prompt that follows the benchmark's templates: "a green bench and a blue bowl", "a dog on the left of
    /// a car", "two cats and three books". A trailing full stop and "on a … background" are ignored.
    pub fn from_prompt(category: &str, prompt: &str) -> Result<Self> {
        let prompt = without_background(prompt.trim().trim_end_matches('.'));
        let failed = || Error::Invalid(format!("prompt `{prompt}` does not follow the templates of category `{category}`"));
        match category {
            "color" | "shape" | "texture" => Ok(Self::Attributes(prompt.split(" and ").map(str::to_owned).take(PHRASES).collect())),
            "spatial" | "3d_spatial" => {
                let (before, locality, after) = split_at_locality(prompt).ok_or_else(failed)?;
                if locality.is_depth() != (category == "3d_spatial") {
                    return Err(failed());
                }
                let noun = |text: &str| text.split_whitespace().last().map(str::to_owned);
                let (first, second) = (noun(before).ok_or_else(failed)?, noun(after).ok_or_else(failed)?);
                Ok(if locality.is_depth() { Self::Depth { first, locality, second } } else { Self::Spatial { first, locality, second } })
            }
            "numeracy" => {
                let counts = counted_nouns(prompt);
                if counts.is_empty() { Err(failed()) } else { Ok(Self::Numeracy(counts)) }
            }
            _ => Err(unknown(category)),
        }
    }

    /// Scores one image.
    pub fn score(&self, image: &RgbImage, vqa: &dyn Vqa, detector: &dyn Detector) -> Result<Scored> {
        match self {
            Self::Attributes(phrases) => attributes(image, vqa, phrases),
            Self::Spatial { first, locality, second } | Self::Depth { first, locality, second } => {
                related(image, detector, first, *locality, second)
            }
            Self::Complex { phrases, first, locality, second } => {
                let (bound, placed) = (attributes(image, vqa, phrases)?, related(image, detector, first, *locality, second)?);
                let evidence = Evidence { answers: bound.evidence.answers, ..placed.evidence };
                Ok(Scored { score: (bound.score + placed.score) / 2.0, evidence })
            }
            Self::Numeracy(expected) => {
                let boxes = without_duplicates(&detector.detect(image)?);
                let (score, counts) = numeracy_score(&boxes, expected);
                let counts = Some(CountEvidence { counts, boxes });
                Ok(Scored { score, evidence: Evidence { counts, ..Evidence::default() } })
            }
        }
    }
}

/// The rule of a relation in the plane or in depth.
fn related(image: &RgbImage, detector: &dyn Detector, first: &str, locality: Locality, second: &str) -> Result<Scored> {
    let boxes = detector.detect(image)?;
    let score = if locality.is_depth() {
        depth_score(&boxes, first, locality, second)?
    } else {
        spatial_score(&boxes, first, locality, second, f64::from(image.width().max(image.height())))
    };
    let relation = Some(RelationEvidence { first: first.to_owned(), locality, second: second.to_owned(), boxes });
    Ok(Scored { score, evidence: Evidence { relation, ..Evidence::default() } })
}

/// Disentangled attribute score: the product over the phrases of the probability of "yes".
fn attributes(image: &RgbImage, vqa: &dyn Vqa, phrases: &[String]) -> Result<Scored> {
    let mut answers = Vec::new();
    for phrase in phrases.iter().take(PHRASES) {
        let yes = vqa.probability_of_yes(image, phrase)?;
        if !(0.0..=1.0).contains(&yes) {
            return Err(Error::NonFinite { name: "answer".into(), context: format!("probability {yes} of yes for `{phrase}`") });
        }
        answers.push(Answer { phrase: phrase.clone(), yes });
    }
    Ok(Scored {
        score: answers.iter().map(|answer| answer.yes).product(),
        evidence: Evidence { answers: Some(answers), ..Evidence::default() },
    })
}

/// Half of a noun's share for being there, half for the exact number; every noun has the same share.
pub fn numeracy_score(boxes: &[Detection], expected: &[(String, u64)]) -> (f64, Vec<Count>) {
    let counts: Vec<Count> = expected
        .iter()
        .map(|(noun, n)| Count {
            noun: noun.clone(),
            expected: *n,
            found: boxes.iter().filter(|found| &found.label == noun).count() as u64,
        })
        .collect();
    let points = counts.iter().map(|count| f64::from(count.found > 0) / 2.0 + f64::from(count.found == count.expected) / 2.0);
    (points.sum::<f64>() / counts.len().max(1) as f64, counts)
}

fn unknown(category: &str) -> Error {
    let message = format!("no compositional rule for category `{category}`");
    Error::config(message, "categories with a rule: color, shape, texture, spatial, 3d_spatial, numeracy, complex (with a scene)")
}

fn without_background(prompt: &str) -> &str {
    match prompt.rsplit_once(" on a ") {
        Some((rest, tail)) if tail.ends_with(" background") => rest.trim_end_matches(','),
        _ => prompt,
    }
}

fn counted_nouns(prompt: &str) -> Vec<(String, u64)> {
    let words: Vec<&str> = prompt.split_whitespace().map(|word| word.trim_matches(',')).collect();
    let number = |word: &str| match word {
        "a" | "an" | "one" => Some(1),
        _ => ["two", "three", "four", "five", "six", "seven", "eight"].iter().position(|&w| w == word).map(|i| i as u64 + 2),
    };
    words.windows(2).filter_map(|pair| number(pair[0]).map(|n| (if n == 1 { pair[1].to_owned() } else { singular(pair[1]) }, n))).collect()
}

/// The singular of a regular English plural.
fn singular(noun: &str) -> String {
    if let Some(stem) = noun.strip_suffix("ies") {
        return format!("{stem}y");
    }
    let sibilant = ["ses", "xes", "ches", "shes"].iter().any(|ending| noun.ends_with(ending));
    noun.strip_suffix(if sibilant { "es" } else { "s" }).unwrap_or(noun).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::PixelBox;

    fn bounds(x0: f64, y0: f64, x1: f64, y1: f64) -> PixelBox {
        PixelBox { x0, y0, x1, y1 }
    }

    fn found(label: &str, score: f64, bounds: PixelBox) -> Detection {
        Detection { label: label.into(), score, bounds, nearness: None }
    }

    /// Says what it was told, in order of the phrases.
    struct Told(Vec<(&'static str, f64)>);

    impl Vqa for Told {
        fn probability_of_yes(&self, _: &RgbImage, phrase: &str) -> Result<f64> {
            let told = self.0.iter().find(|(known, _)| *known == phrase);
            told.map(|(_, yes)| *yes).ok_or_else(|| Error::Invalid(format!("unexpected question `{phrase}`")))
        }
    }

    struct Sees(Vec<Detection>);

    impl Detector for Sees {
        fn detect(&self, _: &RgbImage) -> Result<Vec<Detection>> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn colour_is_the_product_of_the_answers_without_the_background() {
        let task = Task::from_prompt("color", "a green bench and a blue bowl on a pink background.").unwrap();
        let vqa = Told(vec![("a green bench", 0.9), ("a blue bowl", 0.8)]);
        let scored = task.score(&RgbImage::new(8, 8), &vqa, &Sees(vec![])).unwrap();
        assert!((scored.score - 0.72).abs() < 1e-12);
        let json = serde_json::to_string(&scored.evidence).unwrap();
        assert_eq!(json, r#"{"answers":[{"phrase":"a green bench","yes":0.9},{"phrase":"a blue bowl","yes":0.8}]}"#);
    }

    #[test]
    fn a_probability_that_is_none_is_an_error() {
        let task = Task::Attributes(vec!["x".into()]);
        assert!(task.score(&RgbImage::new(8, 8), &Told(vec![("x", f64::NAN)]), &Sees(vec![])).is_err());
    }

    #[test]
    fn numeracy_gives_half_for_presence_and_half_for_the_number() {
        let at = |x: f64| bounds(x, 0.0, x + 10.0, 10.0);
        let boxes = [found("cat", 0.9, at(0.0)), found("cat", 0.8, at(20.0)), found("cat", 0.7, at(0.5)), found("book", 0.6, at(40.0))];
        let kept = without_duplicates(&boxes);
        assert_eq!(kept.len(), 3);
        let expected = [("cat".to_owned(), 2), ("book".to_owned(), 3)];
        assert_eq!(numeracy_score(&kept, &expected).0, 0.75);
        assert_eq!(numeracy_score(&[], &expected).0, 0.0);
    }

    #[test]
    fn templates_are_parsed_and_others_refused() {
        let spatial = Task::from_prompt("spatial", "a dog on the left of a red car on a grey background").unwrap();
        assert_eq!(spatial, Task::Spatial { first: "dog".into(), locality: Locality::Left, second: "car".into() });
        let numeracy = Task::from_prompt("numeracy", "two buses, three puppies and a cat.").unwrap();
        assert_eq!(numeracy, Task::Numeracy(vec![("bus".into(), 2), ("puppy".into(), 3), ("cat".into(), 1)]));
        let depth = Task::from_prompt("3d_spatial", "a kettle hidden by a book").unwrap();
        assert_eq!(depth, Task::Depth { first: "kettle".into(), locality: Locality::Hidden, second: "book".into() });
        assert!(Task::from_prompt("3d_spatial", "a dog near a car").is_err());
        assert!(Task::from_prompt("spatial", "a dog and a car").is_err());
        assert!(Task::from_prompt("complex", "a wooden clock").unwrap_err().to_string().contains("`complex`"));
    }

    #[test]
    fn a_complex_prompt_is_the_mean_of_attributes_and_relation() {
        let phrases = vec!["a green bench".to_owned(), "a blue bowl".to_owned()];
        let task = Task::Complex { phrases, first: "bench".into(), locality: Locality::Left, second: "bowl".into() };
        let vqa = Told(vec![("a green bench", 0.9), ("a blue bowl", 0.8)]);
        let sees = Sees(vec![found("bench", 1.0, bounds(0.0, 0.0, 10.0, 10.0)), found("bowl", 1.0, bounds(20.0, 0.0, 30.0, 10.0))]);
        let scored = task.score(&RgbImage::new(32, 32), &vqa, &sees).unwrap();
        assert!((scored.score - (0.72 + 1.0) / 2.0).abs() < 1e-12);
        assert!(scored.evidence.answers.is_some() && scored.evidence.relation.is_some());
    }
}
