//! Prompts of the miniature world: drawn from its grammar until the wanted number of different ones is there.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::clean::normal_form;
use crate::data::schema::{TRAIN, VAL};
use crate::data::sources::{PromptSource, RawPrompt, Reading};
use crate::error::{Error, Result};
use crate::mini::grammar::{Dataset, sample_prompt};
use crate::mini::scene::{Scene, Split};
use crate::run::rng::Key;

/// How many prompts are drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Training prompts of each set, in equal parts from its categories.
    pub train_prompts: usize,
    pub val: ValPrompts,
}

/// Validation prompts of each category.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValPrompts {
    pub caption: usize,
    pub color: usize,
    pub shape: usize,
    pub texture: usize,
    pub spatial: usize,
    #[serde(rename = "3d_spatial")]
    pub depth: usize,
    pub numeracy: usize,
    pub complex: usize,
    /// Signs with a word of the training prompts.
    pub seen: usize,
    /// Signs with a word that training never shows.
    pub unseen: usize,
}

impl Default for Config {
    fn default() -> Self {
        // More than a distillation of some minutes can draw, so that no prompt is seen often.
        Self { train_prompts: 4000, val: ValPrompts::default() }
    }
}

impl Default for ValPrompts {
    fn default() -> Self {
        // 80 images give a yes/no score a 95 % interval of at most ±11 points; signs are one category in two halves.
        Self { seen: 40, unseen: 40, ..Self::of_each(80) }
    }
}

impl ValPrompts {
    /// As many of every category.
    pub fn of_each(n: usize) -> Self {
        Self { caption: n, color: n, shape: n, texture: n, spatial: n, depth: n, numeracy: n, complex: n, seen: n, unseen: n }
    }

    fn of(&self, category: &str) -> usize {
        match category {
            "caption" => self.caption,
            "color" => self.color,
            "shape" => self.shape,
            "texture" => self.texture,
            "spatial" => self.spatial,
            "3d_spatial" => self.depth,
            "numeracy" => self.numeracy,
            "complex" => self.complex,
            "seen" => self.seen,
            "unseen" => self.unseen,
            _ => 0,
        }
    }
}

/// The grammar as a source of prompts.
#[derive(Debug, Clone)]
pub struct Grammar {
    pub config: Config,
    pub seed: u64,
}

/// Draws in a row without a new prompt after which the grammar counts as exhausted.
const FRUITLESS_DRAWS: usize = 5000;

impl Grammar {
    /// `n` different prompts of one category and split.
    fn draw(&self, dataset: Dataset, category: &str, split: Split, n: usize) -> Result<Vec<RawPrompt>> {
        let purpose = format!("prompts {} {category} {}", dataset.name(), split.name());
        let mut known = BTreeSet::new();
        let mut prompts = Vec::with_capacity(n);
        let mut fruitless = 0;
        for item in 0u64.. {
            if prompts.len() == n || fruitless == FRUITLESS_DRAWS {
                break;
            }
            fruitless += 1;
            let key = Key { seed: self.seed, purpose: &purpose, item, draw: 0 };
            let (prompt, scene) = sample_prompt(dataset.name(), category, split, key)?;
            if known.insert(normal_form(&prompt)) {
                fruitless = 0;
                let json = serde_json::to_string(&scene).map_err(|error| Error::Invalid(format!("scene of `{prompt}`: {error}")))?;
                prompts.push(RawPrompt {
                    dataset: dataset.name().into(),
                    category: category.into(),
                    split: Some(split.name().into()),
                    prompt,
                    target_text: scene.sign_word,
                    scene: Some(json),
                    ..RawPrompt::default()
                });
            }
        }
        if prompts.len() < n {
            let message =
                format!("the grammar has only {} different {} prompts for `{category}`, {n} are wanted", prompts.len(), split.name());
            return Err(Error::config(message, "ask for fewer in [data.mini]"));
        }
        Ok(prompts)
    }
}

impl PromptSource for Grammar {
    fn name(&self) -> String {
        "the grammar of the miniature world".into()
    }

    fn licence(&self) -> String {
        "MIT OR Apache-2.0 (made by this program)".into()
    }

    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn read(&self) -> Result<Reading> {
        let mut prompts = Vec::new();
        for dataset in Dataset::ALL {
            // Unseen sign words exist in validation only.
            let trained: Vec<&str> = dataset.categories().iter().copied().filter(|&category| category != "unseen").collect();
            for (i, category) in trained.iter().enumerate() {
                let share = self.config.train_prompts * (i + 1) / trained.len() - self.config.train_prompts * i / trained.len();
                prompts.extend(self.draw(dataset, category, Split::Train, share)?);
            }
            for category in dataset.categories() {
                prompts.extend(self.draw(dataset, category, Split::Val, self.config.val.of(category))?);
            }
        }
        Ok(prompts.into())
    }
}

/// Combinations of noun, finish and shape in the scenes of the two splits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Combinations {
    pub train: usize,
    pub val: usize,
    /// Combinations of validation that training never shows.
    pub val_only: usize,
}

/// Counts the combinations of the prompts that carry a scene.
pub fn combinations(prompts: &[RawPrompt]) -> Result<Combinations> {
    let of = |split: &str| -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for prompt in prompts.iter().filter(|prompt| prompt.split.as_deref() == Some(split)) {
            let Some(json) = &prompt.scene else { continue };
            let scene: Scene =
                serde_json::from_str(json).map_err(|error| Error::Invalid(format!("scene of `{}`: {error}", prompt.prompt)))?;
            found.extend(scene.phrases());
        }
        Ok(found)
    };
    let (train, val) = (of(TRAIN)?, of(VAL)?);
    Ok(Combinations { train: train.len(), val: val.len(), val_only: val.difference(&train).count() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_more_than_the_grammar_has_is_a_configuration_error() {
        let grammar = Grammar { config: Config::default(), seed: 1 };
        let error = grammar.draw(Dataset::CompBench, "numeracy", Split::Val, 100_000).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("numeracy"), "{error}");
    }
}
