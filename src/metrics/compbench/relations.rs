//! Where two detected objects stand to each other: the rules of the relations in the plane and in depth.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::mini::words::Relation;
use crate::models::{Detection, PixelBox};

/// Distance below which two centres are near, as a share of the image side.
const NEAR: f64 = 150.0 / 479.0;
/// Overlap from which a relation counts less.
const OVERLAP: f64 = 0.1;
/// Overlap or containment from which two boxes of one label are the same object.
const DUPLICATE: f64 = 0.9;
/// Where the first object is, seen from the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Locality {
    Near,
    Left,
    Right,
    Bottom,
    Top,
    Front,
    Behind,
    Hidden,
}

impl Locality {
    /// Whether it is a matter of depth.
    pub fn is_depth(self) -> bool {
        matches!(self, Self::Front | Self::Behind | Self::Hidden)
    }
}

impl From<Relation> for Locality {
    fn from(relation: Relation) -> Self {
        match relation {
            Relation::Left => Self::Left,
            Relation::Right => Self::Right,
            Relation::Top => Self::Top,
            Relation::Bottom => Self::Bottom,
            Relation::NextTo | Relation::Near | Relation::OnSideOf => Self::Near,
            Relation::InFrontOf => Self::Front,
            Relation::Behind => Self::Behind,
            Relation::HiddenBy => Self::Hidden,
        }
    }
}

/// The 2-D rule: a quarter of each object's confidence plus half for the relation; below one half it is 0.
/// `side` is the longer side of the image in the pixels of the boxes; `boxes` stand highest score first.
pub fn spatial_score(boxes: &[Detection], first: &str, locality: Locality, second: &str, side: f64) -> f64 {
    let find = |noun: &str| boxes.iter().find(|found| found.label == noun);
    let score = match (find(first), find(second)) {
        (Some(a), Some(b)) => 0.25 * a.score + 0.25 * b.score + 0.5 * locality_score(a.bounds, locality, b.bounds, side),
        (Some(only), None) | (None, Some(only)) => 0.25 * only.score,
        (None, None) => 0.0,
    };
    if score < 0.5 { 0.0 } else { score }
}

/// How well the first box stands in `locality` to the second, in [0, 1].
pub fn locality_score(first: PixelBox, locality: Locality, second: PixelBox, side: f64) -> f64 {
    let centre = |b: PixelBox| ((b.x0 + b.x1) / 2.0, (b.y0 + b.y1) / 2.0);
    let ((ax, ay), (bx, by)) = (centre(first), centre(second));
    let (dx, dy) = (bx - ax, by - ay);
    let holds = match locality {
        Locality::Near => {
            let near = NEAR * side;
            // "or" is the published rule: side by side or one above the other is near.
            return if dx.abs() < near || dy.abs() < near { 1.0 } else { near / dx.abs().max(dy.abs()) };
        }
        Locality::Right => dx < 0.0 && dx.abs() > dy.abs(),
        Locality::Left => dx > 0.0 && dx.abs() > dy.abs(),
        Locality::Bottom => dy < 0.0 && dy.abs() > dx.abs(),
        Locality::Top => dy > 0.0 && dy.abs() > dx.abs(),
        // A matter of depth, see `depth_score`.
        Locality::Front | Locality::Behind | Locality::Hidden => false,
    };
    let overlap = overlap(first, second);
    match holds {
        true if overlap < OVERLAP => 1.0,
        true => OVERLAP / overlap,
        false => 0.0,
    }
}

/// Overlap from which a covered object counts fully.
const DEPTH_OVERLAP: f64 = 0.5;

/// The 3-D rule: a quarter of each object's confidence plus half for the relation, which grows with the overlap of the boxes up to
/// one half; objects side by side have none, even if the depth is right. `boxes` stand highest score first.
///
/// # Errors
/// Boxes of a detector that does not say which object is nearer.
pub fn depth_score(boxes: &[Detection], first: &str, locality: Locality, second: &str) -> Result<f64> {
    let find = |noun: &str| boxes.iter().find(|found| found.label == noun);
    Ok(match (find(first), find(second)) {
        (Some(a), Some(b)) => {
            let (Some(near_a), Some(near_b)) = (a.nearness, b.nearness) else {
                let message = format!("`{first}` and `{second}` were found without their depth");
                return Err(Error::config(message, "score 3d_spatial with a detector that tells depth, or leave the category out"));
            };
            let holds = if locality == Locality::Front { near_a > near_b } else { near_a < near_b };
            let relation = if holds { (overlap(a.bounds, b.bounds) / DEPTH_OVERLAP).min(1.0) } else { 0.0 };
            0.25 * a.score + 0.25 * b.score + 0.5 * relation
        }
        (Some(only), None) | (None, Some(only)) => 0.25 * only.score,
        (None, None) => 0.0,
    })
}

