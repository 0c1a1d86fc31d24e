//! What an object looks like without its place: noun, finish and perhaps a shape; and how looks are drawn for each split.

use rand::Rng;

use super::scene::{Object, Split};
use super::words::{Finish, Noun, Shape, held_out, held_out_shape};
use crate::run::rng::{below, pick, uniform};

/// A noun with its finish, and the shape of plaques, boxes and balloons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub noun: Noun,
    pub finish: Finish,
    pub shape: Option<Shape>,
}

/// What the objects of a prompt are told apart by; the attributes of T2I-CompBench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// A colour (50 %), a texture or a shape with a colour (25 % each).
    Any,
    Colour,
    Texture,
    /// Shaped things, which have a colour as well.
    Shape,
}

impl Attribute {
    /// One of the three, where any may be.
    fn drawn(self, rng: &mut impl Rng) -> Self {
        match self {
            Self::Any => match uniform(rng) {
                u if u < 0.5 => Self::Colour,
                u if u < 0.75 => Self::Texture,
                _ => Self::Shape,
            },
            given => given,
        }
    }
}

/// Whether two objects may have one finish.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Finishes {
    Any,
    Different,
}

impl Look {
    /// Any look, held out or not; attributes as [`Attribute::Any`] has them.
    pub fn any(rng: &mut impl Rng) -> Self {
        let looks = Self::all(Attribute::Any.drawn(rng));
        *pick(rng, &looks)
    }

    /// With a place and a size.
    pub fn at(self, centre: [f64; 2], size: f64) -> Object {
        Object { noun: self.noun, finish: self.finish, shape: self.shape, centre, size }
    }

    /// Without the article, the noun in the form given: "red car", "blue oval boxes".
    pub fn words(&self, noun: &str) -> String {
        let shape = self.shape.map_or(String::new(), |shape| format!("{} ", shape.name()));
        format!("{} {shape}{noun}", self.finish.name())
    }

    /// The noun phrase: "a red car", "a blue oval box".
    pub fn phrase(&self) -> String {
        with_article(&self.words(self.noun.name()))
    }

    /// The question about its shape alone, where it has one: "an oval box".
    pub fn shape_phrase(&self) -> Option<String> {
        self.shape.map(|shape| with_article(&format!("{} {}", shape.name(), self.noun.name())))
    }

    /// Whether training must not show it.
    pub fn is_held_out(&self) -> bool {
        held_out(self.noun, self.finish) || self.shape.is_some_and(|shape| held_out_shape(shape, self.finish))
    }

    /// Every look with an attribute.
    fn all(attribute: Attribute) -> Vec<Self> {
        let plain = |finishes: Vec<Finish>| {
            let nouns = Noun::all().filter(|noun| !noun.is_shaped());
            nouns.flat_map(move |noun| finishes.clone().into_iter().map(move |finish| Self { noun, finish, shape: None })).collect()
        };
        match attribute {
            Attribute::Any => [Attribute::Colour, Attribute::Texture, Attribute::Shape].into_iter().flat_map(Self::all).collect(),
            Attribute::Colour => plain(Finish::colours().collect()),
            Attribute::Texture => plain(Finish::textures().collect()),
            Attribute::Shape => Noun::all()
                .filter(|noun| noun.is_shaped())
                .flat_map(|noun| Shape::all().flat_map(move |shape| Finish::colours().map(move |finish| (noun, shape, finish))))
                .map(|(noun, shape, finish)| Self { noun, finish, shape: Some(shape) })
                .collect(),
        }
    }
}

fn with_article(phrase: &str) -> String {
    let article = if phrase.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {phrase}")
}

/// A look of the split: in training never a held-out one, in validation always.
pub(super) fn sample_look(rng: &mut impl Rng, split: Split, attribute: Attribute) -> Look {
    let attribute = attribute.drawn(rng);
    let looks: Vec<Look> = Look::all(attribute).into_iter().filter(|look| look.is_held_out() == (split == Split::Val)).collect();
    *pick(rng, &looks)
}

/// Two looks with different nouns and shapes. In validation at least one is held out; the other is so half of the time.
pub(super) fn sample_two_looks(rng: &mut impl Rng, split: Split, attribute: Attribute, finishes: Finishes) -> [Look; 2] {
    let other_split = if split == Split::Val { *pick(rng, &[Split::Train, Split::Val]) } else { Split::Train };
    loop {
        let (first, second) = (sample_look(rng, split, attribute), sample_look(rng, other_split, attribute));
        let shapes_differ = first.shape.is_none() || first.shape != second.shape;
        if first.noun != second.noun && shapes_differ && (finishes == Finishes::Any || first.finish != second.finish) {
            return if below(rng, 2) == 0 { [first, second] } else { [second, first] };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng::{Key, stream};

    fn look(noun: &str, finish: &str, shape: Option<&str>) -> Look {
        let shape = shape.map(|shape| Shape::named(shape).unwrap());
        Look { noun: Noun::named(noun).unwrap(), finish: Finish::named(finish).unwrap(), shape }
    }

    #[test]
    fn phrases_have_the_right_article_and_order() {
        assert_eq!(look("car", "red", None).phrase(), "a red car");
        assert_eq!(look("car", "orange", None).phrase(), "an orange car");
        assert_eq!(look("box", "blue", Some("oval")).phrase(), "a blue oval box");
        assert_eq!(look("box", "blue", Some("oval")).shape_phrase().unwrap(), "an oval box");
        assert_eq!(look("car", "red", None).shape_phrase(), None);
    }

    #[test]
    fn looks_have_the_attribute_that_is_asked_for() {
        let rng = &mut stream(Key { seed: 1, purpose: "looks", item: 0, draw: 0 });
        for split in [Split::Train, Split::Val] {
            for _ in 0..200 {
                assert!(!sample_look(rng, split, Attribute::Colour).finish.is_texture());
                assert!(sample_look(rng, split, Attribute::Texture).finish.is_texture());
                let shaped = sample_two_looks(rng, split, Attribute::Shape, Finishes::Different);
                assert!(shaped.iter().all(|look| look.noun.is_shaped() && look.shape.is_some()));
                assert!(shaped[0].shape != shaped[1].shape && shaped[0].noun != shaped[1].noun);
                assert_eq!(shaped.iter().any(Look::is_held_out), split == Split::Val);
            }
        }
    }
}
