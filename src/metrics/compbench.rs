//! T2I-CompBench rules for colour binding, 2-D relations and numeracy (Huang et al. 2023; rules of
//! T2I-CompBench@1b70949) over any yes/no answerer and any detector.
//!
//! Differences from the published scripts, all part of [`PROTOCOL`]: labels match exactly, boxes are not widened by one
//! pixel, and answers are not rounded to four decimals. Lengths are scaled: the published rule measures 150 px in a
//! 479-px frame.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::mini::scene::Scene;
use crate::mini::words::Relation;
use crate::models::{Detection, Detector, PixelBox, Vqa};

/// Names the variant of the rules in every result.
pub const PROTOCOL: &str = "T2I-CompBench rules, exact labels, 150/479 of the side as near";

/// Distance below which two centres are near, as a share of the image side.
const NEAR: f64 = 150.0 / 479.0;
/// Overlap from which a relation counts less.
const OVERLAP: f64 = 0.1;
/// Overlap or containment from which two boxes of one label are the same object.
const DUPLICATE: f64 = 0.9;
/// Phrases asked per prompt at most.
const PHRASES: usize = 8;

/// What a prompt asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// Noun phrases with their colours, shapes or textures.
    Attributes(Vec<String>),
    /// The first object stands in `locality` to the second.
    Spatial { first: String, locality: Locality, second: String },
    /// Nouns in the singular with their numbers.
    Numeracy(Vec<(String, u64)>),
}

/// Where the first object is, seen from the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Locality {
    Near,
    Left,
    Right,
    Bottom,
    Top,
}

/// A score in [0, 1] with what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scored {
    pub score: f64,
    pub evidence: Evidence,
}

