//! One grammar for prompt and ground truth: it words a [`Scene`] in the manner of each prompt set, so what a prompt says
//! and what the picture must show cannot differ.

use rand::Rng;

use super::looks::{Attribute, Look};
use super::scene::{Kind, Object, Scene, SignWords, Split};
use super::words::{Animacy, Background, number_word};
use crate::error::{Error, Result};
use crate::run::rng::{Key, below, pick, stream, uniform};

/// The prompt sets, by their manner of speech.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dataset {
    /// "a red car and a blue house on a pink background"
    CompBench,
    /// "A red dog holding a sign reading 'hello' on a mint background."
    CommonText,
    /// "a watercolor of a red turtle, warm colors": style words stand for the background.
    Laion,
}

impl Dataset {
    pub const ALL: [Self; 3] = [Self::Laion, Self::CompBench, Self::CommonText];

    /// As tables and file names write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CompBench => "compbench",
            Self::CommonText => "commontext",
            Self::Laion => "laion",
        }
    }

    /// The categories of its prompts.
    pub fn categories(self) -> &'static [&'static str] {
        match self {
            Self::CompBench => &["color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "complex"],
            Self::CommonText => &["seen", "unseen"],
            Self::Laion => &["caption"],
        }
    }

    /// The data set of that name.
    pub fn named(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|dataset| dataset.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::config(format!("the miniature world has no data set `{name}`"), format!("its data sets are {names}"))
        })
    }
}

/// How those who can hold a sign show a word, and how things do; the wordings of CommonText.
const ANIMATE_ACTIONS: [&str; 5] = [
    "holding a sign reading",
    "displaying a placard saying",
    "waving a poster stating",
    "carrying a banner with words",
    "presenting a board that says",
];
const INANIMATE_ACTIONS: [&str; 2] = ["displaying the word", "with the inscription"];

/// The captions of a background: `{}` is what is seen. Each style stands for exactly one background, by association:
/// white for studio and plain paper, sky for daylight, pink for warm and rosy, mint for spring and green.
fn styles(background: Background) -> [&'static str; 3] {
    match background.name() {
        "white" => ["a studio photo of {}", "a plain sketch of {} on paper", "{}, minimal clean design"],
        "sky" => ["a photo of {} outdoors", "{} on a clear sunny day", "a bright postcard of {}, daylight"],
        "pink" => ["a watercolor of {}, warm colors", "a romantic painting of {}", "{}, soft rose light"],
        _ => ["a botanical print of {}", "{}, cool spring colors", "a calm illustration of {}, garden mood"],
    }
}

/// Words a scene in the manner of `dataset`; `rng` chooses among equivalent wordings.
pub fn prompt(scene: &Scene, rng: &mut impl Rng, dataset: Dataset) -> String {
    let content = content(scene, rng);
    let background = scene.background.name();
    match dataset {
        Dataset::CompBench => format!("{content} on a {background} background"),
        Dataset::CommonText => format!("{} on a {background} background.", capitalised(&content)),
        Dataset::Laion => pick(rng, &styles(scene.background)).replace("{}", &content),
    }
}

/// What a scene shows, without the background.
fn content(scene: &Scene, rng: &mut impl Rng) -> String {
    let objects = &scene.objects;
    let joined = |middle: &str| objects.iter().map(|object| object.look().phrase()).collect::<Vec<_>>().join(middle);
    match (&scene.sign_word, scene.relation, number_word(objects.len())) {
        (Some(word), _, _) => format!("{} {} '{word}'", joined(" and "), action(objects, rng)),
        (None, Some(relation), _) => joined(&format!(" {} ", relation.phrase())),
        (None, None, Some(number)) if scene.kind == Kind::Count => format!("{number} {}", counted(objects)),
        _ => joined(" and "),
    }
}

/// "red car" for one object, "red cars" for more.
fn counted(objects: &[Object]) -> String {
    let look: Look = objects[0].look();
    look.words(if objects.len() == 1 { look.noun.name() } else { look.noun.plural() })
}

