//! The tokenizers of published models, from any of the files they come in: `tokenizer.json`, CLIP's `vocab.json` with `merges.txt`, T5's
//! `spiece.model`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::spiece;
use crate::error::{Error, Result};
use crate::models::tokenizer::{EOS, PAD, Tokenizer, UNKNOWN, WORD_START};
use crate::run::files;

/// Files a tokenizer is read from.
pub const FILES: [&str; 6] =
    ["tokenizer.json", "spiece.model", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];

const CLIP_START: &str = "<|startoftext|>";
const CLIP_END: &str = "<|endoftext|>";

/// Sentinels that T5's vocabulary has after the pieces of its model, where `tokenizer_config.json` does not count them.
const EXTRA_IDS: u64 = 100;

/// T5's tokenizer in `folder`.
pub fn t5(folder: &Path) -> Result<Tokenizer> {
    let (json, pieces) = (folder.join("tokenizer.json"), folder.join("spiece.model"));
    if json.exists() {
        return Tokenizer::load(&json);
    }
    if !pieces.exists() {
        return Err(nothing(folder, "`tokenizer.json` or `spiece.model`"));
    }
    let model = spiece::read(&pieces)?;
    let extra = setting(folder, "tokenizer_config.json", "extra_ids").and_then(|value| value.as_u64()).unwrap_or(EXTRA_IDS);
    let mut vocabulary: Vec<(String, f64)> = model.pieces;
    vocabulary.extend((0..extra).rev().map(|i| (format!("<extra_id_{i}>"), 0.0)));
    let id = |piece: &str| {
        let found = vocabulary.iter().position(|(name, _)| name == piece);
        found.ok_or_else(|| Error::format("vocabulary of T5", &pieces, format!("it has no `{piece}`")))
    };
    let special = [PAD, EOS, UNKNOWN].map(|piece| Ok(added(id(piece)?, piece))).into_iter().collect::<Result<Vec<_>>>()?;
    let normaliser = match model.normaliser.is_empty() {
        true => Value::Null,
        false => json!({ "type": "Precompiled", "precompiled_charsmap": spiece::base64(&model.normaliser) }),
    };
    build(
        &pieces,
        &json!({
            "version": "1.0",
            "added_tokens": special,
            "normalizer": normaliser,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": WORD_START, "prepend_scheme": "always", "split": true},
            ]},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": EOS, "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {EOS: {"id": EOS, "ids": [id(EOS)?], "tokens": [EOS]}},
            },
            "decoder": null,
            "model": {"type": "Unigram", "unk_id": model.unknown, "vocab": vocabulary, "byte_fallback": false},
        }),
    )
}

/// CLIP's tokenizer in `folder`, which pads with the piece that its configuration names.
pub fn clip(folder: &Path) -> Result<Tokenizer> {
    let json = folder.join("tokenizer.json");
    let tokenizer = if json.exists() { Tokenizer::load(&json)? } else { clip_from_merges(folder)? };
    let pad = setting(folder, "tokenizer_config.json", "pad_token").or_else(|| setting(folder, "special_tokens_map.json", "pad_token"));
    match pad.as_ref().and_then(piece_of) {
        Some(pad) => tokenizer.padded_with(pad),
        None => Ok(tokenizer),
    }
}

fn clip_from_merges(folder: &Path) -> Result<Tokenizer> {
    let (vocabulary_file, merges_file) = (folder.join("vocab.json"), folder.join("merges.txt"));
    if !vocabulary_file.exists() || !merges_file.exists() {
        return Err(nothing(folder, "`tokenizer.json`, or `vocab.json` and `merges.txt`"));
    }
    let read = |path: &Path| files::read_bytes(path, "the tokenizer", "fetch the file with the model");
    let vocabulary: BTreeMap<String, u32> =
        serde_json::from_slice(&read(&vocabulary_file)?).map_err(|error| Error::format("vocabulary", &vocabulary_file, error))?;
    let id = |piece: &str| {
        let found = vocabulary.get(piece).copied();
        found.ok_or_else(|| Error::format("vocabulary of CLIP", &vocabulary_file, format!("it has no `{piece}`")))
    };
    let text = String::from_utf8(read(&merges_file)?).map_err(|error| Error::format("list of merges", &merges_file, error))?;
    let mut merges = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version") && !line.trim().is_empty()) {
        let pair = line.split_once(' ').filter(|(_, second)| !second.contains(' '));
        merges.push(pair.ok_or_else(|| Error::format("list of merges", &merges_file, format!("line {} is not a pair: `{line}`", i + 1)))?);
    }
    let (start, end) = (id(CLIP_START)?, id(CLIP_END)?);
    build(
        &vocabulary_file,
        &json!({
            "version": "1.0",
            "added_tokens": [added(start as usize, CLIP_START), added(end as usize, CLIP_END)],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}, {"type": "Lowercase"},
            ]},
            // Words of CLIP: clipped endings, letters, single digits, the rest (openai/CLIP@main simple_tokenizer.py).
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {
                    "type": "Split", "behavior": "Removed", "invert": true,
                    "pattern": {"Regex": "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"},
                },
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            ]},
            "post_processor": {
                "type": "RobertaProcessing", "sep": [CLIP_END, end], "cls": [CLIP_START, start], "trim_offsets": false,
                "add_prefix_space": false,
            },
            "decoder": null,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": CLIP_END, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": merges,
            },
        }),
    )
}

fn build(path: &Path, description: &Value) -> Result<Tokenizer> {
    let made = ::tokenizers::Tokenizer::from_bytes(description.to_string()).map_err(|error| Error::format("tokenizer", path, error))?;
    Tokenizer::new(made).map_err(|error| Error::format("tokenizer", path, error))
}

fn added(id: usize, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
}

/// A value of a configuration beside the tokenizer; files and values that are not there are as good as none.
fn setting(folder: &Path, file: &str, key: &str) -> Option<Value> {
    let bytes = std::fs::read(folder.join(file)).ok()?;
    serde_json::from_slice::<Value>(&bytes).ok()?.get(key).cloned()
}

/// A piece, written as text or as an object with its `content`.
fn piece_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn nothing(folder: &Path, expected: &str) -> Error {
    let hint = format!("fetch {expected} of this part of the model");
    Error::Missing { what: "a tokenizer".into(), path: folder.to_owned(), hint }
}