/// What the experts said about one image.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    Answers(Vec<Answer>),
    Relation { first: String, locality: Locality, second: String, boxes: Vec<Detection> },
    Counts { counts: Vec<Count>, boxes: Vec<Detection> },
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
        matches!(category, "color" | "shape" | "texture" | "spatial" | "numeracy")
    }

    /// The task of a miniature-world prompt, from its ground truth.
    pub fn from_scene(category: &str, scene: &Scene) -> Result<Self> {
        let noun = |i: usize| scene.objects.get(i).map(|object| object.noun.name().to_owned());
        match category {
            "color" if !scene.objects.is_empty() => Ok(Self::Attributes(scene.phrases())),
            "spatial" => match (noun(0), scene.relation, noun(1)) {
                (Some(first), Some(relation), Some(second)) => Ok(Self::Spatial { first, locality: relation.into(), second }),
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
            "spatial" => {
                let (before, locality, after) = split_at_locality(prompt).ok_or_else(failed)?;
                let noun = |text: &str| text.split_whitespace().last().map(str::to_owned);
                let (first, second) = (noun(before).ok_or_else(failed)?, noun(after).ok_or_else(failed)?);
                Ok(Self::Spatial { first, locality, second })
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
            Self::Spatial { first, locality, second } => {
                let boxes = detector.detect(image)?;
                let score = spatial_score(&boxes, first, *locality, second, f64::from(image.width().max(image.height())));
                Ok(Scored {
                    score,
                    evidence: Evidence::Relation { first: first.clone(), locality: *locality, second: second.clone(), boxes },
                })
            }
            Self::Numeracy(expected) => {
                let boxes = without_duplicates(&detector.detect(image)?);
                let (score, counts) = numeracy_score(&boxes, expected);
                Ok(Scored { score, evidence: Evidence::Counts { counts, boxes } })
            }
        }
    }
}

impl From<Relation> for Locality {
    fn from(relation: Relation) -> Self {
        match relation {
            Relation::Left => Self::Left,
            Relation::Right => Self::Right,
            Relation::Top => Self::Top,
            Relation::Bottom => Self::Bottom,
        }
    }
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
    Ok(Scored { score: answers.iter().map(|answer| answer.yes).product(), evidence: Evidence::Answers(answers) })
}

/// The 2-D rule: a quarter of each object's confidence plus half for the relation; below one half it is 0.
/// `side` is the longer side of the image in the pixels of the boxes; `boxes` stand highest score first.
pub fn spatial_score(boxes: &[Detection], first: &str, locality: Locality, second: &str, side: f64) -> f64 {
    let find = |noun: &str| boxes.iter().find(|found| found.label == noun);
    let score = match (find(first), find(second)) {
        (Some(a), Some(b)) => 0.25 * a.score + 0.25 * b.score + 0.5 * locality_score(a.bounds, locality, b.bounds, side),
        (Some(only), None) | (None, Some(only)) => 0.25 * only.score,
        (None, None) => 0.0,
    };
    if score < 0.5 { 0.0 } else { score }
}

/// How well the first box stands in `locality` to the second, in [0, 1].
pub fn locality_score(first: PixelBox, locality: Locality, second: PixelBox, side: f64) -> f64 {
    let centre = |b: PixelBox| ((b.x0 + b.x1) / 2.0, (b.y0 + b.y1) / 2.0);
    let ((ax, ay), (bx, by)) = (centre(first), centre(second));
    let (dx, dy) = (bx - ax, by - ay);
    let holds = match locality {
        Locality::Near => {
            let near = NEAR * side;
            // "or" is the published rule: side by side or one above the other is near.
            return if dx.abs() < near || dy.abs() < near { 1.0 } else { near / dx.abs().max(dy.abs()) };
        }
        Locality::Right => dx < 0.0 && dx.abs() > dy.abs(),
        Locality::Left => dx > 0.0 && dx.abs() > dy.abs(),
        Locality::Bottom => dy < 0.0 && dy.abs() > dx.abs(),
        Locality::Top => dy > 0.0 && dy.abs() > dx.abs(),
    };
    let overlap = overlap(first, second);
    match holds {
        true if overlap < OVERLAP => 1.0,
        true => OVERLAP / overlap,
        false => 0.0,
    }
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

/// The boxes without those that repeat a better one of the same label.
pub fn without_duplicates(boxes: &[Detection]) -> Vec<Detection> {
    let mut kept: Vec<Detection> = Vec::new();
    for candidate in boxes {
        let repeats = |other: &Detection| {
            let shared = intersection(candidate.bounds, other.bounds);
            let contained = shared / area(candidate.bounds).min(area(other.bounds));
            other.label == candidate.label && (overlap(candidate.bounds, other.bounds) > DUPLICATE || contained > DUPLICATE)
        };
        if !kept.iter().any(repeats) {
            kept.push(candidate.clone());
        }
    }
    kept
}

fn area(b: PixelBox) -> f64 {
    (b.x1 - b.x0).max(0.0) * (b.y1 - b.y0).max(0.0)
}

fn intersection(a: PixelBox, b: PixelBox) -> f64 {
    area(PixelBox { x0: a.x0.max(b.x0), y0: a.y0.max(b.y0), x1: a.x1.min(b.x1), y1: a.y1.min(b.y1) })
}

/// Intersection over union; 0 for two empty boxes.
fn overlap(a: PixelBox, b: PixelBox) -> f64 {
    let shared = intersection(a, b);
    let union = area(a) + area(b) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

fn unknown(category: &str) -> Error {
    let message = format!("no compositional rule for category `{category}`");
    Error::config(message, "categories with a rule: color, shape, texture, spatial, numeracy")
}

fn without_background(prompt: &str) -> &str {
    match prompt.rsplit_once(" on a ") {
        Some((rest, tail)) if tail.ends_with(" background") => rest.trim_end_matches(','),
        _ => prompt,
    }
}

fn split_at_locality(prompt: &str) -> Option<(&str, Locality, &str)> {
    const PHRASES: [(&str, Locality); 7] = [
        (" on side of ", Locality::Near),
        (" next to ", Locality::Near),
        (" near ", Locality::Near),
        (" on the left of ", Locality::Left),
        (" on the right of ", Locality::Right),
        (" on the bottom of ", Locality::Bottom),
        (" on the top of ", Locality::Top),
    ];
    PHRASES.iter().find_map(|(phrase, locality)| prompt.split_once(phrase).map(|(before, after)| (before, *locality, after)))
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

    fn bounds(x0: f64, y0: f64, x1: f64, y1: f64) -> PixelBox {
        PixelBox { x0, y0, x1, y1 }
    }

    fn found(label: &str, score: f64, bounds: PixelBox) -> Detection {
        Detection { label: label.into(), score, bounds }
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
    fn localities_are_those_of_the_published_examples() {
        let (a, b) = (bounds(50.0, 100.0, 200.0, 300.0), bounds(250.0, 120.0, 400.0, 320.0));
        let overlapping = bounds(150.0, 120.0, 300.0, 320.0);
        let (corner, far) = (bounds(10.0, 10.0, 60.0, 60.0), bounds(300.0, 300.0, 470.0, 470.0));
        for (first, locality, second, expected) in [
            (a, Locality::Left, b, 1.0),
            (a, Locality::Right, b, 0.0),
            (a, Locality::Left, overlapping, 0.566667),
            (corner, Locality::Near, far, 0.428571),
            (a, Locality::Near, b, 1.0),
            (corner, Locality::Top, a, 1.0),
        ] {
            let score = locality_score(first, locality, second, 479.0);
            assert!((score - expected).abs() < 1e-6, "{locality:?}: {score}");
            let scaled = |b: PixelBox| bounds(b.x0 / 7.0, b.y0 / 7.0, b.x1 / 7.0, b.y1 / 7.0);
            assert!((locality_score(scaled(first), locality, scaled(second), 479.0 / 7.0) - score).abs() < 1e-9);
        }
    }

    #[test]
    fn spatial_score_takes_the_best_box_and_nothing_below_one_half() {
        let (left, right) = (bounds(2.0, 20.0, 28.0, 46.0), bounds(36.0, 20.0, 62.0, 46.0));
        let boxes = [found("dog", 0.9, left), found("car", 0.8, right), found("dog", 0.3, right)];
        assert!((spatial_score(&boxes, "dog", Locality::Left, "car", 64.0) - 0.925).abs() < 1e-12);
        assert_eq!(spatial_score(&boxes, "dog", Locality::Right, "car", 64.0), 0.0);
        assert_eq!(spatial_score(&boxes[..1], "dog", Locality::Left, "car", 64.0), 0.0);
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
        assert!(Task::from_prompt("spatial", "a dog and a car").is_err());
        assert!(Task::from_prompt("complex", "a wooden clock").unwrap_err().to_string().contains("`complex`"));
    }
}
