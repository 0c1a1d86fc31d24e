//! Prompts as JSON: one array, or one value a line. A value is a text or an object with the wanted columns.

use serde_json::Value;

use super::{Line, TextFile};
use crate::error::Result;
use crate::run::files;

impl TextFile {
    /// An array of texts or objects.
    pub(super) fn json_lines(&self) -> Result<Vec<Line>> {
        const FORMAT: &str = "JSON array";
        let bytes = files::read_bytes(&self.path, "prompts", "put the file there")?;
        self.not_empty(FORMAT)?;
        let rows: Vec<Value> = serde_json::from_slice(&bytes).map_err(|error| self.damaged(FORMAT, error))?;
        rows.iter().enumerate().map(|(i, row)| self.json_line(row, FORMAT, &format!("entry {i}"))).collect()
    }

    /// A text or an object on every line that is not empty.
    pub(super) fn jsonl_lines(&self) -> Result<Vec<Line>> {
        const FORMAT: &str = "file of JSON lines";
        let bytes = files::read_bytes(&self.path, "prompts", "put the file there")?;
        let filled = bytes.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
        let line = |(i, line): (usize, &[u8])| {
            let place = format!("line {}", i + 1);
            let row = serde_json::from_slice(line).map_err(|error| self.damaged(FORMAT, format!("{place}: {error}")))?;
            self.json_line(&row, FORMAT, &place)
        };
        filled.map(line).collect()
    }

    fn json_line(&self, row: &Value, format: &'static str, place: &str) -> Result<Line> {
        if let Some(prompt) = row.as_str() {
            return Ok(Line { prompt: prompt.to_owned(), category: None, target: None });
        }
        let wrong = |problem: String| self.damaged(format, format!("{place}: {problem}"));
        let fields = row.as_object().ok_or_else(|| wrong(format!("expected a text or an object, found {row}")))?;
        let text = |column: &str| -> Result<String> {
            let value = fields.get(column).ok_or_else(|| self.no_column(column, fields.keys().cloned().collect()))?;
            let text = value.as_str().ok_or_else(|| wrong(format!("`{column}` is {value}, expected a text")))?;
            Ok(text.to_owned())
        };
        // A category or target that is absent or null is none.
        let optional = |column: &Option<String>| -> Result<Option<String>> {
            let given = column.as_deref().filter(|column| fields.get(*column).is_some_and(|value| !value.is_null()));
            given.map(text).transpose()
        };
        Ok(Line {
            prompt: text(&self.config.prompt_column)?,
            category: optional(&self.config.category_column)?,
            target: optional(&self.config.target_column)?,
        })
    }
}
