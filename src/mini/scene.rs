//! A scene: everything a picture of the miniature world shows, and how scenes are drawn at random for each split.
//! Objects stand on fixed anchors, so that a tiny denoiser can learn them.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::looks::{Attribute, Finishes, Look, sample_look, sample_two_looks};
use super::words::{
    Background, Finish, LARGEST_COUNT, Noun, Relation, Shape, held_out, held_out_count, held_out_shape, seen_sign_words, unseen_sign_words,
};
use crate::run::rng::{below, pick, uniform};

/// Side of the picture in which places and sizes are given.
pub const SIDE: f64 = 64.0;
/// Larger ink side of a single object, in pixels of the 64-px picture.
pub const LARGE: f64 = 44.0;
/// Larger ink side of one of up to four objects.
pub const SMALL: f64 = 28.0;
/// Larger ink side of one of five.
pub const TINY: f64 = 20.0;

const CENTRE: [f64; 2] = [32.0, 32.0];
const LEFT: [f64; 2] = [16.0, 32.0];
const RIGHT: [f64; 2] = [48.0, 32.0];
const TOP: [f64; 2] = [32.0, 16.0];
const BOTTOM: [f64; 2] = [32.0, 48.0];
const BELOW_THE_SIGN: [f64; 2] = [32.0, 46.0];
const QUADRANTS: [[f64; 2]; 4] = [[16.0, 16.0], [48.0, 16.0], [16.0, 48.0], [48.0, 48.0]];
/// Five as on a die.
const QUINCUNX: [[f64; 2]; 5] = [[13.0, 13.0], [51.0, 13.0], CENTRE, [13.0, 51.0], [51.0, 51.0]];
/// Place and size of the farther and the nearer of two objects, one covering a part of the other.
const FAR: ([f64; 2], f64) = ([25.0, 25.0], 36.0);
const NEAR: ([f64; 2], f64) = ([39.0, 39.0], 36.0);
/// The same where more is hidden.
const HIDDEN: ([f64; 2], f64) = ([26.0, 26.0], 30.0);
const HIDING: ([f64; 2], f64) = ([38.0, 38.0], 40.0);

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
    /// Two objects with a relation in the plane.
    Spatial,
    /// Two objects, one before the other.
    Depth,
    /// One to five equal objects.
    Count,
    /// A sign with a word above one object.
    Sign,
}

impl Kind {
    pub const ALL: [Self; 6] = [Self::Single, Self::Pair, Self::Spatial, Self::Depth, Self::Count, Self::Sign];

    /// Share of the scenes of [`Scene::sample`].
    pub fn share(self) -> f64 {
        match self {
            Self::Single | Self::Count => 0.15,
            Self::Pair | Self::Spatial => 0.18,
            Self::Depth => 0.12,
            Self::Sign => 0.22,
        }
    }
}

/// One object of a scene.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    pub noun: Noun,
    pub finish: Finish,
    /// Of plaques, boxes and balloons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Centre of the ink, x to the right and y down, in pixels of the 64-px picture.
    pub centre: [f64; 2],
    /// Larger ink side, in pixels of the 64-px picture.
    pub size: f64,
}

impl Object {
    /// What it looks like, without its place.
    pub fn look(&self) -> Look {
        Look { noun: self.noun, finish: self.finish, shape: self.shape }
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
    /// Of the first object to the second, in spatial and depth scenes.
    pub relation: Option<Relation>,
    /// In sign scenes.
    pub sign_word: Option<String>,
}

impl Scene {
    /// A scene of any kind, see [`Kind::share`]. Validation signs are seen and unseen words in equal parts.
    pub fn sample(rng: &mut impl Rng, split: Split) -> Self {
        let mut left = uniform(rng);
        let kind = Kind::ALL.into_iter().find(|kind| {
            left -= kind.share();
            left < 0.0
        });
        Self::sample_kind(rng, kind.unwrap_or(Kind::Sign), split, Attribute::Any)
    }

