//! Score tables read for statistics: by metric, encoder and scope, with the images of two encoders paired.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::run::results::ScoreRow;
use crate::stats::Observation;

/// Prefix of the per-category compositional metrics; their category means are averaged into one number.
pub const COMPOSITION: &str = "compbench_";
/// The average over the compositional categories.
pub const COMPOSITION_MEAN: &str = "compbench";
/// Scope of a number over everything the metric applies to.
pub const ALL: &str = "all";

/// Unit and direction of a per-image metric.
pub fn unit_and_direction(metric: &str) -> Result<(&'static str, &'static str)> {
    match metric {
        "clip_score" => Ok(("100·cos", "higher")),
        "ocr_nothing_read" => Ok(("%", "lower")),
        COMPOSITION_MEAN => Ok(("%", "higher")),
        _ if metric.starts_with(COMPOSITION) || metric.starts_with("ocr_") => Ok(("%", "higher")),
        _ => Err(Error::Invalid(format!("metric `{metric}` has no declared unit; known: clip_score, compbench_*, ocr_*"))),
    }
}

/// Prompt set, prompt, image index → value; one prompt may stand in two sets.
pub type Values = BTreeMap<(String, u64, u64), f64>;

/// The scores of one metric and one encoder.
#[derive(Debug, Clone)]
pub struct Scored {
    pub protocol: String,
    /// Scope → values; `all`, prompt sets and categories.
    scopes: BTreeMap<String, Values>,
}

impl Scored {
    /// The values of a scope; none where the encoder has none there.
    pub fn in_scope(&self, scope: &str) -> Values {
        self.scopes.get(scope).cloned().unwrap_or_default()
    }
}

/// All scores of a run.
#[derive(Debug)]
pub struct ScoreTable {
    /// Metrics in order of appearance, each with its encoders.
    pub metrics: Vec<(String, BTreeMap<String, Scored>)>,
}

impl ScoreTable {
    /// Sorts the rows.
    ///
    /// # Errors
    /// One metric of one encoder under two protocols, or a score that is not finite.
    pub fn new(rows: &[ScoreRow]) -> Result<Self> {
        let mut metrics: Vec<(String, BTreeMap<String, Scored>)> = Vec::new();
        for row in rows {
            let (metric, encoder) = (&row.metric, &row.encoder);
            if !row.value.is_finite() {
                return Err(Error::NonFinite { name: metric.clone(), context: format!("`{encoder}`, prompt {:016x}", row.prompt_id) });
            }
            let at = metrics.iter().position(|(known, _)| known == metric).unwrap_or_else(|| {
                metrics.push((metric.clone(), BTreeMap::new()));
                metrics.len() - 1
            });
            let new = || Scored { protocol: row.protocol.clone(), scopes: BTreeMap::new() };
            let scored = metrics[at].1.entry(encoder.clone()).or_insert_with(new);
            if scored.protocol != row.protocol {
                let both = format!("`{}` and `{}`", scored.protocol, row.protocol);
                return Err(Error::Invalid(format!("metric `{metric}` of `{encoder}` mixes the protocols {both}")));
            }
            for scope in BTreeSet::from([ALL, row.dataset.as_str(), row.category.as_str()]) {
                let key = (row.dataset.clone(), row.prompt_id, row.image_idx);
                scored.scopes.entry(scope.to_owned()).or_default().insert(key, row.value);
            }
        }
        Ok(Self { metrics })
    }

    /// Every metric with the scopes it is reported in, the average over the compositional categories last.
    pub fn metrics_and_scopes(&self) -> Vec<(String, Vec<String>)> {
        let mut all: Vec<_> = self.metrics.iter().map(|(metric, encoders)| (metric.clone(), scopes(encoders))).collect();
        if self.composition().len() > 1 {
            all.push((COMPOSITION_MEAN.into(), vec![ALL.into()]));
        }
        all
    }

    /// Encoders with that metric; for the average over categories, with its first category.
    pub fn encoders(&self, metric: &str) -> Vec<&str> {
        self.scored(metric).first().map(|encoders| encoders.keys().map(String::as_str).collect()).unwrap_or_default()
    }

    /// The values of an encoder, one stratum, or one per compositional category; `None` where one of them is empty: an encoder that
    /// lacks a category has no average over the categories.
    pub fn strata(&self, metric: &str, scope: &str, encoder: &str) -> Option<Vec<Values>> {
        let strata: Vec<Values> =
            self.scored(metric).iter().map(|encoders| Some(encoders.get(encoder)?.in_scope(scope))).collect::<Option<_>>()?;
        (!strata.is_empty() && strata.iter().all(|values| !values.is_empty())).then_some(strata)
    }

    /// How the values were made.
    pub fn protocol(&self, metric: &str, encoder: &str) -> Option<String> {
        let of_images = &self.scored(metric).first()?.get(encoder)?.protocol;
        Some(if metric == COMPOSITION_MEAN {
            format!("mean of the categories' means; {of_images} (and the categories' own)")
        } else {
            of_images.clone()
        })
    }

    fn scored(&self, metric: &str) -> Vec<&BTreeMap<String, Scored>> {
        if metric == COMPOSITION_MEAN {
            return self.composition();
        }
        self.metrics.iter().filter(|(name, _)| name == metric).map(|(_, encoders)| encoders).collect()
    }

    fn composition(&self) -> Vec<&BTreeMap<String, Scored>> {
        self.metrics.iter().filter(|(metric, _)| metric.starts_with(COMPOSITION)).map(|(_, encoders)| encoders).collect()
    }
}

/// `all`, and every prompt set or category that is not the same images under another name.
fn scopes(encoders: &BTreeMap<String, Scored>) -> Vec<String> {
    let Some(first) = encoders.values().next() else { return Vec::new() };
    let mut chosen: Vec<String> = vec![ALL.into()];
    for scope in encoders.values().flat_map(|scored| scored.scopes.keys()).collect::<BTreeSet<_>>() {
        let keys = |name: &str| first.scopes.get(name).map(|values| values.keys().collect::<Vec<_>>());
        if !chosen.contains(scope) && !chosen.iter().any(|other| keys(other) == keys(scope)) {
            chosen.push(scope.clone());
        }
    }
    chosen
}

/// One observation per image.
pub fn plain(values: &Values) -> Vec<Observation> {
    values.iter().map(|((_, prompt, _), &value)| Observation::plain(*prompt, value)).collect()
}

/// Images that both encoders made of the same prompt and index; the reference's value is the denominator.
pub fn paired(own: &Values, other: &Values) -> Vec<Observation> {
    own.iter().filter_map(|(key, &value)| other.get(key).map(|&denominator| Observation { cluster: key.1, value, denominator })).collect()
}

/// The pairs of every stratum; `None` where a stratum has none.
pub fn paired_strata(own: &[Values], other: &[Values]) -> Option<Vec<Vec<Observation>>> {
    let pairs: Vec<Vec<Observation>> = own.iter().zip(other).map(|(own, other)| paired(own, other)).collect();
    (own.len() == other.len() && pairs.iter().all(|stratum| !stratum.is_empty())).then_some(pairs)
}
