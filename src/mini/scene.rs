//! A scene: everything a picture of the miniature world shows, and how scenes are drawn at random for each split.
//! Objects stand on fixed anchors, so that a tiny denoiser can learn them.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::words::{Background, Colour, Noun, Relation, held_out, seen_sign_words, unseen_sign_words};
use crate::run::rng::{below, pick, uniform};

/// Side of the picture in which places and sizes are given.
pub const SIDE: f64 = 64.0;
/// Larger ink side of a single object, in pixels of the 64-px picture.
pub const LARGE: f64 = 44.0;
/// Larger ink side of every other object.
pub const SMALL: f64 = 28.0;

const CENTRE: [f64; 2] = [32.0, 32.0];
const LEFT: [f64; 2] = [16.0, 32.0];
const RIGHT: [f64; 2] = [48.0, 32.0];
const TOP: [f64; 2] = [32.0, 16.0];
const BOTTOM: [f64; 2] = [32.0, 48.0];
const BELOW_THE_SIGN: [f64; 2] = [32.0, 46.0];
const QUADRANTS: [[f64; 2]; 4] = [[16.0, 16.0], [48.0, 16.0], [16.0, 48.0], [48.0, 48.0]];

/// Which prompts and scenes a stage may see. Every validation scene holds a held-out combination or an unseen sign
/// word, so no validation prompt can occur in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    Train,
    Val,
}

impl Split {
    /// As tables write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

/// The layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One large object.
    Single,
    /// "a red car and a blue house": the first on the left, the second on the right.
    Pair,
    /// Two objects with a relation.
    Spatial,
    /// Two to four equal objects.
    Count,
    /// A sign with a word above one object.
    Sign,
}

/// One object of a scene.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    pub noun: Noun,
    pub colour: Colour,
    /// Centre of the ink, x to the right and y down, in pixels of the 64-px picture.
    pub centre: [f64; 2],
    /// Larger ink side, in pixels of the 64-px picture.
    pub size: f64,
}

impl Object {
    /// The noun phrase, for example "a red car". No colour begins with a vowel.
    pub fn phrase(&self) -> String {
        format!("a {} {}", self.colour.name(), self.noun.name())
    }
}

/// Everything a picture shows; the ground truth of its prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    pub kind: Kind,
    pub background: Background,
    /// In the order the prompt names them.
    pub objects: Vec<Object>,
    /// Of the first object to the second, in spatial scenes.
    pub relation: Option<Relation>,
    /// In sign scenes.
    pub sign_word: Option<String>,
}

impl Scene {
    /// A scene of any kind: 25 % single, 30 % two objects (half of them with a relation), 20 % counts, 25 % signs.
    /// Validation signs are seen and unseen words in equal parts.
    pub fn sample(rng: &mut impl Rng, split: Split) -> Self {
        let kind = match uniform(rng) {
            u if u < 0.25 => Kind::Single,
            u if u < 0.40 => Kind::Pair,
            u if u < 0.55 => Kind::Spatial,
            u if u < 0.75 => Kind::Count,
            _ => Kind::Sign,
        };
        Self::sample_kind(rng, kind, split)
    }

    /// A scene of the given kind.
    pub fn sample_kind(rng: &mut impl Rng, kind: Kind, split: Split) -> Self {
        let background = sample_background(rng);
        match kind {
            Kind::Single => Self::single(background, sample_look(rng, split)),
            Kind::Pair => Self::pair(background, sample_two_looks(rng, split, Colours::Different)),
            Kind::Spatial => {
                let relation = *pick(rng, &Relation::ALL);
                Self::spatial(background, sample_two_looks(rng, split, Colours::Any), relation)
            }
            Kind::Count => {
                let count = 2 + below(rng, 3);
                Self::counted(background, sample_look(rng, split), count)
            }
            Kind::Sign => {
                let unseen = split == Split::Val && below(rng, 2) == 1;
                Self::sample_sign(rng, if unseen { SignWords::Unseen } else { SignWords::Seen }, split)
            }
        }
    }

    /// A sign scene with a word of the given part. Under a seen word the validation object is held out; under an
    /// unseen word it is so half of the time, the word being new already.
    pub fn sample_sign(rng: &mut impl Rng, words: SignWords, split: Split) -> Self {
        let background = sample_background(rng);
        let (word, look_split) = match words {
            SignWords::Seen => (*pick(rng, seen_sign_words()), split),
            SignWords::Unseen => (*pick(rng, unseen_sign_words()), *pick(rng, &[Split::Train, Split::Val])),
        };
        Self::sign(background, sample_look(rng, look_split), word)
    }

    /// One large object in the centre.
    pub fn single(background: Background, look: Look) -> Self {
        Self::plain(Kind::Single, background, vec![look.at(CENTRE, LARGE)])
    }

    /// Two objects side by side, in the order of the prompt.
    pub fn pair(background: Background, [first, second]: [Look; 2]) -> Self {
        Self::plain(Kind::Pair, background, vec![first.at(LEFT, SMALL), second.at(RIGHT, SMALL)])
    }

    /// Two objects, the first standing in `relation` to the second.
    pub fn spatial(background: Background, [first, second]: [Look; 2], relation: Relation) -> Self {
        let (here, there) = match relation {
            Relation::Left => (LEFT, RIGHT),
            Relation::Right => (RIGHT, LEFT),
            Relation::Top => (TOP, BOTTOM),
            Relation::Bottom => (BOTTOM, TOP),
        };
        let objects = vec![first.at(here, SMALL), second.at(there, SMALL)];
        Self { relation: Some(relation), ..Self::plain(Kind::Spatial, background, objects) }
    }

