//! Exact t-SNE of text embeddings, all encoders on one plane.
//!
//! The gradient is the exact one (approximation threshold 0): the Barnes–Hut tree draws from a thread's generator. The
//! initial layout comes from linfa's fixed seed, so equal embeddings give equal maps.

use linfa::traits::Transformer;
use linfa_tsne::TSneParams;
use ndarray::Array2;

use crate::error::{Error, Result};

/// Fewest points a map is made of.
pub const POINTS: usize = 8;

/// Settings of the map.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Effective number of neighbours; lowered where there are fewer than three times as many points.
    pub perplexity: f64,
    pub iterations: usize,
    /// Prompts per encoder; the exact gradient costs the square of all points.
    pub prompts: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // The usual choice for a few hundred points (van der Maaten and Hinton 2008 advise 5 to 50).
            perplexity: 30.0,
            // The layout of a few hundred points no longer changes visibly after that.
            iterations: 750,
            // Eight encoders give 800 points and a map in seconds; the paper shows 500 prompts for two encoders.
            prompts: 100,
        }
    }
}

/// Places `rows` `[n][D]` on a plane; n ≥ [`POINTS`], D ≥ 2. The places have mean zero and no unit.
pub fn map(rows: &[Vec<f64>], config: &Config) -> Result<Vec<[f64; 2]>> {
    let (n, width) = (rows.len(), rows.first().map_or(0, Vec::len));
    if n < POINTS || width < 2 || rows.iter().any(|row| row.len() != width) {
        return Err(Error::Invalid(format!(
            "a t-SNE map needs at least {POINTS} embeddings of one width of at least 2, found {n} of {width}"
        )));
    }
    if rows.iter().flatten().any(|value| !value.is_finite()) {
        return Err(Error::NonFinite { name: "text".into(), context: "embeddings for the t-SNE map".into() });
    }
    let data = Array2::from_shape_fn((n, width), |(i, j)| rows[i][j]);
    let perplexity = config.perplexity.min((n - 1) as f64 / 3.0 - 1e-9).floor().max(2.0);
    let failed = |error: linfa_tsne::TSneError| Error::Invalid(format!("the t-SNE map failed: {error}"));
    let plane = TSneParams::embedding_size(2)
        .perplexity(perplexity)
        .approx_threshold(0.0)
        .max_iter(config.iterations)
        .transform(data)
        .map_err(failed)?;
    let places: Vec<[f64; 2]> = plane.rows().into_iter().map(|row| [row[0], row[1]]).collect();
    if places.iter().flatten().any(|value| !value.is_finite()) {
        return Err(Error::NonFinite { name: "t-SNE map".into(), context: "the layout diverged".into() });
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng;

    fn two_clouds() -> Vec<Vec<f64>> {
        let mut rng = rng::stream(rng::Key { seed: 5, purpose: "test", item: 0, draw: 0 });
        let noise = rng::normal(&mut rng, 60 * 6);
        noise.chunks(6).enumerate().map(|(i, row)| row.iter().map(|&v| f64::from(v) + if i < 30 { 0.0 } else { 20.0 }).collect()).collect()
    }

    #[test]
    fn equal_input_gives_equal_maps() {
        let config = Config { iterations: 200, ..Config::default() };
        assert_eq!(map(&two_clouds(), &config).unwrap(), map(&two_clouds(), &config).unwrap());
    }

    #[test]
    fn two_clouds_stay_apart() {
        let places = map(&two_clouds(), &Config { perplexity: 10.0, iterations: 400, prompts: 60 }).unwrap();
        let centre = |part: &[[f64; 2]]| part.iter().fold([0.0; 2], |c, p| [c[0] + p[0] / 30.0, c[1] + p[1] / 30.0]);
        let (a, b) = (centre(&places[..30]), centre(&places[30..]));
        let distance = |p: &[f64; 2], c: &[f64; 2]| (p[0] - c[0]).hypot(p[1] - c[1]);
        let wrong = places.iter().enumerate().filter(|(i, p)| (distance(p, &a) < distance(p, &b)) != (*i < 30)).count();
        assert_eq!(wrong, 0);
    }

    #[test]
    fn too_few_points_and_nan_are_errors() {
        assert!(map(&vec![vec![0.0, 1.0]; 7], &Config::default()).is_err());
        assert!(map(&vec![vec![f64::NAN, 1.0]; 9], &Config::default()).is_err());
    }
}