/// The boxes without those that repeat a better one of the same label.
pub fn without_duplicates(boxes: &[Detection]) -> Vec<Detection> {
    let mut kept: Vec<Detection> = Vec::new();
    for candidate in boxes {
        let repeats = |other: &Detection| {
            let shared = intersection(candidate.bounds, other.bounds);
            let contained = shared / area(candidate.bounds).min(area(other.bounds));
            other.label == candidate.label && (overlap(candidate.bounds, other.bounds) > DUPLICATE || contained > DUPLICATE)
        };
        if !kept.iter().any(repeats) {
            kept.push(candidate.clone());
        }
    }
    kept
}

fn area(b: PixelBox) -> f64 {
    (b.x1 - b.x0).max(0.0) * (b.y1 - b.y0).max(0.0)
}

fn intersection(a: PixelBox, b: PixelBox) -> f64 {
    area(PixelBox { x0: a.x0.max(b.x0), y0: a.y0.max(b.y0), x1: a.x1.min(b.x1), y1: a.y1.min(b.y1) })
}

/// Intersection over union; 0 for two empty boxes.
fn overlap(a: PixelBox, b: PixelBox) -> f64 {
    let shared = intersection(a, b);
    let union = area(a) + area(b) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

/// The text before a locality phrase, the locality, and the text after it.
pub(super) fn split_at_locality(prompt: &str) -> Option<(&str, Locality, &str)> {
    const PHRASES: [(&str, Locality); 10] = [
        (" in front of ", Locality::Front),
        (" behind ", Locality::Behind),
        (" hidden by ", Locality::Hidden),
        (" on side of ", Locality::Near),
        (" next to ", Locality::Near),
        (" near ", Locality::Near),
        (" on the left of ", Locality::Left),
        (" on the right of ", Locality::Right),
        (" on the bottom of ", Locality::Bottom),
        (" on the top of ", Locality::Top),
    ];
    PHRASES.iter().find_map(|(phrase, locality)| prompt.split_once(phrase).map(|(before, after)| (before, *locality, after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(x0: f64, y0: f64, x1: f64, y1: f64) -> PixelBox {
        PixelBox { x0, y0, x1, y1 }
    }

    fn found(label: &str, score: f64, bounds: PixelBox) -> Detection {
        Detection { label: label.into(), score, bounds, nearness: None }
    }

    #[test]
    fn depth_counts_by_overlap_and_only_in_the_right_order() {
        let near = |label: &str, bounds, nearness| Detection { nearness: Some(nearness), ..found(label, 1.0, bounds) };
        // Overlap 4 / 28 of two squares of side 4.
        let boxes = [near("dog", bounds(0.0, 0.0, 4.0, 4.0), 0.9), near("car", bounds(2.0, 2.0, 6.0, 6.0), 0.2)];
        let score = |locality| depth_score(&boxes, "dog", locality, "car").unwrap();
        assert!((score(Locality::Front) - (0.5 + 0.5 * (4.0 / 28.0) / 0.5)).abs() < 1e-12);
        assert!((score(Locality::Behind) - 0.5).abs() < 1e-12 && (score(Locality::Hidden) - 0.5).abs() < 1e-12);
        assert_eq!(depth_score(&boxes[..1], "dog", Locality::Front, "car").unwrap(), 0.25);
        let blind = boxes.map(|found| Detection { nearness: None, ..found });
        assert!(depth_score(&blind, "dog", Locality::Front, "car").is_err());
    }

    #[test]
    fn localities_are_those_of_the_published_examples() {
        let (a, b) = (bounds(50.0, 100.0, 200.0, 300.0), bounds(250.0, 120.0, 400.0, 320.0));
        let overlapping = bounds(150.0, 120.0, 300.0, 320.0);
        let (corner, far) = (bounds(10.0, 10.0, 60.0, 60.0), bounds(300.0, 300.0, 470.0, 470.0));
        for (first, locality, second, expected) in [
            (a, Locality::Left, b, 1.0),
            (a, Locality::Right, b, 0.0),
            (a, Locality::Left, overlapping, 0.566667),
            (corner, Locality::Near, far, 0.428571),
            (a, Locality::Near, b, 1.0),
            (corner, Locality::Top, a, 1.0),
        ] {
            let score = locality_score(first, locality, second, 479.0);
            assert!((score - expected).abs() < 1e-6, "{locality:?}: {score}");
            let scaled = |b: PixelBox| bounds(b.x0 / 7.0, b.y0 / 7.0, b.x1 / 7.0, b.y1 / 7.0);
            assert!((locality_score(scaled(first), locality, scaled(second), 479.0 / 7.0) - score).abs() < 1e-9);
        }
    }

    #[test]
    fn spatial_score_takes_the_best_box_and_nothing_below_one_half() {
        let (left, right) = (bounds(2.0, 20.0, 28.0, 46.0), bounds(36.0, 20.0, 62.0, 46.0));
        let boxes = [found("dog", 0.9, left), found("car", 0.8, right), found("dog", 0.3, right)];
        assert!((spatial_score(&boxes, "dog", Locality::Left, "car", 64.0) - 0.925).abs() < 1e-12);
        assert_eq!(spatial_score(&boxes, "dog", Locality::Right, "car", 64.0), 0.0);
        assert_eq!(spatial_score(&boxes[..1], "dog", Locality::Left, "car", 64.0), 0.0);
    }
}