    /// Two to four equal objects; `count` is clamped to that range.
    pub fn counted(background: Background, look: Look, count: usize) -> Self {
        let places: &[[f64; 2]] = match count {
            0..=2 => &[LEFT, RIGHT],
            3 => &[QUADRANTS[0], QUADRANTS[1], BOTTOM],
            _ => &QUADRANTS,
        };
        Self::plain(Kind::Count, background, places.iter().map(|&place| look.at(place, SMALL)).collect())
    }

    /// A sign with `word` above one object.
    pub fn sign(background: Background, look: Look, word: &str) -> Self {
        Self { sign_word: Some(word.into()), ..Self::plain(Kind::Sign, background, vec![look.at(BELOW_THE_SIGN, SMALL)]) }
    }

    fn plain(kind: Kind, background: Background, objects: Vec<Object>) -> Self {
        Self { kind, background, objects, relation: None, sign_word: None }
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.objects.len()
    }

    /// The noun phrases of the different objects, for yes/no questions: "a red car", "a blue house".
    pub fn phrases(&self) -> Vec<String> {
        let mut phrases: Vec<String> = self.objects.iter().map(Object::phrase).collect();
        phrases.dedup();
        phrases
    }

    /// Whether training must not show this scene.
    pub fn is_held_out(&self) -> bool {
        let unseen_word = self.sign_word.as_deref().is_some_and(|word| unseen_sign_words().contains(&word));
        unseen_word || self.objects.iter().any(|object| held_out(object.noun, object.colour))
    }
}

/// Which part of the sign words to draw from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignWords {
    Seen,
    Unseen,
}

/// A noun with its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub noun: Noun,
    pub colour: Colour,
}

impl Look {
    fn at(self, centre: [f64; 2], size: f64) -> Object {
        Object { noun: self.noun, colour: self.colour, centre, size }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Colours {
    Any,
    Different,
}

fn sample_background(rng: &mut impl Rng) -> Background {
    *pick(rng, &Background::all().collect::<Vec<_>>())
}

/// A look of the split: in training never a held-out one, in validation always.
fn sample_look(rng: &mut impl Rng, split: Split) -> Look {
    let looks: Vec<Look> = Noun::all()
        .flat_map(|noun| Colour::all().map(move |colour| Look { noun, colour }))
        .filter(|look| held_out(look.noun, look.colour) == (split == Split::Val))
        .collect();
    *pick(rng, &looks)
}

/// Two looks with different nouns. In validation at least one is held out; the other is so half of the time.
fn sample_two_looks(rng: &mut impl Rng, split: Split, colours: Colours) -> [Look; 2] {
    let other_split = if split == Split::Val { *pick(rng, &[Split::Train, Split::Val]) } else { Split::Train };
    loop {
        let (first, second) = (sample_look(rng, split), sample_look(rng, other_split));
        if first.noun != second.noun && (colours == Colours::Any || first.colour != second.colour) {
            return if below(rng, 2) == 0 { [first, second] } else { [second, first] };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng::{Key, stream};

    fn scenes(split: Split, n: u64) -> impl Iterator<Item = Scene> {
        (0..n).map(move |item| Scene::sample(&mut stream(Key { seed: 3, purpose: "scene", item, draw: 0 }), split))
    }

    #[test]
    fn training_never_shows_what_is_held_out_and_validation_always_does() {
        assert!(scenes(Split::Train, 5000).all(|scene| !scene.is_held_out()));
        assert!(scenes(Split::Val, 2000).all(|scene| scene.is_held_out()));
    }

    #[test]
    fn at_least_half_of_the_validation_objects_are_held_out() {
        let objects: Vec<Object> = scenes(Split::Val, 2000).flat_map(|scene| scene.objects).collect();
        let new = objects.iter().filter(|object| held_out(object.noun, object.colour)).count();
        assert!(2 * new >= objects.len(), "{new} of {}", objects.len());
    }

    #[test]
    fn the_mixture_is_as_documented() {
        let all: Vec<Scene> = scenes(Split::Train, 8000).collect();
        let share = |kinds: &[Kind]| all.iter().filter(|scene| kinds.contains(&scene.kind)).count() as f64 / 8000.0;
        for (kinds, expected) in
            [(&[Kind::Single][..], 0.25), (&[Kind::Pair, Kind::Spatial], 0.30), (&[Kind::Count], 0.20), (&[Kind::Sign], 0.25)]
        {
            // The standard error at n = 8000 is below 0.0052; four of them are allowed.
            assert!((share(kinds) - expected).abs() < 0.021, "{kinds:?} {}", share(kinds));
        }
    }

    #[test]
    fn centres_are_anchors_and_relations_hold_between_them() {
        for scene in scenes(Split::Train, 2000) {
            for object in &scene.objects {
                let [x, y] = object.centre;
                assert!(x % 8.0 == 0.0 && (y % 8.0 == 0.0 || (scene.kind == Kind::Sign && y == 46.0)));
            }
            if let Some(relation) = scene.relation {
                let ([ax, ay], [bx, by]) = (scene.objects[0].centre, scene.objects[1].centre);
                let holds = match relation {
                    Relation::Left => ax < bx && ay == by,
                    Relation::Right => ax > bx && ay == by,
                    Relation::Top => ay < by && ax == bx,
                    Relation::Bottom => ay > by && ax == bx,
                };
                assert!(holds, "{scene:?}");
            }
        }
    }

    #[test]
    fn a_scene_survives_json() {
        for scene in scenes(Split::Val, 50) {
            let json = serde_json::to_string(&scene).unwrap();
            assert_eq!(serde_json::from_str::<Scene>(&json).unwrap(), scene);
        }
    }
}
