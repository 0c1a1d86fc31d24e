//! Text encoders under the names that most published files have.

use super::Named;
use crate::error::Result;

/// A T5 encoder whose token table is `shared.weight`, as most files have it; some write it as the encoder's own, some twice. The decoder
/// of a whole T5 is left out.
pub fn t5(mut tensors: Named) -> Result<Named> {
    tensors.retain(|name, _| !name.starts_with("decoder.") && name != "lm_head.weight");
    const OWN: &str = "encoder.embed_tokens.weight";
    const SHARED: &str = "shared.weight";
    if let Some(table) = tensors.remove(OWN) {
        tensors.entry(SHARED.to_owned()).or_insert(table);
    }
    Ok(tensors)
}

/// The text half of a CLIP under `text_model.…`; without `position_ids`, which are the numbers from 0 and no weights. Files written by
/// transformers 5 leave the prefix out where the network has no projection.
pub fn clip_text(tensors: Named) -> Result<Named> {
    let renamed = tensors.into_iter().filter(|(name, _)| !name.ends_with("embeddings.position_ids"));
    let inside = |name: &str| ["embeddings.", "encoder.", "final_layer_norm."].iter().any(|part| name.starts_with(part));
    Ok(renamed.map(|(name, tensor)| (if inside(&name) { format!("text_model.{name}") } else { name }, tensor)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn named(names: &[&str]) -> Named {
        names.iter().enumerate().map(|(i, name)| ((*name).to_owned(), Tensor::new(&[i as f32], &Device::Cpu).unwrap())).collect()
    }

    fn names(tensors: &Named) -> Vec<&str> {
        tensors.keys().map(String::as_str).collect()
    }

    #[test]
    fn the_token_table_is_taken_once_under_either_name() {
        let whole = ["decoder.block.0.layer.0.SelfAttention.q.weight", "decoder.embed_tokens.weight", "lm_head.weight", "shared.weight"];
        for file in [&["encoder.embed_tokens.weight"][..], &["shared.weight"], &["encoder.embed_tokens.weight", "shared.weight"], &whole] {
            assert_eq!(names(&t5(named(file)).unwrap()), ["shared.weight"]);
        }
    }

    #[test]
    fn the_text_half_of_clip_has_its_prefix_and_no_numbers_of_positions() {
        let file = named(&[
            "embeddings.position_ids",
            "embeddings.token_embedding.weight",
            "text_model.final_layer_norm.bias",
            "text_projection.weight",
        ]);
        let expected = ["text_model.embeddings.token_embedding.weight", "text_model.final_layer_norm.bias", "text_projection.weight"];
        assert_eq!(names(&clip_text(file).unwrap()), expected);
    }
}