fn action(objects: &[Object], rng: &mut impl Rng) -> &'static str {
    match objects.first().map(|object| object.noun.animacy()) {
        Some(Animacy::Animate) => ANIMATE_ACTIONS[below(rng, ANIMATE_ACTIONS.len())],
        _ => INANIMATE_ACTIONS[below(rng, INANIMATE_ACTIONS.len())],
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

/// A prompt of a data set's category with the scene it describes; equal keys give equal pairs. Unknown names, and unseen
/// sign words in training, are errors.
pub fn sample_prompt(dataset: &str, category: &str, split: Split, key: Key) -> Result<(String, Scene)> {
    let dataset = Dataset::named(dataset)?;
    let rng = &mut stream(key);
    let scene = match (dataset, category) {
        (Dataset::CompBench, "color") => attributed(rng, split, Attribute::Colour),
        (Dataset::CompBench, "shape") => attributed(rng, split, Attribute::Shape),
        (Dataset::CompBench, "texture") => attributed(rng, split, Attribute::Texture),
        (Dataset::CompBench, "spatial") => Scene::sample_kind(rng, Kind::Spatial, split, Attribute::Colour),
        (Dataset::CompBench, "3d_spatial") => Scene::sample_kind(rng, Kind::Depth, split, Attribute::Colour),
        (Dataset::CompBench, "numeracy") => Scene::sample_kind(rng, Kind::Count, split, Attribute::Colour),
        (Dataset::CompBench, "complex") => Scene::sample_kind(rng, Kind::Spatial, split, Attribute::Any),
        (Dataset::CommonText, "seen") => Scene::sample_sign(rng, SignWords::Seen, split),
        (Dataset::CommonText, "unseen") if split == Split::Train => {
            return Err(Error::Invalid("unseen sign words cannot be drawn for training".into()));
        }
        (Dataset::CommonText, "unseen") => Scene::sample_sign(rng, SignWords::Unseen, split),
        (Dataset::Laion, "caption") => {
            let kind = *pick(rng, &[Kind::Single, Kind::Single, Kind::Pair, Kind::Spatial, Kind::Depth, Kind::Count]);
            Scene::sample_kind(rng, kind, split, Attribute::Any)
        }
        _ => {
            let categories = dataset.categories().join(", ");
            let message = format!("data set `{}` has no category `{category}`", dataset.name());
            return Err(Error::config(message, format!("its categories are {categories}")));
        }
    };
    Ok((prompt(&scene, rng, dataset), scene))
}

/// Two objects carry the binding of attributes; a quarter has one.
fn attributed(rng: &mut impl Rng, split: Split, attribute: Attribute) -> Scene {
    let kind = if below(rng, 4) == 0 { Kind::Single } else { Kind::Pair };
    Scene::sample_kind(rng, kind, split, attribute)
}

/// A scene of the general mixture with a prompt in a fitting manner: CommonText for signs, else CompBench (60 %) or
/// LAION (40 %). For training the networks of the world itself.
pub fn sample_any(split: Split, key: Key) -> (String, Scene) {
    let rng = &mut stream(key);
    let scene = Scene::sample(rng, split);
    worded(scene, rng)
}

/// The same for scenes with two objects only, two thirds of them with a relation. Half of them show textures, which the
/// general mixture has half as often as colours and which are the last to be carried over to nouns that training never shows with them.
pub fn sample_two_objects(split: Split, key: Key) -> (String, Scene) {
    let rng = &mut stream(key);
    let kind = *pick(rng, &[Kind::Pair, Kind::Spatial, Kind::Depth]);
    let attribute = *pick(rng, &[Attribute::Any, Attribute::Texture]);
    worded(Scene::sample_kind(rng, kind, split, attribute), rng)
}

fn worded(scene: Scene, rng: &mut impl Rng) -> (String, Scene) {
    let dataset = match scene.kind {
        Kind::Sign => Dataset::CommonText,
        _ if uniform(rng) < 0.6 => Dataset::CompBench,
        _ => Dataset::Laion,
    };
    (prompt(&scene, rng, dataset), scene)
}

/// Every text the grammar is made of apart from nouns, colours, backgrounds, numbers and relations; for the tokenizer.
pub(super) fn templates() -> Vec<&'static str> {
    let mut templates = vec!["A An a an and on background", "One Two Three Four Five"];
    templates.extend(ANIMATE_ACTIONS);
    templates.extend(INANIMATE_ACTIONS);
    templates.extend(Background::all().flat_map(styles));
    templates
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::mini::words::{Finish, LARGEST_COUNT, Noun, Relation, Shape, seen_sign_words, unseen_sign_words};

    fn key(item: u64) -> Key<'static> {
        Key { seed: 5, purpose: "prompt", item, draw: 0 }
    }

    /// Looks, relation, sign word and background.
    type Reading = (Vec<Look>, Option<Relation>, Option<String>, Background);

    /// Reads "red car" or "blue oval boxes".
    fn read_words(words: &[&str]) -> Look {
        let (finish, shape, noun) = match words {
            [finish, noun] => (finish, None, noun),
            [finish, shape, noun] => (finish, Some(Shape::named(shape).unwrap()), noun),
            _ => panic!("`{words:?}` is no noun phrase"),
        };
        let noun = Noun::all().find(|known| [known.name(), known.plural()].contains(noun)).unwrap();
        Look { noun, finish: Finish::named(finish).unwrap(), shape }
    }

    /// Reads "a red car" (or, capitalised, "A red car").
    fn read_object(text: &str) -> Look {
        let words: Vec<&str> = text.split(' ').collect();
        assert!(["a", "an"].contains(&words[0].to_lowercase().as_str()), "{text}");
        read_words(&words[1..])
    }

    /// What a CompBench or CommonText prompt says, read from the text alone.
    fn read(prompt: &str) -> Reading {
        let prompt = prompt.trim_end_matches('.').trim_end_matches(" background");
        let (content, background) = prompt.rsplit_once(" on a ").unwrap();
        let background = Background::named(background).unwrap();
        if let Some((holder, word)) = content.trim_end_matches('\'').split_once(" '") {
            let words: Vec<&str> = holder.split(' ').take(3).collect();
            return (vec![read_object(&words.join(" "))], None, Some(word.into()), background);
        }
        for relation in Relation::ALL {
            if let Some((first, second)) = content.split_once(&format!(" {} ", relation.phrase())) {
                return (vec![read_object(first), read_object(second)], Some(relation), None, background);
            }
        }
        for count in 1..=LARGEST_COUNT {
            if let Some(rest) = content.strip_prefix(&format!("{} ", number_word(count).unwrap())) {
                return (vec![read_words(&rest.split(' ').collect::<Vec<_>>()); count], None, None, background);
            }
        }
        (content.split(" and ").map(read_object).collect(), None, None, background)
    }

    #[test]
    fn prompts_say_what_the_scene_shows() {
        for dataset in [Dataset::CompBench, Dataset::CommonText] {
            for category in dataset.categories() {
                for item in 0..500 {
                    let (text, scene) = sample_prompt(dataset.name(), category, Split::Val, key(item)).unwrap();
                    let shown: Vec<_> = scene.objects.iter().map(Object::look).collect();
                    assert_eq!(read(&text), (shown, scene.relation, scene.sign_word, scene.background), "{text}");
                }
            }
        }
    }

    #[test]
    fn captions_hold_every_phrase_and_styles_stand_for_one_background() {
        for item in 0..500 {
            let (text, scene) = sample_prompt("laion", "caption", Split::Train, key(item)).unwrap();
            if scene.kind != Kind::Count {
                assert!(scene.phrases().iter().all(|phrase| text.contains(phrase.as_str())), "{text}");
            }
        }
        let all: Vec<&str> = Background::all().flat_map(styles).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn training_prompts_never_occur_in_validation() {
        let prompts = |split| -> HashSet<String> {
            let one = |item| {
                let (text, scene) = sample_any(split, key(item));
                assert_eq!(scene.is_held_out(), split == Split::Val, "{text}");
                text
            };
            (0..4000).map(one).collect()
        };
        let train = prompts(Split::Train);
        assert!(train.is_disjoint(&prompts(Split::Val)));
        assert!(train.iter().all(|text| !unseen_sign_words().iter().any(|word| text.contains(&format!("'{word}'")))));
    }

    #[test]
    fn scenes_of_two_objects_show_textures_in_five_of_eight_looks() {
        let scenes: Vec<Scene> = (0..2000).map(|item| sample_two_objects(Split::Train, key(item)).1).collect();
        assert!(scenes.iter().all(|scene| scene.count() == 2 && !scene.is_held_out()));
        let textured = scenes.iter().filter(|scene| scene.objects[0].finish.is_texture()).count() as f64 / 2000.0;
        // Half of the scenes, and a quarter of the others; four standard errors at n = 2000 are 0.043. Two different textures
        // are found as often as one look and another, so what is rejected does not move the share by more than 0.03.
        assert!((textured - 0.625).abs() < 0.075, "{textured}");
    }

    #[test]
    fn equal_keys_give_equal_prompts() {
        for item in 0..20 {
            assert_eq!(sample_any(Split::Train, key(item)), sample_any(Split::Train, key(item)));
        }
        assert_ne!(sample_any(Split::Train, key(0)), sample_any(Split::Train, key(1)));
    }

    #[test]
    fn unknown_names_and_unseen_words_in_training_are_errors() {
        assert!(sample_prompt("coco", "caption", Split::Train, key(0)).unwrap_err().hint().unwrap().contains("commontext"));
        assert!(sample_prompt("compbench", "action", Split::Train, key(0)).unwrap_err().hint().unwrap().contains("numeracy"));
        assert!(sample_prompt("commontext", "unseen", Split::Train, key(0)).is_err());
    }

    #[test]
    fn sign_words_are_no_words_of_the_grammar() {
        let mut grammar: HashSet<&str> = templates().into_iter().flat_map(|text| text.split([' ', ','])).collect();
        grammar.extend(Noun::all().flat_map(|noun| [noun.name(), noun.plural()]));
        grammar.extend(Finish::all().map(Finish::name).chain(Shape::all().map(Shape::name)).chain(Background::all().map(Background::name)));
        grammar.extend(Relation::ALL.into_iter().flat_map(|relation| relation.phrase().split(' ')));
        for word in seen_sign_words().iter().chain(unseen_sign_words()) {
            assert!(!grammar.contains(word), "{word}");
        }
    }
}
