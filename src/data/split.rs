//! Splitting of prompts whose source does not split them.

use std::collections::BTreeMap;

use crate::data::schema::{TRAIN, VAL};
use crate::data::sources::RawPrompt;
use crate::run::rng;

/// Gives every prompt without a split one: in each (set, category) the `val_per_category` prompts that a seeded hash puts
/// first become `val`, the rest `train`. The choice depends on the prompts, not on their order in the file.
pub fn assign(prompts: &mut [RawPrompt], val_per_category: usize, seed: u64) {
    let mut undecided: BTreeMap<(String, String), Vec<(u64, usize)>> = BTreeMap::new();
    for (i, prompt) in prompts.iter().enumerate().filter(|(_, prompt)| prompt.split.is_none()) {
        let rank = rng::text_id(&format!("{seed} {}", prompt.prompt));
        undecided.entry((prompt.dataset.clone(), prompt.category.clone())).or_default().push((rank, i));
    }
    for ranked in undecided.values_mut() {
        ranked.sort_unstable();
        for (place, &(_, i)) in ranked.iter().enumerate() {
            prompts[i].split = Some(if place < val_per_category { VAL } else { TRAIN }.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prompts(order: impl Iterator<Item = usize>) -> Vec<RawPrompt> {
        let raw = |i: usize| RawPrompt {
            dataset: "laion".into(),
            category: if i.is_multiple_of(2) { "even" } else { "odd" }.into(),
            prompt: format!("prompt {i}"),
            ..RawPrompt::default()
        };
        order.map(raw).collect()
    }

    fn val(prompts: &[RawPrompt]) -> Vec<String> {
        let mut val: Vec<_> = prompts.iter().filter(|p| p.split.as_deref() == Some(VAL)).map(|p| p.prompt.clone()).collect();
        val.sort();
        val
    }

    #[test]
    fn the_split_does_not_depend_on_the_order_but_on_the_seed() {
        let (mut forward, mut backward, mut other) = (prompts(0..40), prompts((0..40).rev()), prompts(0..40));
        assign(&mut forward, 5, 1);
        assign(&mut backward, 5, 1);
        assign(&mut other, 5, 2);
        assert_eq!(val(&forward).len(), 10);
        assert_eq!(val(&forward), val(&backward));
        assert_ne!(val(&forward), val(&other));
    }

    #[test]
    fn a_split_given_by_the_source_stays() {
        let mut given = prompts(0..4);
        given[0].split = Some(TRAIN.into());
        assign(&mut given, 10, 1);
        assert_eq!(given[0].split.as_deref(), Some(TRAIN));
        assert_eq!(val(&given).len(), 3);
    }

    proptest! {
        /// Every prompt is in one split, every category has as many validation prompts as it can, and neither the order nor other
        /// categories change anything.
        #[test]
        fn a_split_is_one_for_any_order(texts in proptest::collection::btree_set("[a-d]{1,4}", 0..40), val_each in 0usize..6, seed: u64) {
            let raw = |text: &String| RawPrompt {
                dataset: "laion".into(),
                category: text[..1].into(),
                prompt: text.clone(),
                ..RawPrompt::default()
            };
            let mut forward: Vec<RawPrompt> = texts.iter().map(raw).collect();
            let mut backward: Vec<RawPrompt> = texts.iter().rev().map(raw).collect();
            assign(&mut forward, val_each, seed);
            assign(&mut backward, val_each, seed);
            backward.reverse();
            prop_assert_eq!(&forward, &backward);
            for category in ["a", "b", "c", "d"] {
                let of: Vec<RawPrompt> = forward.iter().filter(|p| p.category == category).cloned().collect();
                prop_assert_eq!(val(&of).len(), of.len().min(val_each));
                let mut alone: Vec<RawPrompt> = of.iter().map(|p| RawPrompt { split: None, ..p.clone() }).collect();
                assign(&mut alone, val_each, seed);
                prop_assert_eq!(alone, of);
            }
            prop_assert!(forward.iter().all(|p| p.split.is_some()));
        }
    }
}
