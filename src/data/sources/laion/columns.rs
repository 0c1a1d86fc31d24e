//! What the columns of a LAION table are called: the mirrors disagree.

use std::path::Path;

use arrow::datatypes::{DataType, Schema};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Names of the caption in mirrors: `TEXT` in laion2B-en-aesthetic, improved_aesthetics_6.5plus and laion-aesthetics-12m-umap,
/// `caption` where img2dataset wrote, `text` in copies with images and in COYO.
const CAPTION: [&str; 4] = ["TEXT", "caption", "text", "prompt"];
/// `AESTHETIC_SCORE` in the 6.5+ and 12M tables, `aesthetic` in laion2B-en-aesthetic, the last one in COYO.
const SCORE: [&str; 5] = ["AESTHETIC_SCORE", "aesthetic", "aesthetic_score", "aesthetics_score", "aesthetic_score_laion_v2"];
/// Probability that the image is unsafe; the last one, of the prompt, in DiffusionDB.
const UNSAFE: [&str; 4] = ["punsafe", "p_unsafe", "nsfw_score_opennsfw2", "prompt_nsfw"];
/// Probability that the image has a watermark.
const WATERMARK: [&str; 3] = ["pwatermark", "p_watermark", "watermark_score"];

/// Columns named by the user; what is not named is looked for under the known names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Names {
    pub caption: Option<String>,
    pub score: Option<String>,
    pub p_unsafe: Option<String>,
    pub p_watermark: Option<String>,
}

/// Places of the columns in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    pub caption: usize,
    pub score: Option<usize>,
    pub p_unsafe: Option<usize>,
    pub p_watermark: Option<usize>,
}

/// Whether a table without scores can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreColumn {
    Required,
    Unused,
}

impl Columns {
    /// Finds the columns of a file and checks their types.
    ///
    /// # Errors
    /// Caption or required score are missing or have another type; a column the user named is missing.
    pub fn find(schema: &Schema, names: &Names, score: ScoreColumn, path: &Path) -> Result<Self> {
        let missing = |column: String| {
            let found = schema.fields().iter().map(|field| field.name().clone()).collect();
            Error::Column { column, path: path.into(), found }
        };
        let place = |named: &Option<String>, known: &[&str]| -> Result<Option<usize>> {
            match named {
                Some(name) => schema.index_of(name).map(Some).map_err(|_| missing(name.clone())),
                None => Ok(known.iter().find_map(|name| schema.fields().iter().position(|field| field.name().eq_ignore_ascii_case(name)))),
            }
        };
        let typed = |place: Option<usize>, fits: fn(&DataType) -> bool, expected: &str| -> Result<Option<usize>> {
            let Some(place) = place else { return Ok(None) };
            let field = schema.field(place);
            if fits(field.data_type()) {
                return Ok(Some(place));
            }
            let reason = format!("column `{}` has type {}, expected {expected}", field.name(), field.data_type());
            Err(Error::format("table of captions", path, reason))
        };
        let number = |named: &Option<String>, known: &[&str]| typed(place(named, known)?, DataType::is_numeric, "a number");
        let caption = typed(place(&names.caption, &CAPTION)?, is_text, "text")?;
        let found = Self {
            caption: caption.ok_or_else(|| missing(CAPTION.join("` or `")))?,
            score: match score {
                ScoreColumn::Required => number(&names.score, &SCORE)?,
                ScoreColumn::Unused => None,
            },
            p_unsafe: number(&names.p_unsafe, &UNSAFE)?,
            p_watermark: number(&names.p_watermark, &WATERMARK)?,
        };
        if score == ScoreColumn::Required && found.score.is_none() {
            return Err(missing(SCORE.join("` or `")));
        }
        Ok(found)
    }

    /// Places of all columns that are read.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        [Some(self.caption), self.score, self.p_unsafe, self.p_watermark].into_iter().flatten()
    }
}

/// True for the types that arrow gives text.
pub fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    fn schema(fields: &[(&str, DataType)]) -> Schema {
        Schema::new(fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>())
    }

    fn find(fields: &[(&str, DataType)], names: &Names, score: ScoreColumn) -> Result<Columns> {
        Columns::find(&schema(fields), names, score, Path::new("a.parquet"))
    }

    #[test]
    fn the_columns_of_known_mirrors_are_found() {
        use DataType::{Float32, Float64, Int32, Int64, Utf8};
        let twelve_million = [
            ("URL", Utf8),
            ("TEXT", Utf8),
            ("WIDTH", Float64),
            ("similarity", Float64),
            ("punsafe", Float64),
            ("pwatermark", Float64),
            ("AESTHETIC_SCORE", Float64),
            ("hash", Float64),
            ("__index_level_0__", Int64),
        ];
        let two_billion = [
            ("URL", Utf8),
            ("TEXT", Utf8),
            ("WIDTH", Int32),
            ("hash", Int64),
            ("pwatermark", Float32),
            ("punsafe", Float32),
            ("aesthetic", Float32),
        ];
        let coyo = [
            ("id", Int64),
            ("url", Utf8),
            ("text", Utf8),
            ("watermark_score", Float32),
            ("nsfw_score_opennsfw2", Float32),
            ("aesthetic_score_laion_v2", Float32),
        ];
        let columns = |caption, score, p_unsafe, p_watermark| Columns {
            caption,
            score: Some(score),
            p_unsafe: Some(p_unsafe),
            p_watermark: Some(p_watermark),
        };
        let names = Names::default();
        assert_eq!(find(&twelve_million, &names, ScoreColumn::Required).unwrap(), columns(1, 6, 4, 5));
        assert_eq!(find(&two_billion, &names, ScoreColumn::Required).unwrap(), columns(1, 6, 5, 4));
        assert_eq!(find(&coyo, &names, ScoreColumn::Required).unwrap(), columns(2, 5, 4, 3));
        let with_images = [("image", DataType::Binary), ("text", Utf8)];
        let found = find(&with_images, &names, ScoreColumn::Unused).unwrap();
        assert_eq!((found.caption, found.places().count()), (1, 1));
    }

    #[test]
    fn missing_columns_and_other_types_are_named() {
        let message = |fields: &[(&str, DataType)], names: &Names| find(fields, names, ScoreColumn::Required).unwrap_err().to_string();
        let none = Names::default();
        let error = message(&[("URL", DataType::Utf8), ("aesthetic", DataType::Float32)], &none);
        assert!(error.contains("`TEXT` or `caption`") && error.contains("a.parquet") && error.contains("URL"), "{error}");
        let error = message(&[("TEXT", DataType::Utf8)], &none);
        assert!(error.contains("AESTHETIC_SCORE"), "{error}");
        let error = message(&[("TEXT", DataType::Int64), ("aesthetic", DataType::Float32)], &none);
        assert!(error.contains("column `TEXT` has type Int64, expected text"), "{error}");
        let error = message(&[("TEXT", DataType::Utf8), ("aesthetic", DataType::Utf8)], &none);
        assert!(error.contains("column `aesthetic` has type Utf8, expected a number"), "{error}");
        let named = Names { caption: Some("alt".into()), ..Names::default() };
        let error = message(&[("TEXT", DataType::Utf8), ("aesthetic", DataType::Float32)], &named);
        assert!(error.contains("column `alt` is missing"), "{error}");
    }
}
