//! What a prompt asks for, taken apart: objects with their attributes and counts, and how two of them relate.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The objects of a prompt, in its order, and the relation it names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Structure {
    pub objects: Vec<Object>,
    /// Between the first two objects; absent where the prompt names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
}

/// One thing, or several of a kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// The noun as the prompt has it, without article and attributes.
    pub name: String,
    /// Words before the noun, in order: `green`, `wooden`, `oblong`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
    /// How many; absent where the prompt says neither an article nor a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Structure {
    /// As the cell of a table.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::Invalid(format!("structure {self:?}: {error}")))
    }

    /// From the cell of a table; the error says what is wrong with it.
    pub fn from_json(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structure_comes_back_from_its_cell_and_absent_parts_take_no_room() {
        let bench = Object { name: "bench".into(), attributes: vec!["green".into()], count: Some(1) };
        let structure = Structure { objects: vec![bench, Object { name: "snow".into(), ..Object::default() }], relation: None };
        let json = structure.to_json().unwrap();
        assert_eq!(json, r#"{"objects":[{"name":"bench","attributes":["green"],"count":1},{"name":"snow"}]}"#);
        assert_eq!(Structure::from_json(&json).unwrap(), structure);
        assert!(Structure::from_json(r#"{"objects":[],"colour":"red"}"#).unwrap_err().contains("colour"));
    }
}