    /// A scene of the given kind whose objects have the given attribute.
    pub fn sample_kind(rng: &mut impl Rng, kind: Kind, split: Split, attribute: Attribute) -> Self {
        let background = sample_background(rng);
        match kind {
            Kind::Single => Self::single(background, sample_look(rng, split, attribute)),
            Kind::Pair => Self::pair(background, sample_two_looks(rng, split, attribute, Finishes::Different)),
            Kind::Spatial => {
                let relation = *pick(rng, &Relation::PLANE);
                Self::related(background, sample_two_looks(rng, split, attribute, Finishes::Any), relation)
            }
            Kind::Depth => {
                let relation = *pick(rng, &Relation::DEPTH);
                // Of one colour, the covered outline could not be seen.
                Self::related(background, sample_two_looks(rng, split, attribute, Finishes::Different), relation)
            }
            Kind::Count => {
                let (look, count) = sample_count(rng, split, attribute);
                Self::counted(background, look, count)
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
        Self::sign(background, sample_look(rng, look_split, Attribute::Colour), word)
    }

    /// One large object in the centre.
    pub fn single(background: Background, look: Look) -> Self {
        Self::plain(Kind::Single, background, vec![look.at(CENTRE, LARGE)])
    }

    /// Two objects side by side, in the order of the prompt.
    pub fn pair(background: Background, [first, second]: [Look; 2]) -> Self {
        Self::plain(Kind::Pair, background, vec![first.at(LEFT, SMALL), second.at(RIGHT, SMALL)])
    }

    /// Two objects, the first standing in `relation` to the second. Without a side named, the first is on the left.
    pub fn related(background: Background, [first, second]: [Look; 2], relation: Relation) -> Self {
        let [here, there] = match relation {
            Relation::Left | Relation::NextTo | Relation::Near | Relation::OnSideOf => [(LEFT, SMALL), (RIGHT, SMALL)],
            Relation::Right => [(RIGHT, SMALL), (LEFT, SMALL)],
            Relation::Top => [(TOP, SMALL), (BOTTOM, SMALL)],
            Relation::Bottom => [(BOTTOM, SMALL), (TOP, SMALL)],
            Relation::InFrontOf => [NEAR, FAR],
            Relation::Behind => [FAR, NEAR],
            Relation::HiddenBy => [HIDDEN, HIDING],
        };
        let kind = if Relation::DEPTH.contains(&relation) { Kind::Depth } else { Kind::Spatial };
        let objects = vec![first.at(here.0, here.1), second.at(there.0, there.1)];
        Self { relation: Some(relation), ..Self::plain(kind, background, objects) }
    }

    /// One to five equal objects; `count` is clamped to that range.
    pub fn counted(background: Background, look: Look, count: usize) -> Self {
        let places: &[[f64; 2]] = match count {
            0 | 1 => &[CENTRE],
            2 => &[LEFT, RIGHT],
            3 => &[QUADRANTS[0], QUADRANTS[1], BOTTOM],
            4 => &QUADRANTS,
            _ => &QUINCUNX,
        };
        let size = if places.len() > QUADRANTS.len() { TINY } else { SMALL };
        Self::plain(Kind::Count, background, places.iter().map(|&place| look.at(place, size)).collect())
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

    /// Index of the object that covers a part of the other, where one does.
    pub fn nearest(&self) -> Option<usize> {
        match self.relation? {
            Relation::InFrontOf => Some(0),
            Relation::Behind | Relation::HiddenBy => Some(1),
            _ => None,
        }
    }

    /// The noun phrases of the different objects, for yes/no questions: "a red car", "a blue round box".
    pub fn phrases(&self) -> Vec<String> {
        let mut phrases: Vec<String> = self.objects.iter().map(|object| object.look().phrase()).collect();
        phrases.dedup();
        phrases
    }

    /// Whether training must not show this scene.
    pub fn is_held_out(&self) -> bool {
        let unseen_word = self.sign_word.as_deref().is_some_and(|word| unseen_sign_words().contains(&word));
        let count = self.kind == Kind::Count && self.objects.first().is_some_and(|object| held_out_count(object.noun, self.count()));
        let look = |object: &Object| {
            held_out(object.noun, object.finish) || object.shape.is_some_and(|shape| held_out_shape(shape, object.finish))
        };
        unseen_word || count || self.objects.iter().any(look)
    }
}

/// Which part of the sign words to draw from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignWords {
    Seen,
    Unseen,
}

fn sample_background(rng: &mut impl Rng) -> Background {
    *pick(rng, &Background::all().collect::<Vec<_>>())
}

/// A look with a count of its split. In validation the look is held out, or, half of the time, the count of its noun.
fn sample_count(rng: &mut impl Rng, split: Split, attribute: Attribute) -> (Look, usize) {
    let by_count = split == Split::Val && below(rng, 2) == 0;
    loop {
        let look = sample_look(rng, if by_count { Split::Train } else { split }, attribute);
        let count = 1 + below(rng, LARGEST_COUNT);
        if held_out_count(look.noun, count) == by_count {
            return (look, count);
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
    fn the_mixture_is_as_documented() {
        assert!((Kind::ALL.iter().map(|kind| kind.share()).sum::<f64>() - 1.0).abs() < 1e-12);
        let all: Vec<Scene> = scenes(Split::Train, 8000).collect();
        for kind in Kind::ALL {
            let share = all.iter().filter(|scene| scene.kind == kind).count() as f64 / 8000.0;
            // The standard error at n = 8000 is below 0.0047; four of them are allowed.
            assert!((share - kind.share()).abs() < 0.019, "{kind:?} {share}");
        }
    }

    #[test]
    fn every_count_relation_shape_and_texture_occurs_and_two_objects_may_differ_in_every_attribute() {
        let all: Vec<Scene> = scenes(Split::Train, 4000).collect();
        for count in 1..=LARGEST_COUNT {
            assert!(all.iter().any(|scene| scene.kind == Kind::Count && scene.count() == count), "{count}");
        }
        assert!(Relation::ALL.iter().all(|relation| all.iter().any(|scene| scene.relation == Some(*relation))));
        let objects: Vec<&Object> = all.iter().flat_map(|scene| &scene.objects).collect();
        assert!(Shape::all().all(|shape| objects.iter().any(|object| object.shape == Some(shape))));
        assert!(Finish::all().all(|finish| objects.iter().any(|object| object.finish == finish)));
        assert!(Noun::all().all(|noun| objects.iter().any(|object| object.noun == noun)));
        let differ = |scene: &&Scene| scene.kind == Kind::Pair && scene.objects[0].finish != scene.objects[1].finish;
        assert!(all.iter().filter(differ).count() > 500);
    }

    #[test]
    fn relations_hold_between_the_places() {
        for scene in scenes(Split::Train, 3000) {
            let Some(relation) = scene.relation else { continue };
            let [a, b] = [scene.objects[0], scene.objects[1]];
            let ([ax, ay], [bx, by]) = (a.centre, b.centre);
            let overlapping = (ax - bx).abs() < (a.size + b.size) / 2.0 && (ay - by).abs() < (a.size + b.size) / 2.0;
            let holds = match relation {
                Relation::Left | Relation::NextTo | Relation::Near | Relation::OnSideOf => ax < bx && ay == by,
                Relation::Right => ax > bx && ay == by,
                Relation::Top => ay < by && ax == bx,
                Relation::Bottom => ay > by && ax == bx,
                Relation::InFrontOf => scene.nearest() == Some(0) && overlapping,
                Relation::Behind | Relation::HiddenBy => scene.nearest() == Some(1) && overlapping,
            };
            assert!(holds, "{scene:?}");
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
