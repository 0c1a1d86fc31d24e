//! What the judges said about one image, taken from the details of its scores, in the form in which the page shows it.

use serde::Serialize;
use serde_json::Value;

/// Evidence of one image. Absent parts are left out of the page's data.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Evidence {
    /// What was read against what should be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<Segment>,
    /// Questions with the probability of "yes".
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<(String, f64)>,
    /// Noun, number asked for, number found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<(String, u64, u64)>,
    /// The relation asked for, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
    /// Boxes of a detector; `None` where none looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boxes: Option<Vec<FoundBox>>,
    /// Details of another form, as JSON, with the name of the metric.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other: Vec<(String, String)>,
}

/// Label, confidence, then left, top, right and bottom in pixels of the image.
pub type FoundBox = (String, f64, f64, f64, f64, f64);

/// A stretch of text that was read, missed or made up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Segment(pub Fate, pub String);

/// What became of letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    Same,
    Missing,
    Extra,
}

impl Evidence {
    /// Gathers the details (JSON texts) of an image's metrics; `target` is the text that it should show.
    pub fn gather<'a>(details: impl Iterator<Item = (&'a str, &'a str)>, target: Option<&str>) -> Self {
        let mut evidence = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for (metric, text) in details {
            if seen.contains(&text) {
                continue;
            }
            seen.push(text);
            match serde_json::from_str(text) {
                Ok(Value::Null) => {}
                Ok(detail) => evidence.add(metric, &detail, text, target),
                // Not JSON, yet somebody wrote it to be read.
                Err(_) => evidence.other.push((metric.into(), text.into())),
            }
        }
        evidence
    }

    fn add(&mut self, metric: &str, detail: &Value, text: &str, target: Option<&str>) {
        let mut understood = false;
        if let (Some(read), Some(target)) = (detail["read"].as_str(), target) {
            self.read = difference(target, read);
            understood = true;
        }
        if let Some(answers) = detail["answers"].as_array() {
            let answer = |answer: &Value| Some((answer["phrase"].as_str()?.to_owned(), answer["yes"].as_f64().map(rounded)?));
            self.answers.extend(answers.iter().filter_map(answer));
            understood = true;
        }
        if let Some(counts) = detail.pointer("/counts/counts").and_then(Value::as_array) {
            let count = |count: &Value| Some((count["noun"].as_str()?.to_owned(), count["expected"].as_u64()?, count["found"].as_u64()?));
            self.counts.extend(counts.iter().filter_map(count));
            understood = true;
        }
        if let (Some(first), Some(locality), Some(second)) =
            (detail.pointer("/relation/first"), detail.pointer("/relation/locality"), detail.pointer("/relation/second"))
        {
            let words = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
            let locality = match words(locality).as_str() {
                side @ ("left" | "right" | "top" | "bottom") => format!("{side} of"),
                "front" => "in front of".into(),
                "hidden" => "hidden by".into(),
                other => other.to_owned(),
            };
            self.relation = Some(format!("{}: {locality} {}", words(first), words(second)));
            understood = true;
        }
        let boxes = ["/relation/boxes", "/counts/boxes", "/boxes"].iter().find_map(|place| detail.pointer(place)?.as_array());
        if let Some(boxes) = boxes {
            self.boxes = Some(boxes.iter().filter_map(read_box).collect());
            understood = true;
        }
        if !understood {
            self.other.push((metric.into(), text.into()));
        }
    }
}

fn read_box(found: &Value) -> Option<FoundBox> {
    let side = |name: &str| found["bounds"][name].as_f64().map(rounded);
    Some((found["label"].as_str()?.into(), rounded(found["score"].as_f64()?), side("x0")?, side("y0")?, side("x1")?, side("y1")?))
}

/// Four decimals: a page of ten thousand images should not carry digits that nobody sees.
pub fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// What was read against what should be read, ignoring case, along a longest common subsequence. Nothing read: all of the
/// target is missing.
pub fn difference(target: &str, read: &str) -> Vec<Segment> {
    let fold = |c: char| c.to_lowercase().next().unwrap_or(c);
    let (a, b): (Vec<char>, Vec<char>) = (target.chars().collect(), read.chars().collect());
    // common[i][j]: length of the longest common subsequence of a[i..] and b[j..].
    let mut common = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if fold(a[i]) == fold(b[j]) { 1 + common[i + 1][j + 1] } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut segments) = (0, 0, Vec::<Segment>::new());
    while i < a.len() || j < b.len() {
        let (fate, letter) = if i < a.len() && j < b.len() && fold(a[i]) == fold(b[j]) {
            (i, j) = (i + 1, j + 1);
            (Fate::Same, b[j - 1])
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            (Fate::Missing, a[i - 1])
        } else {
            j += 1;
            (Fate::Extra, b[j - 1])
        };
        match segments.last_mut() {
            Some(last) if last.0 == fate => last.1.push(letter),
            _ => segments.push(Segment(fate, letter.into())),
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_differences_mark_missing_and_extra_letters() {
        let segments = |list: &[(Fate, &str)]| list.iter().map(|(fate, text)| Segment(*fate, (*text).to_owned())).collect::<Vec<_>>();
        assert_eq!(difference("moon", "MOON"), segments(&[(Fate::Same, "MOON")]));
        assert_eq!(difference("community", "comunity"), segments(&[(Fate::Same, "com"), (Fate::Missing, "m"), (Fate::Same, "unity")]));
        assert_eq!(difference("cat", "cats!"), segments(&[(Fate::Same, "cat"), (Fate::Extra, "s!")]));
        assert_eq!(difference("<b>", ""), segments(&[(Fate::Missing, "<b>")]));
    }

    #[test]
    fn every_form_of_detail_is_understood_and_others_are_kept_as_they_are() {
        let details = [
            ("compbench_color", r#"{"answers":[{"phrase":"a red car","yes":0.123456}]}"#),
            ("compbench_numeracy", r#"{"counts":{"counts":[{"noun":"cat","expected":2,"found":3}],"boxes":[]}}"#),
            (
                "compbench_spatial",
                r#"{"relation":{"first":"dog","locality":"Left","second":"car","boxes":[{"label":"dog","score":0.5,"bounds":{"x0":1,"y0":2,"x1":3,"y1":4}}]}}"#,
            ),
            ("ocr_char", r#"{"read":"sto","target":"stop"}"#),
            ("ocr_word", r#"{"read":"sto","target":"stop"}"#),
            ("novel", r#"{"depth":[1,2]}"#),
            ("clip_score", "null"),
        ];
        let evidence = Evidence::gather(details.into_iter(), Some("stop"));
        assert_eq!(evidence.answers, [("a red car".to_owned(), 0.1235)]);
        assert_eq!(evidence.counts, [("cat".to_owned(), 2, 3)]);
        assert_eq!(evidence.relation.as_deref(), Some("dog: left of car"));
        assert_eq!(evidence.boxes, Some(vec![("dog".to_owned(), 0.5, 1.0, 2.0, 3.0, 4.0)]));
        assert_eq!(evidence.read, [Segment(Fate::Same, "sto".into()), Segment(Fate::Missing, "p".into())]);
        assert_eq!(evidence.other, [("novel".to_owned(), r#"{"depth":[1,2]}"#.to_owned())]);
    }
}
